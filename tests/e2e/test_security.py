"""What a client in the cluster can do to Triton: ask for predictions, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from model_tools.kube import Release

from .helm import kubectl

OPEN = {"live", "ready", "metadata", "config"}
LARGE = "send a large body"


@pytest.fixture(scope="module")
def said(release: Release) -> dict[str, dict[str, str]]:
    """Triton's answers to a pod of the release's namespace, by protocol and call."""
    if not release.values["loadtest"]["enabled"]:
        pytest.skip("the release has no load-test worker to ask from")
    if release.values["triton"]["tls"]["secretName"]:
        pytest.skip("asked without TLS")
    service = f"{release.fullname}-triton.{release.namespace}.svc"
    done = kubectl(
        "exec", "--stdin", f"deployment/{release.fullname}-loadtest-worker", "--",
        "/opt/venv/bin/python", "-", f"{service}:8001", f"{service}:8000", release.values["model"]["name"],
        str(999_999_999),
        namespace=release.namespace, given=Path(__file__).with_name("intruder.py").read_text(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, dict[str, str]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_client_can_load_register_and_change_nothing(
    protocol: str, said: dict[str, dict[str, str]]
) -> None:
    closed = {call: answer for call, answer in said[protocol].items() if call not in {*OPEN, LARGE}}
    assert len(closed) >= 11
    assert {call: answer for call, answer in closed.items() if "restricted" not in answer} == {}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_and_metadata_stay_open(protocol: str, said: dict[str, dict[str, str]]) -> None:
    assert {call: said[protocol][call] for call in OPEN} == dict.fromkeys(OPEN, "")


def test_a_body_that_is_too_large_is_refused_before_any_of_it_is_read(
    said: dict[str, dict[str, str]],
) -> None:
    assert re.fullmatch(r"\[413\] the body is larger than \d+ bytes", said["http"][LARGE])


def test_running_pods_meet_the_restricted_standard(release: Release) -> None:
    """The API server itself says which pods of the namespace would not be admitted."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    done = kubectl(
        "label", "namespace", release.namespace, label, "--dry-run=server", "--overwrite",
        namespace=release.namespace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    system = kubectl(
        "label", "namespace", "kube-system", label, "--dry-run=server", "--overwrite", namespace="kube-system"
    )
    assert "violate" in system.stderr, "the check says nothing, whatever runs"
