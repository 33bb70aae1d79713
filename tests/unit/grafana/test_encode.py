"""The JSON is what Grafana's own types take, the same every time, and what the chart holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import generate
from grafana.boards import BOARDS
from grafana.encode import encode
from grafana.parts import Board
from model_tools.console import CheckFailed

BY_NAME = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def dashboard(board: Board) -> dict[str, Any]:
    return dict(json.loads(encode(board)))


def panels(board: Board) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(board)["panels"] if panel["type"] != "row"]


@BY_NAME
def test_grafanas_types_read_the_json_and_write_the_same(board: Board) -> None:
    """A field that they don't know would be lost on the way."""
    register_default_plugins()
    read = Dashboard.from_json(json.loads(encode(board)))
    assert JSONEncoder(sort_keys=True, indent=2).encode(read) + "\n" == encode(board)


@BY_NAME
def test_the_json_is_of_no_grafana_in_particular(board: Board) -> None:
    made = dashboard(board)
    assert made.get("id") is None
    assert "version" not in made
    assert made["uid"] == board.uid
    assert made["tags"] == ["inference-system"]
    sources = {json.dumps(item["datasource"]) for item in made["panels"] if item["type"] != "row"}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}


@BY_NAME
def test_panels_have_numbers_of_their_own_and_don_t_overlap(board: Board) -> None:
    made = dashboard(board)["panels"]
    assert len({panel["id"] for panel in made}) == len(made)
    taken: set[tuple[int, int]] = set()
    for panel in made:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@BY_NAME
def test_every_query_of_the_python_is_in_the_json_with_its_legend(board: Board) -> None:
    for panel, made in zip(board.panels, panels(board), strict=True):
        assert made["title"] == panel.title
        assert made["description"] == panel.description
        assert made["fieldConfig"]["defaults"]["unit"] == panel.unit
        assert [target["expr"] for target in made["targets"]] == [query.expr for query in panel.queries]
        if panel.kind != "table":
            assert [target["legendFormat"] for target in made["targets"]] == [q.legend for q in panel.queries]


@BY_NAME
def test_a_promise_is_a_dashed_red_line(board: Board) -> None:
    for panel, made in zip(board.panels, panels(board), strict=True):
        dashed = {
            override["matcher"]["options"]
            for override in made["fieldConfig"]["overrides"]
            if override["matcher"]["id"] == "byFrameRefID"
            and {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}} in override["properties"]
            and any(change["id"] == "custom.lineStyle" for change in override["properties"])
        }
        assert dashed == {
            target["refId"]
            for target, query in zip(made["targets"], panel.queries, strict=True)
            if query.objective and panel.kind == "timeseries"
        }


@BY_NAME
def test_links_lead_to_the_other_dashboards_with_time_and_choices(board: Board) -> None:
    (link,) = dashboard(board)["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["inference-system"])
    assert (link["includeVars"], link["keepTime"]) == (True, True)


@BY_NAME
def test_all_is_everything_with_and_without_the_label(board: Board) -> None:
    choices = dashboard(board)["templating"]["list"]
    assert [choice["name"] for choice in choices] == ["datasource", *(v.name for v in board.variables)]
    for choice in choices[1:]:
        assert (choice["includeAll"], choice["multi"], choice["allValue"]) == (True, True, ".*")


def test_a_table_says_met_and_missed_in_its_last_column_alone() -> None:
    """A share of exactly 1 is 100 %, not "met"."""
    for panel in panels(BOARDS[0]):
        if panel["type"] == "table":
            assert "mappings" not in panel["fieldConfig"]["defaults"]
            (override,) = panel["fieldConfig"]["overrides"]
            assert override["matcher"] == {"id": "byName", "options": "Kept"}
            assert any(change["id"] == "mappings" for change in override["properties"])


def test_the_charts_dashboards_are_current() -> None:
    result = CliRunner().invoke(generate.main, ["--check"])
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("fault", ["altered", "missing", "left over"])
def test_a_dashboard_that_is_not_current_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(generate, "DASHBOARDS", tmp_path)
    assert CliRunner().invoke(generate.main, []).exit_code == 0
    assert CliRunner().invoke(generate.main, ["--check"]).exit_code == 0
    if fault == "altered":
        name = "gpu.json"
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("celsius", "fahrenheit"))
    elif fault == "missing":
        name = "triton.json"
        (tmp_path / name).unlink()
    else:
        name = "old.json"
        (tmp_path / name).write_text("{}")
    result = CliRunner().invoke(generate.main, ["--check"])
    assert isinstance(result.exception, CheckFailed)
    assert name in str(result.exception)
    assert "make dashboards" in str(result.exception)
    CliRunner().invoke(generate.main, [])
    assert CliRunner().invoke(generate.main, ["--check"]).exit_code == 0
