"""A load that goes on changes nothing: no errors, no memory or open files that grow, no latency that drifts.

`--soak SECONDS` says how long; `make soak` takes half an hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from . import node
from .record import Row
from .sender import sending, stream
from .service import CAPACITY, Service
from .test_faults import counts
from .usage import watched

SHARE = 0.7  # of the capacity
WARM, NEARLY_ALL = 30, 0.9  # seconds and share before it: what queues and allocators need at their fullest
WINDOWS = 12  # of each of which the median counts, so that a pause of the machine is one window's


def growth(values: np.ndarray) -> float:
    """By how much of its median a series rises in all: the median of all its slopes (Theil and Sen)."""
    ends, begins = np.tril_indices(len(values), -1)
    slope = np.median((values[ends] - values[begins]) / (ends - begins))
    return float(slope * (len(values) - 1) / np.median(values))


def test_growth_is_found_and_noise_is_not() -> None:
    chance = np.random.default_rng(0)
    noise = 1 + 0.05 * chance.normal(size=200)
    noise[50] = 20
    assert abs(growth(noise)) < 0.02
    assert 0.08 < growth(noise + np.linspace(0, 0.1, 200)) < 0.12


@pytest.mark.timeout(7200)
def test_nothing_grows_under_a_steady_load(
    service: Service, record: Callable[[Row], None], pytestconfig: pytest.Config
) -> None:
    node.embedded()
    seconds = float(pytestconfig.getoption("soak"))
    service.scale(1)
    restarts = service.restarts()
    steps = (WARM, NEARLY_ALL * CAPACITY / 2), (seconds, SHARE * CAPACITY / 2)
    load = (stream("grpc", *steps), stream("http", *steps))
    every = max(1.0, seconds / 600)
    with watched(service.pods()[0], every) as usage, sending(service, *load) as sender:
        sent = sender.wait(WARM + seconds + 180)
    began = sent.began + WARM
    half, end = began + seconds / 2, began + seconds
    memory, files = usage.memory(half, end), usage.files(half, end)
    by_process = {  # MiB in the middle of the load, and at its end
        name: [round(float(np.median(part)) / 2**20, 2) for part in (values[:10], values[-10:])]
        for name, values in usage.memory_by_process(half, end).items()
    }
    edges = np.linspace(began + 0.1 * seconds, end, WINDOWS + 1)
    medians = np.array(
        [np.median(sent.took[sent.ok & sent.during(*span)]) for span in itertools.pairwise(edges)]
    )
    drift = growth(medians)
    row = Row(
        "soak" if seconds < 1800 else "soak-long", "soak", "no errors, no growth, no drift",
        f"{seconds / 60:.0f} minutes", f"{SHARE * CAPACITY:.0f} requests/s, 70 % of the capacity, 1 pod",
        counts(sent, sent.ok | sent.failed), counts(sent, sent.failed), "none", 0.0, None, sent.kinds(),
        {
            "memory's growth": round(growth(memory), 4),
            "memory, MiB": round(float(np.median(memory)) / 2**20, 1),
            "open files' growth": round(growth(files), 4),
            "open files": float(np.median(files)),
            "latency's drift": round(drift, 4),
            "median latency, s": round(float(np.median(medians)), 4),
        },
    )  # fmt: skip
    record(row)
    assert not row.kinds
    assert service.restarts() == restarts
    assert growth(memory) < 0.01, f"MiB by process, halfway and at the end: {by_process}"
    # A client opens as many connections as requests have ever been under way at once: that levels off.
    assert growth(files) < 0.1
    assert drift < 0.1, f"median latency, window by window: {medians.round(3)}"
