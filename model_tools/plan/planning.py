"""From traffic, objectives and a curve to nodes, batching and cost, and the days that check them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.config import ModelConfig
from model_tools.console import CheckFailed
from model_tools.plan import fleet as fleets
from model_tools.plan.capacity import Objectives, Pod, Table, best, candidates, tabulate
from model_tools.plan.curves import Curve
from model_tools.plan.fleet import TOLERANCE, Day, Failure, Fleet, Scaling
from model_tools.plan.queueing import BALANCERS
from model_tools.plan.traffic import DAY, Traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

HOURS_A_MONTH = 8760 / 12
DAYS_A_MONTH = HOURS_A_MONTH / 24
FAILURE = 3600.0  # seconds that the lost region is away
_BEFORE = 1800.0  # of the day that is simulated ahead of it
_GRID = 300.0  # seconds between the moments at which a loss is looked at
# What a pod is to get of what it serves: the chart's documentation says so, and its routing counts on it.
USUAL_LOAD = 0.7
# Of what a pod serves in the simulation, which is not trusted to the last requests.
MARGIN = 0.95


@dataclass(frozen=True)
class Reasons:
    """The share of a pod's rate that the autoscaler aims at: the least that either allows.

    usual: what the chart's documentation says. growth: the day's steepest rise while a node starts.
    """

    usual: float
    growth: float

    @property
    def share(self) -> float:
        return min(self.usual, self.growth)

    @property
    def deciding(self) -> str:
        return min(vars(self), key=lambda name: float(getattr(self, name)))


@dataclass(frozen=True)
class Loss:
    """What the loss of one region does, at the moment at which it is hardest.

    on_time: the share of all requests answered within the threshold in that hour. moved: requests a second at
    the most. round_trip: the mean of theirs to where they are served, seconds.
    """

    region: str
    start: float
    on_time: float
    refused: float
    moved: float
    round_trip: float
    day: Day


@dataclass(frozen=True)
class RegionPlan:
    """nodes: mean of the day. cost: of a month."""

    name: str
    peak: float
    least: int
    most: int
    busiest: int
    nodes: float
    cost: float
    on_time: float
    p50: float
    percentile: float
    spilled: float


@dataclass(frozen=True)
class Plan:
    traffic: Traffic
    objectives: Objectives
    pod: Pod
    table: Table
    reasons: Reasons
    fleet: Fleet
    day: Day
    regions: tuple[RegionPlan, ...]
    losses: tuple[Loss, ...]
    node_start: float

    @property
    def cost(self) -> float:
        """Of a month."""
        return sum(region.cost for region in self.regions)

    @property
    def cost_of_a_million(self) -> float:
        """Requests."""
        return self.cost / (self.day.requests * DAYS_A_MONTH) * 1e6

    @property
    def worst_loss(self) -> Loss | None:
        return min(self.losses, key=lambda loss: (loss.on_time, -loss.moved), default=None)


def size(
    curve: Curve,
    values: Mapping[str, Any],
    tell: Callable[[str], None],
    keep_batching: bool = False,
    balancer: str = BALANCERS[0],
) -> tuple[Pod, Table]:
    """The batching that serves most within the values' objectives, and how requests fare on such a pod.

    keep_batching: the values' own batching and instances. balancer: of BALANCERS, who gets the next request.
    tell: takes what is being done, for who waits.
    Raises BadInput for values that don't go with the curve, CheckFailed where no batching meets the
    objectives.
    """
    objectives = Objectives.from_values(values)
    config = ModelConfig.from_values(values.get("model", {}))
    choices = [(config.batching, config.instances.count)]
    if not keep_batching:
        choices = list(candidates(curve, objectives))
        if not choices:
            raise CheckFailed(
                f"{curve.name}: no batch is computed within the {objectives.threshold * 1000:g} ms of"
                " slo.latency.server.threshold"
            )
    pod = best(curve, objectives, choices, tell, balancer)
    return pod, tabulate(pod, objectives, tell)


def make(
    traffic: Traffic,
    pod: Pod,
    table: Table,
    values: Mapping[str, Any],
    tell: Callable[[str], None],
    survive: bool = True,
    node_start: float = 300,
    usual_load: float = USUAL_LOAD,
) -> Plan:
    """The plan for a fleet of such pods. values: the chart's, with the user's over them.

    survive: the loss of any one region. node_start: seconds. usual_load: share of a pod's rate that it is to
    get. Raises BadInput for values that are no autoscaler's, CheckFailed where a day misses the objectives.
    """
    objectives, scaling = Objectives.from_values(values), Scaling.from_values(values)
    survive = survive and len(traffic.regions) > 1
    reasons = _reasons(traffic, node_start, scaling, usual_load)
    fleet = _fleet(traffic, pod, reasons, survive)
    tell(f"a day of {len(traffic.regions)} regions")
    day = fleets.simulate(traffic, fleet, table, scaling, objectives, node_start)
    losses = []
    if survive:
        for index, region in enumerate(traffic.regions):
            tell(f"the day without {region.name}")
            losses.append(_lose(index, traffic, fleet, table, scaling, objectives, node_start))
    plan = Plan(
        traffic, objectives, pod, table, reasons, fleet, day,
        tuple(_region(i, traffic, fleet, day, table, objectives) for i in range(len(traffic.regions))),
        tuple(losses), node_start,
    )  # fmt: skip
    _check(plan)
    return plan


def _reasons(traffic: Traffic, node_start: float, scaling: Scaling, usual_load: float) -> Reasons:
    """A load within the autoscaler's tolerance of the target is left alone, so there is that on top."""
    import numpy as np

    times = np.arange(0, DAY, _GRID)
    demand = traffic.demand(times)
    # A rate is of the middle of its window, a policy waits for up to a minute, and then the node starts.
    late = node_start + scaling.window / 2 + fleets.STEP * fleets.LAG + 60
    ahead = traffic.demand((times + late) % DAY)
    some = demand > 0.01 * demand.max(axis=1, keepdims=True)
    rise = float(np.max(ahead[some] / demand[some]))
    return Reasons(usual=MARGIN * usual_load, growth=MARGIN / (1 + TOLERANCE) / rise)


