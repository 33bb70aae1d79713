"""Every panel of every dashboard shows something, by a real Prometheus that scrapes every metric there is.

The chart's own rules record what the panels read; what this chart does not record comes from the exporter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from chart.promtool import groups
from processes import prometheus
from synthetic import RELEASES, serving

from grafana.boards import BOARDS
from grafana.check import Finding, check, faults, inventory
from grafana.metrics import METRICS
from grafana.parts import Board, Query
from grafana.preview import main
from grafana.variables import Window
from model_tools.slo.prometheus import Prometheus
from tests.commands import Done, called, process

ROOT = Path(__file__).parents[2]
EVERYTHING = {metric.source for metric in METRICS}
PATIENCE = 90.0  # seconds until every rule has recorded something
SCRAPE = 1.0

# Two releases of the chart: the rules of the one with a region are of all its namespace's regions.
INSTALLED = {"inference": "us-central1", "plain": ""}


def rules(namespace: str, region: str) -> list[dict[str, Any]]:
    values = {
        "region": region,
        "autoscaling": {"kind": "keda", "requestsPerSecond": 100},
        "monitoring": {"podMonitor": {"interval": "1s"}},
    }
    return [
        {**group, "name": f"{namespace}-{group['name']}", "interval": "1s"}
        for group in groups(values, namespace=namespace)
    ]


def recorded(groups: list[dict[str, Any]], namespace: str, region: str) -> Iterator[tuple[str, str, str]]:
    """What those rules record, as the exporter has to know it."""
    for rule in (rule for group in groups for rule in group["rules"] if "record" in rule):
        objective = rule.get("labels", {}).get("objective", "")
        for release in RELEASES:
            if release.namespace == namespace and (release.region == region or not objective):
                yield rule["record"], f"{namespace} {release.region}", objective


@dataclass(frozen=True)
class Server:
    url: str
    prometheus: Prometheus

    def window(self, seconds: float = 60.0) -> Window:
        now = time.time()
        return Window(now - seconds, now, 1.0, SCRAPE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Once every rule of the chart has recorded what it can."""
    folder = tmp_path_factory.mktemp("prometheus")
    known: set[tuple[str, str, str]] = set()
    for namespace, region in INSTALLED.items():
        groups = rules(namespace, region)
        known |= set(recorded(groups, namespace, region))
        (folder / f"{namespace}.yml").write_text(yaml.safe_dump({"groups": groups}))
    with serving(frozenset(known)) as exporter:
        # `up` has the labels of the target, as a PodMonitor gives them; everything else brings its own.
        jobs: list[dict[str, Any]] = [
            {"job_name": "exporter", "honor_labels": True, "static_configs": [{"targets": [exporter]}]}
        ]
        for place, release in enumerate(RELEASES):
            target = {"targets": [exporter], "labels": release.job("triton")}
            jobs.append(
                {"job_name": f"triton-{place}", "metrics_path": "/nothing", "static_configs": [target]}
            )
        config = {
            "rule_files": [str(folder / f"{namespace}.yml") for namespace in INSTALLED],
            "scrape_configs": jobs,
        }
        with prometheus(folder, config) as url:
            made = Server(url, Prometheus(requests.Session(), url))
            names = sorted({name for name, _, _ in known})
            deadline = time.monotonic() + PATIENCE
            while missing := [name for name in names if not exists(made, name)]:
                assert time.monotonic() < deadline, f"never recorded: {missing}"
                time.sleep(1)
            yield made


def exists(server: Server, name: str) -> bool:
    answer = requests.get(f"{server.url}/api/v1/query", params={"query": name}, timeout=10)
    return bool(answer.json()["data"]["result"])


