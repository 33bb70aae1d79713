"""What production turns on and the release under test may not have: TLS, a second model, a response cache.

A release of its own, in the namespace of the one under test.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_tools.kube import Release

from .helm import Helm, kubectl, merged
from .leaks import leaks, secrets
from .metrics import pod_metrics

NAME = "features-of-test"
SECOND = "second"  # the other model's name; the same network as the first
SECRET = f"{NAME}-tls"
TIMEOUT = 240
ALL_TO_CACHE = 8  # pictures that a smoke test sends

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def certificate(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Secret with a certificate for the Services' names, its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    triton = f"{NAME}-inference-system-triton"
    hosts = ",".join(f"DNS:{name}.{release.namespace}.svc" for name in (triton, f"{triton}-headless"))
    made = subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
            "-addext", f"subjectAltName={hosts}", "-keyout", folder / "key", "-out", folder / "certificate",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    stored = kubectl(
        "create", "secret", "generic", SECRET, "--type=kubernetes.io/tls",
        f"--from-file=tls.crt={folder}/certificate", f"--from-file=tls.key={folder}/key",
        f"--from-file=ca.crt={folder}/certificate", namespace=release.namespace,
    )  # fmt: skip
    assert stored.returncode == 0, stored.stderr
    try:
        yield
    finally:
        kubectl("delete", "secret", SECRET, namespace=release.namespace)


@pytest.fixture(scope="module")
def features(
    release: Release, helm: Helm, chart: Path, certificate: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    changes: dict[str, Any] = {
        "model": {"responseCache": 10_000_000, "batching": {"priorities": [{"maxSize": 8}, {}]}},
        "extraModels": {SECOND: {"responseCache": 0}},
        "triton": {"replicas": 1, "onePodPerNode": False, "tls": {"secretName": SECRET}},
        "loadtest": {"enabled": True, "workers": 1},
        "monitoring": {"podMonitor": {"enabled": False}, "rules": {"enabled": False}},
    }
    if release.values["model"]["instances"]["kind"] == "cpu":
        changes["triton"]["gpu"] = {"count": 0}
    values = merged(helm.user_values(release.name), changes)
    with helm.gone_afterwards(NAME):
        done = helm.install(NAME, chart, values, tmp_path_factory.mktemp("values"), TIMEOUT)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Release.load(NAME, release.namespace)


def smoke(features: Release, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`loadtest smoke` in a worker, whose environment has the addresses and the authority to trust."""
    return kubectl(
        "exec", f"deployment/{features.fullname}-loadtest-worker", "--",
        *options, "loadtest", "smoke", "--model", model, "--timeout", "5",
        namespace=features.namespace,
    )  # fmt: skip


@pytest.mark.parametrize("which", ["first", SECOND])
def test_both_models_answer_over_tls(features: Release, which: str) -> None:
    model = features.values["model"]["name"] if which == "first" else which
    done = smoke(features, model)
    assert done.returncode == 0, done.stderr
    assert "grpc: 8 pictures answered" in done.stdout
    assert "http: 8 pictures answered" in done.stdout


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        (("env", "LOADTEST_CA_FILE=/nowhere"), "grpc"),
        (("sh", "-c", 'LOADTEST_GRPC_URL="${LOADTEST_GRPC_URL#grpcs://}" exec "$@"', "sh"), "grpc"),
        (("sh", "-c", 'LOADTEST_HTTP_URL="${LOADTEST_HTTP_URL#https://}" exec "$@"', "sh"), "http"),
    ],
    ids=["the system's authorities", "plain gRPC", "plain HTTP"],
)
def test_nobody_talks_to_it_without_the_right_tls(
    features: Release, options: tuple[str, ...], protocol: str
) -> None:
    done = smoke(features, features.values["model"]["name"], *options)
    assert done.returncode == 1, done.stdout
    assert f"loadtest: {protocol}" in done.stderr


def test_helm_test_trusts_the_secrets_authority(features: Release, helm: Helm) -> None:
    done = helm("test", NAME, "--timeout", "180s", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tls_key_is_in_no_log_event_or_metric(features: Release) -> None:
    assert f"{SECRET}/tls.key" in dict(secrets(features))
    assert leaks(features) == set()


def test_pictures_that_come_again_are_answered_from_the_cache(features: Release) -> None:
    model = features.values["model"]["name"]
    for _ in range(2):
        done = smoke(features, model)
        assert done.returncode == 0, done.stderr
    hits = cache_hits(features)
    assert hits[model] >= ALL_TO_CACHE
    assert hits.get(SECOND, 0) == 0


def cache_hits(features: Release) -> dict[str, float]:
    selector = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=triton"
    pods = kubectl("get", "pods", "--selector", selector, "--output", "json", namespace=features.namespace)
    (pod,) = json.loads(pods.stdout)["items"]
    return pod_metrics(features.namespace, pod["metadata"]["name"], "nv_cache_num_hits_per_model")
