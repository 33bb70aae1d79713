"""A queueing simulation of Triton's dynamic batching.

What is simulated, for requests of one item each: a bounded queue whose requests expire, batches that are
formed when an instance is idle (preferred sizes, largest size, queue delay), and k instances that share one
GPU: a batch goes on at the speed of as many instances as are busy at that moment, and that changes while it
runs.

The rules are those of Triton's dynamic batch scheduler with a bounded queue, which the chart always has
(without any bound Triton forms batches ahead of the instances, which differs only where a delay and several
preferred sizes meet):

    delay 0         an idle instance takes the largest preferred size that waits, else all that waits
    delay above 0   a preferred size is taken at once; fewer requests are taken when the first has waited for
    the delay,
                    and then as many as fit into the largest batch

Requests that expire are refused when the next batch is formed, not before, as in Triton.

The event loop is over batches, not requests: a few microseconds a batch whatever its size. What is of
requests (arrivals, waits, latencies) is computed on arrays. Replications are calls with other seeds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from model_tools.config import Batching

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BALANCERS = ("random", "round-robin")
_MICRO = 1e-6
_EPSILON = 1e-12


@dataclass(frozen=True)
class Service:
    """How long batches take on the instances of one GPU.

    seconds: [busy instances - 1][batch], of a typical batch while that many instances are busy; [..][0] is
    not used.
    spread: (share, factor), rising: the quantiles of a batch's time as multiples of `seconds`; none: always
    1.
    overhead: seconds of each request outside queue and instance: network, parsing.
    """

    seconds: Sequence[Sequence[float]]
    spread: tuple[tuple[float, float], ...] = ()
    overhead: float = 0.0

    @property
    def instances(self) -> int:
        return len(self.seconds)

    @property
    def largest(self) -> int:
        return len(self.seconds[0]) - 1

    @property
    def mean_factor(self) -> float:
        """Of `spread`: what the mean of a batch's time is as a multiple of `seconds`."""
        if not self.spread:
            return 1.0
        shares, factors = self._quantiles()
        pieces = zip(pairwise(shares), pairwise(factors), strict=True)
        return sum((high - low) * (one + other) / 2 for (low, high), (one, other) in pieces)

    def capacity(self, largest: int) -> float:
        """Requests a second when no instance is ever idle and each batch is as large as it may be."""
        return self.instances * largest / (self.seconds[-1][largest] * self.mean_factor)

    def factors(self, rng: np.random.Generator, count: int) -> list[float]:
        """Random multiples of `seconds` for `count` batches."""
        import numpy as np

        if not self.spread:
            return [1.0] * count
        drawn: list[float] = np.interp(rng.random(count), *self._quantiles()).tolist()
        return drawn

    def _quantiles(self) -> tuple[list[float], list[float]]:
        """Of shares from 0 to 1: flat beyond the outermost that are known."""
        shares = [share for share, _ in self.spread]
        factors = [factor for _, factor in self.spread]
        return [0.0, *shares, 1.0], [factors[0], *factors, factors[-1]]


@dataclass(frozen=True)
class Outcome:
    """What became of the requests.

    latency, wait: seconds, of each request that was served, in the order of arrival (a wait is without
    `overhead`).
    full, expired: requests refused because the queue was full, or because they had waited for longer than its
    timeout.
    sizes: of the batches, in the order of their start. busy: seconds that each instance worked on average.
    duration: seconds from the first arrival to the last, or to the last answer if that is later.
    """

    latency: Floats
    wait: Floats
    full: int
    expired: int
    sizes: NDArray[np.int64]
    busy: float
    duration: float

    @property
    def served(self) -> int:
        return len(self.latency)

    @property
    def arrived(self) -> int:
        return self.served + self.full + self.expired

    @property
    def refused_share(self) -> float:
        return (self.full + self.expired) / self.arrived if self.arrived else 0.0

    @property
    def mean_batch(self) -> float:
        return float(self.sizes.mean()) if len(self.sizes) else 0.0

    @property
    def mean_wait(self) -> float:
        return float(self.wait.mean()) if self.served else 0.0

    @property
    def throughput(self) -> float:
        """Requests a second that are answered."""
        return self.served / self.duration if self.duration else 0.0

    def percentile(self, share: float) -> float:
        """The latency that `share` of the served requests are within; infinite where none was served."""
        import numpy as np

        return float(np.quantile(self.latency, share)) if self.served else math.inf

    def late_share(self, threshold: float) -> float:
        """Of all requests those that were refused or took longer than `threshold` seconds."""
        late = int((self.latency > threshold).sum()) + self.full + self.expired
        return late / self.arrived if self.arrived else 0.0


def poisson(rate: float, count: int, seed: int) -> Floats:
    """Times of `count` arrivals at `rate` a second: for one seed the same at any rate, scaled."""
    import numpy as np

    gaps: Floats = np.random.default_rng(seed).exponential(size=count)
    times: Floats = np.cumsum(gaps) / rate
    return times


def split(arrivals: Floats, pods: int, balancer: str, seed: int = 0) -> list[Floats]:
    """The arrivals of each of `pods` behind one of BALANCERS: to a random one, or to the next in turn."""
    import numpy as np

    if balancer == "round-robin":
        return [arrivals[pod::pods] for pod in range(pods)]
    chosen = np.random.default_rng(seed).integers(pods, size=len(arrivals))
    return [arrivals[chosen == pod] for pod in range(pods)]


