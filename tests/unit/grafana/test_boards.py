"""Dashboards name what exists, in the right unit, and say what it is."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from chart.promtool import AUTOSCALED, global_groups, rules
from dimensions import Nonsense, calls, dimension, selectors

from grafana.boards import BOARDS
from grafana.metrics import METRICS, by_series
from grafana.parts import Board, Panel, Query
from grafana.variables import Window, filled

WINDOW = Window(0, 3600, 30)
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
QUERIES = [(board, panel, query) for board, panel in PANELS for query in panel.queries]

# What a panel's unit may show. A time of a request is a time, requests of a pod are requests.
PER = {"request", "pod"}
SHOWN: dict[str, dict[str, int]] = {
    "s": {"s": 1},
    "reqps": {"request": 1, "s": -1},
    "percentunit": {},
    "bytes": {"B": 1},
    "watt": {"J": 1, "s": -1},
    "joule": {"J": 1},
    "celsius": {"C": 1},
    "hertz": {"s": -1},
}
PHYSICAL = {"s", "us", "B", "J", "C", "MHz"}


def global_rules() -> list[dict[str, Any]]:
    return [rule for group in global_groups() for rule in group["rules"]]


def named(item: Any) -> str:
    return {Board: lambda: item.name, Panel: lambda: item.title, Query: lambda: item.legend}[type(item)]()


def sent(query: Query) -> str:
    return filled(query.expr, WINDOW, {})


def test_there_are_six_dashboards_of_their_own() -> None:
    names = ["overview", "triton", "gpu", "capacity", "loadtest", "regions"]
    assert [board.name for board in BOARDS] == names
    assert len({board.uid for board in BOARDS}) == len(BOARDS)
    assert all(len(board.uid) <= 40 for board in BOARDS), "Grafana takes no longer ones"


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_a_query_parses_and_reads_only_metrics_that_are_known(
    board: Board, panel: Panel, query: Query
) -> None:
    names = {selector.name for selector in selectors(sent(query))}
    assert names <= by_series().keys()
    assert names == query.series, "what a panel needs follows from what it reads"


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_a_panels_unit_is_what_its_query_counts(board: Board, panel: Panel, query: Query) -> None:
    unit, found = query.unit or panel.unit, dimension(sent(query))
    if found is None:
        return
    if unit in ("short", "none"):
        assert not PHYSICAL & found.keys()
        return
    assert {base: power for base, power in found.items() if base not in PER or power > 0} == SHOWN[unit]


@pytest.mark.parametrize(
    ("expr", "unit"),
    [
        ("sum(rate(nv_inference_queue_duration_us[5m])) / sum(rate(nv_inference_request_success[5m]))", None),
        ("rate(nv_inference_queue_duration_us[5m]) / 1e6 / rate(nv_inference_request_success[5m])", "s"),
        ("rate(loadtest_request_duration_seconds_count[5m])", "reqps"),
        ("rate(nv_energy_consumption[5m])", "watt"),
        ("rate(nv_energy_consumption[5m]) / rate(nv_inference_request_success[5m])", "joule"),
        ('nv_gpu_utilization >= bool inference:slo:objective{objective="availability"}', "percentunit"),
    ],
)
def test_units_are_derived(expr: str, unit: str | None) -> None:
    found = dimension(expr) or {}
    plain = {base: power for base, power in found.items() if base not in PER or power > 0}
    assert [name for name, shown in SHOWN.items() if shown == plain] == ([unit] if unit else [])


@pytest.mark.parametrize(
    "expr",
    [
        "nv_gpu_power_usage + nv_gpu_utilization",
        'inference:queue_seconds:mean5m > inference:slo:objective{objective="throughput"}',
        'min(inference:slo:objective{objective=~"availability|queueTime"})',
    ],
)
def test_numbers_of_different_units_are_not_held_against_each_other(expr: str) -> None:
    with pytest.raises(Nonsense):
        dimension(expr)


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_a_percentile_is_of_all_pods_buckets_together(board: Board, panel: Panel, query: Query) -> None:
    for call in calls(sent(query), "histogram_quantile"):
        buckets = call.args[1]
        assert str(buckets.op) == "sum"
        assert "le" in buckets.modifier.labels


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_a_rate_is_over_grafanas_own_interval(board: Board, panel: Panel, query: Query) -> None:
    for windowed in re.findall(r"\b(?:rate|irate)\(\w+(?:\{[^}]*\})?\[([^]]*)\]", query.expr):
        assert windowed == "$__rate_interval"
    assert query.expr.count("rate(") == len(re.findall(r"\brate\(", query.expr)), "irate shows spikes alone"


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_every_selector_keeps_to_the_region_that_is_chosen(board: Board, panel: Panel, query: Query) -> None:
    """The release's own series exactly; the cluster's also without a region; all regions' have none."""
    own = {"triton", "triton on a GPU", "latency exporter", "load test", "rules", "autoscaling"}
    for selector in selectors(query.expr.replace("$__rate_interval", "1m").replace("$__range", "1h")):
        regions = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "region"]
        if selector.name.startswith("inference:global:") and "region" not in selector.name:
            assert regions == []
            continue
        exact = by_series()[selector.name].source in own or selector.name in (
            "up",
            "inference:global:region_load:ratio5m",
        )
        assert regions == ["$region" if exact else "$region|"], selector.name


