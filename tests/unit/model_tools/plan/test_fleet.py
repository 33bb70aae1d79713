"""A day of regions: routing, autoscaling and nodes, each against what is known of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from model_tools.console import BadInput
from model_tools.plan import fleet as fleets
from model_tools.plan import traffic as traffics
from model_tools.plan.capacity import Objectives, Table
from model_tools.plan.fleet import KEEP_NODE, STEP, TOLERANCE, Day, Failure, Fleet, Scaling, simulate
from model_tools.plan.traffic import Traffic
from model_tools.values import load_values

OBJECTIVES = Objectives(percentile=0.99, threshold=0.15, queue_time=0.02, availability=0.999)
VALUES = load_values([])
LIMIT, TARGET = 100.0, 70.0
# A pod that serves 100 a second and refuses the rest, in 10 ms a request.
RATES = np.array([0.0, 99.0, 101.0, 200.0])
TABLE = Table(
    rates=RATES,
    refused=np.array([0.0, 0.0, 1 / 101, 0.5]),
    late=np.array([0.0, 0.0, 1 / 101, 0.5]),
    queue_time=np.array([0.0, 0.001, 0.05, 0.1]),
    batch=np.ones(4),
    bounds=np.array([0.010, 0.020]),
    latencies=np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
)


def planned(folder: Path, **regions: dict[str, Any]) -> Traffic:
    file = folder / "traffic.yaml"
    flat = {"place": [0, 0], "hours": 0, "day": [1] * 24}
    content = {"price": 1, "regions": {name: {**flat, **given} for name, given in regions.items()}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return traffics.load(file)


def scaling(**changes: Any) -> Scaling:
    values = copy.deepcopy(VALUES)
    values["autoscaling"]["behavior"]["scaleDown"].update(changes)
    return Scaling.from_values(values)


def day(traffic: Traffic, least: int = 1, most: int = 1000, **given: Any) -> Day:
    count = len(traffic.regions)
    fleet = Fleet(np.full(count, least), np.full(count, most), TARGET, LIMIT)
    return simulate(traffic, fleet, TABLE, given.pop("scaling", scaling()), OBJECTIVES, **given)


def jump(hour: int, before: float = 0.1) -> list[float]:
    """A day that rises within the hour before `hour`, and stays there."""
    return [before] * hour + [1.0] * (24 - hour)


def test_a_steady_load_has_the_pods_that_its_target_asks_for_and_all_on_time(tmp_path: Path) -> None:
    found = day(planned(tmp_path, a={"peak": 1000}), end=3600)
    assert set(found.asked[0]) == set(found.ready[0]) == {15}  # 1000 / 70
    assert found.on_time_share == 1
    assert found.requests == pytest.approx(1000 * 3600)
    assert found.node_hours == pytest.approx([15])


def test_no_request_is_lost_between_the_regions(tmp_path: Path) -> None:
    """Also where one is overloaded, and one is away."""
    traffic = planned(
        tmp_path, a={"peak": 3000, "day": jump(8)}, b={"peak": 2000, "place": [0, 10]},
        c={"peak": 500, "place": [0, 50]},
    )  # fmt: skip
    found = day(traffic, most=25, failure=Failure(1, 27000, 28000), start=25000, end=31000)
    assert found.load.sum(axis=0) == pytest.approx(found.demand.sum(axis=0))
    assert (found.refused <= found.late + 1e-9).all()
    assert (found.late <= found.load + 1e-9).all()
    served = found.load.sum() - found.refused.sum()
    assert found.weights.sum() == pytest.approx(served * STEP)


def test_a_full_region_spills_over_to_the_closest_with_room_and_then_to_the_next(tmp_path: Path) -> None:
    traffic = planned(
        tmp_path, full={"peak": 1000}, far={"peak": 70, "place": [0, 60]}, near={"peak": 70, "place": [0, 10]}
    )
    fleet = Fleet(np.array([4, 3, 5]), np.array([4, 3, 5]), TARGET, LIMIT)
    found = simulate(traffic, fleet, TABLE, scaling(), OBJECTIVES, end=60)
    assert found.load[:, 0] == pytest.approx([400, 70 + 170, 70 + 430])
    assert found.spilled[:, 0] == pytest.approx([600, 0, 0])
    trip = traffic.round_trip()[0]
    assert found.far[0, 0] == pytest.approx((430 * trip[2] + 170 * trip[1]) / 600)


def test_what_no_region_has_room_for_stays_at_home_and_is_refused(tmp_path: Path) -> None:
    found = day(planned(tmp_path, a={"peak": 1000}), most=5, end=60)
    assert found.refused[0, 0] == pytest.approx(500)
    # Beyond the table a pod serves what it did at its end.
    found = day(planned(tmp_path, a={"peak": 1000}), most=2, end=60)
    assert found.refused[0, 0] == pytest.approx(800)


def test_a_lost_regions_clients_are_served_elsewhere_from_the_first_step(tmp_path: Path) -> None:
    traffic = planned(tmp_path, a={"peak": 1000}, b={"peak": 3000, "place": [0, 10]})
    found = day(traffic, failure=Failure(0, 3600, 7200), end=7200)
    away = found.times >= 3600
    assert found.load[0, away].max() == 0
    assert found.spilled[0, away] == pytest.approx(1000)
    assert found.on_time_share == 1  # b has 43 pods, room for 4300


class TestAutoscaler:
    def test_pods_are_ready_when_their_nodes_have_started(self, tmp_path: Path) -> None:
        """Asked for in time, and ready just that much later."""
        traffic = planned(tmp_path, a={"peak": 1000, "day": jump(8)})
        for start in (0, 300, 420):
            found = day(traffic, node_start=start, start=6 * 3600, end=10 * 3600)
            rises = np.flatnonzero(np.diff(found.asked[0]) > 0)
            ready = np.flatnonzero(np.diff(found.ready[0]) > 0)
            assert list(ready - rises) == [start // STEP] * len(rises)
            assert found.asked[0].max() * TARGET * (1 + TOLERANCE) >= 1000
            assert rises.size

    def test_policies_bound_how_fast_pods_come(self, tmp_path: Path) -> None:
        """Twice as many or 4 more in a minute, whichever is more."""
        day_ = [0.01] * 8 + [1.0] * 16
        found = day(
            planned(tmp_path, a={"peak": 100_000, "day": day_}), least=1, start=6 * 3600, end=10 * 3600
        )
        asked = found.asked[0]
        minute = 60 // STEP
        before, after = asked[:-minute], asked[minute:]
        assert (after <= np.maximum(before + 4, 2 * before)).all()

    def test_pods_go_slowly_and_only_after_the_window(self, tmp_path: Path) -> None:
        fall = [1.0] * 8 + [0.1] * 16
        found = day(planned(tmp_path, a={"peak": 7000, "day": fall}), start=6 * 3600, end=11 * 3600)
        asked = found.asked[0]
        minute = 60 // STEP
        before, after = asked[:-minute], asked[minute:]
        assert (after >= np.minimum(before - 1, np.floor(0.9 * before))).all()
        # The load falls from 7:00 on; what was wanted up to 15 minutes ago holds.
        first = int(np.argmax(asked < 100))
        assert found.times[first] >= 7 * 3600 + 900
        assert 10 <= asked.min() <= 11  # 700 / 70, and a tenth that moves nothing

    def test_a_load_within_the_tolerance_moves_nothing(self, tmp_path: Path) -> None:
        found = day(
            planned(tmp_path, a={"peak": 1000, "day": [0.94] * 8 + [1.0] * 16}), start=6 * 3600, end=9 * 3600
        )
        assert set(found.asked[0]) == {14}  # for 940; 1000 / 14 is 71.4, 2 % above the target

    def test_it_keeps_within_its_bounds(self, tmp_path: Path) -> None:
        found = day(
            planned(tmp_path, a={"peak": 1000, "day": jump(8, 0.0)}),
            least=3,
            most=9,
            start=6 * 3600,
            end=9 * 3600,
        )
        assert (found.asked.min(), found.asked.max()) == (3, 9)

    def test_the_guard_adds_a_quarter_while_requests_are_refused(self, tmp_path: Path) -> None:
        """A target that is far too high: load alone would never ask for more than one pod."""
        traffic = planned(tmp_path, a={"peak": 1000})
        fleet = Fleet(np.array([1]), np.array([100]), 5000.0, LIMIT)
        found = simulate(traffic, fleet, TABLE, scaling(), OBJECTIVES, end=3 * 3600)
        assert found.asked[0, 0] == 1
        assert found.ready[0].max() >= 10
        assert found.refused[0, found.ready[0].argmax()] == 0

    def test_a_node_is_paid_for_ten_minutes_after_its_pod(self, tmp_path: Path) -> None:
        found = day(
            planned(tmp_path, a={"peak": 700, "day": [1.0] * 8 + [0.1] * 16}), start=6 * 3600, end=10 * 3600
        )
        asked, nodes = found.asked[0], found.nodes[0]
        keep = KEEP_NODE // STEP
        assert (nodes >= asked).all()
        last = int(np.flatnonzero(asked == 10)[-1])
        assert nodes[last + keep] == 10
        assert nodes[last + keep + 1] < 10


def test_the_day_is_the_charts_own_autoscaler() -> None:
    found = Scaling.from_values(VALUES)
    assert found.window == 120
    assert found.up == ((1.0, 0, 60), (0.0, 4, 60))
    assert found.down == ((0.1, 0, 60), (0.0, 1, 60))
    assert (found.hold_up, found.hold_down) == (0, 900)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "soon"}, "autoscaling.window: 'soon' is no duration"),
        (
            {"behavior": {"scaleUp": {"policies": [{"type": "Nodes"}]}}},
            "autoscaling.behavior.scaleUp.policies",
        ),
    ],
)
def test_values_that_are_no_autoscaler_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Scaling.from_values({"autoscaling": changes})


def test_durations() -> None:
    assert (fleets.seconds("15s"), fleets.seconds("2m")) == (15, 120)
