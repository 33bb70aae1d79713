"""A release on a live cluster: it answers, says what is wrong with a request, and never installs by half."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model_tools.kube import Release, service_session

from .helm import Helm, kubectl, merged
from .inference import infer
from .volumes import on_a_claim

if TYPE_CHECKING:
    from pytest_helm_charts.clusters import Cluster

ROOT = Path(__file__).parents[2]
BROKEN = "broken-by-test"  # the release that these tests try to install, and its namespace
BOUND = 45  # seconds that Helm is given for a release that can't start


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Helm]:
    """Helm in a namespace of its own, which goes with all that tests left in it."""
    made = kubectl("create", "namespace", BROKEN, namespace="default")
    assert made.returncode == 0 or "AlreadyExists" in made.stderr, made.stderr
    yield Helm(BROKEN)
    kubectl("delete", "namespace", BROKEN, "--timeout=120s", namespace="default")


@pytest.fixture(scope="session")
def beside(release: Release, helm: Helm) -> dict[str, Any]:
    """Values for one more release here: as the one under test, with one pod that takes no GPU from it."""
    changes = {
        "triton": {"replicas": 1, "gpu": {"count": 0}},
        "loadtest": {"enabled": False},
        "monitoring": {"podMonitor": {"enabled": False}, "rules": {"enabled": False}},
    }
    return merged(helm.user_values(release.name), changes)


def left_over() -> list[str]:
    """Everything of the broken release, Helm's own record of it too."""
    kinds = "deployments,replicasets,pods,services,configmaps,secrets"
    found = kubectl("get", kinds, "--output", "name", namespace=BROKEN)
    assert found.returncode == 0, found.stderr
    return [name for name in found.stdout.split() if BROKEN in name or "sh.helm" in name]


def wait_until_nothing_is_left() -> None:
    """Pods take their grace period to leave; anything that stays longer was forgotten."""
    deadline = time.monotonic() + 120
    while left := left_over():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_deployment_of_the_release_runs(release: Release, kube_cluster: Cluster) -> None:
    from pytest_helm_charts.k8s.deployment import wait_for_deployments_to_run

    names = [f"{release.fullname}-triton"]
    if release.values["loadtest"]["enabled"]:
        names += [f"{release.fullname}-loadtest-master", f"{release.fullname}-loadtest-worker"]
    found = wait_for_deployments_to_run(kube_cluster.kube_client, names, release.namespace, timeout_sec=60)
    triton = next(deployment for deployment in found if deployment.name == names[0])
    if release.values["autoscaling"]["kind"] == "none":
        assert triton.obj["status"]["readyReplicas"] == release.values["triton"]["replicas"]


def test_helm_test_passes(release: Release, helm: Helm) -> None:
    done = helm("test", release.name, "--timeout", "180s", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "shape", "status", "named"),
    [
        ("resnet51", None, 404, "resnet51"),
        (None, [1, 7], 400, "[1,7]"),
        (None, [1, 1, 1, 1], 400, "unexpected shape"),
    ],
    ids=["unknown model", "wrong rank", "wrong shape"],
)
def test_a_wrong_request_through_the_service_is_refused_by_name(
    release: Release, model: str | None, shape: list[int] | None, status: int, named: str
) -> None:
    session, base = service_session(release.namespace, f"{release.fullname}-triton", 8000)
    answer = infer(session, base, release.values["model"], model=model, shape=shape)
    assert answer.status_code == status, answer.text
    assert named in answer.json()["error"]
    assert session.get(f"{base}/v2/health/ready", timeout=30).ok, "the server stays ready"


def test_an_unknown_model_over_grpc_is_one_line_in_the_cluster(release: Release) -> None:
    if not release.values["loadtest"]["enabled"]:
        pytest.skip("the release has no load-test worker to ask from")
    service = f"{release.fullname}-triton.{release.namespace}.svc"
    command = [
        "exec", f"deployment/{release.fullname}-loadtest-worker", "--",
        "loadtest", "smoke", "--grpc-url", f"{service}:8001", "--http-url", f"{service}:8000",
        "--model", "resnet51", "--timeout", "3",
    ]  # fmt: skip
    done = kubectl(*command, namespace=release.namespace)
    assert done.returncode == 1
    assert "loadtest: grpc" in done.stderr
    assert "NOT_FOUND" in done.stderr
    assert "resnet51" in done.stderr


