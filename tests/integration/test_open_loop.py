"""Open loops of distributed Locust workers against a real Triton, which counts along.

The model waits for half a second to fill a batch, so that what the load test's own processes lose on a busy
machine is little beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colours
import pytest
import requests
from colours import MODEL
from locusts import Load, locust
from processes import loadtest

from loadtest.arrivals import Stage
from loadtest.run import Report, Settings, run_load
from model_tools.console import CheckFailed
from model_tools.serve import LocalTriton
from model_tools.values import Values

pytestmark = pytest.mark.nightly

WORKERS = 2
RATE = 40.0
QUEUE = 0.5  # seconds that the model waits for more requests
TRIES = 4  # a machine may be so busy that a run refuses to give numbers, as it should
LATE = "ms late or more"
SETTINGS = Settings(
    users=4,
    spawn_rate=100,
    duration=5,
    protocol="both",
    arrival="constant",
    requests_per_second=RATE,
    workers=WORKERS,
)


def quiet(stage: str, part: float, shown: str) -> None:
    pass


@pytest.fixture(scope="module")
def triton(local_model: Values, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    delay = {"maxQueueDelayMicroseconds": round(QUEUE * 1e6), "maxSize": 64, "preferredSizes": [64]}
    queue = {"maxSize": 100_000, "timeoutMicroseconds": 30_000_000}
    folder = tmp_path_factory.mktemp("repository")
    repository = colours.repository(folder, local_model, batching={**delay, "queue": queue})
    with LocalTriton(repository, exit_seconds=0) as triton:
        yield triton


@pytest.fixture(scope="module")
def load(triton: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    with locust(triton, tmp_path_factory.mktemp("locust"), WORKERS) as load:
        yield load


def counted(triton: LocalTriton) -> int:
    """Requests that the server has answered, by its own statistics."""
    stats = requests.get(f"http://{triton.http}/v2/models/{MODEL}/stats", timeout=5).json()
    return int(stats["model_stats"][0]["inference_stats"]["success"]["count"])


def run(load: Load, file: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """`loadtest run`, and the statistics that it wrote, if it did."""
    command = loadtest(
        "run", "--master", load.master, "--workers", str(WORKERS), "--users", "4", "--spawn-rate", "100",
        "--json", str(file), *options,
    )  # fmt: skip
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        if LATE not in done.stderr:
            break
    return done, json.loads(file.read_text()) if file.exists() else None


def measured(load: Load, settings: Settings, report: Report = quiet) -> dict[str, Any]:
    """The statistics of a run, which this test's machine had the time for."""
    for _ in range(TRIES - 1):
        try:
            return run_load(load.api, settings, report)
        except CheckFailed as failure:
            if LATE not in str(failure):
                raise
    return run_load(load.api, settings, report)


