"""All dashboards of one window of time as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from grafana.check import Answer, Finding
from grafana.draw import Line, draw, label
from grafana.numbers import shown
from grafana.parts import Board, Panel, Unit
from grafana.variables import Window
from model_tools.slo.report import STYLE

COLOURS = {
    "green": "#15803d", "orange": "#c2410c", "dark-orange": "#c2410c", "red": "#b91c1c", "blue": "#0f172a",
    "transparent": "#0f172a",
}  # fmt: skip
BAR = "#3b82f6"
NARROW = 6  # columns of a panel that has no room for more than its number
MOST = 14  # lines of a legend
LONGEST = 26  # letters of a name in it

OWN_STYLE = """
main { max-width: 1380px; }
nav { display: flex; gap: 18px; margin: 0 0 20px; } nav a { color: #1d4ed8; text-decoration: none; }
h2.board { font-size: 22px; margin: 36px 0 2px; } h3.row { font-size: 15px; margin: 20px 0 8px; }
.grid { display: grid; grid-template-columns: repeat(24, 1fr); gap: 12px; }
.panel { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
         min-width: 0; display: flex; flex-direction: column; }
.panel h4 { font-size: 14px; margin: 0; }
.panel p.sub { font-size: 12.5px; line-height: 1.35; margin: 2px 0 8px; }
.panel svg { width: 100%; height: auto; display: block; }
.panel.empty { background: #f1f5f9; } .panel.broken { border-color: var(--bad); }
.none { color: var(--soft); font-size: 13px; margin: auto 0; padding: 12px 0; overflow-wrap: anywhere; }
.panel.broken .none { color: var(--bad); }
.legend { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 0 18px;
          font-size: 12px; margin-top: 6px; }
.legend div { display: flex; gap: 6px; align-items: center; min-width: 0; }
.legend span.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; flex: 1; width: auto; }
.panel code { font-size: 0.95em; }
.legend b { font-weight: 500; font-variant-numeric: tabular-nums; white-space: nowrap; }
.legend i { flex: none; width: 14px; height: 3px; border-radius: 1px; }
.legend i.dash { background: repeating-linear-gradient(90deg, var(--bad) 0 4px, transparent 4px 6px);
                 height: 2px; }
.stat { font-size: 26px; font-weight: 600; line-height: 1.2; margin: auto 0 0; }
.bars div.bar { display: grid; grid-template-columns: minmax(90px, 50%) 1fr auto; gap: 10px;
                align-items: center; font-size: 12.5px; padding: 3px 0; }
.bars .name { overflow-wrap: anywhere; line-height: 1.25; width: auto; }
.bars .track { background: #f1f5f9; height: 12px; border-radius: 3px; }
.bars .track u { display: block; height: 12px; border-radius: 3px; text-decoration: none; }
.panel table { font-size: 13px; } .panel td { padding: 4px 10px 4px 0; overflow-wrap: anywhere; }
.panel pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 11px; color: var(--soft); margin: 0;
             max-height: 120px; overflow: auto; }
.faults ul { columns: 2; margin: 4px 0 0; }
.faults li { color: var(--bad); font-size: 13.5px; overflow-wrap: anywhere; }
@media (max-width: 900px) { .grid { display: block; } .panel { margin-bottom: 12px; } }
"""


def page(
    findings: Sequence[Finding], window: Window, where: str, choices: Mapping[str, Sequence[str]]
) -> str:
    """The page's text. where: which Prometheus, as a reader should know it."""
    boards = list(dict.fromkeys(finding.board for finding in findings))
    broken = any(finding.faults for finding in findings)
    chosen = ", ".join(f"{name} {' or '.join(values)}" for name, values in choices.items()) or "everything"
    links = "".join(f'<a href="#{board.name}">{_text(board.title)}</a>' for board in boards)
    sections = "".join(_board(board, findings, window) for board in boards)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(summary(findings))}: dashboards</title>
