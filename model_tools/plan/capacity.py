"""What one pod serves within its objectives, and with which batching, by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.config import Batching, Queue
from model_tools.console import BadInput, CheckFailed
from model_tools.plan.curves import Curve
from model_tools.plan.queueing import BALANCERS, Outcome, poisson, simulate, split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DELAYS = (0, 500, 1000, 2000, 5000)  # microseconds
_REQUESTS = (50_000, 200_000)  # of a simulation, least and most; the p99 of the fewest is known to some 2 %
_PODS = 8  # among which a balancer that is not random spreads arrivals
# Of what a pod serves at the most, where the table of its latencies has its lines.
LOADS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.3, 1.6, 2.0)


@dataclass(frozen=True)
class Objectives:
    """Those of a release's values that a plan has to meet; times in seconds.

    percentile, threshold: the share of the requests that is answered within. queue_time: as a mean.
    availability: the share of the requests that is answered.
    """

    percentile: float
    threshold: float
    queue_time: float
    availability: float

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Objectives:
        """Raises BadInput where one is missing or no number."""
        slo = values.get("slo", {})
        return cls(
            percentile=_share(slo, "latency", "server", "percentile"),
            threshold=_positive(slo, "latency", "server", "threshold"),
            queue_time=_positive(slo, "queueTime"),
            availability=_share(slo, "availability"),
        )

    def met_by(self, outcome: Outcome) -> bool:
        return (
            outcome.refused_share <= 1 - self.availability
            and outcome.mean_wait <= self.queue_time
            and outcome.percentile(self.percentile) <= self.threshold
        )

    def __str__(self) -> str:
        return (
            f"p{self.percentile * 100:g} within {self.threshold * 1000:g} ms, queue time"
            f" {self.queue_time * 1000:g} ms, {self.availability * 100:g} % answered"
        )


@dataclass(frozen=True)
class Pod:
    """A configuration, and the requests a second that one pod serves with it within the objectives."""

    curve: Curve
    batching: Batching
    instances: int
    balancer: str
    rate: float
    saturation: float


@dataclass(frozen=True)
class Table:
    """How requests fare on one pod by the requests a second that it gets: a line for each of `rates`.

    refused, late: shares of all requests; late are those refused or above the threshold. queue_time: mean
    seconds.
    bounds, latencies: upper bounds in seconds, and the share of the served requests within each,
    [rate][bound].
    """

    rates: Floats
    refused: Floats
    late: Floats
    queue_time: Floats
    batch: Floats
    bounds: Floats
    latencies: Floats

    def at(self, column: Floats, rate: Any) -> Any:
        """A column's values at any rates, on lines between the table's."""
        import numpy as np

        return np.interp(rate, self.rates, column)

    def percentile(self, weights: Floats, share: float) -> float:
        """The latency that `share` of all served requests is within, `weights` of them at each of `rates`."""
        import numpy as np

        within = weights @ self.latencies
        if within[-1] <= 0:
            return 0.0
        place = int(np.searchsorted(within, share * within[-1]))
        return float(self.bounds[min(place, len(self.bounds) - 1)])

    def percentiles(self, share: float) -> Floats:
        """The percentile at each of `rates`."""
        import numpy as np

        return np.array(
            [self.percentile(np.eye(len(self.rates))[line], share) for line in range(len(self.rates))]
        )


def candidates(curve: Curve, objectives: Objectives) -> Iterator[tuple[Batching, int]]:
    """Configurations that could meet the objectives: batch sizes and instances that the curve has points of.

    The queue follows from the latency objective: a request that has waited for so long that it can't be
    answered in time is refused, and so is one that finds more in the queue than the pod works off until then.
    """
    for instances in curve.instances:
        for size in curve.batches(instances):
            service = curve.service(instances, size)
            longest = objectives.threshold - service.seconds[-1][size] - service.overhead
            if longest <= 0:
                continue
            for delay in DELAYS if size > 1 else (0,):
                if delay * 1e-6 < longest and delay * 1e-6 < objectives.queue_time:
                    timeout = max(delay + 1, round(longest * 1e6))
                    places = max(size, math.ceil(service.capacity(size) * longest))
                    yield Batching(size, (size,), delay, Queue(places, timeout)), instances


def best(
    curve: Curve,
    objectives: Objectives,
    choices: Sequence[tuple[Batching, int]],
    tell: Callable[[str], None],
    balancer: str = BALANCERS[0],
) -> Pod:
    """The configuration that serves most within the objectives. Raises CheckFailed where none does.

    Those that could serve most come first; one that doesn't meet the objectives at the rate of the best so
    far costs one simulation and no more.
    """
    ordered = sorted(
        choices, key=lambda choice: -curve.service(choice[1], choice[0].max_size).capacity(choice[0].max_size)
    )
    found: Pod | None = None
    for number, (batching, instances) in enumerate(ordered, start=1):
        tell(f"configuration {number} of {len(ordered)}: batches of {batching.max_size} on {instances}")
        service = curve.service(instances, batching.max_size)
        saturation = service.capacity(batching.max_size)
        least = found.rate * 1.005 if found else 0.0  # less of a gain is noise
        if least >= saturation:
            break

        def meets(rate: float, batching: Batching = batching, instances: int = instances) -> bool:
            return objectives.met_by(steady(curve, batching, instances, rate, balancer))

        if least and not meets(least):
            continue
        rate = _highest(meets, least, saturation)
        if rate > least:
            found = Pod(curve, batching, instances, balancer, rate, saturation)
    if found is None:
        raise CheckFailed(f"{curve.name}: no batching meets the objectives ({objectives})")
    return found


def steady(
    curve: Curve, batching: Batching, instances: int, rate: float, balancer: str = BALANCERS[0], seed: int = 1
) -> Outcome:
    """What becomes of one pod's part of Poisson arrivals, of so many that the empty queue at first is little.

    A queue forgets in a number of requests that grows with 1 / (1 - load)^2.
    """
    service = curve.service(instances, batching.max_size)
    load = rate / service.capacity(batching.max_size)
    requests = (
        _REQUESTS[0] if load > 1 else min(_REQUESTS[1], max(_REQUESTS[0], 40 / max(1e-3, 1 - load) ** 2))
    )
    if balancer == "random":  # a random part of Poisson arrivals is Poisson arrivals
        arrivals = poisson(rate, int(requests), seed)
    else:
        arrivals = split(poisson(rate * _PODS, int(requests) * _PODS, seed), _PODS, balancer)[0]
    return simulate(arrivals, batching, service, seed)


def tabulate(pod: Pod, objectives: Objectives, tell: Callable[[str], None]) -> Table:
    """The pod's latencies by load, from idle to twice what it serves at the most."""
    import numpy as np

    rates = sorted({*(load * pod.saturation for load in LOADS), pod.rate})
    outcomes = []
    for number, rate in enumerate(rates, start=1):
        tell(f"latency by load: {number} of {len(rates)}")
        outcomes.append(steady(pod.curve, pod.batching, pod.instances, rate, pod.balancer))
    # 2 % apart, from the shortest to the longest.
    shortest = min(float(outcome.latency.min()) for outcome in outcomes if outcome.served)
    longest = max(float(outcome.latency.max()) for outcome in outcomes if outcome.served)
    count = max(2, math.ceil(math.log(longest / shortest) / math.log(1.02)) + 1)
    bounds = np.geomspace(shortest, longest * 1.0001, count)
    return Table(
        rates=np.array(rates),
        refused=np.array([outcome.refused_share for outcome in outcomes]),
        late=np.array([outcome.late_share(objectives.threshold) for outcome in outcomes]),
        queue_time=np.array([outcome.mean_wait for outcome in outcomes]),
        batch=np.array([outcome.mean_batch for outcome in outcomes]),
        bounds=bounds,
        latencies=np.array(
            [
                np.searchsorted(np.sort(outcome.latency), bounds, side="right") / max(1, outcome.served)
                for outcome in outcomes
            ]
        ),
    )


def _highest(meets: Callable[[float], bool], least: float, most: float) -> float:
    """The highest rate that meets, within 0.5 % of `most`; `least` where none above it does."""
    low, high = least, most
    while high - low > 0.005 * most:
        middle = (low + high) / 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def _value(block: Any, *path: str) -> float:
    for key in path:
        block = block.get(key) if isinstance(block, Mapping) else None
    if not isinstance(block, int | float) or isinstance(block, bool):
        raise BadInput(f"slo.{'.'.join(path)}: is {block!r}, and has to be a number")
    return float(block)


def _positive(block: Any, *path: str) -> float:
    value = _value(block, *path)
    if value <= 0:
        raise BadInput(f"slo.{'.'.join(path)}: is {value:g}, and has to be above 0")
    return value


def _share(block: Any, *path: str) -> float:
    value = _value(block, *path)
    if not 0 < value < 1:
        raise BadInput(f"slo.{'.'.join(path)}: is {value:g}, and has to be between 0 and 1")
    return value
