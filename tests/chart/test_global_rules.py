"""The rules for the Prometheus of all regions: several regions' numbers are those of one service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from charts.package import CHART

from . import promtool
from .render import ROOT, load

RULES = [rule for group in promtool.global_groups() for rule in group["rules"]]
SCRAPE = load(CHART / "files" / "global-scrape.yaml")
HOUR = 60  # samples, one a minute
GLOBAL = "inference:global:slo"


def labels(region: str, **more: str) -> str:
    """Of a release's series in a region; "" for one that names none."""
    found = {
        "namespace": "inference",
        "job": "inference/inference-system-triton",
        "model": "resnet50",
        **more,
    }
    if region:
        found["region"] = region
    return ", ".join(f'{name}="{value}"' for name, value in found.items())


def events(region: str, requests: str, errors: str, slo: str = "availability", **more: str) -> dict[str, str]:
    of = labels(region, slo=slo, **more)
    return {
        f"inference:slo_requests:rate5m{{{of}}}": requests,
        f"inference:slo_errors:rate5m{{{of}}}": errors,
    }


def objective(region: str, name: str, value: float, **more: str) -> dict[str, str]:
    # The release's, not a model's.
    of = labels(region, objective=name, release="inference-system", **more).replace('model="resnet50", ', "")
    return {f"inference:slo:objective{{{of}}}": f"{value}x200"}


def selected() -> set[str]:
    (job,) = SCRAPE["scrape_configs"]
    return set(job["params"]["match[]"])


