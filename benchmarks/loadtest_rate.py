"""What one worker of the load test can offer on one processor: small gRPC requests a second.

    python benchmarks/loadtest_rate.py    # needs 2 processors, and Go

The server is benchmarks/tools/answerer on a processor of its own: it only answers, so the client is the
limit. First the two ways to send gRPC, each in a bare process, in turn; then the real thing, a Locust worker
with its sender on one processor, offered one rate after the other: most is the largest that a run gave
numbers for. On a machine that does other things too: chrt --rr 1 python ..., which goes before them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import loadtest_parts as parts
from benchmarks.loadtest_engines import CONNECTIONS
from loadtest.run import Settings
from model_tools.console import CheckFailed, run

ENGINES = ("gevent", "aio")
ANSWERED = 0.97  # of a rate, by a server that answers at once, or it was not offered
REQUIRED = 2000  # requests a second


@click.command()
@click.option("--client-on", default="0", show_default=True, metavar="CPU", help="The worker's processor.")
@click.option(
    "--server-on", default="1", show_default=True, metavar="CPU", help="The server's, and Locust's master's."
)
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(0), help="Of the bare engines; 0: none."
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(1), help="Length of a phase."
)
@click.option("--in-flight", "flights", multiple=True, type=int, default=[8, 64], show_default=True)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=float,
    default=[1000, 2000, 3000, 4000, 5000, 6000, 8000],
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
def command(
    client_on: str, server_on: str, rounds: int, seconds: float, flights: tuple[int, ...],
    rates: tuple[float, ...], as_json: bool,
) -> None:  # fmt: skip
    """Find the largest rate that one worker on one processor offers in time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        parts.answerer(Path(folder), server_on) as (address, _),
    ):
        bare = engines(address, client_on, rounds, seconds, flights)
        with parts.locust(address, parts.SMALL, client_on, server_on) as api:
            offered = [
                offer(api, arrival, rate, seconds) for arrival in ("constant", "poisson") for rate in rates
            ]
    held = [row["rate"] for row in offered if row["answered"] >= ANSWERED * row["rate"]]
    report = {
        "engines": bare,
        "worker": offered,
        "most": max(held, default=0),
        "load_average": os.getloadavg()[0],
    }
    click.echo(json.dumps(report, indent=2) if as_json else f"most offered in time: {report['most']:.0f}/s")
    if report["most"] < REQUIRED:
        raise CheckFailed(f"one worker offers {report['most']:.0f} requests/s in time, not {REQUIRED}")


def engines(
    address: str, processor: str, rounds: int, seconds: float, flights: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Each engine in alternating phases: medians of requests a second and processor time for one (seconds).

    costs: gevent's to aio's, a round each.
    """
    found = []
    for in_flight in flights if rounds else ():
        phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
        for index in range(rounds):
            for engine in ENGINES if index % 2 == 0 else reversed(ENGINES):
                command = [
                    sys.executable, "-m", "benchmarks.loadtest_engines", engine, address, str(in_flight),
                    str(seconds),
                ]  # fmt: skip
                done = subprocess.run(
                    parts.pinned(command, processor), capture_output=True, text=True, check=True
                )
                phases[engine].append(json.loads(done.stdout))
        row: dict[str, Any] = {"in_flight": in_flight}
        for engine, measured in phases.items():
            row[engine] = {key: statistics.median(each[key] for each in measured) for key in ("rate", "cost")}
        pairs = list(zip(phases["gevent"], phases["aio"], strict=True))
        row["costs"] = [gevent["cost"] / aio["cost"] for gevent, aio in pairs]
        found.append(row)
        shown = ", ".join(
            f"{engine} {row[engine]['rate']:.0f}/s, {row[engine]['cost'] * 1e6:.0f} us of processor each"
            for engine in ENGINES
        )
        print(
            f"{in_flight} in flight: {shown}; gevent costs {statistics.median(row['costs']):.2f} times "
            f"({min(row['costs']):.2f} to {max(row['costs']):.2f})",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return found


def offer(api: Any, arrival: str, rate: float, seconds: float) -> dict[str, Any]:
    """One rate of the real worker: how late it sent, its processor, or why it gave no numbers."""
    settings = Settings(
        users=CONNECTIONS, spawn_rate=100, duration=seconds, protocol="grpc", arrival=arrival,
        requests_per_second=rate, workers=1,
    )  # fmt: skip
    try:
        result = parts.load(api, settings)
    except CheckFailed as failure:
        print(f"{arrival} {rate:.0f}/s: {failure}", file=sys.stderr, flush=True)
        return {"arrival": arrival, "rate": rate, "answered": 0.0, "limit": str(failure)}
    total: Any = result["total"]
    generator: Any = result["generator"]
    p50, p99 = (total["latency"][key] * 1000 for key in ("p50", "p99"))
    print(
        f"{arrival} {rate:.0f}/s: answered {total['requests_per_second']:.0f}/s, p50 {p50:.2f} ms, "
        f"p99 {p99:.2f} ms, late p99 {generator['lag']['p99'] * 1e3:.2f} ms, "
        f"{generator['cpu_percent']:.0f} % of a processor",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return {
        "arrival": arrival, "rate": rate, "answered": total["requests_per_second"], "limit": None,
        "total": total, "generator": generator,
    }  # fmt: skip


if __name__ == "__main__":
    run(command, "loadtest_rate")
