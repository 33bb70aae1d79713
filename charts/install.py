"""`python -m charts.install RELEASE CHART`: helm upgrade --install that an interrupted one does not stop.

A helm that was killed leaves its release pending, and helm then refuses every upgrade: "another operation is
in progress". Whoever calls this sees to it that there is none.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click

from model_tools.console import CheckFailed, run

TIMEOUT = "10m"


def helm(*arguments: str | Path) -> int:
    """Its exit status; what it says goes where we speak."""
    return subprocess.run(["helm", *map(str, arguments)], check=False).returncode


def history(release: str, namespace: str) -> list[dict[str, Any]]:
    """A release's revisions, oldest first; none where there is no release."""
    said = subprocess.run(
        ["helm", "history", release, "--namespace", namespace, "--output", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if said.returncode and "release: not found" not in said.stderr:
        raise CheckFailed(f"helm history {release}: {said.stderr.strip()}")
    revisions: list[dict[str, Any]] = [] if said.returncode else json.loads(said.stdout)
    return sorted(revisions, key=lambda revision: int(revision["revision"]))


def remedy(revisions: list[dict[str, Any]]) -> list[str]:
    """The helm command that makes good what an interrupted one left of a release; empty where none did."""
    if not revisions or not (
        revisions[-1]["status"].startswith("pending-") or revisions[-1]["status"] == "uninstalling"
    ):
        return []
    deployed = [revision["revision"] for revision in revisions if revision["status"] == "deployed"]
    if not deployed or revisions[-1]["status"] == "uninstalling":
        return ["uninstall", "--wait", "--ignore-not-found"]
    return ["rollback", str(deployed[-1])]


def install(release: str, chart: Path, namespace: str, values: tuple[Path, ...], timeout: str) -> None:
    """Raises CheckFailed where helm fails; what it says is on standard output and error."""
    verb, *options = remedy(history(release, namespace)) or [""]
    if verb:
        print(f"{release} was left in the middle of something: helm {verb} first", flush=True)
        # rollback takes the revision after the name.
        revision, flags = (options, []) if verb == "rollback" else ([], options)
        status = helm(verb, release, *revision, *flags, "--namespace", namespace, "--timeout", timeout)
        if status:
            raise CheckFailed(
                f"helm {verb} {release} failed: helm uninstall {release} -n {namespace} removes it"
            )
    files = [word for file in values for word in ("--values", file)]
    status = helm(
        "upgrade", "--install", release, chart, "--namespace", namespace, "--create-namespace", *files,
        "--rollback-on-failure", "--timeout", timeout,
    )  # fmt: skip
    if status:
        raise CheckFailed(f"helm upgrade --install {release} failed with status {status}")


@click.command()
@click.argument("release")
@click.argument("chart", type=click.Path(path_type=Path, exists=True))
@click.option("--namespace", required=True)
@click.option(
    "--values", multiple=True, type=click.Path(path_type=Path, exists=True), help="May be given again."
)
@click.option("--timeout", default=TIMEOUT, show_default=True, help="For all of it to be ready.")
def cli(release: str, chart: Path, namespace: str, values: tuple[Path, ...], timeout: str) -> None:
    """Installs or upgrades a release, after making good what an interrupted attempt left of it."""
    install(release, chart, namespace, values, timeout)


if __name__ == "__main__":
    run(cli, "charts.install")
