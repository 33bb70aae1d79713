"""`model-tools regions` on a real cluster: two contexts and namespaces of it stand for two regions.

Helm, Prometheus, Locust and the gate are the real ones. A region's own values are its objectives, so that one
of the two can miss what the other meets.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_tools.kube import Release
from model_tools.regions.changes import changes
from model_tools.regions.fleet import Region
from model_tools.regions.gate import by_load, by_traffic
from model_tools.regions.helm import Helm as RegionsHelm
from model_tools.regions.rollout import Outcome, upgrade
from model_tools.regions.status import status

from .helm import Helm, kubectl, merged

TIMEOUT = 900
NAMES = ("east", "west")

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]


class Fleet:
    """Two regions whose values are files, written anew for each upgrade."""

    def __init__(self, folder: Path, chart: Path, values: dict[str, Any], namespaces: dict[str, str]) -> None:
        self.chart, self._folder, self._values = chart, folder, values
        self.regions = [
            Region(name, name, (folder / f"{name}.yaml",), "fleet-of-test", namespace)
            for name, namespace in namespaces.items()
        ]
        self.says()

    def says(self, everywhere: dict[str, Any] | None = None, **own: dict[str, Any]) -> None:
        """What the values of all regions, and of some, add from now on."""
        for region in self.regions:
            layers = merged(merged(self._values, everywhere or {}), own.get(region.name, {}))
            (self._folder / f"{region.name}.yaml").write_text(
                yaml.safe_dump({**layers, "region": region.name})
            )

    def upgrade(self, gate: Any = None, **options: Any) -> list[Outcome]:
        return upgrade(self.regions, self.chart, gate or by_load(), helm=self.helm, **options)

    @staticmethod
    def helm(region: Region) -> RegionsHelm:
        return RegionsHelm(region, TIMEOUT)

    def revisions(self) -> list[int]:
        return [installed.revision for region in self.regions if (installed := self.helm(region).installed())]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory, kube_config: str) -> Iterator[None]:
    """A kubeconfig in which the cluster has a context a region, as many clusters have."""
    config = yaml.safe_load(Path(kube_config).read_text())
    current = next(each for each in config["contexts"] if each["name"] == config["current-context"])
    config["contexts"] += [{"name": name, "context": current["context"]} for name in NAMES]
    # Whoever forgets to name a context asks a cluster that is none.
    config["clusters"].append({"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}})
    config["contexts"].append({"name": "nowhere", "context": {"cluster": "nowhere", "user": ""}})
    config["current-context"] = "nowhere"
    file = tmp_path_factory.mktemp("kube") / "config"
    file.write_text(yaml.safe_dump(config))
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(file)
    try:
        yield
    finally:
        os.environ.pop("KUBECONFIG")
        if before is not None:
            os.environ["KUBECONFIG"] = before


@pytest.fixture(scope="module")
def fleet(
    release: Release, helm: Helm, chart: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    changes: dict[str, Any] = {
        "triton": {"replicas": 1, "onePodPerNode": False, "drainSeconds": 5},
        "loadtest": {"enabled": True, "workers": 1, "users": 4, "spawnRate": 4, "duration": 15},
        "autoscaling": {"kind": "none"},
        "slo": {"throughput": 0.1, "batchSize": 1},
    }
    if release.values["model"]["instances"]["kind"] == "cpu":
        changes["triton"]["gpu"] = {"count": 0}
    values = merged(helm.user_values(release.name), changes)
    mark = uuid.uuid4().hex[:6]
    namespaces = {name: f"{name}-{mark}" for name in NAMES}
    try:
        yield Fleet(tmp_path_factory.mktemp("fleet"), chart, values, namespaces)
    finally:
        for namespace in namespaces.values():
            kubectl(
                "delete", "namespace", namespace, "--ignore-not-found", "--wait=false", namespace=namespace
            )


@pytest.fixture(scope="module")
def installed(fleet: Fleet, request: pytest.FixtureRequest) -> Fleet:
    """Both regions, installed one after the other and judged by their own load."""
    request.getfixturevalue("contexts")
    outcomes = fleet.upgrade()
    assert [(each.action, each.reason) for each in outcomes] == [("upgraded", "")] * 2
    assert [each.before for each in outcomes] == [None, None]
    assert all(each.verdicts and all(verdict.met for verdict in each.verdicts) for each in outcomes)
    return fleet


def test_status_knows_version_pods_engines_and_model_of_each_region(installed: Fleet) -> None:
    found = status(installed.regions)
    assert [each.problem for each in found] == ["", ""]
    assert [each.pods for each in found] == [(1, 1), (1, 1)]
    for each in found:
        assert each.installed is not None
        assert each.installed.chart.startswith("inference-system-")
        assert each.model
        assert each.engines in ({}, {"ready": 1})


def test_a_change_is_shown_before_it_is_made(installed: Fleet) -> None:
    installed.says({"model": {"batching": {"maxQueueDelayMicroseconds": 3000}}})
    for region in installed.regions:
        release = installed.helm(region)
        found = {
            change.kind: change for change in changes(release.manifest(), release.planned(installed.chart))
        }
        assert set(found) == {"ConfigMap", "Deployment"}
        assert "max_queue_delay_microseconds: 3000" in found["ConfigMap"].diff
    assert installed.revisions() == [1, 1]


def test_an_upgrade_goes_through_both_regions_and_a_second_one_changes_nothing(installed: Fleet) -> None:
    installed.says({"model": {"batching": {"maxQueueDelayMicroseconds": 4000}}})
    assert [each.action for each in installed.upgrade()] == ["upgraded", "upgraded"]
    assert installed.revisions() == [2, 2]
    assert [each.action for each in installed.upgrade()] == ["unchanged", "unchanged"]
    assert installed.revisions() == [2, 2]


def test_the_region_that_misses_an_objective_goes_back_and_the_next_is_never_touched(
    installed: Fleet,
) -> None:
    before = installed.helm(installed.regions[0]).manifest()
    revisions = installed.revisions()
    # No request is answered in a microsecond.
    impossible = {"slo": {"latency": {"client": {"p50": 1e-6}}}}
    installed.says({"model": {"batching": {"maxQueueDelayMicroseconds": 5000}}}, east=impossible)
    first, second = installed.upgrade()
    assert (first.action, second.action) == ("rolled back", "not begun")
    assert first.reason.startswith("latency.client.p50: promised")
    # An upgrade and a rollback in the one, nothing in the other.
    assert installed.revisions() == [revisions[0] + 2, revisions[1]]
    assert changes(before, installed.helm(installed.regions[0]).manifest()) == []


def test_traffic_that_nobody_sends_lets_nothing_through(installed: Fleet) -> None:
    installed.says({"model": {"batching": {"maxQueueDelayMicroseconds": 6000}}})
    first, second = installed.upgrade(by_traffic("20s"))
    assert (first.action, second.action) == ("rolled back", "not begun")
    assert "no data" in first.reason


def test_a_region_that_can_not_be_asked_stops_it_before_anything_is_changed(installed: Fleet) -> None:
    from dataclasses import replace

    from model_tools.console import BadInput

    installed.says({"model": {"batching": {"maxQueueDelayMicroseconds": 7000}}})
    revisions = installed.revisions()
    away = replace(installed.regions[1], context="nowhere")
    with pytest.raises(BadInput, match="west: "):
        upgrade([installed.regions[0], away], installed.chart, by_load(), helm=installed.helm)
    assert installed.revisions() == revisions
    healthy, lost = status([installed.regions[0], away])
    assert (healthy.problem, bool(lost.problem)) == ("", True)
