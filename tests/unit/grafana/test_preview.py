"""What stands in for Grafana where there is none: its variables, its numbers, its time."""

from __future__ import annotations

import pytest

from grafana.numbers import shown
from grafana.parts import Unit
from grafana.preview import span
from grafana.variables import Window, choices, filled, regular_expression
from model_tools.console import BadInput


def test_all_is_everything_and_a_choice_is_itself() -> None:
    window = Window(0, 3600, 30)
    expr = 'rate(a{region=~"$region|", pod=~"$pod"}[$__rate_interval]) / increase(a[$__range])'
    assert filled(expr, window, {"region": ["us-central1"]}) == (
        'rate(a{region=~"us-central1|", pod=~".*"}[60s]) / increase(a[3600s])'
    )


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], ".*"),
        (["us-central1"], "us-central1"),
        (["us-central1", "asia-east1"], "(us-central1|asia-east1)"),
        (["resnet.50"], r"resnet\\.50"),
    ],
)
def test_values_become_a_regular_expression(chosen: list[str], expected: str) -> None:
    assert regular_expression(chosen) == expected


@pytest.mark.parametrize(("step", "scrape", "interval"), [(30, 15, 60), (300, 15, 315), (1, 1, 4)])
def test_a_rate_spans_four_scrapes_and_the_distance_of_two_points(
    step: float, scrape: float, interval: float
) -> None:
    assert Window(0, 1, step, scrape).rate_interval == interval


def test_choices_of_one_name_add_up() -> None:
    assert choices(["region=a", "model=m", "region=b"]) == {"region": ["a", "b"], "model": ["m"]}


@pytest.mark.parametrize("option", ["colour=red", "region", "region="])
def test_a_choice_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(BadInput, match="NAME=VALUE"):
        choices([option])


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "expected"),
    [
        (0.0123, "s", None, "12.3 ms"),
        (0, "s", None, "0 s"),
        (0.00099999, "s", None, "1 ms"),
        (-0.5, "s", None, "-500 ms"),
        (1.5, "s", None, "1.5 s"),
        (1234.5, "reqps", None, "1,234 req/s"),
        (0.99912, "percentunit", 3, "99.912 %"),
        (-0.25, "percentunit", 1, "-25 %"),
        (10 * 2.0**30, "bytes", None, "10 GiB"),
        (58.26, "watt", None, "58.3 W"),
        (3.6e6, "joule", None, "3.6 MJ"),
        (1.35e9, "hertz", None, "1.35 GHz"),
        (61, "celsius", None, "61 °C"),
        (3, "none", 0, "3"),
        (1500, "short", None, "1.5k"),
        (0, "bytes", None, "0 B"),
    ],
)
def test_a_number_is_shown_with_its_unit(
    value: float, unit: Unit, decimals: int | None, expected: str
) -> None:
    assert shown(value, unit, decimals) == expected


def test_a_time_without_a_zone_is_utc_and_a_window_ends_with_it() -> None:
    window = span("10m", None, "2026-01-31T12:00:00", 15)
    assert (window.start, window.end) == (1769860200, 1769860800)
    assert window.step == 5
    assert span("1h", "2026-01-31T11:00:00Z", "2026-01-31T13:00:00+01:00", 15).start == 1769857200


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(BadInput, match="is not before --end"):
        span("1h", "2026-01-31T12:00:00", "2026-01-31T11:00:00", 15)
