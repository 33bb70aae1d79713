"""Upgrades under load: from the chart before this one, up the ladder of values, and away without a trace."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from model_tools.kube import Release
from model_tools.ladder.rungs import read, steps

from .helm import Helm, kubectl, merged
from .load import constant_load

ROOT = Path(__file__).parents[2]
NAME = "upgraded-by-test"
CHART = "charts/inference-system"
USERS = 4
AFTER = 10  # requests over each protocol after an upgrade
TIMEOUT = 300

pytestmark = pytest.mark.timeout(1200)


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


def previous_commit() -> str:
    """The newest commit whose templates are not those in the working tree; what a merge brought in never was
    a chart by itself."""
    templates = f"{CHART}/templates"
    commits = git("log", "--first-parent", "--format=%H", "-n", "50", "--", templates).stdout.decode().split()
    for commit in commits:
        if git("diff", "--quiet", commit, "--", templates).returncode:
            return commit
    pytest.skip("the checkout's history has no other chart than this one")


def chart_of(commit: str, folder: Path) -> Path:
    """The chart as it was, without its optional dependency."""
    from charts.package import package

    archive = git("archive", commit, CHART)
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return package(folder / "inference-system", source=folder / CHART)


@dataclass(frozen=True)
class Upgraded:
    """A release of two pods beside the one under test, whose load test sends it requests."""

    beside: Release
    helm: Helm
    chart: Path
    values: dict[str, Any]
    folder: Path

    def upgrade(self, **changes: Any) -> None:
        self.install(self.chart, merged(self.values, changes))

    def install(self, chart: Path, values: dict[str, Any]) -> None:
        done = self.helm.install(NAME, chart, values, self.folder, TIMEOUT)
        assert done.returncode == 0, done.stdout + done.stderr
        ready = kubectl(
            "rollout", "status", f"deployment/{self.release.fullname}-triton", f"--timeout={TIMEOUT // 2}s",
            namespace=self.beside.namespace,
        )  # fmt: skip
        assert ready.returncode == 0, ready.stderr

    @property
    def release(self) -> Release:
        return Release.load(NAME, self.beside.namespace)

    def objects(self) -> list[str]:
        """Everything of the release that is there, Helm's own record of it too."""
        kinds = (
            "deployments,replicasets,pods,services,configmaps,secrets,serviceaccounts,persistentvolumeclaims,"
            "networkpolicies,poddisruptionbudgets,podmonitors,prometheusrules,horizontalpodautoscalers"
        )
        found = kubectl("get", kinds, "--output", "name", namespace=self.beside.namespace)
        assert found.returncode == 0, found.stderr
        return [name for name in found.stdout.split() if NAME in name]


@pytest.fixture(scope="module")
def upgraded(
    release: Release, helm: Helm, chart: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgraded]:
    """Installed from the chart before this one."""
    if not release.values["loadtest"]["enabled"]:
        pytest.skip("the release has no load test to send requests with")
    changes: dict[str, Any] = {
        "triton": {"replicas": 2, "onePodPerNode": False},
        "loadtest": {"enabled": False},
        "monitoring": {"podMonitor": {"enabled": False}, "rules": {"enabled": False}},
    }
    if release.values["model"]["instances"]["kind"] == "cpu":
        changes["triton"]["gpu"] = {"count": 0}
    commit = previous_commit()
    before = chart_of(commit, tmp_path_factory.mktemp("before"))
    values = merged(helm.user_values(release.name), changes)
    found = Upgraded(release, helm, chart, values, tmp_path_factory.mktemp("values"))
    with helm.gone_afterwards(NAME):
        found.install(before, known_to(before, values))
        yield found


def known_to(chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values without those that an older chart's schema does not have."""
    schema = json.loads((chart / "values.schema.json").read_text())

    def kept(value: Any, allowed: dict[str, Any]) -> Any:
        if reference := allowed.get("$ref"):
            return kept(value, schema["definitions"][reference.rpartition("/")[2]])
        if not isinstance(value, dict) or allowed.get("additionalProperties", True) is not False:
            return value
        return {
            key: kept(each, allowed["properties"][key])
            for key, each in value.items()
            if key in allowed["properties"]
        }

    return kept(values, schema)


def under_load(upgraded: Upgraded, rate: float, act: Callable[[], None]) -> dict[str, int]:
    with constant_load(upgraded.beside, rate, USERS, target=upgraded.release) as load:
        load.go_on(5)
        act()
        load.go_on(AFTER)
        failures, sent = load.failures(), load.answered()
    assert failures == []
    print(f"{sent} sent, none failed")
    return sent


def test_the_chart_before_this_one_is_upgraded_under_load(
    upgraded: Upgraded, pytestconfig: pytest.Config
) -> None:
    under_load(upgraded, pytestconfig.getoption("rate"), upgraded.upgrade)


def test_each_rung_of_the_ladder_is_an_upgrade_under_load(
    upgraded: Upgraded, pytestconfig: pytest.Config
) -> None:
    if upgraded.beside.values["model"]["instances"]["kind"] != "cpu":
        pytest.skip("the ladder for GPUs needs an image of each model: docs/tuning.md")
    # Those that the release's own images can serve: without TensorFlow, and without a quantized model.
    _, *rungs = (step.values for step in steps(read(ROOT / "values" / "ladder" / "cpu"), {"4-int8"}))
    for values in rungs:
        del values["model"]["source"]
    assert len(rungs) > 1
    upgraded.upgrade(**rungs[0])

    def climb() -> None:
        for values in rungs[1:]:
            upgraded.upgrade(**values)

    under_load(upgraded, pytestconfig.getoption("rate"), climb)


def test_helm_test_asks_the_upgraded_release_for_a_real_answer(upgraded: Upgraded) -> None:
    done = upgraded.helm("test", NAME, "--timeout", "180s", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_uninstalling_leaves_nothing_but_the_engines(upgraded: Upgraded) -> None:
    assert upgraded.objects()
    done = upgraded.helm("uninstall", NAME, "--wait", "--timeout", "180s")
    assert done.returncode == 0, done.stderr
    gone = kubectl(
        "wait", "pods", "--selector", f"app.kubernetes.io/instance={NAME}", "--for=delete", "--timeout=120s",
        namespace=upgraded.beside.namespace,
    )  # fmt: skip
    assert gone.returncode == 0, gone.stderr
    kept = [name for name in upgraded.objects() if not name.startswith("persistentvolumeclaim/")]
    assert kept == []