def _fleet(traffic: Traffic, pod: Pod, reasons: Reasons, survive: bool) -> Fleet:
    """Bounds of the pods: at least for the quietest moment and for a loss, at most for the worst loss."""
    import numpy as np

    target = rounded(pod.rate * reasons.share)
    limit = target / USUAL_LOAD  # where the chart's routing takes a pod for full
    demand = traffic.demand(np.arange(0, DAY, _GRID))
    allowed = np.array([region.most_nodes for region in traffic.regions])
    quiet = np.maximum(np.ceil(demand.min(axis=1) / target), 1)
    least = _spare(demand, quiet, allowed, target, limit) if survive else quiet
    least = np.minimum(least, allowed)
    highest = demand.max(axis=1)
    if survive:
        running = np.maximum(np.ceil(demand / target), least[:, None])
        for lost, round_trip in enumerate(traffic.round_trip()):
            # Its clients go to the closest regions' running pods, whose autoscalers then follow.
            left = demand[lost].copy()
            for taker in np.argsort(round_trip):
                if taker != lost:
                    room = np.maximum(running[taker] * limit - demand[taker], 0)
                    sent = np.minimum(left, room)
                    left -= sent
                    highest[taker] = max(highest[taker], float((demand[taker] + sent).max()))
    # What the tolerance leaves alone needs no pod, but the guard of the queue time may ask for some.
    most = np.minimum(np.maximum(np.ceil(highest / target * (1 + TOLERANCE)), least), allowed)
    return Fleet(least.astype(np.int64), most.astype(np.int64), target, limit)


