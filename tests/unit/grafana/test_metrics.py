"""What rules and dashboards ask for exists: by the list they are held to, and by what a GPU showed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from chart.promtool import AUTOSCALED, rules
from dimensions import selectors

from grafana.metrics import DCGM, DCGM_ADDED, DCGM_REMAPPING, METRICS, TRITON, TRITON_GPU

ROOT = Path(__file__).parents[3]
# Triton 2.51's own metrics on one H200, under load.
CAPTURED = ROOT / "benchmarks" / "gpu" / "results" / "h200-triton.prom"
# What benchmarks/gpu/capture.py made of a minute on one; the end-to-end tests play it back.
SCRAPES = CAPTURED.with_name("h200-scrapes.jsonl")


def known() -> set[str]:
    names = {metric.name for metric in METRICS}
    for metric in METRICS:
        if metric.kind == "histogram":
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def names_in(expr: str) -> set[str]:
    return {selector.name for selector in selectors(expr)}


def test_rules_ask_for_nothing_that_the_list_lacks() -> None:
    found = rules(AUTOSCALED)
    recorded = {rule["record"] for rule in found if "record" in rule}
    asked = {name for rule in found for name in names_in(rule["expr"])}
    assert len(asked) > 20
    assert asked <= known() | recorded


def test_a_triton_on_a_gpu_shows_every_metric_that_is_expected_of_it() -> None:
    shown = set(re.findall(r"^(\w+)[{ ]", CAPTURED.read_text(), re.MULTILINE))
    assert {metric.name for metric in (*TRITON, *TRITON_GPU)} <= shown


def test_what_is_played_back_of_a_gpu_has_every_metric_of_one() -> None:
    scrapes = [json.loads(line) for line in SCRAPES.read_text().splitlines()]
    for told, expected in (
        ("triton", (*TRITON, *TRITON_GPU)),
        ("dcgm", (*DCGM, *DCGM_ADDED, *DCGM_REMAPPING)),
    ):
        for scrape in scrapes:
            shown = set(re.findall(r"^(\w+)[{ ]", scrape[told], re.MULTILINE))
            assert {metric.name for metric in expected} <= shown