def simulate(arrivals: Floats, batching: Batching, service: Service, seed: int = 0) -> Outcome:
    """What becomes of requests that arrive at these times (seconds, ascending) at one pod.

    Raises ValueError for batches that `service` does not know.
    """
    import numpy as np

    if batching.max_size > service.largest:
        raise ValueError(f"batches of {batching.max_size}, and times are known up to {service.largest}")
    run = _Run(arrivals.tolist(), batching, service, np.random.default_rng(seed))
    run.to_the_end()
    queue = np.asarray(run.queue)
    sizes = np.asarray(run.sizes, dtype=np.int64)
    first = np.repeat(np.asarray(run.firsts, dtype=np.int64), sizes)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    arrived = queue[first + offset] if len(first) else np.empty(0)
    wait = np.repeat(np.asarray(run.starts), sizes) - arrived
    latency = np.repeat(np.asarray(run.ends), sizes) - arrived + service.overhead
    duration = max([*run.ends, run.arrivals[-1]]) - run.arrivals[0] if run.arrivals else 0.0
    return Outcome(
        latency, wait, run.full, run.expired, sizes, run.busy_seconds / service.instances, duration
    )


class _Run:
    """The event loop. `queue` holds every request that was let in; `head` is the first that still waits."""

    def __init__(
        self, arrivals: list[float], batching: Batching, service: Service, rng: np.random.Generator
    ) -> None:
        self.arrivals, self.service, self.rng = arrivals, service, rng
        self.delay = batching.max_queue_delay * _MICRO
        self.largest = batching.max_size
        # Triton takes the largest batch for the preferred size where none is given.
        self.preferred = sorted(batching.preferred_sizes) or [batching.max_size]
        self.limit = batching.queue.size or math.inf
        self.timeout = batching.queue.timeout * _MICRO or math.inf
        self.queue: list[float] = []
        self.head = self.next = self.full = self.expired = 0
        self.now = self.busy_seconds = 0.0
        # Of the batches that run: what is left of each as a share, its size, its factor, its number.
        self.left: list[float] = []
        self.running: list[tuple[int, float, int]] = []
        self.firsts: list[int] = []
        self.sizes: list[int] = []
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.drawn: list[float] = []

    def to_the_end(self) -> None:
        count, instances, seconds = len(self.arrivals), self.service.instances, self.service.seconds
        while True:
            wake = math.inf
            while len(self.running) < instances:
                self._admit()
                waiting = len(self.queue) - self.head
                if not waiting:
                    wake = self.arrivals[self.next] if self.next < count else math.inf
                    break
                size = self._size(waiting)
                if not size:
                    wake = self._wake(waiting)
                    break
                self._start(size)
            done, end = -1, wake
            if self.running:
                speeds = seconds[len(self.running) - 1]
                for place, (size, factor, _) in enumerate(self.running):
                    finish = self.now + self.left[place] * speeds[size] * factor
                    if finish <= end:
                        done, end = place, finish
                if end < math.inf:
                    step = end - self.now
                    self.busy_seconds += step * len(self.running)
                    for place, (size, factor, _) in enumerate(self.running):
                        self.left[place] -= step / (speeds[size] * factor)
            if end == math.inf:
                return
            self.now = end
            if done >= 0:
                self.ends[self.running[done][2]] = end
                del self.running[done], self.left[done]

    def _admit(self) -> None:
        """Lets in who has come since the last time: nobody has left the queue in between."""
        arrived = bisect_right(self.arrivals, self.now + _EPSILON, self.next)
        if arrived > self.next:
            room = self.limit - (len(self.queue) - self.head)
            taken = arrived - self.next if room >= arrived - self.next else max(0, int(room))
            self.queue += self.arrivals[self.next : self.next + taken]
            self.full += arrived - self.next - taken
            self.next = arrived
        if self.timeout < math.inf and self.head < len(self.queue):
            first = bisect_left(self.queue, self.now - self.timeout, self.head)
            self.expired += first - self.head
            self.head = first

    def _size(self, waiting: int) -> int:
        """Of the batch that an idle instance gets now; 0 where it waits for more requests."""
        fitting = bisect_right(self.preferred, waiting)
        best = self.preferred[fitting - 1] if fitting else 0
        if best and (not self.delay or self.now - self.queue[self.head] < self.delay - _EPSILON):
            return best
        if best or not self.delay or self.now - self.queue[self.head] >= self.delay - _EPSILON:
            return min(waiting, self.largest)
        return 0

    def _wake(self, waiting: int) -> float:
        """When to look again: the first request has waited for the delay, or a preferred size is there."""
        wake = self.queue[self.head] + self.delay
        last = self.next + self.preferred[0] - waiting - 1
        return min(wake, self.arrivals[last]) if last < len(self.arrivals) else wake

    def _start(self, size: int) -> None:
        if not self.drawn:
            self.drawn = self.service.factors(self.rng, 4096)
        self.running.append((size, self.drawn.pop(), len(self.sizes)))
        self.left.append(1.0)
        self.firsts.append(self.head)
        self.sizes.append(size)
        self.starts.append(self.now)
        self.ends.append(math.inf)
        self.head += size
