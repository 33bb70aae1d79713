"""A day of all regions: routing, autoscaling and nodes that take their time, a step of 15 seconds at a time.

Requests are a fluid here: within a step each pod gets its share of its region's requests a second, and how
they fare is read off the table that the simulation of one pod gave.

    routing       the clients' own region first; what its ready pods can't serve within the objectives goes to
    the
                  next closest region that can, and stays at home, to wait and be refused, where none can
    autoscaling   as the chart does it: the larger of requests / requestsPerSecond and, while queue time or
    refusals
                  miss their objectives, a quarter more than answer; a HorizontalPodAutoscaler's tolerance,
                  policies and stabilisation
    nodes         a pod that is asked for is ready when its node has started; a node stays for 10 minutes
    after its pod
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.plan.capacity import Objectives, Table
from model_tools.plan.traffic import DAY, Traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

STEP = 15  # seconds: what the HorizontalPodAutoscaler and KEDA both wait between two looks
TOLERANCE = 0.1  # of the HorizontalPodAutoscaler: a ratio so near to 1 moves nothing
LAG = 2  # steps from a request to the recorded rule: a scrape and an evaluation
KEEP_NODE = 600  # seconds that GKE's autoscaler lets a node be idle


@dataclass(frozen=True)
class Scaling:
    """The chart's autoscaling values, in seconds and steps of them.

    up, down: (share, pods, seconds) policies. A share or a number that a policy does not have is 0.
    """

    window: int
    up: tuple[tuple[float, int, int], ...]
    down: tuple[tuple[float, int, int], ...]
    hold_up: int
    hold_down: int

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Scaling:
        """Raises BadInput for what is no HorizontalPodAutoscaler's behaviour."""
        autoscaling = values.get("autoscaling", {})
        behavior = autoscaling.get("behavior", {})
        up, down = behavior.get("scaleUp", {}), behavior.get("scaleDown", {})
        return cls(
            window=seconds(autoscaling.get("window", "2m")),
            up=_policies("scaleUp", up),
            down=_policies("scaleDown", down),
            hold_up=int(up.get("stabilizationWindowSeconds", 0)),
            hold_down=int(down.get("stabilizationWindowSeconds", 300)),
        )


@dataclass(frozen=True)
class Fleet:
    """What is planned for the traffic's regions: bounds of each one's pods, and the autoscaler's target.

    target: requests a second that a pod is to get. limit: those that the balancer sends it at the most.
    """

    least: Whole
    most: Whole
    target: float
    limit: float


@dataclass(frozen=True)
class Failure:
    """A region that serves nothing from `start` on, seconds of the day."""

    region: int
    start: float
    end: float


@dataclass(frozen=True)
class Day:
    """What happened, by [region, step] unless said otherwise.

    times: of the steps, seconds. demand: requests a second of the region's clients. load: that it was sent.
    ready, asked: pods. nodes: that are paid for. late: requests a second, of those it was sent, refused or
    above the threshold.
    refused: requests a second. spilled: requests a second of its clients that another region was sent. far:
    the mean round trip of those, seconds. weights: [region, rate of the table], requests served.
    """

    times: Floats
    demand: Floats
    load: Floats
    ready: Whole
    asked: Whole
    nodes: Whole
    late: Floats
    refused: Floats
    spilled: Floats
    far: Floats
    weights: Floats

    @property
    def node_hours(self) -> Floats:
        """By region."""
        hours: Floats = self.nodes.sum(axis=1) * STEP / 3600
        return hours

    @property
    def requests(self) -> float:
        return float(self.demand.sum() * STEP)

    @property
    def on_time_share(self) -> float:
        """Of all requests those that were answered within the threshold."""
        return 1 - float(self.late.sum() / self.load.sum()) if self.load.sum() else 1.0

    @property
    def refused_share(self) -> float:
        return float(self.refused.sum() / self.load.sum()) if self.load.sum() else 0.0


