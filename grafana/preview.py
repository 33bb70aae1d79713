"""Draws every dashboard from a Prometheus into one HTML page, for those who have no Grafana.

`python -m grafana.preview --url http://localhost:9090` writes build/dashboards/index.html.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import click

from grafana.boards import BOARDS
from grafana.check import check, faults
from grafana.page import page, summary
from grafana.variables import Window, choices
from model_tools.console import BadInput, CheckFailed, run
from model_tools.slo.measure import last_window, seconds
from model_tools.slo.prometheus import Prometheus

POINTS = 120  # of a plot
MOST = 20  # lines about what is wrong


@click.command(help=__doc__)
@click.option("--url", required=True, help="The Prometheus to ask.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/dashboards"),
    show_default=True,
    help="Folder of the page.",
)
@click.option("--window", default="1h", show_default=True, help="How far back to look from --end.")
@click.option("--start", help="Begin of the time to show, in place of --window: 2026-01-31T12:00:00, UTC.")
@click.option("--end", help="Its end, by default now.")
@click.option(
    "--variable",
    "variables",
    multiple=True,
    help="NAME=VALUE, as chosen at a dashboard's head; several times.",
)
@click.option("--scrape-interval", default="15s", show_default=True, help="How often Prometheus scrapes.")
@click.option(
    "--json",
    "record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what each panel got here.",
)
@click.option(
    "--check", "strict", is_flag=True, help="Exit with 1 where a panel has no data that should have."
)
def main(
    url: str,
    output: Path,
    window: str,
    start: str | None,
    end: str | None,
    variables: tuple[str, ...],
    scrape_interval: str,
    record: Path | None,
    strict: bool,
) -> None:
    import requests

    from model_tools.progress import steps

    shown = span(window, start, end, seconds(scrape_interval))
    chosen = choices(variables)
    prometheus = Prometheus(requests.Session(), url.rstrip("/"))
    output.mkdir(parents=True, exist_ok=True)
    written = output / "index.html"
    with steps() as step:
        step(f"asking for the panels of {len(BOARDS)} dashboards")
        findings = check(prometheus, BOARDS, shown, chosen)
        step("drawing them")
        written.write_text(page(findings, shown, f"Prometheus at {urlsplit(url).hostname}", chosen))
    if record:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps([finding.record() for finding in findings], indent=2) + "\n")
    click.echo(f"{summary(findings)}: {written}")
    broken = list(faults(findings))
    for fault in broken[:MOST]:
        click.echo(f"  {fault}", err=True)
    if len(broken) > MOST:
        click.echo(f"  and {len(broken) - MOST} more", err=True)
    if strict and broken:
        raise CheckFailed(f"{len(broken)} queries have no data that should have")


def span(window: str, start: str | None, end: str | None, scrape: float) -> Window:
    """The time to show. Raises BadInput for what is no time, or ends before it begins."""
    first, last = last_window(window)
    if end:
        length = last - first
        last = _moment("--end", end)
        first = last - length
    if start:
        first = _moment("--start", start)
    if not first < last:
        raise BadInput(f"--start {start} is not before --end {end or 'now'}")
    return Window(first, last, max(1.0, round((last - first) / POINTS)), scrape)


def _moment(option: str, text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{option} {text!r} is no time such as 2026-01-31T12:00:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


if __name__ == "__main__":
    run(main, "grafana.preview")
