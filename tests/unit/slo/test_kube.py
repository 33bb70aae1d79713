"""A kubeconfig, cluster or helm that isn't there is one line that names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from model_tools.console import BadInput
from model_tools.kube import Release, api_session, release_values, service_session


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(path: Path, server: str, user: dict[str, object]) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(config))
    os.environ["KUBECONFIG"] = str(path)  # undone by the monkeypatch of no_cluster


def test_no_kubeconfig_says_what_to_set() -> None:
    with pytest.raises(BadInput, match="set KUBECONFIG"):
        service_session("inference", "loadtest", 8089)


@pytest.mark.parametrize(
    "content", [None, "", "colour: blue", "]["], ids=["missing", "empty", "other", "broken"]
)
def test_a_kubeconfig_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(BadInput, match=str(file)):
        service_session("inference", "loadtest", 8089)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", "")
    kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", {})
    with pytest.raises(BadInput, match=r"https://127\.0\.0\.1:1 does not answer: .*refused"):
        service_session("inference", "loadtest", 8089)


@pytest.mark.parametrize(
    "user",
    [
        {"token": "secret"},
        {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "sh",
                "args": [
                    "-c",
                    'echo \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
                    ' "status": {"token": "secret"}}\'',
                ],
                "interactiveMode": "Never",
            }
        },
    ],
    ids=["token", "exec plugin"],
)
def test_requests_carry_the_users_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: dict[str, object]
) -> None:
    import requests

    monkeypatch.setenv("KUBECONFIG", "")
    kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", user)
    session, host = api_session()
    prepared = session.prepare_request(requests.Request("GET", f"{host}/version"))
    assert prepared.headers["authorization"] == "Bearer secret"


def test_a_machine_without_helm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="helm"):
        release_values("inference-system", "inference")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inference-system", "inference-system"),
        ("my-inference-system", "my-inference-system"),
        ("blue", "blue-inference-system"),
        ("a" * 53, "a" * 45),
    ],
)
def test_objects_are_named_as_the_chart_names_them(name: str, expected: str) -> None:
    assert Release(name, "inference", {}).fullname == expected