def test_poisson_arrivals_over_two_workers_and_both_protocols_are_all_accounted_for(
    triton: LocalTriton, load: Load, tmp_path: Path
) -> None:
    done, result = run(
        load, tmp_path / "load.json",
        "--arrival", "poisson", "--requests-per-second", str(RATE), "--duration", "4", "--protocol", "both",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Offered" in done.stdout
    total, generator = result["total"], result["generator"]
    offered = generator["offered"]
    assert offered == pytest.approx(4 * RATE, abs=5 * (4 * RATE) ** 0.5)
    assert generator["sent"] == offered == total["requests"] == total["successes"]
    assert generator["workers"] == WORKERS
    assert generator["held"] == 0
    assert {name: part["requests"] for name, part in result["protocols"].items()} == pytest.approx(
        {"grpc": offered / 2, "http": offered / 2}, abs=WORKERS
    )
    assert QUEUE / 4 < total["latency"]["p50"] <= total["latency"]["p99"] <= total["latency"]["max"]
    assert 0 <= generator["lag"]["p50"] <= generator["lag"]["p99"] < total["latency"]["p99"]
    # Little's law: more were in flight than there are users, whom nobody waits for.
    assert total["requests_per_second"] * total["latency"]["mean"] > SETTINGS.users


def test_a_server_that_stalls_is_seen_by_all_that_were_due_meanwhile(triton: LocalTriton, load: Load) -> None:
    """Stopped for 2 seconds of 6: a closed loop of 4 users would see it 4 times."""
    stall, seconds = 2.0, 6.0
    stopped: list[threading.Timer] = []

    def watch(stage: str, part: float, shown: str) -> None:
        if stage == "Measuring" and not stopped:
            os.kill(triton.pid, signal.SIGSTOP)
            stopped.append(threading.Timer(stall, os.kill, (triton.pid, signal.SIGCONT)))
            stopped[0].start()

    try:
        result = run_load(load.api, SETTINGS.with_overrides(duration=seconds), watch)
    finally:
        for timer in stopped:
            timer.join()
    total = result["total"]
    assert result["generator"]["offered"] == pytest.approx(seconds * RATE, abs=2 * WORKERS)
    assert total["requests"] == total["successes"] == result["generator"]["offered"]
    assert total["latency"]["p95"] > 0.7 * stall
    # A third of the requests waited up to 2 s for the stall's end, half of those for 1 s or more.
    assert total["latency"]["mean"] > QUEUE / 4 + stall / seconds * stall / 2 * 0.7


def test_stages_are_what_is_offered(load: Load) -> None:
    stages = (Stage(3, 3 * RATE), Stage(0, RATE / 2), Stage(4, RATE / 2))
    result = measured(load, SETTINGS.with_overrides(arrival="poisson", stages=stages))
    assert result["settings"]["duration"] == 7
    expected = 3 * 2 * RATE + 4 * RATE / 2
    assert result["generator"]["offered"] == pytest.approx(expected, abs=5 * expected**0.5)
    rates = [point["offered_per_second"] for point in result["history"]]
    assert max(rates) > 2 * min(rates)


def test_a_closed_loop_of_stages_has_so_many_users(load: Load) -> None:
    stages = (Stage(0, 12), Stage(5, 12))
    result = measured(load, SETTINGS.with_overrides(arrival="closed", stages=stages))
    assert result["history"][-1]["users"] == 12


def test_a_trace_is_replayed_request_by_request(triton: LocalTriton, load: Load, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    times = [0.0, *(0.2 + index / 50 for index in range(101)), *(5.0 for _ in range(20)), 6.0]
    trace.write_text("time,path\n" + "".join(f"{1000 + time},/\n" for time in times))
    done, result = run(load, tmp_path / "load.json", "--trace", str(trace), "--speed", "1.5")
    assert done.returncode == 0, done.stderr
    assert result["settings"]["arrival"] == "replay"
    assert set(result["protocols"]) == {"grpc"}, "what nobody asked for is not spoken"
    assert result["end"] - result["start"] == pytest.approx(4)
    assert result["generator"]["offered"] == result["total"]["successes"] == len(times)
    # Nothing follows the trace, so the server has answered what it warmed up with and the trace, no more.
    before = counted(triton)
    time.sleep(0.5)
    assert counted(triton) == before


def test_a_rate_beyond_the_generator_gives_no_numbers(load: Load, tmp_path: Path) -> None:
    done, result = run(
        load, tmp_path / "load.json",
        "--arrival", "constant", "--requests-per-second", "30000", "--duration", "4",
        "--max-in-flight", "200",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "no numbers, because the load test itself was the limit" in done.stderr
    assert "p99" not in done.stdout
    assert result is None


def test_a_worker_whose_sender_ends_ends_the_run_with_its_reason(load: Load) -> None:
    def kill(stage: str, part: float, shown: str) -> None:
        if stage == "Measuring":
            children = Path(
                f"/proc/{load.processes['worker'].pid}/task/{load.processes['worker'].pid}/children"
            )
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)

    with pytest.raises(CheckFailed, match="sender of the open loop ended with status -9"):
        run_load(load.api, SETTINGS.with_overrides(duration=60), kill)
