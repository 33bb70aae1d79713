"""Boards as Grafana's dashboard JSON, through the foundation SDK's types for Grafana 11.6."""

from __future__ import annotations

import string
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.parts import FIRING, Board, Panel, Query, Row, Variable

TAG = "inference-system"
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
DASHED = {"fill": "dash", "dash": [8, 6]}


def encode(board: Board) -> str:
    """The text of the board's file. The same board gives the same bytes."""
    return str(JSONEncoder(sort_keys=True, indent=2).encode(build(board))) + "\n"


def build(board: Board) -> models.Dashboard:
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .time(board.since, "now")
        .refresh("30s")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_links())
        .annotation(_alerts())
        .with_variable(_datasource())
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    number = 1
    for row in board.rows:
        made = made.with_row(_row(row, number))
        for panel in row.panels:
            number += 1
            made = made.with_panel(_panel(panel, number))
        number += 1
    return made.build()


def _row(row: Row, number: int) -> dashboard.Row:
    return dashboard.Row(row.title).id(number)


def _panel(panel: Panel, number: int) -> Any:
    made = _of_kind(panel)
    made = (
        made.id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .span(panel.width)
        .height(panel.height)
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
        .targets([_target(panel, query, letter) for query, letter in _lettered(panel)])
    )
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.words and panel.kind != "table":
        made = made.mappings([_words(panel)])
    return made


def _of_kind(panel: Panel) -> Any:
    """The builder of its kind; all have the methods that _panel calls."""
    made = {"timeseries": _timeseries, "stat": _stat, "bargauge": _bargauge, "table": _table}
    return made[panel.kind](panel)


def _timeseries(panel: Panel) -> timeseries.Panel:
    calcs = ["lastNotNull", "max"]
    made = (
        timeseries.Panel()
        .line_width(1.5)
        .fill_opacity(60 if panel.stacked else 0)
        .show_points(options.VisibilityMode.NEVER)
        .color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.TABLE)
            .placement(options.LegendPlacement.BOTTOM)
            .calcs(calcs)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
        )
    )
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if panel.lines:
        style = common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(style)
    if panel.minimum is not None:
        made = made.min(panel.minimum)
    if panel.maximum is not None:
        made = made.max(panel.maximum)
    for query, letter in _lettered(panel):
        if query.objective:
            made = made.override_by_query(
                letter,
                [
                    models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"}),
                    models.DynamicConfigValue("custom.lineStyle", DASHED),
                    models.DynamicConfigValue("custom.fillOpacity", 0),
                    models.DynamicConfigValue("custom.stacking", {"mode": "none"}),
                ],
            )
    return made


def _stat(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .graph_mode(options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.VALUE)
        .text_mode(
            options.BigValueTextMode.VALUE
            if len(panel.queries) == 1
            else options.BigValueTextMode.VALUE_AND_NAME
        )
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _bargauge(panel: Panel) -> bargauge.Panel:
    made = (
        bargauge.Panel()
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
    )
    return made.max(panel.maximum) if panel.maximum is not None else made


def _table(panel: Panel) -> table.Panel:
    """Rows are what has the same labels in all queries; columns the labels, then each query's value."""
    values = {f"Value #{letter}": query for query, letter in _lettered(panel)}
    names = dict(panel.columns) | {key: query.legend for key, query in values.items()}
    if len(values) == 1:
        names["Value"] = next(iter(values.values())).legend
    order = {name: place for place, name in enumerate(names)}
    made = (
        table.Panel()
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names},
            )
        )
        .filterable(False)
    )
    for query in panel.queries:
        properties = []
        if query.unit:
            properties.append(models.DynamicConfigValue("unit", query.unit))
        if panel.words and query is panel.queries[-1]:
            properties.append(models.DynamicConfigValue("mappings", [_words(panel)]))
            properties.append(models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
        if properties:
            made = made.override_by_name(query.legend, properties)
    return made


def _target(panel: Panel, query: Query, letter: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(DATASOURCE)
    if panel.kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    made = made.legend_format(query.legend)
    return made.instant() if panel.instant else made.range()


def _lettered(panel: Panel) -> list[tuple[Query, str]]:
    return list(zip(panel.queries, string.ascii_uppercase, strict=False))


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(color=panel.first, value=None)]
    steps += [models.Threshold(color=colour, value=value) for value, colour in panel.steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _words(panel: Panel) -> models.ValueMap:
    said = {
        str(value): models.ValueMappingResult(text=word, color=colour) for value, word, colour in panel.words
    }
    return models.ValueMap(options=said)


def _colour(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def _links() -> dashboard.DashboardLink:
    """The other dashboards, with the time and the choices of this one."""
    return (
        dashboard.DashboardLink("Inference system")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _alerts() -> dashboard.AnnotationQuery:
    """A mark where an alert began to fire."""
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr(FIRING)
    )


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _variable(variable: Variable) -> dashboard.QueryVariable:
    everything: Any = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.title)
        .datasource(DATASOURCE)
        .query(variable.query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )
