"""What counters and answers amount to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from model_tools.console import CheckFailed
from model_tools.engine.timing import percentile
from model_tools.tuning.cluster import _sample
from model_tools.tuning.load import SPAN, Answers
from model_tools.tuning.local import processor_seconds
from model_tools.tuning.sample import server_parts

GROWN = {
    "nv_inference_request_success": 100.0,
    "nv_inference_exec_count": 20.0,
    "nv_inference_count": 100.0,
    "nv_inference_queue_duration_us": 2_000_000.0,
    "nv_inference_compute_input_duration_us": 100_000.0,
    "nv_inference_compute_infer_duration_us": 5_000_000.0,
    "nv_inference_compute_output_duration_us": 200_000.0,
}


def test_parts_are_means_of_a_request_between_two_moments() -> None:
    before = dict.fromkeys(GROWN, 7.0)
    after = {name: value + 7 for name, value in GROWN.items()}
    expected = {"queue": 0.02, "input": 0.001, "infer": 0.05, "output": 0.002, "batch": 5.0}
    assert server_parts(before, after) == pytest.approx(expected)


def test_a_clusters_sample_is_what_locust_and_prometheus_say() -> None:
    latency = {"p50": 0.1, "p95": 0.2, "p99": 0.3, "mean": 0.12, "max": 0.4}
    total = {
        "requests": 100,
        "successes": 100,
        "failures": 0,
        "requests_per_second": 10.0,
        "latency": latency,
    }
    load: dict[str, Any] = {"start": 100.0, "end": 110.0, "total": total}
    found = _sample(load, GROWN)
    assert (found.throughput, found.p99, found.batch, found.seconds) == (10.0, 0.3, 5.0, 10.0)
    assert found.compute == pytest.approx(0.053)
    assert found.processor is None


def test_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, part) for part in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([3.0], 0.99) == 3.0


def test_a_batch_at_the_windows_edge_does_not_change_the_rate() -> None:
    """16 answers at a time, every 2 s, are 8 a second, wherever a window of 5 s begins."""
    arrived = [(2.0 * batch, 1.0) for batch in range(1, 20) for _ in range(16)]
    answers = Answers(0.0, arrived)
    for start in (2.1, 2.9, 3.5, 3.99):
        rate, latencies = answers.between(start, start + 5)
        assert rate == pytest.approx(8)
        assert len(latencies) % 16 == 0


def test_a_window_without_answers_is_no_measurement() -> None:
    with pytest.raises(CheckFailed, match=r"0 answers in 1\.0 s: measure for longer"):
        Answers(0.0, [(0.5, 0.1)]).between(1.0, 2.0)


def test_counts_are_of_whole_spans() -> None:
    answers = Answers(10.0, [(10.0 + SPAN * place + 0.01, 0.1) for place in (0, 0, 2, 5)])
    assert answers.counts(10.0 + 3.5 * SPAN) == [2, 0, 1]


def test_the_processors_time_of_a_group_has_its_childrens_too() -> None:
    spin = "while time.process_time() < 0.5: pass\n time.sleep(60)"
    busy = f"import os, time\nif os.fork(): os.wait()\nelse:\n {spin}"
    with subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while (used := processor_seconds(process.pid)) < 0.3:
                assert process.poll() is None
                assert time.monotonic() < deadline, f"{used} s"
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, 9)
