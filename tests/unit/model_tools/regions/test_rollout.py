"""A fleet's upgrade goes from region to region and no further than its objectives allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model_tools.console import BadInput
from model_tools.regions.fleet import Region
from model_tools.regions.gate import Gate
from model_tools.regions.helm import HelmFailed, Installed
from model_tools.regions.rollout import Outcome, upgrade
from model_tools.slo.measure import Measured
from model_tools.slo.objectives import Objective
from model_tools.slo.verdict import Verdict

CHART = Path("chart")
ASIA, EUROPE, US = (Region(name, name) for name in ("asia", "europe", "us"))
REGIONS = [ASIA, EUROPE, US]
AVAILABILITY = Objective("availability", "Requests answered", 0.99, "fraction", True)


def manifest(image: str) -> str:
    return f"kind: Deployment\nmetadata: {{name: triton}}\nspec: {{image: {image}}}\n"


@dataclass
class Release:
    """One region's release as Helm keeps it: what each revision is, and what happens to an upgrade."""

    revisions: list[str] = field(default_factory=lambda: ["old"])
    breaks: str = ""
    refuses: str = ""
    comes_back: bool = True
    status: str = "deployed"

    def installed(self) -> Installed | None:
        if not self.revisions:
            return None
        newest = len(self.revisions)
        good = newest if self.status == "deployed" else newest - 1 or None
        return Installed(newest, good, self.status, "inference-system-1", "1", "today")

    def manifest(self) -> str:
        return manifest(self.revisions[-1]) if self.revisions else ""

    def planned(self, chart: Path) -> str:
        if self.refuses:
            raise HelmFailed(self.refuses)
        return manifest("new")

    def upgrade(self, chart: Path) -> None:
        assert chart == CHART
        if self.breaks:  # and Helm has taken it back
            raise HelmFailed(self.breaks)
        self.revisions.append("new")

    def rollback(self, revision: int) -> None:
        if not self.comes_back:
            raise HelmFailed("timed out")
        self.revisions.append(self.revisions[revision - 1])


@dataclass
class Fleet:
    """Releases by region, and in which order the gate was asked about them."""

    releases: dict[Region, Release] = field(default_factory=lambda: {region: Release() for region in REGIONS})
    asked: list[str] = field(default_factory=list)

    def gate(self, **missed: float | None) -> Gate:
        def gate(region: Region) -> list[Verdict]:
            # Only what has been upgraded is judged, and nothing after it has been touched.
            assert self.releases[region].revisions[-1] == "new"
            self.asked.append(region.name)
            return [Verdict(AVAILABILITY, Measured(missed.get(region.name, 1.0), "measured"))]

        return gate

    def upgrade(self, gate: Gate, **options: bool) -> list[Outcome]:
        return upgrade(REGIONS, CHART, gate, helm=self.releases.__getitem__, **options)

    def now(self) -> list[str]:
        return [(self.releases[region].revisions or ["none"])[-1] for region in REGIONS]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def actions(outcomes: list[Outcome]) -> list[str]:
    return [outcome.action for outcome in outcomes]


def test_every_region_is_upgraded_and_judged_in_its_turn(fleet: Fleet) -> None:
    outcomes = fleet.upgrade(fleet.gate())
    assert actions(outcomes) == ["upgraded"] * 3
    assert fleet.asked == ["asia", "europe", "us"]
    assert fleet.now() == ["new"] * 3


def test_a_region_is_judged_before_the_next_one_is_touched(fleet: Fleet) -> None:
    seen = []

    def gate(region: Region) -> list[Verdict]:
        seen.append(fleet.now())
        return fleet.gate()(region)

    fleet.upgrade(gate)
    assert seen == [["new", "old", "old"], ["new", "new", "old"], ["new", "new", "new"]]