<style>{STYLE}{OWN_STYLE}</style>
</head>
<body>
<main>
<header>
<div><h1>Dashboards</h1><p class="sub">{_text(where)}, {_text(_span(window))}, {_text(chosen)}</p></div>
<div class="badge {"bad" if broken else "good"}">{_text(summary(findings))}</div>
</header>
{_summary(boards, findings)}
{_faults(findings)}
<nav>{links}</nav>
{sections}
</main>
</body>
</html>
"""


def summary(findings: Sequence[Finding]) -> str:
    """How many panels have data, and whether the others may be without."""
    filled = sum(finding.has_data for finding in findings)
    broken = sum(bool(finding.faults) for finding in findings)
    text = f"{filled} of {len(findings)} panels have data"
    return f"{text}, {broken} should and don't, or not all of it" if broken else text


def _summary(boards: Sequence[Board], findings: Sequence[Finding]) -> str:
    rows = ""
    for board in boards:
        own = [finding for finding in findings if finding.board == board]
        absent = sorted({name for finding in own for name in finding.missing if not finding.has_data})
        rows += (
            f'<tr><td class="name">{_text(board.title)}</td>'
            f'<td class="number">{sum(finding.has_data for finding in own)} of {len(own)}</td>'
            f'<td class="note">{_text("not there: " + ", ".join(absent)) if absent else ""}</td></tr>'
        )
    head = '<tr><th>Dashboard</th><th class="number">Panels with data</th><th></th></tr>'
    return f'<section class="card"><table><thead>{head}</thead><tbody>{rows}</tbody></table></section>'


def _faults(findings: Sequence[Finding]) -> str:
    """A line for each panel that is broken; its card says more."""
    items = ""
    for finding in findings:
        wrong = [answer.query.legend for answer in finding.answers if answer.fault]
        if wrong:
            which = f" ({', '.join(wrong)})" if len(wrong) < len(finding.answers) else ""
            items += f"<li>{_text(finding.board.name)}: {_text(finding.panel.title)}{_text(which)}</li>"
    if not items:
        return ""
    return f'<section class="card faults"><h2>Should have data and don\'t</h2><ul>{items}</ul></section>'


def _board(board: Board, findings: Sequence[Finding], window: Window) -> str:
    own = {id(finding.panel): finding for finding in findings if finding.board == board}
    text = f'<h2 class="board" id="{board.name}">{_text(board.title)}</h2>'
    text += f'<p class="sub">{_text(board.description)}</p>'
    for row in board.rows:
        panels = "".join(_panel(own[id(panel)], window) for panel in row.panels)
        text += f'<h3 class="row">{_text(row.title)}</h3><div class="grid">{panels}</div>'
    return text


def _panel(finding: Finding, window: Window) -> str:
    panel = finding.panel
    kind = "broken" if finding.faults else "" if finding.has_data else "empty"
    sub = f'<p class="sub">{_marked(panel.shows)}</p>' if panel.width > NARROW else ""
    return (
        f'<section class="panel {kind}" style="grid-column: span {panel.width}" '
        f'title="{_text(panel.description)}">'
        f"<h4>{_text(panel.title)}</h4>{sub}{_content(finding, window)}</section>"
    )


def _content(finding: Finding, window: Window) -> str:
    panel = finding.panel
    errors = [answer.error for answer in finding.answers if answer.error]
    if errors:
        return f'<p class="none">Refused: {_text(errors[0])}</p>'
    if not finding.has_data:
        why = (
            f": there is no {', no '.join(finding.missing)}"
            if finding.missing
            else ", although there should be"
        )
        asked = (
            "" if finding.missing or panel.width <= NARROW else f"<pre>{_text(finding.answers[0].sent)}</pre>"
        )
        return f'<p class="none">No data{_text(why)}</p>{asked}'
    if panel.kind == "stat":
        return _stat(finding)
    if panel.kind == "bargauge":
        return _bars(finding)
    if panel.kind == "table":
        return _table(finding)
    svg, lines = draw(finding, window)
    return svg + _legend(lines)


def _legend(lines: Sequence[Line]) -> str:
    text = ""
    for line in lines[:MOST]:
        swatch = (
            '<i class="dash"></i>' if line.dashed is not None else f'<i style="background:{line.colour}"></i>'
        )
        name = f"{line.name} (above the plot)" if line.hidden else line.name
        text += f'<div>{swatch}<span class="name" title="{_text(name)}">{_text(_short(name))}</span>'
        text += f"<b>{_text(line.last)}</b></div>"
    more = f"<div>and {len(lines) - MOST} more</div>" if len(lines) > MOST else ""
    return f'<div class="legend">{text}{more}</div>'


def _stat(finding: Finding) -> str:
    text = ""
    for name, value in _values(finding):
        said, colour = _said(value, finding.panel)
        title = f'<span style="font-size:13px">{_text(name)} </span>' if len(finding.answers) > 1 else ""
        text += f'<div class="stat" style="color:{colour}">{title}{_text(said)}</div>'
    return text


def _bars(finding: Finding) -> str:
    panel, values = finding.panel, _values(finding)
    top = panel.maximum or max([value for _, value in values] + [1e-9])
    text = ""
    for name, value in values[:MOST]:
        said, colour = _said(value, panel)
        width = max(0.0, min(100.0, 100 * value / top))
        text += (
            f'<div class="bar"><span class="name" title="{_text(name)}">{_text(_short(name))}</span><span '
            f'class="track">'
            f'<u style="width:{width:.1f}%;background:{colour if panel.steps else BAR}"></u></span>'
            f"<b>{_text(said)}</b></div>"
        )
    return f'<div class="bars">{text}</div>'


def _table(finding: Finding) -> str:
    """As Grafana merges: what has the same labels in all queries is one row."""
    panel = finding.panel
    rows: dict[tuple[str, ...], dict[int, float]] = {}
    for place, answer in enumerate(finding.answers):
        for series in answer.series:
            key = tuple(series.labels.get(name, "") for name, _ in panel.columns)
            rows.setdefault(key, {})[place] = series.values[-1]
    heads = "".join(f"<th>{_text(title)}</th>" for _, title in panel.columns)
    heads += "".join(f'<th class="number">{_text(answer.query.legend)}</th>' for answer in finding.answers)
    body = ""
    for key, values in sorted(rows.items()):
        cells = "".join(f"<td>{_text(part)}</td>" for part in key)
        for place, answer in enumerate(finding.answers):
            cells += f'<td class="number">{_cell(values.get(place), answer, panel)}</td>'
        body += f"<tr>{cells}</tr>"
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: float | None, answer: Answer, panel: Panel) -> str:
    if value is None:
        return ""
    unit: Unit = answer.query.unit or panel.unit
    if panel.words and answer.query is panel.queries[-1]:
        said, colour = _said(value, panel)
        return f'<b style="color:{colour}">{_text(said)}</b>'
    return _text(shown(value, unit, panel.decimals))


def _values(finding: Finding) -> list[tuple[str, float]]:
    found = [
        (label(answer.query, series), series.values[-1])
        for answer in finding.answers
        for series in answer.series
    ]
    return sorted(found)


def _said(value: float, panel: Panel) -> tuple[str, str]:
    """What a number is shown as, and its colour."""
    for number, word, colour in panel.words:
        if value == number:
            return word, COLOURS[colour]
    colour = panel.first
    for least, step in panel.steps:
        colour = step if value >= least else colour
    return shown(value, panel.unit, panel.decimals), COLOURS[colour]


def _span(window: Window) -> str:
    start, end = (datetime.fromtimestamp(when, UTC) for when in (window.start, window.end))
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"


def _short(name: str) -> str:
    """The end of a long name: pods of one Deployment begin with the same."""
    return name if len(name) <= LONGEST else f"…{name[-LONGEST:]}"


def _marked(text: str) -> str:
    """Markdown's `code` as HTML, of text that has nothing else of it."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return html.escape(text)
