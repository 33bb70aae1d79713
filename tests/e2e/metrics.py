"""Triton's own counters, pod by pod, through the API server."""

from __future__ import annotations

from model_tools.kube import Release, api_session


def served(release: Release, pods: list[str]) -> dict[str, float]:
    """The requests that each pod has answered with success since it started."""
    session, host = api_session()
    counts = {}
    for pod in pods:
        path = f"{host}/api/v1/namespaces/{release.namespace}/pods/{pod}:8002/proxy/metrics"
        answer = session.get(path, timeout=30)
        assert answer.ok, answer.text
        lines = [
            line for line in answer.text.splitlines() if line.startswith("nv_inference_request_success{")
        ]
        counts[pod] = sum(float(line.rsplit(" ", 1)[1]) for line in lines)
    return counts