def settled(server: Server, choices: dict[str, list[str]]) -> list[Finding]:
    """The findings, as soon as nothing is wrong with them, or when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        findings = check(server.prometheus, BOARDS, server.window(), choices, EVERYTHING)
        if not list(faults(findings)) or time.monotonic() > deadline:
            return findings
        time.sleep(1)


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"namespace": ["inference"], "region": ["us-central1"], "model": ["resnet50"]},
        {"region": ["us-central1", "europe-west4"]},
        {"namespace": ["plain"]},
    ],
    ids=["all", "one region", "two regions", "a release without a region"],
)
def test_every_panel_shows_something(server: Server, choices: dict[str, list[str]]) -> None:
    findings = settled(server, choices)
    assert list(faults(findings)) == []
    assert [finding.panel.title for finding in findings if not finding.has_data] == []
    assert len(findings) == sum(len(board.panels) for board in BOARDS) > 50


def test_a_region_that_is_not_there_shows_nothing_of_the_release(server: Server) -> None:
    """But for alerts that have no region, such as those of a GPU: they may be of any."""
    findings = check(server.prometheus, BOARDS[:1], server.window(), {"region": ["mars-1"]}, EVERYTHING)
    shown = {finding.panel.title for finding in findings if finding.has_data}
    assert shown <= {"Alerts firing", "Alerts firing by name"}


def test_every_choice_at_a_dashboards_head_has_values(server: Server) -> None:
    """Grafana asks for the label's values of the series, over the time that the dashboard shows."""
    window = server.window()
    for board in BOARDS:
        for variable in board.variables:
            selector = variable.selector.replace("$namespace", ".*").replace("$region", ".*")
            answer = requests.get(
                f"{server.url}/api/v1/label/{variable.name}/values",
                params={
                    "match[]": f"{variable.metric}{{{selector}}}",
                    "start": window.start,
                    "end": window.end,
                },
                timeout=10,
            )
            assert answer.json()["data"], f"{board.name}: {variable.query}"


def test_what_is_there_is_seen(server: Server) -> None:
    assert inventory(server.prometheus, server.window()) == EVERYTHING


def test_what_was_not_there_yet_is_not_missed(server: Server) -> None:
    """An hour ago there was no exporter: nothing has data, and nothing is wrong about it."""
    now = time.time()
    findings = check(server.prometheus, BOARDS, Window(now - 3660, now - 3600, 1.0, SCRAPE))
    assert [finding.panel.title for finding in findings if finding.has_data] == []
    assert list(faults(findings)) == []


def altered(expr: str) -> Board:
    """The first dashboard with another query in its first panel, alone."""
    board = BOARDS[0]
    row = board.rows[0]
    panel = replace(row.panels[0], queries=(Query(expr, "altered"),))
    return replace(board, rows=(replace(row, panels=(panel,)),))


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ('up{job="misspelt"}', "no data, although everything it needs is there"),
        ("sum(rate(up)", "parse error"),
        ("up / on (namespace) up", "found duplicate series"),
    ],
)
def test_a_query_that_finds_nothing_or_is_refused_is_told(server: Server, expr: str, fault: str) -> None:
    (finding,) = check(server.prometheus, [altered(expr)], server.window())
    assert len(finding.faults) == 1
    assert finding.faults[0].startswith("overview, 'All objectives', altered: ")
    assert fault in finding.faults[0]


def preview(*arguments: str | Path) -> Done:
    """As a process: in this one it would keep the exporter from answering Prometheus."""
    return process("grafana.preview", *arguments)


def test_the_preview_draws_every_panel(server: Server, tmp_path: Path) -> None:
    settled(server, {})
    done = preview(
        "--url", server.url, "--output", tmp_path, "--window", "1m", "--scrape-interval", "1s",
        "--json", tmp_path / "panels.json", "--check",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    panels = json.loads((tmp_path / "panels.json").read_text())
    count = sum(len(board.panels) for board in BOARDS)
    assert len(panels) == count
    assert all(panel["has_data"] for panel in panels)
    assert done.stdout.startswith(f"{count} of {count} panels have data: ")
    page = (tmp_path / "index.html").read_text()
    plots = sum(panel.kind == "timeseries" for board in BOARDS for panel in board.panels)
    assert page.count("<svg") == plots
    assert "No data" not in page
    for board in BOARDS:
        for panel in board.panels:
            assert f"<h4>{panel.title.replace(chr(39), '&#x27;')}</h4>" in page


def test_a_panel_without_data_says_so_and_a_check_of_it_fails(server: Server, tmp_path: Path) -> None:
    done = preview(
        "--url", server.url, "--output", tmp_path, "--window", "1m", "--variable", "namespace=nowhere",
        "--check",
    )  # fmt: skip
    assert done.returncode == 1
    assert "have no data that should have" in done.stderr
    assert "No data, although there should be" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://127.0.0.1:9", "--variable", "colour=red"], "--variable colour=red"),
        (["--url", "http://127.0.0.1:9", "--window", "soon"], "'soon' is no duration"),
        (["--url", "http://127.0.0.1:9", "--end", "soon"], "--end 'soon' is no time"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = called(main, "dashboards-preview", *arguments, "--output", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_a_prometheus_that_is_not_there_is_one_line_of_a_process(tmp_path: Path) -> None:
    done = preview("--url", "http://127.0.0.1:9", "--output", tmp_path)
    assert done.returncode == 2
    assert "Prometheus at http://127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
