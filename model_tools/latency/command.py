"""`model-tools latency-exporter`: Prometheus histograms out of Triton's traces."""

from __future__ import annotations

import math
import signal

import click

from model_tools.console import BadInput, interrupted_by


@click.command("latency-exporter", short_help="Prometheus histograms of Triton's latency, from its traces.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of /metrics; 0.0.0.0 is all.")
@click.option(
    "--port", default=8004, show_default=True, type=click.IntRange(1, 65535), help="Port of /metrics."
)
@click.option(
    "--listen",
    default="127.0.0.1:4318",
    show_default=True,
    metavar="HOST:PORT",
    help="Where Triton sends traces.",
)
@click.option(
    "--bucket", "thresholds", multiple=True, type=float, metavar="SECONDS",
    help="One more bound of a bucket, such as an objective's threshold; may be repeated.",
)  # fmt: skip
@click.option(
    "--sample-every", default=1, show_default=True, type=click.IntRange(1),
    help="Triton's trace rate: one request in so many; shown as a metric.",
)  # fmt: skip
def command(host: str, port: int, listen: str, thresholds: tuple[float, ...], sample_every: int) -> None:
    """Receive Triton's traces and show how long requests took, in buckets that can be summed over pods.

    \b
    Triton is started with
      --trace-config=mode=opentelemetry --trace-config=level=TIMESTAMPS --trace-config=rate=7
      --trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces
    """
    for threshold in thresholds:
        if not (math.isfinite(threshold) and threshold > 0):
            raise BadInput(f"--bucket: {threshold:g} is no time in seconds")
    run(host, port, *_address(listen), thresholds, sample_every)


def run(
    host: str, port: int, trace_host: str, trace_port: int, thresholds: tuple[float, ...], sample_every: int
) -> None:
    """Exports until SIGTERM or Ctrl-C. Raises BadInput for an address that can't be used."""
    try:
        from model_tools.latency.metrics import Metrics
        from model_tools.latency.receiver import Receiver
        from model_tools.latency.traces import Traces

        metrics = Metrics(thresholds, sample_every)
    except ImportError as error:
        raise BadInput(f"{error.name}: is missing; install inference-system[latency]") from error
    with interrupted_by(signal.SIGTERM, signal.SIGHUP):
        try:
            receiver = Receiver(trace_host, trace_port, Traces(sample_every), metrics)
        except OSError as error:
            raise BadInput(f"--listen: {trace_host}:{trace_port} can't be used ({error.strerror})") from error
        with receiver:
            try:
                metrics.serve(host, port)
            except OSError as error:
                raise BadInput(f"--port: {host}:{port} can't be used ({error.strerror})") from error
            click.echo(f"ready: traces to http://{trace_host}:{trace_port}/v1/traces, {host}:{port}/metrics")
            try:
                receiver.serve_forever()
            except KeyboardInterrupt:
                click.echo("stopped")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(f"--listen: {text} is not HOST:PORT")
    return host, int(port)