def test_the_first_region_that_misses_an_objective_is_taken_back_and_ends_it(fleet: Fleet) -> None:
    outcomes = fleet.upgrade(fleet.gate(europe=0.5))
    assert actions(outcomes) == ["upgraded", "rolled back", "not begun"]
    assert outcomes[1].reason == "availability: promised ≥ 99 %, measured 50 % (measured)"
    assert fleet.now() == ["new", "old", "old"]
    assert fleet.asked == ["asia", "europe"]


def test_what_can_not_be_measured_is_missed(fleet: Fleet) -> None:
    assert actions(fleet.upgrade(fleet.gate(asia=None))) == ["rolled back", "not begun", "not begun"]


@pytest.mark.parametrize("gate", [lambda region: [], pytest.param(None, id="raises")])
def test_a_gate_that_says_nothing_lets_nothing_through(
    fleet: Fleet, gate: Callable[..., list[Verdict]]
) -> None:
    def raises(region: Region) -> list[Verdict]:
        raise BadInput("Prometheus is away")

    outcomes = fleet.upgrade(gate or raises)
    assert actions(outcomes) == ["rolled back", "not begun", "not begun"]
    assert outcomes[0].reason in ("Prometheus is away", "nothing says whether its objectives are met")
    assert fleet.now() == ["old"] * 3


def test_regions_before_it_go_back_too_by_choice(fleet: Fleet) -> None:
    outcomes = fleet.upgrade(fleet.gate(us=0.5), all_back=True)
    assert actions(outcomes) == ["rolled back"] * 3
    assert outcomes[0].reason == "us failed"
    assert fleet.now() == ["old"] * 3


def test_an_upgrade_that_helm_has_taken_back_ends_it(fleet: Fleet) -> None:
    fleet.releases[EUROPE].breaks = "timed out waiting for the condition"
    outcomes = fleet.upgrade(fleet.gate())
    assert actions(outcomes) == ["upgraded", "failed", "not begun"]
    assert outcomes[1].reason == "timed out waiting for the condition"
    assert fleet.asked == ["asia"]


def test_a_region_that_does_not_come_back_is_said_to_be_broken(fleet: Fleet) -> None:
    fleet.releases[ASIA].comes_back = False
    outcomes = fleet.upgrade(fleet.gate(asia=0))
    assert actions(outcomes)[0] == "failed"
    assert outcomes[0].reason.endswith("and revision 1 did not come back: timed out")


def test_a_cluster_that_refuses_the_objects_stops_it_before_anything_is_changed(fleet: Fleet) -> None:
    fleet.releases[US].refuses = 'no matches for kind "ServiceExport"'
    with pytest.raises(BadInput, match='us: no matches for kind "ServiceExport"'):
        fleet.upgrade(fleet.gate())
    assert fleet.now() == ["old"] * 3


def test_a_region_where_nothing_changes_is_passed_over(fleet: Fleet) -> None:
    fleet.upgrade(fleet.gate(europe=0.5))
    fleet.asked.clear()
    outcomes = fleet.upgrade(fleet.gate())
    assert actions(outcomes) == ["unchanged", "upgraded", "upgraded"]
    assert fleet.asked == ["europe", "us"]


def test_a_release_that_is_half_there_is_upgraded_even_if_its_objects_would_not_change(fleet: Fleet) -> None:
    fleet.releases[ASIA] = Release(["old", "new"], status="failed")
    outcomes = fleet.upgrade(fleet.gate(asia=0.5))
    assert (outcomes[0].action, outcomes[0].before) == ("rolled back", 1)
    assert fleet.now()[0] == "old"


def test_a_region_that_is_new_has_nothing_to_go_back_to(fleet: Fleet) -> None:
    fleet.releases[ASIA] = Release([])
    outcomes = fleet.upgrade(fleet.gate(asia=0.5))
    assert (outcomes[0].action, outcomes[0].before) == ("failed", None)
    assert outcomes[0].reason.endswith("it was not there before, so there is nothing to go back to")
    assert actions(outcomes)[1:] == ["not begun", "not begun"]
