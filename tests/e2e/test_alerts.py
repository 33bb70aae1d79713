"""What breaks a live release reaches somebody: real rules, a real Prometheus, Alertmanager and webhook.

A release of its own, in the namespace of the one under test, whose load test sends the load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_tools.kube import Release

from .helm import Helm, kubectl, merged
from .inbox import Inbox, alertmanager_is_there, inbox
from .load import constant_load
from .volumes import on_a_claim

NAME = "alerts-of-test"
TIMEOUT = 180
# Scrape, evaluation, a `for` of a minute, and a busy machine on top.
SOON = 240.0

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def arrived(release: Release) -> Iterator[Inbox]:
    if not alertmanager_is_there():
        pytest.skip("the cluster has no Alertmanager")
    with inbox(release) as box:
        yield box


@pytest.fixture(scope="module")
def values(release: Release, helm: Helm) -> dict[str, Any]:
    """As the release under test, with one pod that takes no GPU from it, and a queue that soon refuses.

    It refuses what waits too long, which Triton counts. To see a full queue takes traces, and a Triton
    that traces may die in an overload (docs/slo.md).
    """
    changes = {
        "triton": {"replicas": 1, "gpu": {"count": 0}},
        "model": {"batching": {"queue": {"timeoutMicroseconds": 200_000}}},
        "autoscaling": {"kind": "none"},
        "loadtest": {"enabled": False},
        "monitoring": {
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "serverLatency": {"enabled": False},
        },
    }
    return merged(helm.user_values(release.name), changes)


@pytest.fixture(scope="module")
def watched(
    release: Release,
    helm: Helm,
    chart: Path,
    values: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    if not release.values["loadtest"]["enabled"]:
        pytest.skip("the release has no load test to overload another with")
    with helm.gone_afterwards(NAME):
        done = helm.install(NAME, chart, values, tmp_path_factory.mktemp(NAME), TIMEOUT)
        assert done.returncode == 0, done.stderr
        yield Release.load(NAME, release.namespace)


@pytest.fixture(scope="module")
def overloaded(release: Release, watched: Release, arrived: Inbox) -> None:
    """More requests than the pod can serve, until the burn rate pages."""
    with constant_load(release, 120, 64, "grpc", target=watched) as load:
        arrived.wait_for(
            "firing", SOON, alertname="InferenceErrorBudgetBurn", release=NAME, severity="critical"
        )
        refused = {failure["error"] for failure in load.failures()}
        assert refused, "nothing was refused"
        arrived.wait_for("firing", SOON, alertname="InferenceRequestsRejected", release=NAME)


def test_overload_pages_by_its_burn_rate(overloaded: None, watched: Release, arrived: Inbox) -> None:
    page = arrived.wait_for(
        "firing", 1, alertname="InferenceErrorBudgetBurn", release=NAME, slo="availability", window="1h"
    )
    assert page["labels"]["severity"] == "critical"
    assert watched.values["model"]["name"] in page["annotations"]["summary"]
    assert page["annotations"]["runbook_url"].endswith("/InferenceErrorBudgetBurn.md")


def test_a_release_without_pods_pages_and_is_over_when_they_are_back(
    overloaded: None, watched: Release, arrived: Inbox
) -> None:
    deployment = f"deployment/{watched.fullname}-triton"
    try:
        _kubectl(watched, "scale", deployment, "--replicas=0")
        page = arrived.wait_for("firing", SOON, alertname="InferenceNoPodAnswers", release=NAME)
        assert page["labels"]["severity"] == "critical"
    finally:
        _kubectl(watched, "scale", deployment, "--replicas=1")
    arrived.wait_for("resolved", SOON, alertname="InferenceNoPodAnswers", release=NAME)


def test_a_model_that_is_corrupt_is_reported_and_is_over_when_it_is_rolled_back(
    overloaded: None,
    release: Release,
    watched: Release,
    arrived: Inbox,
    helm: Helm,
    chart: Path,
    values: dict[str, Any],
    tmp_path: Path,
) -> None:
    content = b"this is not a model"
    sums = f"{hashlib.sha256(content).hexdigest()}  model.onnx\n".encode()
    # What reads the model first.
    engines = watched.values["engine"]["enabled"]
    alert = "InferenceEngineBuildFailed" if engines else "InferencePodRestarts"
    with on_a_claim({"model.onnx": content, "SHA256SUMS": sums}, release, release.namespace) as claim:
        source = {"type": "pvc", "pvc": {"claimName": claim}, "path": "/"}
        broken = merged(values, {"model": {"source": source, "warmup": {"enabled": False}}})
        file = tmp_path / "broken.json"
        file.write_text(json.dumps(broken))
        try:
            upgraded = helm("upgrade", NAME, str(chart), "--values", str(file), "--timeout", "1m")
            assert upgraded.returncode == 0, upgraded.stderr
            notice = arrived.wait_for("firing", SOON, alertname=alert, release=NAME)
            assert notice["labels"]["container"] == ("build-engine" if engines else "triton")
        finally:
            back = helm("rollback", NAME, "1", "--wait", "--timeout", f"{TIMEOUT}s", timeout=TIMEOUT + 60)
            assert back.returncode == 0, back.stderr
    arrived.wait_for("resolved", SOON, alertname=alert, release=NAME)


def test_the_page_of_an_overload_is_over_when_the_short_window_is_well(
    overloaded: None, arrived: Inbox
) -> None:
    """Five minutes after the last refusal, which the tests before this one have mostly waited for."""
    arrived.wait_for(
        "resolved",
        300 + SOON,
        alertname="InferenceErrorBudgetBurn",
        release=NAME,
        slo="availability",
        window="1h",
    )


def _kubectl(release: Release, *arguments: str) -> None:
    done = kubectl(*arguments, namespace=release.namespace)
    assert done.returncode == 0, done.stderr
