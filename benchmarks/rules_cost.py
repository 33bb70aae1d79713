"""What the chart's rules cost a Prometheus: processor time with them against the same data without them.

    python benchmarks/rules_cost.py --pods 100

Two servers start on one data set: two hours of samples, 15 s apart, of what the rules read for so many
pods, and slo.window's worth of the recorded series that the long windows read. Both run at once, so
whatever else the machine does reaches both; the difference of their processor time, over the wall time, is
the share of a core. Nothing is scraped: the samples end when the servers start, so that windows of 5 m hold
fewer towards the end, and the measured time is shorter than the 5 m after which there would be none. The
times of groups and rules are those of the last evaluation before the measured time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import requests
import yaml

from model_tools.console import BadInput, CheckFailed, run
from model_tools.latency.metrics import LADDER
from model_tools.values import load_values
from tests.chart import promtool

STEP = 15.0
PHASES = ("request",)  # of the exporter's, the one that is read
JOB = 'job="inference/inference-system-triton",namespace="inference"'
DAYS = {"d": 1, "w": 7}
# On top of what tests/chart renders, with the server's latency and on GPUs: all rules that the chart has.
EVERYTHING = {"autoscaling": {"kind": "keda", "requestsPerSecond": 100, "maxReplicas": 200}}


@click.command()
@click.option("--pods", default=100, show_default=True, type=click.IntRange(1))
@click.option(
    "--hours", default=2.0, show_default=True, type=click.FloatRange(0.1), help="Of the pods' samples."
)
@click.option(
    "--seconds", default=120.0, show_default=True, type=click.FloatRange(30, 200), help="Measured time."
)
@click.option(
    "--interval", default=30, show_default=True, type=click.IntRange(1), help="Of evaluation, in seconds."
)
@click.option(
    "--at-most", default=None, type=float, help="Exit with 1 if the rules' share of a core is above."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
def command(
    pods: int, hours: float, seconds: float, interval: int, at_most: float | None, as_json: bool
) -> None:
    """Compare a Prometheus that evaluates the chart's rules with one that does not."""
    for program in ("prometheus", "promtool"):
        if not shutil.which(program):
            raise BadInput(f"{program} is not installed (Debian: package prometheus)")
    window = load_values([])["slo"]["window"]
    days = int(window[:-1]) * DAYS[window[-1]]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        _progress(f"samples of {pods} pods over {hours:g} h, and {days} d of what is recorded")
        # Prometheus refuses to record what is older than its newest block: the samples' end is waited for.
        end = time.time() + 20 + 0.25 * pods * hours
        series = _data(folder, pods, hours, days, end)
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": promtool.groups(EVERYTHING)}))
        shutil.copytree(folder / "with", folder / "without")
        _wait(max(0.0, end - time.time()))
        # The slowest groups are evaluated once a minute: each has been once.
        settling = max(interval, 60) + 15
        servers = {
            name: stack.enter_context(_prometheus(folder, name, interval)) for name in ("with", "without")
        }
        _progress(f"{series} series; settling for {settling} s, then {seconds:g} s are measured")
        _wait(settling)
        groups = _evaluated(servers["with"][1])
        before, began = {name: _processor(pid) for name, (pid, _) in servers.items()}, time.monotonic()
        _wait(seconds)
        after, took = {name: _processor(pid) for name, (pid, _) in servers.items()}, time.monotonic() - began
        spent = {name: (after[name] - before[name]) / took for name in servers}
    rules = [
        {"rule": _named(rule), "milliseconds": 1e3 * rule["evaluationTime"]}
        for group in groups
        for rule in group["rules"]
    ]
    rules.sort(key=lambda each: -each["milliseconds"])
    failing = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]
    if failing:
        raise CheckFailed(f"rules that were not evaluated: {', '.join(failing)}")
    share = spent["with"] - spent["without"]
    report = {
        "pods": pods,
        "series": series,
        "interval": interval,
        "seconds": took,
        "of_a_core": spent,
        "share": share,
        "groups": {
            each["name"]: {"seconds": each["evaluationTime"], "every": each["interval"]} for each in groups
        },
        "rules": rules[:10],
        "load_average": os.getloadavg()[0],
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(
            f"rules of {pods} pods every {interval} s: {share:.2%} of one core"
            f" (with {spent['with']:.2%}, without {spent['without']:.2%})"
        )
        for each in groups:
            click.echo(f"  {each['evaluationTime'] * 1e3:8.1f} ms every {each['interval']} s  {each['name']}")
        for each in rules[:10]:
            click.echo(f"  {each['milliseconds']:8.1f} ms  {each['rule']}")
    if at_most is not None and share > at_most:
        raise CheckFailed(f"the rules take {share:.2%} of a core, more than {at_most:.2%}")


def _evaluated(address: str) -> list[dict[str, Any]]:
    """The groups of a server, with the time that each and each of its rules took last."""
    answer = requests.get(f"http://{address}/api/v1/rules", timeout=20)
    answer.raise_for_status()
    return list(answer.json()["data"]["groups"])


def _named(rule: dict[str, Any]) -> str:
    labels = (
        f"{name}={value}" for name, value in rule.get("labels", {}).items() if name in ("slo", "window")
    )
    return " ".join([rule["name"], *labels])


def _series(pod: int) -> Iterator[tuple[str, float, float]]:
    """Of one pod: series, what it grows by in a second, where it starts."""
    name = f"inference-system-triton-{pod:04d}"
    target = f'{JOB},endpoint="metrics",pod="{name}",instance="10.0.{pod // 250}.{pod % 250}:8002"'
    model = f'{target},model="resnet50",version="1"'
    yield f"up{{{target}}}", 0, 1
    for counter, rate in {
        "request_success": 400, "count": 400, "exec_count": 40, "request_duration_us": 8e6,
        "queue_duration_us": 2e6, "compute_input_duration_us": 1e5, "compute_infer_duration_us": 5e6,
        "compute_output_duration_us": 1e5,
    }.items():  # fmt: skip
        yield f"nv_inference_{counter}{{{model}}}", rate, 0
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        yield f'nv_inference_request_failure{{{model},reason="{reason}"}}', 0.05, 0
    yield f"nv_inference_pending_request_count{{{model}}}", 0, 5
    for gauge in ("utilization", "memory_used_bytes", "memory_total_bytes", "power_usage", "power_limit"):
        yield (
            f'nv_gpu_{gauge}{{{target},gpu_uuid="GPU-{pod}"}}',
            0,
            1 if "total" in gauge or "limit" in gauge else 0.5,
        )
    traces = model.replace('"metrics"', '"latency"').replace(":8002", ":8003")
    for phase in PHASES:
        for position, bound in enumerate((*(f"{each}" for each in LADDER), "+Inf")):
            of = f'{traces},phase="{phase}",le="{bound}"'
            yield f"inference_server_duration_seconds_bucket{{{of}}}", 57 * min(1.0, position / 12), 0
        yield f'inference_server_duration_seconds_count{{{traces},phase="{phase}"}}', 57, 0
        yield f'inference_server_duration_seconds_sum{{{traces},phase="{phase}"}}', 1, 0
    state = f'namespace="inference",pod="{name}",job="kube-state-metrics"'
    for condition in ("true", "false", "unknown"):
        yield f'kube_pod_status_ready{{{state},condition="{condition}"}}', 0, float(condition == "true")
    for phase in ("Pending", "Running", "Succeeded", "Failed", "Unknown"):
        yield f'kube_pod_status_phase{{{state},phase="{phase}"}}', 0, float(phase == "Running")
    for container in ("triton", "latency", "http-proxy"):
        yield f'kube_pod_container_status_restarts_total{{{state},container="{container}"}}', 0, 0
    for container in ("deliver-model", "build-engine"):
        yield f'kube_pod_init_container_status_restarts_total{{{state},container="{container}"}}', 0, 0
        yield f'kube_pod_init_container_status_running{{{state},container="{container}"}}', 0, 0
    for gauge in (
        "XID_ERRORS",
        "ECC_DBE_VOL_TOTAL",
        "UNCORRECTABLE_REMAPPED_ROWS",
        "ROW_REMAP_FAILURE",
        "GPU_TEMP",
    ):
        yield f'DCGM_FI_DEV_{gauge}{{{state},gpu="0"}}', 0, 0


def _data(folder: Path, pods: int, hours: float, days: int, now: float) -> int:
    """Writes the data set of both servers into `with` and returns how many series the pods have."""
    numbers, count = random.Random(1), 0
    pod_times = [now - 3600 * hours + STEP * step for step in range(int(3600 * hours / STEP) + 1)]
    recorded_times = [now - 86400 * days + 30 * step for step in range(2880 * days)]
    for part, times in (("pods", pod_times), ("recorded", recorded_times)):
        source = folder / f"{part}.txt"
        with source.open("w") as file:
            for pod in range(pods) if part == "pods" else ():
                # Pods start at their own times, and no two samples of a rate are alike.
                offset = numbers.uniform(0, 1e5)
                for name, rate, start in _series(pod):
                    count += 1
                    first = f"{name} "
                    file.writelines(
                        f"{first}{start + rate * (at - times[0] + offset):.6g} {at:.3f}\n" for at in times
                    )
            for slo in ("availability", "latency") if part == "recorded" else ():
                for kind, level in (("requests", 40_000.0), ("errors", 20.0)):
                    name = f'inference:slo_{kind}:rate5m{{{JOB},model="resnet50",slo="{slo}"}}'
                    file.writelines(
                        f"{name} {level * numbers.uniform(0.5, 1.5):.6g} {at:.3f}\n" for at in times
                    )
            file.write("# EOF\n")
        command = ["promtool", "tsdb", "create-blocks-from", "--quiet"]
        command += ["--max-block-duration=744h"] if part == "recorded" else []
        done = subprocess.run(
            [*command, "openmetrics", source, folder / "with"], capture_output=True, text=True, check=False
        )
        source.unlink()
        if done.returncode:
            raise CheckFailed(f"promtool: {done.stderr.strip()[-300:]}")
        _progress(f"{part}: written")
    return count


@contextmanager
def _prometheus(folder: Path, name: str, interval: int) -> Iterator[tuple[int, str]]:
    """Its process and address, once it is ready."""
    config = {
        "global": {"evaluation_interval": f"{interval}s"},
        "rule_files": ["rules.yaml"] if name == "with" else [],
    }
    (folder / f"{name}.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus", f"--config.file={folder}/{name}.yml", f"--storage.tsdb.path={folder}/{name}",
        "--storage.tsdb.retention.time=60d", f"--web.listen-address={address}",
    ]  # fmt: skip
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _ready(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CheckFailed(f"prometheus does not start: {log.read_text().strip()[-300:]}")
            time.sleep(0.2)
        yield process.pid, address
    finally:
        process.terminate()
        process.wait()


def _ready(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/-/ready", timeout=1).ok
    except requests.RequestException:
        return False


def _processor(pid: int) -> float:
    """Seconds of processor time that the process has used, by the kernel's count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(seconds: float) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            progress.update(task, completed=seconds - left)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(command, "rules_cost.py")
