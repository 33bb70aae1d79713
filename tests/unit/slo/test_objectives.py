"""Objectives come from the values alone, and what can't be measured is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_tools.console import BadInput
from model_tools.slo.measure import Measured, Measurement, Source, read_load, seconds
from model_tools.slo.objectives import Unit, human, objectives, with_overrides
from model_tools.slo.prometheus import Series
from model_tools.slo.release import judge_load
from model_tools.slo.report import write_report
from model_tools.slo.verdict import judge, summary

ROOT = Path(__file__).parents[3]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "charts/inference-system/values.yaml").read_text())
VALUES["monitoring"]["serverLatency"]["enabled"] = True  # off by default
GOOD = {
    "availability": 0.9995,
    "latency.server": 0.12,
    "latency.client.p50": 0.03,
    "latency.client.p95": 0.08,
    "latency.client.p99": 0.15,
    "queueTime": 0.01,
    "throughput": 500.0,
    "batchSize": 8.0,
}


def setting(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The chart's objectives with one block changed."""
    return {**VALUES["slo"], name: {**VALUES["slo"][name], **changes}}


def measurement(**changes: float | None) -> Measurement:
    values = {**GOOD, **{name.replace("__", "."): value for name, value in changes.items()}}
    series = [Series({"pod": "r-triton-1"}, [100.0, 110.0, 120.0], [10.0, 20.0, 15.0])]
    return Measurement(
        100,
        120,
        {
            name: Measured(value, "" if value is not None else "no data for a < b")
            for name, value in values.items()
        },
        {"throughput": series, "batch": series, "queue": series, "infer": series},
    )


def test_the_charts_defaults_state_every_objective() -> None:
    assert {objective.name for objective in objectives(VALUES)} == set(GOOD)


def test_objectives_that_are_kept_are_met() -> None:
    verdicts = judge(objectives(VALUES), measurement())
    assert all(verdict.met for verdict in verdicts)
    assert summary(verdicts) == "All 8 objectives met"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("availability", 0.99),
        ("latency.server", 0.16),
        ("latency.client.p50", 0.06),
        ("latency.client.p95", 0.2),
        ("latency.client.p99", 0.21),
        ("queueTime", 0.05),
        ("throughput", 399.0),
        ("batchSize", 3.9),
        *((name, None) for name in GOOD),
    ],
)
def test_each_objective_is_missed_alone_when_broken_or_not_measured(name: str, value: float | None) -> None:
    verdicts = judge(objectives(VALUES), measurement(**{name.replace(".", "__"): value}))
    missed = [verdict for verdict in verdicts if not verdict.met]
    assert [verdict.objective.name for verdict in missed] == [name]
    assert name in missed[0].sentence
    assert ("no data" in missed[0].sentence) == (value is None)
    assert summary(verdicts) == "1 of 8 objectives missed"


def test_an_objective_that_nothing_measures_is_missed() -> None:
    empty = Measurement(0, 1, {})
    assert not any(verdict.met for verdict in judge(objectives(VALUES), empty))


def test_an_override_changes_one_threshold() -> None:
    before = objectives(VALUES)
    after = with_overrides(before, ["latency.client.p99=0.0001"])
    assert [o for o, other in zip(before, after, strict=True) if o != other] == [
        o for o in before if o.name == "latency.client.p99"
    ]
    assert next(o for o in after if o.name == "latency.client.p99").threshold == 0.0001


