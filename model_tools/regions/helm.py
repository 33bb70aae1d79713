"""Helm on one region's cluster: it does the work, and this is all that is asked of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.regions.fleet import Region

NO_RELEASE = "release: not found"


class HelmFailed(Exception):
    """Helm could not do it; the message is its own last line."""


@dataclass(frozen=True)
class Installed:
    """A release as Helm has it. deployed: the newest revision that was deployed, to which one can go back."""

    revision: int
    deployed: int | None
    status: str  # deployed, failed, pending-upgrade, ...
    chart: str  # name and version
    app_version: str
    updated: str


@dataclass(frozen=True)
class Helm:
    """The release of one region. timeout: seconds that an upgrade or a rollback may take."""

    region: Region
    timeout: int = 3600

    def installed(self) -> Installed | None:
        """None where there is no such release. Raises HelmFailed."""
        done = self._call("history", "--max", "50", "--output", "json")
        if done.returncode:
            if NO_RELEASE in done.stderr:
                return None
            raise HelmFailed(_reason(done))
        history = json.loads(done.stdout)
        # What an upgrade broke leaves the revision before it deployed.
        deployed = [each["revision"] for each in history if each["status"] == "deployed"]
        last = history[-1]
        return Installed(
            revision=last["revision"],
            deployed=deployed[-1] if deployed else None,
            status=last["status"],
            chart=last["chart"],
            app_version=last["app_version"],
            updated=last["updated"],
        )

    def manifest(self) -> str:
        """What is installed, as YAML; nothing where there is no such release. Raises HelmFailed."""
        done = self._call("get", "manifest")
        if done.returncode and NO_RELEASE not in done.stderr:
            raise HelmFailed(_reason(done))
        return "" if done.returncode else done.stdout

    def planned(self, chart: Path) -> str:
        """What an upgrade would install, as YAML; the cluster has seen it and takes it. Raises HelmFailed."""
        done = self._upgrade(chart, "--dry-run=server", "--output", "json")
        release: dict[str, Any] = json.loads(done.stdout)
        return str(release["manifest"])

    def upgrade(self, chart: Path) -> None:
        """Installs or upgrades, waits until all is ready, and takes it back where it does not get so.

        Raises HelmFailed.
        """
        atomic = "--atomic" if self._version().startswith("v3") else "--rollback-on-failure"
        self._upgrade(chart, atomic, "--create-namespace")

    def rollback(self, revision: int) -> None:
        """Back to a revision; waits until all is ready. Raises HelmFailed."""
        done = self._call("rollback", "--wait", "--timeout", f"{self.timeout}s", revision=revision)
        if done.returncode:
            raise HelmFailed(_reason(done))

    def _upgrade(self, chart: Path, *options: str) -> subprocess.CompletedProcess[str]:
        values = [f"--values={file}" for file in self.region.files]
        done = self._call(
            "upgrade", "--install", "--timeout", f"{self.timeout}s", *values, *options, chart=str(chart)
        )
        if done.returncode:
            raise HelmFailed(_reason(done))
        return done

    def _call(
        self, verb: str, *options: str, chart: str = "", revision: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = ["get", options[0]] if verb == "get" else [verb]
        rest = options[1:] if verb == "get" else options
        after = [chart] if chart else [] if revision is None else [str(revision)]
        where = ["--kube-context", self.region.context, "--namespace", self.region.namespace]
        command = [_helm(), *words, self.region.release, *after, *where, *rest]
        # A rollback follows where an upgrade did not get ready in its time.
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=3 * self.timeout + 60
        )

    def _version(self) -> str:
        command = [_helm(), "version", "--template", "{{.Version}}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _helm() -> str:
    found = shutil.which("helm")
    if found is None:
        raise BadInput("helm is not on PATH")
    return found


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Helm's error; what it warns of before stays out of it."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:] or ["helm failed"]
    return errors[-1].removeprefix("Error: ")
