"""Where the embedded cluster can't run, one line says what is missing and what to do instead."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import pytest

from cluster import preflight
from cluster.components import ALL
from model_tools.console import BadInput

WAY_OUT = "KUBECONFIG=... make demo"


def refused(check: object, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refusal:
        check()  # type: ignore[operator]
    assert WAY_OUT in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    refused(preflight.check, "needs Linux, this is Darwin")


def test_another_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    refused(preflight.check, "needs an x86-64 machine, this is aarch64")


def test_a_user_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(preflight.check, "needs root, this is user id 1000")


def test_no_go_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    refused(preflight.go, r"needs Go 1\.25 or newer, none is on PATH")


def test_an_old_go_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    refused(preflight.go, rf"needs Go 1\.25 or newer, {old} is go1\.19\.8")


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("go1.25", True),
        ("go1.25.0", True),
        ("go1.30.2", True),
        ("go2.0", True),
        ("go1.9.9", False),
        ("devel", False),
    ],
)
def test_versions_of_go_compare_as_numbers(version: str, enough: bool) -> None:
    assert preflight.new_enough(version) is enough


def test_what_lacks_is_said_by_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runc").touch(mode=0o755)
    programs = {
        "runc": "runc",
        "no-such-program": "a-package",
        "/no/such/file": "b-package",
        "nor-this": "a-package",
    }
    monkeypatch.setattr(preflight, "PACKAGES", programs)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert preflight.missing_packages() == ["a-package", "b-package"]


def test_every_component_builds_with_the_go_that_is_asked_for() -> None:
    wanted = [re.search(r"^go (\d+)\.(\d+)", component.gomod(), re.MULTILINE) for component in ALL]
    assert max((int(found[1]), int(found[2])) for found in wanted if found) == preflight.GO
