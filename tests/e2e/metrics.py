"""Triton's own counters, pod by pod, through the API server."""

from __future__ import annotations

import re

from model_tools.kube import Release, api_session


def exposition(namespace: str, pod: str) -> str:
    """What Triton of a pod tells Prometheus."""
    session, host = api_session()
    answer = session.get(f"{host}/api/v1/namespaces/{namespace}/pods/{pod}:8002/proxy/metrics", timeout=30)
    assert answer.ok, answer.text
    return answer.text


def pod_metrics(namespace: str, pod: str, metric: str) -> dict[str, float]:
    """A metric of one pod by the model it is of; a model's versions are added up."""
    found: dict[str, float] = {}
    for labels, value in re.findall(rf"^{metric}{{(.*)}} (\S+)$", exposition(namespace, pod), re.MULTILINE):
        model = re.search(r'model="([^"]*)"', labels)
        assert model, labels
        found[model[1]] = found.get(model[1], 0) + float(value)
    return found


def served(release: Release, pods: list[str]) -> dict[str, float]:
    """The requests that each pod has answered with success since it started."""
    return {
        pod: sum(pod_metrics(release.namespace, pod, "nv_inference_request_success").values()) for pod in pods
    }