def test_an_impossible_objective_fails_the_suite_and_is_named(
    release: Release, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """The suite that judges this release, with one threshold that nothing can keep."""
    load = pytestconfig.getoption("load")
    if load is None:
        pytest.skip("needs --load: statistics of `loadtest run --json`")
    report = tmp_path / "report"
    command = [
        sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "e2e" / "slo"),
        "--release", release.name, "--namespace", release.namespace, "--load", str(load),
        "--report", str(report), "--set-objective", "latency.client.p99=0.0001",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1, done.stdout
    assert "test_objective_is_met[latency.client.p99]" in done.stdout
    assert "promised ≤ 100 µs" in done.stdout
    record = json.loads((report / "measurement.json").read_text())
    missed = {objective["name"] for objective in record["objectives"] if not objective["met"]}
    assert "latency.client.p99" in missed
    assert record["met"] is False


def test_a_misspelt_key_installs_nothing_and_is_named(
    elsewhere: Helm, chart: Path, beside: dict[str, Any], tmp_path: Path
) -> None:
    values = merged(beside, {"model": {"batching": {"maxBatchSize": 8}}})
    with elsewhere.gone_afterwards(BROKEN):
        done = elsewhere.install(BROKEN, chart, values, tmp_path, timeout=BOUND)
        assert done.returncode != 0
        assert "maxBatchSize" in done.stderr
        assert elsewhere.releases() == set()
        assert left_over() == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [("checksum", "of claim files-of-test: model.onnx"), ("content", "no ONNX model")],
    ids=["cut on the way", "no model at all"],
)
def test_a_corrupt_model_fails_within_a_bound_and_leaves_nothing(
    release: Release,
    elsewhere: Helm,
    chart: Path,
    beside: dict[str, Any],
    tmp_path: Path,
    damage: str,
    named: str,
) -> None:
    spec = release.values["model"]
    if spec["runtime"] != "openvino":
        pytest.skip(f"the damage is that of an ONNX file; this release serves {spec['runtime']}")
    content = b"this is not a model"
    stated = hashlib.sha256(content if damage == "content" else b"what was uploaded").hexdigest()
    files = {"model.onnx": content, "SHA256SUMS": f"{stated}  model.onnx\n".encode()}
    with on_a_claim(files, release, BROKEN) as claim, elsewhere.gone_afterwards(BROKEN):
        source = {"type": "pvc", "pvc": {"claimName": claim}, "path": "/"}
        # A warm-up sample is asked for before anything else, and this folder has none.
        model = {"source": source, "warmup": {"enabled": False}}
        values = merged(beside, {"model": model})
        with logs_of(BROKEN) as logs:
            begin = time.monotonic()
            done = elsewhere.install(BROKEN, chart, values, tmp_path, timeout=BOUND)
            took = time.monotonic() - begin
        assert done.returncode != 0
        assert took < 3 * BOUND
        assert any(named in line for line in logs), f"{named!r} is in no log: {done.stderr}"
        assert elsewhere.releases() == set()
        wait_until_nothing_is_left()


@contextmanager
def logs_of(release: str) -> Iterator[list[str]]:
    """What the containers of a release say, those that ended too, collected while the block runs."""
    found: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        selector = f"app.kubernetes.io/instance={release}"
        while not stop.wait(1):
            for which in ("--previous=false", "--previous=true"):
                done = kubectl("logs", "--selector", selector, "--all-containers", "--tail=-1",
                               "--ignore-errors", which, namespace=BROKEN)  # fmt: skip
                found.extend(line for line in done.stdout.splitlines() if line not in found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
