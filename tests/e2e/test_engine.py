"""Pods build the engine of a model once, share it, and live with a cache that is damaged.

On a release of its own, in a namespace that takes restricted pods only, with a claim of the default class.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_tools.kube import Release, service_session

from .helm import Helm, merged
from .inference import infer
from .test_release import kubectl

NAMESPACE = RELEASE = "engines-of-test"
FULLNAME = f"{RELEASE}-inference-system"
SELECTOR = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=triton"
CLAIM = f"{FULLNAME}-engines"
TIMEOUT = 240  # seconds for two pods to be ready on a busy machine

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def installed(
    release: Release, helm: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Helm, Path]]:
    """Two pods that started together on a cache that was empty; and the chart that they are of."""
    from charts.package import package

    if release.values["model"]["runtime"] not in ("openvino", "tensorrt"):
        pytest.skip(f"{release.values['model']['runtime']} has no engines")
    folder = tmp_path_factory.mktemp("engines")
    chart = package(folder / "inference-system")
    made = kubectl("create", "namespace", NAMESPACE, namespace="default")
    assert made.returncode == 0, made.stderr
    there = Helm(NAMESPACE)
    try:
        enforced = "pod-security.kubernetes.io/enforce=restricted"
        labelled = kubectl("label", "namespace", NAMESPACE, enforced, namespace="default")
        assert labelled.returncode == 0, labelled.stderr
        install(there, chart, release, helm, folder)
        yield there, folder
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", namespace="default")


def install(there: Helm, chart: Path, release: Release, helm: Helm, folder: Path) -> None:
    """As the release under test, but two pods that take none of its GPUs, and a claim of their own."""
    cache = {"type": "pvc", "pvc": {"claimName": "", "accessMode": "ReadWriteOnce", "size": "1Gi"}}
    changes: dict[str, Any] = {
        "engine": {"enabled": True, "cache": cache},
        "triton": {"replicas": 2},
        "loadtest": {"enabled": False},
        "monitoring": {"podMonitor": {"enabled": False}, "rules": {"enabled": False}},
        "autoscaling": {"kind": "none"},
    }
    if release.values["model"]["instances"]["kind"] == "cpu":
        changes["triton"]["gpu"] = {"count": 0}
    done = there.install(RELEASE, chart, merged(helm.user_values(release.name), changes), folder, TIMEOUT)
    assert done.returncode == 0, done.stderr


def pods() -> dict[str, str]:
    """The release's pods that are not about to go, by name, with what their init container said."""
    found = kubectl("get", "pods", "--selector", SELECTOR, "--output", "json", namespace=NAMESPACE)
    names = [
        each["metadata"]["name"]
        for each in json.loads(found.stdout)["items"]
        if "deletionTimestamp" not in each["metadata"]
    ]
    return {
        name: kubectl("logs", name, "--container", "build-engine", namespace=NAMESPACE).stdout
        for name in names
    }


def replaced_pod() -> str:
    """Takes one pod away and waits for its successor; what the successor's init container said."""
    before = pods()
    gone = kubectl("delete", "pod", next(iter(before)), "--timeout=120s", namespace=NAMESPACE)
    assert gone.returncode == 0, gone.stderr
    ready = kubectl(
        "rollout",
        "status",
        f"deployment/{FULLNAME}-triton",
        f"--timeout={TIMEOUT // 2}s",
        namespace=NAMESPACE,
    )
    assert ready.returncode == 0, ready.stderr
    ((_, said),) = (item for item in pods().items() if item[0] not in before)
    return said


def in_the_cache(release: Release, script: str) -> str:
    """Runs a script in a pod that has the cache at /engines; its output."""
    image = release.values["triton"]["image"]
    named = (
        f"{image['repository']}@{image['digest']}"
        if image["digest"]
        else f"{image['repository']}:{image['tag']}"
    )
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "main",
        "image": named,
        "imagePullPolicy": image["pullPolicy"],
        "command": ["sh", "-ec", script],
        "securityContext": restricted,
        "volumeMounts": [{"name": "engines", "mountPath": "/engines"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "engines", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "in-the-cache"}, "spec": spec}
    try:
        made = kubectl("create", "--filename", "-", namespace=NAMESPACE, given=json.dumps(manifest))
        assert made.returncode == 0, made.stderr
        done = kubectl(
            "wait", "pod/in-the-cache", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s",
            namespace=NAMESPACE,
        )  # fmt: skip
        said = kubectl("logs", "in-the-cache", namespace=NAMESPACE).stdout
        assert done.returncode == 0, said + done.stderr
        return said
    finally:
        kubectl("delete", "pod", "in-the-cache", "--grace-period=1", namespace=NAMESPACE)


def answers(release: Release) -> None:
    """One real inference through the Service."""
    session, base = service_session(NAMESPACE, f"{FULLNAME}-triton", 8000)
    deadline = time.monotonic() + 30
    while True:  # endpoints follow a pod that left a moment later
        answer = infer(session, base, release.values["model"])
        if answer.ok or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert answer.ok, answer.text
    assert answer.json()["outputs"][0]["shape"][0] == 1


def test_two_pods_that_start_together_build_once(installed: Any, release: Release) -> None:
    logs = list(pods().values())
    assert len(logs) == 2
    built = [log for log in logs if " s and stored in the cache" in log]
    found = [log for log in logs if ": found in the cache" in log]
    assert (len(built), len(found)) == (1, 1), logs
    answers(release)


def test_triton_serves_the_engine_and_not_the_model_it_was_made_of(installed: Any, release: Release) -> None:
    if release.values["model"]["runtime"] != "openvino":
        pytest.skip("TensorRT serves nothing but engines")
    for name in pods():
        log = kubectl("logs", name, "--container", "triton", namespace=NAMESPACE).stdout
        assert "engine loaded in" in log
        assert "OpenVINO can't load it" not in log


def test_a_pod_that_comes_later_starts_without_building(installed: Any, release: Release) -> None:
    said = replaced_pod()
    assert ": found in the cache" in said
    assert "building" not in said
    answers(release)


def test_a_truncated_engine_is_named_discarded_and_rebuilt(installed: Any, release: Release) -> None:
    in_the_cache(release, "truncate -s 1000000 /engines/*/engine")
    answers(release)  # pods that run have copies of their own
    said = replaced_pod()
    assert "is truncated (1000000 of" in said
    assert "it is discarded" in said
    assert " s and stored in the cache" in said
    assert ": found in the cache" in replaced_pod()
    answers(release)


def test_uninstalling_leaves_the_engines_and_the_next_installation_finds_them(
    installed: tuple[Helm, Path], release: Release, helm: Helm
) -> None:
    there, folder = installed
    done = there("uninstall", RELEASE, "--wait")
    assert done.returncode == 0, done.stderr
    kinds = "deployments,services,configmaps,persistentvolumeclaims"
    left = kubectl("get", kinds, "--selector", f"app.kubernetes.io/instance={RELEASE}", "--output", "name",
                   namespace=NAMESPACE)  # fmt: skip
    assert left.stdout.split() == [f"persistentvolumeclaim/{CLAIM}"]
    install(there, folder / "inference-system", release, helm, folder)
    assert all(": found in the cache" in log for log in pods().values())
    assert len([line for line in in_the_cache(release, "ls -A /engines").split() if "." not in line]) == 1