def _spare(demand: Floats, quiet: Floats, allowed: Whole, target: float, limit: float) -> Floats:
    """The fewest pods of each region with which those that run in the others can take over any one's clients.

    By the same share of each region's peak: of those that the load asks for some are running anyway.
    """
    import numpy as np

    # The tolerance lets a load be that much above what the pods are for.
    scaled = np.minimum(np.ceil(demand / target / (1 + TOLERANCE)), allowed[:, None])
    total = demand.sum(axis=0)

    def fewest(share: float) -> Floats:
        pods: Floats = np.minimum(np.maximum(quiet, np.ceil(share * demand.max(axis=1) / target)), allowed)
        return pods

    def survives(share: float) -> bool:
        room = np.maximum(scaled, fewest(share)[:, None]) * limit
        return bool(np.all(room.sum(axis=0) - room >= total))

    low, high = 0.0, 100.0
    if survives(low):
        return fewest(low)
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if survives(middle) else (middle, high)
    return fewest(high)


def _lose(
    lost: int,
    traffic: Traffic,
    fleet: Fleet,
    table: Table,
    scaling: Scaling,
    objectives: Objectives,
    node_start: float,
) -> Loss:
    import numpy as np

    times = np.arange(0, DAY, _GRID)
    demand = traffic.demand(times)
    start = float(times[np.argmax(demand[lost] / demand.sum(axis=0))])
    failure = Failure(lost, start, start + FAILURE)
    day = fleets.simulate(
        traffic, fleet, table, scaling, objectives, node_start, failure, start - _BEFORE, start + FAILURE
    )
    away = day.times >= start
    late, load, refused = (column[:, away].sum() for column in (day.late, day.load, day.refused))
    return Loss(
        region=traffic.regions[lost].name,
        start=start,
        on_time=1 - float(late / load),
        refused=float(refused / load),
        moved=float(day.spilled[:, away].sum(axis=0).max()),
        round_trip=float((day.far * day.spilled)[:, away].sum() / max(1e-9, day.spilled[:, away].sum())),
        day=day,
    )


def _region(
    index: int, traffic: Traffic, fleet: Fleet, day: Day, table: Table, objectives: Objectives
) -> RegionPlan:
    region = traffic.regions[index]
    load = float(day.load[index].sum())
    return RegionPlan(
        name=region.name,
        peak=region.peak,
        least=int(fleet.least[index]),
        most=int(fleet.most[index]),
        busiest=int(day.nodes[index].max()),
        nodes=float(day.nodes[index].mean()),
        cost=float(day.node_hours[index]) * DAYS_A_MONTH * region.price,
        on_time=1 - float(day.late[index].sum()) / load if load else 1.0,
        p50=table.percentile(day.weights[index], 0.5),
        percentile=table.percentile(day.weights[index], objectives.percentile),
        spilled=float(day.spilled[index].sum() / day.demand[index].sum()),
    )


def _check(plan: Plan) -> None:
    """Raises CheckFailed where the simulated day, or that of a loss, misses the objectives."""
    objectives = plan.objectives
    for region in plan.regions:
        if region.on_time < objectives.percentile:
            raise CheckFailed(
                f"{region.name}: {region.on_time * 100:.2f} % of a day's requests are answered within"
                f" {objectives.threshold * 1000:g} ms, and slo.latency.server.percentile is"
                f" {objectives.percentile * 100:g} %{_quota(plan, region.name)}"
            )
    if plan.day.refused_share > 1 - objectives.availability:
        raise CheckFailed(
            f"{plan.day.refused_share * 100:.3f} % of a day's requests are refused, and slo.availability is"
            f" {objectives.availability * 100:g} %{_quota(plan)}"
        )
    loss = plan.worst_loss
    if loss and loss.on_time < objectives.percentile:
        raise CheckFailed(
            f"without {loss.region}, {loss.on_time * 100:.2f} % of an hour's requests are answered within"
            f" {objectives.threshold * 1000:g} ms{_quota(plan)}"
        )


def _quota(plan: Plan, name: str = "") -> str:
    """What to add where a region may not have the nodes that it needs."""
    full = [
        region.name
        for region, most in zip(plan.traffic.regions, plan.fleet.most, strict=True)
        if most >= region.most_nodes and name in ("", region.name)
    ]
    return f"; {', '.join(full)} may have no more nodes (maxNodes)" if full else ""


def rounded(rate: float) -> float:
    """Requests a second as a value that people read: three digits, and no more than it is."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return round(math.floor(rate / step + 1e-9) * step, 9)
