"""What one measurement of a server says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PARTS = ("queue", "input", "infer", "output")  # of a request's time in Triton


@dataclass(frozen=True)
class Sample:
    """One load on one server. Latencies and parts are seconds, of a request; throughput is answers a second.

    p50 to p99 are the client's; queue, input, infer and output the server's means. batch: the mean number of
    requests executed at once. seconds: measured, after `warm_up`. steady: whether the load had become so.
    processor: seconds of processors' time that a request takes in Triton and its backends, where it is known.
    What else a machine does changes it far less than it changes throughput.
    """

    throughput: float
    p50: float
    p95: float
    p99: float
    mean: float
    queue: float
    input: float
    infer: float
    output: float
    batch: float
    requests: int
    seconds: float
    warm_up: float
    steady: bool
    processor: float | None = None

    @property
    def compute(self) -> float:
        return self.input + self.infer + self.output

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def server_parts(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """queue, input, infer, output and batch from Triton's counters (nv_inference_*) at two moments."""

    def grown(name: str) -> float:
        return after.get(f"nv_inference_{name}", 0.0) - before.get(f"nv_inference_{name}", 0.0)

    requests, executed = max(1.0, grown("request_success")), max(1.0, grown("exec_count"))
    names = {"queue": "queue", **{part: f"compute_{part}" for part in PARTS[1:]}}
    parts = {part: grown(f"{name}_duration_us") / requests / 1e6 for part, name in names.items()}
    return {**parts, "batch": grown("count") / executed}
