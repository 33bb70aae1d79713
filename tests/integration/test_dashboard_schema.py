"""Grafana's schema takes the chart's dashboards, and what it doesn't take is told with its place.

The strict parsers of Grafana's Go SDK, panels' options and queries included, in a program of ours that is
built once: cluster/components/dashboard-schema.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charts.package import CHART
from cluster import components, preflight
from model_tools.console import BadInput

FILES = sorted((CHART / "dashboards").glob("*.json"))

Json = dict[str, Any]


@pytest.fixture(scope="session")
def schema() -> Path:
    try:
        go = preflight.go()
    except BadInput as missing:
        pytest.skip(str(missing))
    return components.build(components.DASHBOARD_SCHEMA, go) / "dashboard-schema"


def run(program: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *files], capture_output=True, text=True, timeout=60, check=False)


def test_grafanas_schema_takes_every_dashboard(schema: Path) -> None:
    done = run(schema, *FILES)
    assert FILES
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def panel(dashboard: Json) -> Json:
    """The first with lines: fields, legend and queries."""
    found: Json = next(each for each in dashboard["panels"] if each["type"] == "timeseries")
    return found


def within(*keys: str | int, **changed: Any) -> Callable[[Json], None]:
    """Changes what is there in a panel."""

    def change(dashboard: Json) -> None:
        found: Any = panel(dashboard)
        for key in keys:
            found = found[key]
        found.update(changed)

    return change


def without(*keys: str) -> Callable[[Json], None]:
    def change(dashboard: Json) -> None:
        found: Any = panel(dashboard)
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


def variable(**changed: Any) -> Callable[[Json], None]:
    return lambda dashboard: dashboard["templating"]["list"][0].update(changed)


def overridden(name: str, value: Any) -> Callable[[Json], None]:
    properties = [{"id": name, "value": value}]
    return within(
        "fieldConfig", overrides=[{"matcher": {"id": "byName", "options": "x"}, "properties": properties}]
    )


def of_an_unknown_source(dashboard: Json) -> None:
    found = panel(dashboard)
    for each in (found, *found["targets"]):
        each["datasource"]["type"] = "promethus"


FIELDS, OPTIONS = "PANEL.fieldConfig", "PANEL.options"
PROPERTY = f"{FIELDS}.overrides[0].properties[0]"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # Misspelt keys, in each kind of object that has a parser of its own.
        (lambda dashboard: dashboard.update(titel="x"), "titel: unexpected field"),
        (within("gridPos", height=3), "PANEL.gridPos.height: unexpected field"),
        (within("options", "legend", calculations=[]), f"{OPTIONS}.legend.calculations: unexpected field"),
        (within("fieldConfig", "defaults", untit="s"), f"{FIELDS}.defaults.untit: unexpected field"),
        (
            within("fieldConfig", "defaults", "custom", lineWidht=2),
            f"{FIELDS}.defaults.custom.lineWidht: unexpected field",
        ),
        (within("targets", 0, legend="x"), "PANEL.targets[0].legend: unexpected field"),
        (variable(regexp="x"), "templating.list[0].regexp: unexpected field"),
        (overridden("colour", {}), f"{PROPERTY}.colour: unexpected field"),
        (overridden("custom.lineWidht", 2), f"{PROPERTY}.lineWidht: unexpected field"),
        # Missing ones.
        (lambda dashboard: dashboard.pop("schemaVersion"), "schemaVersion: required field is missing"),
        (without("options", "tooltip"), f"{OPTIONS}.tooltip: required field is missing"),
        # Wrong types.
        (lambda dashboard: dashboard.update(tags="x"), "tags: cannot unmarshal string"),
        (within("gridPos", w="12"), "PANEL.gridPos.w: cannot unmarshal string"),
        (
            within("options", "legend", showLegend="yes"),
            f"{OPTIONS}.legend.showLegend: cannot unmarshal string",
        ),
        (within("fieldConfig", "defaults", unit=3), f"{FIELDS}.defaults.unit: cannot unmarshal number"),
        (within("targets", 0, expr=["up"]), "PANEL.targets[0].expr: cannot unmarshal array"),
        (overridden("color", {"mode": 3}), f"{PROPERTY}.color.mode: cannot unmarshal number"),
        # Numbers out of bounds.
        (within("gridPos", w=25), "PANEL.gridPos.w: must be <= 24"),
        # What an enumeration lacks, of words and of numbers.
        (lambda dashboard: dashboard.update(graphTooltip=5), "graphTooltip: 5 is no DashboardCursorSync"),
        (
            within("options", "legend", placement="left"),
            f'{OPTIONS}.legend.placement: "left" is no LegendPlacement',
        ),
        (within("options", "tooltip", mode="all"), f'{OPTIONS}.tooltip.mode: "all" is no TooltipDisplayMode'),
        (
            within("fieldConfig", "defaults", color={"mode": "rainbow"}),
            f'{FIELDS}.defaults.color.mode: "rainbow" is no FieldColorModeId',
        ),
        (
            within("fieldConfig", "defaults", "custom", drawStyle="lines"),
            f'{FIELDS}.defaults.custom.drawStyle: "lines" is no GraphDrawStyle',
        ),
        (within("targets", 0, format="graph"), 'PANEL.targets[0].format: "graph" is no PromQueryFormat'),
        (variable(type="quer"), 'templating.list[0].type: "quer" is no VariableType'),
        (overridden("custom.drawStyle", "lines"), f'{PROPERTY}.drawStyle: "lines" is no GraphDrawStyle'),
        # What no plugin knows would otherwise pass with anything in it.
        (
            lambda dashboard: dashboard["panels"].append({"type": "timeserie"}),
            'panels[LAST].type: no such panel: "timeserie"',
        ),
        (of_an_unknown_source, "PANEL.targets[0]: a query of no data source that is known"),
    ],
)
def test_what_it_does_not_take_is_told_in_one_line_with_file_and_place(
    schema: Path, tmp_path: Path, change: Callable[[Json], None], told: str
) -> None:
    dashboard = json.loads((CHART / "dashboards" / "overview.json").read_text())
    change(dashboard)
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(dashboard))
    index = dashboard["panels"].index(panel(dashboard))
    told = told.replace("PANEL", f"panels[{index}]").replace("LAST", str(len(dashboard["panels"]) - 1))
    done = run(schema, FILES[0], file)
    assert done.returncode == 1
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{file}: {told}")


def test_each_problem_has_a_line_whatever_file_it_is_in(schema: Path, tmp_path: Path) -> None:
    dashboard = json.loads(FILES[0].read_text())
    dashboard |= {"titel": "x", "tags": 3}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text(json.dumps(dashboard))
    done = run(schema, *files)
    assert done.returncode == 1
    assert [line.split(":")[:2] for line in done.stdout.splitlines()] == [
        [str(file), place] for file in files for place in (" tags", " titel")
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"title": "x",\n"panels": [}', "FILE: line 2: not JSON: invalid character '}'"),
        ("[]", "FILE: not a dashboard: no JSON object"),
        (None, "no such file or directory"),
    ],
)
def test_what_is_no_dashboard_is_one_line_and_exit_status_2(
    schema: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "dashboard.json"
    if text is not None:
        file.write_text(text)
    done = run(schema, file)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said.replace("FILE", str(file)) in line


def test_it_says_how_it_is_called(schema: Path) -> None:
    assert run(schema).stderr == "usage: dashboard-schema FILE...\n"


def test_enumerations_are_those_of_the_schema_that_it_was_built_from(schema: Path, tmp_path: Path) -> None:
    """Without the schema's sources beside it the program would take any word: it stops instead."""
    alone = shutil.copy(schema, tmp_path / "dashboard-schema")
    done = run(Path(alone), FILES[0])
    assert done.returncode == 2
    assert "types_gen.go: no such file or directory" in done.stderr
