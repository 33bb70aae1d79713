"""Helm and kubectl as a user of the chart runs them, next to the release under test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Helm:
    """The helm command on one namespace."""

    namespace: str

    def __call__(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs helm; whoever calls looks at the return code."""
        return subprocess.run(
            ["helm", *arguments, "--namespace", self.namespace],
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def user_values(self, release: str) -> dict[str, Any]:
        """What a release was installed with on top of the chart's defaults."""
        done = self("get", "values", release, "--output", "json")
        assert done.returncode == 0, done.stderr
        values: dict[str, Any] = json.loads(done.stdout) or {}
        return values

    def releases(self) -> set[str]:
        """The names of all releases, failed and half-installed ones too."""
        # helm 3 hides what isn't deployed unless asked with --all, which helm 4 does not know.
        done = self("list", "--all", "--output", "json")
        if done.returncode:
            done = self("list", "--output", "json")
        assert done.returncode == 0, done.stderr
        return {release["name"] for release in json.loads(done.stdout)}

    def install(
        self, release: str, chart: Path, values: dict[str, Any], folder: Path, timeout: int
    ) -> subprocess.CompletedProcess[str]:
        """`helm upgrade --install` that waits, and takes back what it did when it fails."""
        file = folder / f"{release}.json"
        file.write_text(json.dumps(values))
        return self(
            "upgrade", "--install", release, str(chart), "--values", str(file),
            self._rollback(), "--timeout", f"{timeout}s", timeout=3 * timeout + 60,
        )  # fmt: skip

    def _rollback(self) -> str:
        version = self("version", "--template", "{{.Version}}").stdout
        return "--atomic" if version.startswith("v3") else "--rollback-on-failure"

    @contextmanager
    def gone_afterwards(self, release: str) -> Iterator[None]:
        """Whatever a test leaves of that release is removed."""
        try:
            yield
        finally:
            self("uninstall", release, "--ignore-not-found", "--wait")


def kubectl(*arguments: str, namespace: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--namespace", namespace, *arguments],
        input=given, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


@contextmanager
def applied(namespace: str, *items: Mapping[str, Any]) -> Iterator[None]:
    """While the block runs, these objects are there; those that say no namespace, in this one."""
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    try:
        done = kubectl("apply", "--filename", "-", namespace=namespace, given=manifest)
        assert done.returncode == 0, done.stderr
        yield
    finally:
        kubectl(
            "delete", "--ignore-not-found", "--grace-period=1", "--filename", "-",
            namespace=namespace, given=manifest,
        )  # fmt: skip


def listed(namespace: str, *what: str) -> list[dict[str, Any]]:
    """The objects that `kubectl get` of a namespace finds."""
    done = kubectl("get", *what, "--output", "json", namespace=namespace)
    assert done.returncode == 0, done.stderr
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """values with the changes laid over them, as Helm lays value files over each other."""
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        result[key] = merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return result
