"""The `loadtest` command: Locust's master and workers in the cluster, a measured run, a one-shot check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from model_tools.console import BadInput, CheckFailed, run

LOCUST = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.group()
def cli() -> None:
    """Loads a Triton server with real pictures and measures what its clients see."""


@cli.command("run")
@click.option("--release", help="Helm release whose load test to run.")
@click.option("--namespace", default="default", show_default=True, help="The release's namespace.")
@click.option("--master", help="URL of a Locust master (http://host:8089) instead of a release's.")
@click.option("--users", type=int, help="Users over all workers.")
@click.option("--spawn-rate", type=float, help="Users started a second.")
@click.option(
    "--duration", type=float, help="Seconds to measure, after the warm-up; stages and traces have their own."
)
@click.option("--protocol", type=click.Choice(["grpc", "http", "both"]))
@click.option(
    "--arrival",
    type=click.Choice(["closed", "constant", "poisson", "replay"]),
    help="closed: each user waits for its answer. The others send by the clock, whatever the server does.",
)
@click.option(
    "--requests-per-second", type=float, help="Rate of constant and Poisson arrivals, over all workers."
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="SECONDS:TARGET",
    help="Over so many seconds go to so many requests a second (closed: users); in 0 seconds jump there. "
    "Repeat for more.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="Replay the arrivals of this CSV or JSON-lines file: its column or key `time`, in seconds or "
    "ISO 8601.",
)
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="How many times as fast as recorded."
)
@click.option("--max-in-flight", type=int, help="Requests without an answer that a worker sends at most.")
@click.option("--workers", type=int, help="Workers that must be connected.")
@click.option(
    "--patience",
    type=float,
    default=60,
    show_default=True,
    help="Seconds to wait for them, and for another load.",
)
@click.option("--replace", is_flag=True, help="Stop a load that runs already, instead of waiting for it.")
@click.option(
    "--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write statistics here."
)
@click.option(
    "--no-verdict", is_flag=True, help="Only measure: whether objectives are met is judged elsewhere."
)
def run_command(
    release: str | None,
    namespace: str,
    master: str | None,
    patience: float,
    replace: bool,
    output: Path | None,
    no_verdict: bool,
    stages: tuple[str, ...],
    trace: Path | None,
    speed: float,
    **overrides: Any,
) -> None:
    """Loads a release as its values say, prints the statistics, and judges what its clients saw.

    Exit status 1: an objective of the release's `slo` values was missed, or the load test itself was the
    limit (a worker's processor, or requests that left late), and then there are no statistics. Options that
    are keys of its `loadtest` values override them.
    """
    import requests

    from loadtest.api import LocustApi
    from loadtest.arrivals import Stage, read_trace
    from loadtest.run import Settings, run_load
    from loadtest.show import offered, progress, table, warnings, write_json

    if (release is None) == (master is None):
        raise BadInput("give either --release or --master")
    if stages:
        overrides["stages"] = tuple(Stage.read(stage) for stage in stages)
    if trace is not None:
        overrides |= {"trace": tuple(read_trace(trace, speed)), "stages": ()}
        overrides["arrival"] = overrides["arrival"] or "replay"
    defaults = Settings(
        users=8,
        spawn_rate=8,
        duration=30,
        protocol="grpc",
        arrival="closed",
        requests_per_second=0,
        workers=1,
    )
    if release is not None:
        from model_tools.kube import Release, service_session

        found = Release.load(release, namespace)
        settings = Settings.from_values(found.values).with_overrides(**overrides)
        api = LocustApi(*service_session(namespace, f"{found.fullname}-loadtest", 8089))
    else:
        settings = defaults.with_overrides(**overrides)
        api = LocustApi(requests.Session(), str(master).rstrip("/"))
    with progress() as report:
        result = run_load(api, settings, report, patience, replace)
    result = {"release": release, "namespace": namespace if release else None, **result}
    if output:
        write_json(output, result)
    table(result)
    offered(result)
    warnings(result)
    if release is not None and not no_verdict:
        from model_tools.slo.release import judge_load

        verdicts = judge_load(found.values, result)
        if missed := [verdict.sentence for verdict in verdicts if not verdict.met]:
            raise CheckFailed(f"{len(missed)} of {len(verdicts)} objectives missed: {'; '.join(missed)}")
        print(f"All {len(verdicts)} objectives that clients see are met")


@cli.command()
@click.option("--grpc-url", envvar="LOADTEST_GRPC_URL", default="localhost:8001", show_default=True)
@click.option("--http-url", envvar="LOADTEST_HTTP_URL", default="localhost:8000", show_default=True)
@click.option("--model", envvar="LOADTEST_MODEL", default="resnet50", show_default=True)
@click.option("--timeout", type=float, default=60, show_default=True, help="Seconds for all of it.")
def smoke(grpc_url: str, http_url: str, model: str, timeout: float) -> None:
    """Sends pictures over gRPC and HTTP once and checks the answers."""
    from loadtest import smoke as check

    for protocol, count in check.smoke(grpc_url, http_url, model, timeout).items():
        print(f"{protocol}: {count} pictures answered, all checked")


@cli.command(context_settings=LOCUST)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def master(arguments: tuple[str, ...]) -> None:
    """Locust's master with its web API; takes Locust's options."""
    _locust("--master", "--class-picker", *arguments)


@cli.command(context_settings=LOCUST)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """A Locust worker; takes Locust's options (--master-host NAME)."""
    _locust("--worker", *arguments)


def _locust(*arguments: str) -> NoReturn:
    import os
    import sys

    locustfile = Path(__file__).with_name("locustfile.py")
    # Locust takes this process over: it must get the container's signals.
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", str(locustfile), *arguments])


def main() -> NoReturn:
    run(cli, "loadtest")


if __name__ == "__main__":
    main()
