"""The SLO report: one HTML file that needs nothing else, and the same measurement as JSON."""

from __future__ import annotations

import html
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_tools.slo.measure import Measurement
from model_tools.slo.plots import plots
from model_tools.slo.verdict import Verdict, summary

STYLE = """
:root { color-scheme: light; --ink: #0f172a; --soft: #64748b; --line: #e2e8f0;
        --good: #15803d; --bad: #b91c1c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f8fafc; color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 24px 48px; }
header { display: flex; justify-content: space-between; align-items: center; gap: 24px; margin-bottom: 20px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 0 0 2px; }
p.sub { margin: 4px 0 0; color: var(--soft); }
.badge { padding: 10px 18px; border-radius: 10px; color: #fff; font-size: 17px; font-weight: 600;
         white-space: nowrap; }
.badge.good { background: var(--good); } .badge.bad { background: var(--bad); }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px;
        margin-bottom: 16px; }
.facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px 24px; }
.facts dt { color: var(--soft); font-size: 12.5px; }
.facts dd { margin: 0; font-weight: 500; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12.5px; padding: 4px 12px 8px 0; }
td { border-top: 1px solid var(--line); padding: 8px 12px 8px 0; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
                       padding-right: 24px; width: 1%; }
td.note { color: var(--soft); font-size: 13.5px; overflow-wrap: anywhere; }
td code { color: var(--soft); font-size: 12.5px; display: block; }
.verdict { font-weight: 600; white-space: nowrap; width: 130px; }
.name { width: 290px; }
.met { color: var(--good); } .missed { color: var(--bad); }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.plots .card { margin: 0; } .plots p.sub { font-size: 13.5px; margin: 0 0 6px; }
.plots svg { width: 100%; height: auto; display: block; }
@media (max-width: 800px) { .plots, .facts { grid-template-columns: 1fr; } header { flex-wrap: wrap; } }
"""

PLOTS = {
    "throughput": ("Throughput", "Successful requests a second, by pod and as the client counts them"),
    "latency": ("Latency at the client", "Percentiles over each step of the load, successful requests"),
    "server": ("Time in the server", "Mean time of a request in Triton, by what it waits for"),
    "batch": ("Batch size", "Mean number of requests that Triton executes at once"),
}


def write_report(
    folder: Path, verdicts: list[Verdict], measurement: Measurement, facts: dict[str, str], title: str
) -> Path:
    """Writes index.html and measurement.json into the folder, each aside and then renamed; returns the page.

    facts: what the page's head says of the release (model, runtime, versions), in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    _write(page, _page(verdicts, measurement, facts, title))
    _write(
        folder / "measurement.json", json.dumps(_record(verdicts, measurement, facts, title), indent=2) + "\n"
    )
    return page


def _page(verdicts: list[Verdict], measurement: Measurement, facts: dict[str, str], title: str) -> str:
    good = all(verdict.met for verdict in verdicts)
    thresholds = {verdict.objective.name: verdict.objective.threshold for verdict in verdicts}
    cards = [
        f'<section class="card"><h2>{PLOTS[name][0]}</h2><p class="sub">{PLOTS[name][1]}</p>{svg}</section>'
        for name, svg in plots(measurement, thresholds).items()
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(summary(verdicts))}: {_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<div><h1>{_text(title)}</h1><p class="sub">{_text(_window(measurement))}</p></div>
<div class="badge {"good" if good else "bad"}">{_text(summary(verdicts))}</div>
</header>
<section class="card"><dl class="facts" style="margin:0">{_facts(facts)}</dl></section>
<section class="card">{_table(verdicts)}</section>
{_failures(measurement)}
<div class="plots">
{"".join(cards)}
</div>
</main>
</body>
</html>
"""


def _table(verdicts: list[Verdict]) -> str:
    rows = "".join(
        f'<tr><td class="name">{_text(verdict.objective.title)}'
        f"<code>slo.{_text(verdict.objective.name)}</code></td>"
        f'<td class="number">{_text(verdict.objective.promise)}</td>'
        f'<td class="number">{_text(verdict.shown)}</td>'
        f'<td class="verdict {"met" if verdict.met else "missed"}">'
        f"{'✓' if verdict.met else '✗'} {_text(verdict.word)}</td>"
        f'<td class="note">{_text(verdict.measured.detail)}</td></tr>'
        for verdict in verdicts
    )
    return (
        '<table><thead><tr><th>Objective</th><th class="number">Promised</th><th class="number">Measured</th>'
        f"<th>Verdict</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _failures(measurement: Measurement) -> str:
    failures = (measurement.load or {}).get("failures", [])
    if not failures:
        return ""
    rows = "".join(
        f'<tr><td class="number">{failure["count"]:,}</td><td>{_text(failure["protocol"])}</td>'
        f'<td class="note">{_text(failure["error"])}</td></tr>'
        for failure in failures[:10]
    )
    return (
        '<section class="card"><h2>Failed requests</h2><table><thead><tr><th class="number">Requests</th>'
        f"<th>Protocol</th><th>Reason</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _facts(facts: dict[str, str]) -> str:
    return "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items()
    )


def _window(measurement: Measurement) -> str:
    start = datetime.fromtimestamp(measurement.start, UTC)
    return f"{start:%Y-%m-%d %H:%M:%S} UTC, {measurement.end - measurement.start:.0f} s"


def _record(
    verdicts: list[Verdict], measurement: Measurement, facts: dict[str, str], title: str
) -> dict[str, Any]:
    return {
        "title": title,
        "met": all(verdict.met for verdict in verdicts),
        "start": measurement.start,
        "end": measurement.end,
        "facts": facts,
        "objectives": [
            {**asdict(verdict.objective), **asdict(verdict.measured), "met": verdict.met}
            for verdict in verdicts
        ],
        "series": {name: [asdict(series) for series in found] for name, found in measurement.series.items()},
        "load": measurement.load,
    }


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    aside.replace(path)


def _text(text: str) -> str:
    return html.escape(text)