def simulate(
    traffic: Traffic,
    fleet: Fleet,
    table: Table,
    scaling: Scaling,
    objectives: Objectives,
    node_start: float = 300,
    failure: Failure | None = None,
    start: float = 0,
    end: float = DAY,
) -> Day:
    """From `start` to `end`, seconds of the day, beginning with as many pods as the autoscaler would have."""
    import numpy as np

    times = np.arange(start, end, STEP, dtype=float)
    regions, steps = len(traffic.regions), len(times)
    demand = traffic.demand(times)
    router = _Router(traffic, fleet.limit)
    scaler = _Scaler(fleet, scaling, objectives, demand[:, 0], round(node_start / STEP), steps)
    names = ("load", "rate", "late", "refused", "spilled", "far")
    columns = {name: np.zeros((regions, steps)) for name in names}
    counts = {name: np.zeros((regions, steps), dtype=np.int64) for name in ("ready", "asked")}
    for step, now in enumerate(times):
        down = failure.region if failure and failure.start <= now < failure.end else None
        ready = scaler.ready()
        if down is not None:
            ready[down] = 0
        load, columns["spilled"][:, step], columns["far"][:, step] = router.route(
            demand[:, step], ready, down
        )
        rate = load / np.maximum(ready, 1)
        refused = np.where(ready > 0, table.at(table.refused, rate), 1.0)
        # Beyond the table a pod serves as much as at its end.
        beyond = rate > table.rates[-1]
        most = table.rates[-1] * (1 - table.refused[-1])
        refused[beyond] = np.maximum(refused[beyond], 1 - most / rate[beyond])
        late = np.where(ready > 0, np.maximum(table.at(table.late, rate), refused), 1.0)
        columns["load"][:, step] = load
        columns["rate"][:, step] = rate
        columns["late"][:, step] = late * load
        columns["refused"][:, step] = refused * load
        counts["ready"][:, step] = ready
        counts["asked"][:, step] = scaler.asked
        scaler.step(load, refused, table.at(table.queue_time, rate), ready, down)
    weights = _weights(table, columns["rate"], columns["load"] - columns["refused"])
    return Day(
        times, demand, columns["load"], counts["ready"], counts["asked"], _nodes(counts["asked"]),
        columns["late"], columns["refused"], columns["spilled"], columns["far"], weights,
    )  # fmt: skip


class _Router:
    """Sends requests to the closest region that can serve them."""

    def __init__(self, traffic: Traffic, limit: float) -> None:
        import numpy as np

        self.limit = limit
        self.round_trip = traffic.round_trip()
        count = len(traffic.regions)
        self.pairs = sorted(
            (
                (self.round_trip[source, target], source, target)
                for source in range(count)
                for target in range(count)
                if source != target
            ),
        )
        self.nearest = [
            [target for target in np.argsort(self.round_trip[source]) if target != source]
            for source in range(count)
        ]

    def route(self, demand: Floats, ready: Whole, down: int | None) -> tuple[Floats, Floats, Floats]:
        """What each region is sent, what its clients send elsewhere, and how far: a second, seconds."""
        import numpy as np

        room = ready * self.limit
        load = np.minimum(demand, room)
        left = demand - load
        spilled, travelled = np.zeros(len(demand)), np.zeros(len(demand))
        if not left.any():
            return load, spilled, travelled
        free, over = (room - load).tolist(), left.tolist()  # a list's numbers are read ten times as fast
        for far, source, target in self.pairs:
            if over[source] > 0 and free[target] > 0:
                sent = min(over[source], free[target])
                over[source] -= sent
                free[target] -= sent
                load[target] += sent
                spilled[source] += sent
                travelled[source] += sent * far
        for source, rest in enumerate(over):
            if rest > 0:
                home = source
                if down == source and self.nearest[source]:
                    home = self.nearest[source][0]
                    spilled[source] += rest
                    travelled[source] += rest * self.round_trip[source, home]
                load[home] += rest
        return load, spilled, np.divide(travelled, spilled, out=np.zeros(len(demand)), where=spilled > 0)