def test_prometheus_takes_the_files(tmp_path: Path) -> None:
    promtool.checked(promtool.global_groups(), tmp_path)
    program = shutil.which("promtool")
    if not program:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    command = [program, "check", "config", str(CHART / "files" / "global-scrape.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_federated_is_what_the_rules_read() -> None:
    read = set(re.findall(r"inference:(?!global:)[\w:]+", json.dumps([rule["expr"] for rule in RULES])))
    assert {selector.partition("{")[0] for selector in selected()} == read


def test_the_chart_records_what_is_federated() -> None:
    recorded = {rule.get("record") for rule in promtool.rules()}
    assert {selector.partition("{")[0] for selector in selected()} <= recorded
    (objectives,) = (selector for selector in selected() if selector.startswith("inference:slo:objective"))
    pattern = re.search(r'=~"([^"]+)"', objectives)
    names = {rule.get("labels", {}).get("objective", "") for rule in promtool.rules()}
    taken = {name for name in names if pattern and re.fullmatch(pattern[1], name)}
    assert taken == set(re.findall(r'objective="([^"]+)"', json.dumps(RULES).replace("\\", "")))


def test_the_error_budget_is_of_the_charts_window() -> None:
    (budget,) = (rule["expr"] for rule in RULES if rule.get("record", "").endswith(":remaining"))
    window = load(CHART / "values.yaml")["slo"]["window"]
    assert re.findall(r"\[(\w+)\]", budget) == [window] * 2


def test_its_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    (alert,) = (rule for rule in RULES if "alert" in rule)
    assert alert["labels"]["severity"] == "critical"
    assert {"summary", "description", "runbook_url"} == set(alert["annotations"])
    assert (ROOT / alert["annotations"]["runbook_url"]).is_file()


def test_a_request_weighs_the_same_in_every_region_and_at_every_time(tmp_path: Path) -> None:
    """One region is large and good, the other small and bad, and it is gone after half an hour."""
    series = {
        **events("a", f"900x{2 * HOUR}", f"0.9x{2 * HOUR}"),
        **events("b", "100x30 stale", "20x30 stale"),
        **events("a", f"70x{2 * HOUR}", f"7x{2 * HOUR}", slo="latency"),
        f"inference:requests:rate5m{{{labels('a')}}}": f"900x{2 * HOUR}",
        f"inference:requests:rate5m{{{labels('b')}}}": "100x30 stale",
    }
    both, ratio = 'slo="availability"', f"{GLOBAL}_errors:ratio_rate"
    # Of the hour, 30 minutes and the one that the window's start adds have both regions, the rest one.
    requests, errors = 31 * 1000 + 30 * 900, 31 * 20.9 + 30 * 0.9
    expected: dict[str, dict[str, float | None]] = {
        "30m": {
            'inference:global:requests:rate5m{model="resnet50"}': 1000,
            f"{GLOBAL}_requests:rate5m{{{both}}}": 1000,
            f"{GLOBAL}_errors:rate5m{{{both}}}": 20.9,
            # The mean of the regions' own ratios would be 0.1005.
            f"{ratio}5m{{{both}}}": 0.0209,
            f"{ratio}30m{{{both}}}": 0.0209,
            f'{ratio}5m{{slo="latency"}}': 0.1,
        },
        "60m": {
            f"{ratio}5m{{{both}}}": 0.001,
            **{f"{ratio}{window}{{{both}}}": errors / requests for window in ("1h", "2h", "6h", "1d", "3d")},
        },
    }
    promtool.gave(promtool.global_groups(), series, expected, tmp_path)


def test_the_budget_is_that_of_the_strictest_region(tmp_path: Path) -> None:
    series = {
        **events("a", "900x200", "0.45x200"),
        **events("b", "100x200", "0.05x200"),
        **events("a", "90x200", "0.9x200", slo="latency"),
        **events("b", "10x200", "0.1x200", slo="latency"),
        **objective("a", "availability", 0.99),
        **objective("b", "availability", 0.999),
        **objective("a", "latency.server.percentile", 0.98),
        **objective("b", "latency.server.percentile", 0.95),
        # Of a model that nobody here serves.
        **objective("c", "availability", 0.99999),
    }
    expected: dict[str, float | None] = {
        f'{GLOBAL}:objective{{slo="availability"}}': 0.999,
        f'{GLOBAL}:objective{{slo="latency"}}': 0.98,
        f'{GLOBAL}_error_budget:remaining{{slo="availability"}}': 0.5,
        f'{GLOBAL}_error_budget:remaining{{slo="latency"}}': 0.5,
    }
    promtool.gave(promtool.global_groups(), series, {"100m": expected}, tmp_path)


def test_a_release_without_region_counts_like_any(tmp_path: Path) -> None:
    series = {
        **events("", "50x200", "5x200"),
        **events("a", "50x200", "0x200"),
        **objective("", "availability", 0.9),
        **objective("a", "availability", 0.5),
        **buckets("", {"0.1": 10, "+Inf": 10}),
        **buckets("a", {"0.1": 0, "+Inf": 10}),
    }
    expected: dict[str, float | None] = {
        f"{GLOBAL}_errors:ratio_rate5m": 0.05,
        f"{GLOBAL}:objective": 0.9,
        f"{GLOBAL}_error_budget:remaining": 0.5,
        'inference:global:server_duration_seconds_bucket:rate5m{le="0.1"}': 10,
    }
    promtool.gave(promtool.global_groups(), series, {"100m": expected}, tmp_path)


@pytest.mark.parametrize("replica", ["prometheus_replica", "replica"])
def test_two_prometheus_of_one_region_count_once(replica: str, tmp_path: Path) -> None:
    series: dict[str, str] = {}
    for name in ("one", "two"):
        series |= events("a", "100x200", "1x200", **{replica: name})
        series |= buckets("a", {"0.1": 5, "+Inf": 10}, **{replica: name})
        series |= objective("a", "availability", 0.9, **{replica: name})
        series[f"inference:requests:rate5m{{{labels('a', **{replica: name})}}}"] = "100x200"
    expected: dict[str, float | None] = {
        f"{GLOBAL}_requests:rate5m": 100,
        f"{GLOBAL}_errors:rate5m": 1,
        f"{GLOBAL}_error_budget:remaining": 0.9,
        "inference:global:requests:rate5m": 100,
        'inference:global:server_duration_seconds_bucket:rate5m{le="+Inf"}': 10,
    }
    promtool.gave(promtool.global_groups(), series, {"100m": expected}, tmp_path)


def test_a_region_is_full_with_what_its_pods_serve_of_all_models(tmp_path: Path) -> None:
    other = labels("a").replace("resnet50", "other")
    load = "inference:global:region_load:ratio5m"
    series = {
        f"inference:requests:rate5m{{{labels('a')}}}": "1000x200",
        f"inference:requests:rate5m{{{other}}}": "600x200",
        f"inference:requests:rate5m{{{labels('b')}}}": "60x200",
        f"inference:requests:rate5m{{{labels('b', replica='two')}}}": "60x200",
        **objective("a", "throughput", 1600),
        **objective("b", "throughput", 1200),
        **objective("b", "throughput", 1200, replica="two"),
    }
    expected: dict[str, float | None] = {f'{load}{{region="a"}}': 1.0, f'{load}{{region="b"}}': 0.05}
    promtool.gave(promtool.global_groups(), series, {"100m": expected}, tmp_path)


def buckets(region: str, counts: dict[str, float], **more: str) -> dict[str, str]:
    name = "inference:server_duration_seconds_bucket:rate5m"
    return {f"{name}{{{labels(region, le=le, **more)}}}": f"{count}x200" for le, count in counts.items()}


def test_percentiles_come_from_the_bounds_that_all_regions_have(tmp_path: Path) -> None:
    """Region b's threshold, 0.15, is a bound of b alone: region a's requests would be missing there."""
    series = {
        **buckets("a", {"0.1": 0, "0.2": 100, "+Inf": 100}),
        **buckets("b", {"0.1": 0, "0.15": 100, "0.2": 100, "+Inf": 100}),
    }
    expected: dict[str, float | None] = {
        'inference:global:server_duration_seconds_bucket:rate5m{le="0.2"}': 200,
        'inference:global:server_duration_seconds_bucket:rate5m{le="0.15"}': None,
        "inference:global:server_seconds:p50_5m": 0.15,
        "inference:global:server_seconds:p95_5m": 0.195,
        "inference:global:server_seconds:p99_5m": 0.199,
    }
    promtool.gave(promtool.global_groups(), series, {"10m": expected}, tmp_path)


MISSING = {"InferenceRegionMissing"}
QUIET: set[str] = set()


def fired(series: dict[str, str], expected: dict[str, set[str]], folder: Path) -> None:
    """Alerts read what the regions record, and nothing that is recorded beside them."""
    alerts = [group for group in promtool.global_groups() if "-alerts-" in group["name"]]
    promtool.fired(alerts, series, expected, folder)


def test_a_region_that_falls_silent_is_missed_for_a_day(tmp_path: Path) -> None:
    """Federated samples have times of their own: a region's last one is seen for five minutes more."""
    series = {**events("a", "9x3000", "1x3000"), **events("b", "9x60", "1x60")}
    expected = {"60m": QUIET, "69m": QUIET, "71m": MISSING, "1439m": MISSING, "1502m": QUIET}
    fired(series, expected, tmp_path)


def test_the_last_region_is_missed_too(tmp_path: Path) -> None:
    fired(events("a", "9x60 stale", "1x60"), {"60m": QUIET, "65m": QUIET, "66m": MISSING}, tmp_path)


def test_a_release_without_region_is_missed_beside_one_that_has_it(tmp_path: Path) -> None:
    series = {**events("", "9x60 stale", "1x60"), **events("a", "9x100", "1x100")}
    fired(series, {"60m": QUIET, "67m": MISSING}, tmp_path)


@pytest.mark.parametrize(
    "samples",
    [
        "9x200",
        # Nobody sends requests.
        "0x200",
        # Federation fails for nine minutes.
        "9x60 _x9 9x100",
        # A region that is new.
        "_x60 9x100",
    ],
)
def test_a_region_that_is_there_is_not_missed(samples: str, tmp_path: Path) -> None:
    series: dict[str, Any] = {**events("a", "9x200", "1x200"), **events("b", samples, "0x200")}
    fired(series, {f"{minute}m": QUIET for minute in range(0, 160, 3)}, tmp_path)


def test_one_of_two_prometheus_of_a_region_may_be_gone(tmp_path: Path) -> None:
    series = {
        **events("a", "9x200", "1x200", prometheus_replica="0"),
        **events("a", "9x60 stale", "1x60 stale", prometheus_replica="1"),
    }
    fired(series, {f"{minute}m": QUIET for minute in range(0, 160, 3)}, tmp_path)
