"""More requests than a pod can answer: it goes on answering as many as it can, in time, and refuses the rest.

An open load over gRPC and HTTP on one pod. Its model takes a fixed time a batch and no processor (paced.py),
so what is lost to an overload is lost by the server's own work: taking requests in, and refusing them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from . import node
from .record import Row
from .sender import Sent, sending, stream
from .service import CAPACITY, OBJECTIVE, Service
from .test_faults import counts
from .usage import watched

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

REFUSALS = ("UNAVAILABLE", "503")
CALM = 15.0  # seconds of half the capacity after the overload
RECOVERY = 10.0  # seconds after which nothing of the overload may be left
GOODPUT = 0.9  # of its peak


@pytest.fixture(autouse=True)
def one_pod(service: Service) -> None:
    node.embedded()
    service.scale(1)


def good(sent: Sent) -> np.ndarray:
    """Answered within the objective, of the client's own time too."""
    return sent.ok & (sent.took + sent.late <= OBJECTIVE)


def rate(which: np.ndarray, seconds: float) -> float:
    return round(float(which.sum()) / seconds, 1)


@pytest.mark.parametrize(
    ("name", "factors", "seconds"),
    [
        ("overload", (0.5, 1, 5), 8.0),
        pytest.param("overload-steps", (0.5, 1, 1.5, 2, 3, 4, 5), 20.0, marks=pytest.mark.nightly),
    ],
)
def test_goodput_stays_and_the_rest_is_refused(
    name: str, factors: tuple[float, ...], seconds: float, service: Service, record: Callable[[Row], None]
) -> None:
    steps = [*((seconds, factor * CAPACITY / 2) for factor in factors), (CALM, CAPACITY / 4)]
    with (
        watched(service.pods()[0]) as usage,
        sending(service, stream("grpc", *steps), stream("http", *steps)) as sender,
    ):
        sent = sender.wait(sum(each for each, _ in steps) + 120)
    begins = [sent.began + number * seconds for number in range(len(factors) + 1)]
    spans = dict(zip(factors, itertools.pairwise(begins), strict=True))
    # By their ends: a step that fills the queue sends more than is answered while it lasts.
    goodput = {factor: rate(good(sent) & sent.ended(*span), seconds) for factor, span in spans.items()}
    offered = {factor: rate(sent.during(*span), seconds) for factor, span in spans.items()}
    processor = {factor: round(usage.processor(*span) / seconds, 3) for factor, span in spans.items()}
    peak = max(goodput.values())
    over = begins[-1]
    after = sent.during(over) & ~good(sent)
    recovered = float((sent.at[after] + sent.took[after]).max() - over) if after.any() else 0.0
    refused = sent.failed
    worst = spans[factors[-1]]
    memory = usage.memory(*worst)
    half = len(memory) // 2
    growth = float(np.median(memory[half:]) / np.median(memory[:half]) - 1)
    latency = float(np.percentile(sent.took[sent.ok], 99))
    refusal = float(np.percentile(sent.took[refused], 99)) if refused.any() else 0.0
    row = Row(
        name, "overload", "goodput within 10 % of its peak, the accepted in time, the rest refused",
        f"{factors[0]:g} to {factors[-1]:g} times the capacity",
        f"up to {factors[-1] * CAPACITY:.0f} requests/s, 1 pod",
        counts(sent, sent.ok | sent.failed), counts(sent, sent.failed),
        "what exceeds the capacity: refused, never lost",
        round(recovered, 1), None, sent.kinds(),
        {
            **{f"offered {factor:g}": value for factor, value in offered.items()},
            **{f"goodput {factor:g}": value for factor, value in goodput.items()},
            **{f"processor {factor:g}": used for factor, used in processor.items()},
            "p99 of the accepted, s": round(latency, 3),
            "p99 of a refusal, s": round(refusal, 3),
            "memory's growth at the most": round(growth, 4),
            "client late p99, s": round(float(np.percentile(sent.late, 99)), 3),
        },
    )  # fmt: skip
    record(row)
    for factor in factors:
        assert offered[factor] > 0.9 * factor * CAPACITY, (
            f"the client could not send {factor} times the capacity"
        )
        if factor >= 1:
            assert goodput[factor] >= GOODPUT * peak, f"{goodput} answered in time a second"
    assert all(kind.startswith(REFUSALS) for kind in row.kinds), row.kinds
    assert latency <= OBJECTIVE
    assert refusal <= OBJECTIVE
    assert growth < 0.05, f"memory {memory / 2**20}"
    assert recovered <= RECOVERY
    assert goodput[0.5] > 0.9 * offered[0.5]


def test_interactive_requests_live_through_a_flood_of_batch_requests(
    service: Service, record: Callable[[Row], None]
) -> None:
    calm, flood = 4.0, 10.0
    steady = (calm + flood + calm, CAPACITY / 8)
    interactive = [
        stream(protocol, steady, name=f"interactive-{protocol}", priority=1) for protocol in ("grpc", "http")
    ]
    batch = [
        stream(protocol, (calm, 0), (flood, 2 * CAPACITY), (calm, 0), name=f"batch-{protocol}", priority=2)
        for protocol in ("grpc", "http")
    ]
    with sending(service, *interactive, *batch) as sender:
        sent = sender.wait(120)
    urgent = sent.of("interactive-grpc") | sent.of("interactive-http")
    lost = urgent & sent.failed
    served = rate(sent.ok & sent.during(sent.began + calm, sent.began + calm + flood), flood)
    latency = float(np.percentile(sent.took[urgent & sent.ok], 99))
    row = Row(
        "priorities", "overload", "interactive requests are answered while a flood of batch requests is shed",
        "four times the capacity on the lower level",
        f"{CAPACITY / 4:.0f} requests/s on level 1, {4 * CAPACITY:.0f} on level 2, 1 pod",
        counts(sent, urgent), counts(sent, lost), "none of level 1", 0.0, None, sent.kinds(),
        {
            "p99 on level 1, s": round(latency, 3),
            "answered of all, per s": served,
            "refused of level 2": int((~urgent & sent.failed).sum()),
            "client late p99, s": round(float(np.percentile(sent.late, 99)), 3),
        },
    )  # fmt: skip
    record(row)
    assert (~urgent & sent.failed).sum() > flood * CAPACITY, "the flood was no overload"
    assert not lost.any(), sent.kinds(urgent)
    assert latency <= OBJECTIVE
    assert served >= 0.8 * CAPACITY
    assert all(kind.startswith(REFUSALS) for kind in row.kinds), row.kinds