@pytest.mark.parametrize(
    ("override", "named"), [("latency.p99=1", "latency.p99"), ("queueTime=fast", "'fast'")]
)
def test_an_override_that_can_not_be_is_named(override: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        with_overrides(objectives(VALUES), [override])


@pytest.mark.parametrize(
    ("slo", "named"),
    [
        (None, "no slo"),
        ({**VALUES["slo"], "queueTime": "1s"}, r"slo\.queueTime"),
        ({**VALUES["slo"], "latency": {}}, r"slo\.latency\.client"),
        ({**VALUES["slo"], "latency": {"client": {"max": 1}}}, r"slo\.latency\.client\.max"),
        (setting("latency", {"server": {"p99": 1}}), r"slo\.latency\.server\.p99"),
        (setting("latency", {"server": {"percentile": 0.99}}), r"slo\.latency\.server\.threshold"),
        (setting("latency", {"server": {"threshold": 0.99}}), r"slo\.latency\.server\.percentile"),
    ],
)
def test_values_without_an_objective_are_named(slo: Any, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        objectives({**VALUES, "slo": slo})


def test_server_latency_is_an_objective_only_where_something_measures_it() -> None:
    without = {**VALUES, "monitoring": {"serverLatency": {"enabled": False}}}
    assert {o.name for o in objectives(VALUES)} - {o.name for o in objectives(without)} == {"latency.server"}
    before = {**VALUES, "monitoring": {}}  # of a release of an earlier chart
    assert objectives(before) == objectives(without)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.0, "fraction", "100 %"),
        (0.99999999, "fraction", "99.9999 %"),
        (0.999, "fraction", "99.9 %"),
        (0.0, "fraction", "0 %"),
        (0.0595, "seconds", "59.5 ms"),
        (2.5, "seconds", "2.5 s"),
        (0.00005, "seconds", "50 µs"),
        (4053.2, "per_second", "4,053/s"),
        (7.25, "per_second", "7.25/s"),
        (6.849, "requests", "6.85"),
    ],
)
def test_values_are_shown_as_people_read_them(value: float, unit: Unit, shown: str) -> None:
    assert human(value, unit) == shown


@pytest.mark.parametrize(("text", "expected"), [("15s", 15), ("1m30s", 90), ("500ms", 0.5), ("30d", 2592000)])
def test_durations_are_prometheus_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_a_duration_without_a_unit_is_refused() -> None:
    with pytest.raises(BadInput, match="'15'"):
        seconds("15")


def test_the_pods_of_a_release_are_found_by_its_values() -> None:
    from model_tools.kube import Release

    source = Source.of(Release("blue", "inference", VALUES))
    assert source.server == 'namespace="inference",pod=~"blue-inference-system-triton-.+",model="resnet50"'
    assert source.interval == 15


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        ("{", "no statistics"),
        ('{"start": 1}', "no statistics"),
        (
            json.dumps(
                {
                    "start": 1,
                    "end": 2,
                    "total": {"latency": {}},
                    "history": [],
                    "release": "x",
                    "namespace": "y",
                }
            ),
            "release x",
        ),
    ],
)
def test_statistics_that_are_not_of_this_release_are_refused(
    tmp_path: Path, content: str | None, named: str
) -> None:
    file = tmp_path / "load.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput, match=named):
        read_load(file, "inference-system", "inference")


def test_a_report_is_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    found = measurement(queueTime=None)
    page = write_report(
        tmp_path / "report", judge(objectives(VALUES), found), found, {"Model": "<b>&"}, "r in namespace n"
    )
    html = page.read_text()
    assert "1 of 8 objectives missed" in html
    assert html.count("<svg") == 3, "throughput, batch size, time in the server; no client latency to plot"
    assert "&lt;b&gt;&amp;" in html
    assert "no data for a &lt; b" in html
    for outside in ("<script", "<link", "<img", "src=", "@import", "url(http"):
        assert outside not in html
    record = json.loads((tmp_path / "report" / "measurement.json").read_text())
    assert record["met"] is False
    assert {objective["name"]: objective["met"] for objective in record["objectives"]}["queueTime"] is False
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "measurement.json"}


def load(successes: int = 1000, p99: float = 0.15, rate: float = 500) -> dict[str, Any]:
    latency = {"p50": 0.03, "p95": 0.08, "p99": p99}
    total = {"requests": 1000, "successes": successes, "requests_per_second": rate, "latency": latency}
    return {"start": 0.0, "end": 60.0, "settings": {"users": 8}, "total": total}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"p99": 0.21}, ["latency.client.p99"]),
        ({"successes": 990}, ["availability"]),
        ({"rate": 399.0}, ["throughput"]),
    ],
)
def test_a_load_alone_is_judged_by_what_clients_see(changes: dict[str, Any], missed: list[str]) -> None:
    verdicts = judge_load(VALUES, load(**changes))
    assert [verdict.objective.name for verdict in verdicts if not verdict.met] == missed
    clients = {"availability", "latency.client.p50", "latency.client.p95", "latency.client.p99", "throughput"}
    assert {verdict.objective.name for verdict in verdicts} == clients