class _Scaler:
    """The autoscaler of every region, and the nodes that its pods wait for.

    What it remembers are rows of a step each, [step, region], behind as many as it looks back at the
    beginning.
    """

    def __init__(
        self, fleet: Fleet, scaling: Scaling, objectives: Objectives, demand: Floats, start: int, steps: int
    ) -> None:
        import numpy as np

        self.fleet, self.scaling, self.objectives = fleet, scaling, objectives
        begin = np.clip(np.ceil(demand / fleet.target).astype(np.int64), fleet.least, fleet.most)
        self.start, self.window = start, max(1, _steps(scaling.window))
        self.hold_up, self.hold_down = max(1, _steps(scaling.hold_up)), max(1, _steps(scaling.hold_down))
        periods = [_steps(policy[2]) for policy in (*scaling.up, *scaling.down)]
        self.now = max(start, self.window + LAG, self.hold_up, self.hold_down, *periods, 1)
        rows = (self.now + steps + 1, 1)
        self.pods: Whole = np.tile(begin, rows)
        self.wanted: Whole = np.tile(begin, rows)
        self.loads: Floats = np.tile(demand, rows)
        self.signals: Whole = np.zeros_like(self.pods)

    @property
    def asked(self) -> Whole:
        row: Whole = self.pods[self.now]
        return row

    def ready(self) -> Whole:
        """Pods that have been asked for without a break for as long as a node takes."""
        import numpy as np

        found: Whole = np.minimum.reduce(self.pods[self.now - self.start : self.now + 1])
        return found

    def step(self, load: Floats, refused: Floats, queue_time: Floats, ready: Whole, down: int | None) -> None:
        """One look of the autoscaler, after a step with this load."""
        import numpy as np

        fleet, objectives, asked, now = self.fleet, self.objectives, self.asked, self.now
        missed = (queue_time > objectives.queue_time) | (refused > 1 - objectives.availability)
        near = queue_time > objectives.queue_time / 2
        self.loads[now] = load
        self.signals[now] = np.where(missed, np.ceil(1.25 * ready), np.where(near, ready, 0))
        seen = now - LAG + 1
        wanted = np.maximum(
            self._pods(np.add.reduce(self.loads[seen - self.window : seen]) / self.window / fleet.target),
            self._pods(self.signals[seen - 1]),
        )
        self.wanted[now] = _within(wanted, fleet.least, fleet.most)
        # Not above the least that was wanted lately, not below the most.
        lowest = np.minimum.reduce(self.wanted[now - self.hold_up + 1 : now + 1])
        highest = np.maximum.reduce(self.wanted[now - self.hold_down + 1 : now + 1])
        after = _within(asked, lowest, np.maximum(lowest, highest))
        after = _within(_within(after, self._floor(), self._ceiling()), fleet.least, fleet.most)
        if down is not None:  # its metrics are gone, and an empty answer moves nothing
            after[down] = asked[down]
        self.now += 1
        self.pods[self.now] = after

    def _pods(self, wanted: Any) -> Whole:
        """As many as a metric asks for, unless that is within the tolerance of those that there are."""
        import numpy as np

        asked = self.asked
        near = np.abs(wanted / np.maximum(asked, 1) - 1) <= TOLERANCE
        found: Whole = np.where(near, asked, np.ceil(wanted - 1e-9)).astype(np.int64)
        return found

    def _ceiling(self) -> Whole:
        """Pods that the policies for more of them allow: the most of any."""
        import numpy as np

        allowed = [
            np.maximum(before + pods, np.ceil(before * (1 + share)).astype(np.int64))
            for share, pods, period in self.scaling.up
            for before in (self.pods[self.now - _steps(period)],)
        ]
        return np.maximum.reduce(allowed) if allowed else self.fleet.most

    def _floor(self) -> Whole:
        import numpy as np

        allowed = [
            np.minimum(before - pods, np.floor(before * (1 - share)).astype(np.int64))
            for share, pods, period in self.scaling.down
            for before in (self.pods[self.now - _steps(period)],)
        ]
        return np.minimum.reduce(allowed) if allowed else self.fleet.least


def seconds(duration: Any) -> int:
    """Of a duration such as 15s or 2m. Raises BadInput for another."""
    match = re.fullmatch(r"([1-9][0-9]*)([sm])", str(duration))
    if not match:
        raise BadInput(f"autoscaling.window: {duration!r} is no duration such as 2m")
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def _policies(name: str, given: Mapping[str, Any]) -> tuple[tuple[float, int, int], ...]:
    found = []
    for policy in given.get("policies", []):
        kind, value, period = (policy.get(key) for key in ("type", "value", "periodSeconds"))
        if kind not in ("Percent", "Pods") or not isinstance(value, int) or not isinstance(period, int):
            raise BadInput(f"autoscaling.behavior.{name}.policies: {policy!r} is no policy")
        found.append((value / 100 if kind == "Percent" else 0.0, value if kind == "Pods" else 0, period))
    return tuple(found)


def _within(pods: Whole, least: Whole, most: Whole) -> Whole:
    """clip(), which for a few numbers spends most of its time on its arguments."""
    import numpy as np

    found: Whole = np.minimum(np.maximum(pods, least), most)
    return found


def _steps(duration: float) -> int:
    return math.ceil(duration / STEP)


def _weights(table: Table, rate: Floats, served: Floats) -> Floats:
    """Requests served by [region, rate of the table]: those at a rate count under the two around it."""
    import numpy as np

    place = np.clip(np.searchsorted(table.rates, rate), 1, len(table.rates) - 1)
    low, high = table.rates[place - 1], table.rates[place]
    upper = np.clip((rate - low) / (high - low), 0, 1)
    weights = np.zeros((len(rate), len(table.rates)))
    rows = np.arange(len(rate))[:, np.newaxis]
    np.add.at(weights, (rows, place), upper * served * STEP)
    np.add.at(weights, (rows, place - 1), (1 - upper) * served * STEP)
    return weights


def _nodes(asked: Whole) -> Whole:
    """Nodes by [region, step]: a pod's, from when it is asked for, and kept for KEEP_NODE after it."""
    import numpy as np

    keep = _steps(KEEP_NODE)
    padded = np.concatenate([np.repeat(asked[:, :1], keep, axis=1), asked], axis=1)
    found: Whole = np.lib.stride_tricks.sliding_window_view(padded, keep + 1, axis=1).max(axis=2)
    return found
