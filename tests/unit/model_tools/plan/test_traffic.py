"""The traffic file: what it means, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from model_tools.console import BadInput
from model_tools.plan.traffic import DAY, Traffic, load

ROOT = Path(__file__).parents[4]
MOMENTS = np.arange(0, DAY, 300.0)


def traffic(folder: Path, content: Any, **given: Any) -> Traffic:
    file = folder / "traffic.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return load(file, **given)


def one(**changes: Any) -> dict[str, Any]:
    return {"price": 1, "regions": {"us-central1": {"peak": 100, **changes}}}


def test_the_peak_falls_on_the_regions_own_evening(tmp_path: Path) -> None:
    content = {"price": 1, "regions": {"us-central1": {"peak": 100}, "asia-northeast1": {"peak": 50}}}
    demand = traffic(tmp_path, content).demand(MOMENTS)
    assert demand.max(axis=1) == pytest.approx([100, 50])
    assert MOMENTS[demand.argmax(axis=1)] / 3600 == pytest.approx([(20 + 6) % 24, 20 - 9])


def test_a_day_of_ones_own_is_by_local_hours_and_its_largest_is_the_peak(tmp_path: Path) -> None:
    day = [0.0] * 24
    day[8], day[9] = 5, 10
    found = traffic(tmp_path, one(day=day, place=[0, 0], hours=2))
    at = dict(zip(MOMENTS / 3600, found.demand(MOMENTS)[0], strict=True))
    assert [at[hour] for hour in (5.5, 6.0, 6.5, 7.0, 7.5, 8.0)] == pytest.approx([25, 50, 75, 100, 50, 0])


def test_growth_is_compounded_to_the_month_that_is_planned_for(tmp_path: Path) -> None:
    content = one() | {"growth": 0.44, "months": 6}
    assert traffic(tmp_path, content).regions[0].peak == pytest.approx(120)
    assert traffic(tmp_path, content, growth=0.21).regions[0].peak == pytest.approx(110)


def test_a_total_is_what_all_regions_have_at_the_busiest_moment(tmp_path: Path) -> None:
    content = {
        "price": 1, "total": 5000, "growth": 0.1,
        "regions": {"us-central1": {"peak": 2}, "europe-west4": {"peak": 1}, "asia-east1": {"peak": 1}},
    }  # fmt: skip
    found = traffic(tmp_path, content)
    assert found.demand(MOMENTS).sum(axis=0).max() == pytest.approx(5500)
    assert found.regions[0].peak == pytest.approx(2 * found.regions[1].peak)


def test_prices_are_the_regions_then_the_commands_then_the_files(tmp_path: Path) -> None:
    content = {"price": 1, "regions": {"us-central1": {"peak": 1}, "us-east1": {"peak": 1, "price": 3}}}
    assert [region.price for region in traffic(tmp_path, content).regions] == [1, 3]
    assert [region.price for region in traffic(tmp_path, content, price=2).regions] == [2, 3]


def test_distances_and_round_trips_are_those_of_the_globe(tmp_path: Path) -> None:
    content = {"price": 1, "regions": {
        "north": {"peak": 1, "place": [90, 0], "hours": 0},
        "equator": {"peak": 1, "place": [0, 77], "hours": 5},
        "us-east4": {"peak": 1}, "europe-west2": {"peak": 1},
    }}  # fmt: skip
    found = traffic(tmp_path, content)
    assert found.kilometres()[0, 1] == pytest.approx(10_008, rel=0.001)
    # Virginia and London: some 5,900 km; networks have 75 to 90 ms there and back.
    assert found.kilometres()[2, 3] == pytest.approx(5900, rel=0.02)
    assert 0.075 < found.round_trip()[2, 3] < 0.095


def test_the_examples_can_be_planned() -> None:
    planet = load(ROOT / "docs" / "plan" / "planet.yaml", price=1)
    assert len(planet.regions) == 20
    assert planet.demand(MOMENTS).sum(axis=0).max() == pytest.approx(1_000_000)
    assert len(load(ROOT / "docs" / "plan" / "three-regions.yaml").regions) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("regions: [", "not YAML in line 1"),
        ("- 1", "holds a list"),
        ({}, "regions: has none"),
        ({"regions": {"us-central1": {"peak": 1}}}, "regions.us-central1.price: give what a node costs"),
        (one() | {"peaks": 1}, "peaks: is none of day, growth"),
        (one(peek=1), "regions.us-central1.peek: is none of day, hours"),
        (one(peak=0), "regions.us-central1.peak: is 0, and has to be above 0"),
        (one(peak="many"), "regions.us-central1.peak: is 'many', and has to be a number"),
        (one(peak=float("nan")), "regions.us-central1.peak: is nan, and has to be a number"),
        ({"price": 1, "regions": {"us-central1": {}}}, "regions.us-central1.peak: is missing"),
        ({"price": 1, "regions": {"us-central1": 5}}, "regions.us-central1: is 5, and has to be a mapping"),
        ({"price": 1, "regions": {"moon": {"peak": 1}}}, "regions.moon: is no region that is known"),
        (one(place=[1]), r"regions.us-central1.place: is \[1\], and has to be \[latitude, longitude\]"),
        (one(place=[91, 0]), "regions.us-central1.place: is 91, and has to be at most 90"),
        (one(maxNodes=0), "regions.us-central1.maxNodes: is 0, and has to be at least 1"),
        (one(day=[1] * 23), "regions.us-central1.day: has to be a list of 24 numbers"),
        (one(day=[0] * 24), "regions.us-central1.day: has no request all day"),
        (one() | {"growth": -1}, "growth: is -1, and has to be at least -0.99"),
    ],
)
def test_a_file_that_can_not_be_planned_is_refused_with_the_key(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        traffic(tmp_path, content)
    assert "traffic.yaml: " in str(refusal.value)
    assert "\n" not in str(refusal.value)