@pytest.mark.parametrize(("board", "panel", "query"), QUERIES, ids=named)
def test_a_query_has_a_legend_of_labels_that_it_keeps(board: Board, panel: Panel, query: Query) -> None:
    assert query.legend
    for name in re.findall(r"\{\{(\w+)\}\}", query.legend):
        kept = {part.strip() for by in re.findall(r"\bby \(([^)]*)\)", query.expr) for part in by.split(",")}
        assert name in kept


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=named)
def test_a_panel_says_what_it_shows_where_from_and_what_to_do(board: Board, panel: Panel) -> None:
    for text in (panel.title, panel.shows, panel.source, panel.bad):
        assert text[0].isalnum() or text[0] in "`'\""
        assert "  " not in text
    for text in (panel.shows, panel.source, panel.bad):
        assert text.endswith("."), text
    assert "`" in panel.source, "it names series"
    assert 1 <= len(panel.queries) <= 26
    assert len({query.legend for query in panel.queries}) == len(panel.queries)


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_panels_fill_whole_rows_of_the_grid(board: Board) -> None:
    for row in board.rows:
        column = 0
        for panel in row.panels:
            assert column + panel.width <= 24, panel.title
            column = (column + panel.width) % 24
        assert column == 0, f"{row.title} leaves a gap"


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_titles_of_a_row_differ(board: Board) -> None:
    for row in board.rows:
        assert max(Counter(panel.title for panel in row.panels).values()) == 1


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_every_choice_is_used_and_every_used_one_can_be_chosen(board: Board) -> None:
    used = {
        name
        for panel in board.panels
        for query in panel.queries
        for name in re.findall(r"\$([a-z]\w*)", query.expr)
    }
    assert used == {variable.name for variable in board.variables}


def test_objectives_are_asked_for_and_never_written_down() -> None:
    """A number for which there is an objective has no threshold of its own."""
    allowed = {"Error budget left", "Burn rate: availability", "Burn rate: latency", "Alerts firing",
               "Alerts firing by name", "Last XID error", "Memory errors, not corrected",
               "Rows that could not be remapped"}  # fmt: skip
    assert {panel.title for _, panel in PANELS if panel.steps} == allowed


def test_every_recorded_series_is_one_that_the_chart_records() -> None:
    known = {name for name in by_series() if name.startswith("inference:")}
    recorded = {rule["record"] for rule in [*rules(AUTOSCALED), *global_rules()] if "record" in rule}
    assert known - recorded == set()


def test_every_alert_with_a_runbook_is_one_of_the_chart() -> None:
    named = {alert for _, panel in PANELS for alert in panel.alerts}
    there = {rule["alert"] for rule in [*rules(AUTOSCALED), *global_rules()] if "alert" in rule}
    assert named - there == set()


def test_every_metric_of_the_table_is_used() -> None:
    """By a dashboard or a rule: a table that outgrows them would no longer say what they need."""
    series = by_series()
    asked = {selector.name for rule in rules(AUTOSCALED) for selector in selectors(rule["expr"])}
    used = {name for _, _, query in QUERIES for name in query.series} | asked
    idle = {metric.name for metric in METRICS if not used & {n for n in series if series[n] is metric}}
    assert idle == set()
