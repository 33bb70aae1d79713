"""One measured load: start Locust's users, let them warm up, watch, stop, and work out the statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loadtest.api import LocustApi, Snapshot
from loadtest.arrivals import Stage
from loadtest.sender import ENDED
from loadtest.statistics import Histogram, difference, mean, merged, percentile
from model_tools.console import BadInput, CheckFailed

POLL = 1.0  # seconds between two looks at the master; its workers report as often
REPORT = 1.5  # seconds after which every worker has reported what it measured before
WARM_UP = 20.0  # seconds at most until the load counts as steady
STEADY = 0.2  # two spans of 2 s are steady when they differ by less, beside the noise of counting
SILENCE = 45.0  # seconds without any answer: more than a request's own timeout
BUSY = ("running", "spawning", "stopping", "cleanup")
SATURATED = 90.0  # per cent of a core at which a worker measures itself rather than the server
# A 99th percentile of sent minus due above both: then the latencies are made by the generator's own delay.
LAG_SHARE = 0.1  # of the latency's 99th percentile
LAG_FLOOR = 0.005  # seconds
MAX_IN_FLIGHT = 1024  # requests of one worker, where nobody says
OPEN = ("constant", "poisson", "replay")

Report = Callable[[str, float, str], None]  # stage, part of it done (0..1), what to show


@dataclass(frozen=True)
class Settings:
    """What to send: `loadtest` in the chart's values. duration in seconds, the rate over all users."""

    users: int
    spawn_rate: float
    duration: float
    protocol: str
    arrival: str
    requests_per_second: float
    workers: int
    stages: tuple[Stage, ...] = ()
    max_in_flight: int = MAX_IN_FLIGHT
    trace: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.users < 1 or self.workers < 1:
            raise BadInput(
                f"a load needs at least one user and one worker, not {self.users} and {self.workers}"
            )
        if self.spawn_rate <= 0 or self.duration <= 0:
            raise BadInput(f"spawn rate ({self.spawn_rate}) and duration ({self.duration}) must be above 0")
        if self.protocol not in ("grpc", "http", "both"):
            raise BadInput(f"protocol {self.protocol}: not one of grpc, http, both")
        if self.protocol == "both" and self.users < 2:
            raise BadInput("both protocols need at least two users")
        if self.arrival not in ("closed", *OPEN):
            raise BadInput(f"arrival {self.arrival}: not one of closed, {', '.join(OPEN)}")
        if self.arrival in ("constant", "poisson") and self.requests_per_second <= 0:
            raise BadInput(f"{self.arrival} arrivals need requests per second above 0")
        if (self.arrival == "replay") != bool(self.trace):
            raise BadInput("arrival replay needs a trace (--trace FILE), and a trace arrival replay")
        if self.arrival == "replay" and self.stages:
            raise BadInput("a trace has its own shape: leave the stages out")
        if self.stages and sum(stage.seconds for stage in self.stages) <= 0:
            raise BadInput("stages must take some time: " + ", ".join(map(str, self.stages)))
        if self.max_in_flight < 1:
            raise BadInput(f"max in flight must be 1 or more, not {self.max_in_flight}")

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Settings:
        """Reads `loadtest` of a release's values. Raises BadInput when the release has none."""
        block = values.get("loadtest") or {}
        if not block.get("enabled"):
            raise BadInput("the release has no load test: install it with loadtest.enabled=true")
        try:
            return cls(
                users=int(block["users"]),
                spawn_rate=float(block["spawnRate"]),
                duration=float(block["duration"]),
                protocol=block["protocol"],
                arrival=block["arrival"],
                requests_per_second=float(block.get("requestsPerSecond") or 0),
                workers=int(block["workers"]),
                stages=tuple(
                    Stage(float(each["seconds"]), float(each["target"])) for each in block.get("stages", ())
                ),
                max_in_flight=int(block.get("maxInFlight", MAX_IN_FLIGHT)),
            )
        except KeyError as error:
            raise BadInput(f"the release's values have no loadtest.{error.args[0]}") from None

    def with_overrides(self, **overrides: Any) -> Settings:
        return replace(self, **{key: value for key, value in overrides.items() if value is not None})

    @property
    def open(self) -> bool:
        """Whether the clock decides when to send, rather than answers."""
        return self.arrival != "closed"

    @property
    def seconds(self) -> float:
        """How long it is measured: what a trace or stages take, else the duration."""
        if self.trace:
            return self.trace[-1]
        return sum(stage.seconds for stage in self.stages) or self.duration

    @property
    def rate(self) -> float:
        """Requests a second before stages begin; before a trace, those of the trace on average."""
        return len(self.trace) / self.trace[-1] if self.trace else self.requests_per_second

    @property
    def form(self) -> dict[str, Any]:
        """What POST /swarm takes."""
        users = {"grpc": ["GrpcUser"], "http": ["HttpUser"], "both": ["GrpcUser", "HttpUser"]}
        return {
            "user_count": self.users,
            "spawn_rate": self.spawn_rate,
            "user_classes": users[self.protocol],
            "protocol": self.protocol,
            "arrival": self.arrival,
            "requests_per_second": self.rate,
            "stages": ",".join(map(str, self.stages)),
            "max_in_flight": self.max_in_flight,
            # Locust ends a load by itself whose `loadtest run` was killed.
            "run_time": f"{round(2 * (self.users / self.spawn_rate + WARM_UP + SILENCE) + self.seconds)}s",
        }


def run_load(
    api: LocustApi, settings: Settings, report: Report, patience: float = 60.0, replace_running: bool = False
) -> dict[str, Any]:
    """Runs one load and returns its statistics (docs of `statistics_of`). The users are stopped in any case.

    Raises BadInput when workers are missing or the model can't be reached; CheckFailed when the master goes,
    a worker goes, no request is answered, all of them fail, or the load test itself was the limit. patience:
    seconds to wait for the workers, and for another load to end; replace_running stops that one instead.
    """
    wait_for_workers(api, settings.workers, patience, report)
    wait_for_turn(api, replace_running, patience, report)
    api.swarm(settings.form)
    try:
        spawn(api, settings, report)
        warm_up(api, settings, report)
        snapshots = measure_open(api, settings, report) if settings.open else closed(api, settings, report)
    finally:
        api.stop()
    result = statistics_of(snapshots, settings)
    if not result["total"]["successes"]:
        raise CheckFailed(f"every request failed: {_worst(snapshots[-1])}")
    _refuse_limit(result)
    return result


def _refuse_limit(result: dict[str, Any]) -> None:
    if limit := result["generator"]["limit"]:
        raise CheckFailed(f"no numbers, because the load test itself was the limit: {limit}")


def closed(api: LocustApi, settings: Settings, report: Report) -> list[Snapshot]:
    """Snapshots of a closed loop over its measured time."""
    api.reset()
    settle = api.snapshot().time + REPORT
    first = _wait(api, lambda now: now.time >= settle, SILENCE, "the master's clock stands still")
    if settings.stages:
        api.begin(settings.seconds)
    return measure(api, settings, first, report, lambda now: now)


def measure_open(api: LocustApi, settings: Settings, report: Report) -> list[Snapshot]:
    """Snapshots of an open loop: at first, over its measured time, and when all that it asked is answered."""
    began = api.begin(settings.seconds, list(settings.trace) if settings.trace else None)
    there = _wait(
        api,
        lambda now: (
            len(now.open_loops) >= settings.workers and all(generator["part"] for generator in now.open_loops)
        ),
        SILENCE,
        "not all workers began",
    )
    nothing = dict.fromkeys(there.measured().requests, 0)
    first = replace(
        there,
        time=began,
        requests=nothing,
        failures=nothing,
        response_times={},
        errors=[],
        generators=[{**generator, "offered": 0} for generator in there.generators],
    )
    snapshots = measure(api, settings, first, report, Snapshot.measured)

    # A generator that is behind would take long to send the rest of what is not to be told anyway.
    _refuse_limit(statistics_of([*snapshots, snapshots[-1]], settings))

    def answered(now: Snapshot) -> bool:
        _check_running(now, settings)
        report("Waiting for answers", 0.0, f"{now.sum('open')} requests")
        return all(generator["part"] == 2 and not generator["open"] for generator in now.open_loops)

    last = _wait(api, answered, SILENCE, "requests were left without answer or time-out")
    return [*snapshots, replace(last.measured(), time=began + settings.seconds)]


def wait_for_workers(api: LocustApi, expected: int, patience: float, report: Report) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            connected = api.snapshot(patience=patience).connected
        except CheckFailed as failure:
            raise BadInput(str(failure)) from None
        if connected >= expected:
            return
        if time.monotonic() > deadline:
            raise BadInput(
                f"{connected} of {expected} load-test workers are connected after {patience:.0f} s"
            )
        report("Waiting for workers", connected / expected, f"{connected} of {expected}")
        time.sleep(POLL)


def wait_for_turn(api: LocustApi, replace_running: bool, patience: float, report: Report) -> None:
    """Returns when no other load runs: two at once would each measure both."""
    if replace_running and api.snapshot().state in BUSY:
        api.stop()
    deadline = time.monotonic() + patience
    while (now := api.snapshot()).state in BUSY:
        if time.monotonic() > deadline:
            raise BadInput(
                f"another load of {now.users} users still runs after {patience:.0f} s: --replace stops it"
            )
        report("Waiting for another load", 0.0, f"{now.users} users")
        time.sleep(POLL)


def spawn(api: LocustApi, settings: Settings, report: Report) -> None:
    """Returns when all users run."""
    patience = settings.users / settings.spawn_rate + 60

    def all_there(now: Snapshot) -> bool:
        report("Starting users", now.users / settings.users, f"{now.users} of {settings.users}")
        return now.users == settings.users and now.state == "running"

    _wait(api, all_there, patience, f"not all of {settings.users} users started")


def warm_up(api: LocustApi, settings: Settings, report: Report) -> None:
    """Returns when the rate of answers is steady, or after WARM_UP seconds if there are answers at all."""
    begin = time.monotonic()
    history: list[tuple[float, int]] = []
    while True:
        now = api.snapshot()
        _check_running(now, settings)
        history.append((now.time, now.answers))
        waited = time.monotonic() - begin
        report("Warming up", min(1.0, waited / WARM_UP), f"{now.answers} answers")
        successes = sum(now.requests.values()) - sum(now.failures.values())
        if successes >= (1 if settings.open else settings.users) and _is_steady(history):
            return
        if waited > WARM_UP:
            if successes:
                return
            if now.answers:
                raise CheckFailed(f"every request failed: {_worst(now)}")
        if waited > SILENCE:
            raise CheckFailed(f"no request was answered in {SILENCE:.0f} s")
        time.sleep(POLL)


def measure(
    api: LocustApi,
    settings: Settings,
    first: Snapshot,
    report: Report,
    view: Callable[[Snapshot], Snapshot],
) -> list[Snapshot]:
    """Views of snapshots a second apart over the measured time, the first one given."""
    snapshots = [first]
    heard = time.monotonic()
    while snapshots[-1].time - first.time < settings.seconds:
        time.sleep(min(POLL, max(0.05, settings.seconds - (snapshots[-1].time - first.time))))
        now = view(api.snapshot())
        _check_running(now, settings)
        if now.answers > snapshots[-1].answers:
            heard = time.monotonic()
        elif settings.open and not now.sum("open"):
            heard = time.monotonic()  # a trace, or stages, with nothing to ask for a while
        elif time.monotonic() - heard > SILENCE:
            raise CheckFailed(f"no request was answered in {SILENCE:.0f} s")
        snapshots.append(now)
        recent = _between(snapshots[max(0, len(snapshots) - 6)], now)
        shown = f"{recent['requests_per_second']:.0f}/s"
        if recent["latency"]["p99"] is not None:
            shown += f", p99 {recent['latency']['p99'] * 1000:.0f} ms"
        if recent["failures"]:
            shown += f", {recent['failures']} failed"
        report("Measuring", (now.time - first.time) / settings.seconds, shown)
    return snapshots


def statistics_of(snapshots: list[Snapshot], settings: Settings) -> dict[str, Any]:
    """The statistics between the first snapshot and the last, as JSON.

    start, end: unix seconds (the master's clock). total and protocols.NAME: requests, successes, failures,
    requests_per_second (answered with success), latency {p50, p95, p99, mean, max} in seconds, over
    successful requests. history: the same over steps of 2 s or more, and offered_per_second in an open loop.

    In an open loop requests are those that came due in the time, latency counts from when they were due, and
    requests_per_second has the answers that came within the time: a server that is too slow gives the rest
    later.

    generator: workers, cpu_percent (of a core, the busiest worker), wanted_percent (of the time, that the
    busiest worker's loop was running or waiting for a processor), limit (why the load test itself was the
    limit, or null) and, of an open loop, offered and sent (requests), offered_per_second, lag {p50, p99, max}
    (seconds from due to sent), held (requests that waited for a place in flight) and in_flight_most (of one
    worker, of max_in_flight).
    """
    first, last = snapshots[0], snapshots[-1]
    steps = snapshots[1:-1] if settings.open else snapshots[1:]  # the last one of an open loop came later
    # A step in which not every user was answered once shows the rhythm of batches, not a rate.
    step, longest = max(2.0, (last.time - first.time) / 100), (last.time - first.time) / 6
    history: list[dict[str, Any]] = []
    begin = first
    for snapshot in steps:
        span = snapshot.time - begin.time
        telling = snapshot.answers - begin.answers >= settings.users or span >= longest
        if (span >= step - POLL / 4 and telling) or (snapshot is steps[-1] and not history):
            point = _between(begin, snapshot)
            point["time"] = (begin.time + snapshot.time) / 2
            point["users"] = snapshot.users
            point["protocols"] = {name: _between(begin, snapshot, name) for name in sorted(snapshot.requests)}
            if settings.open:
                point["offered_per_second"] = (snapshot.sum("offered") - begin.sum("offered")) / span
            history.append(point)
            begin = snapshot
    total = _between(first, last)
    before = {(error["protocol"], error["error"]): error["count"] for error in first.errors}
    failures = [
        {**error, "count": error["count"] - before.get((error["protocol"], error["error"]), 0)}
        for error in last.errors
    ]
    protocols = {name: _between(first, last, name) for name in sorted(last.requests)}
    if last.answered is not None:
        for name, part in protocols.items():
            part["requests_per_second"] = last.answered[name] / (last.time - first.time)
        total["requests_per_second"] = sum(part["requests_per_second"] for part in protocols.values())
    written = {key: value for key, value in asdict(settings).items() if key != "trace"}
    return {
        "start": first.time,
        "end": last.time,
        "settings": written | {"duration": settings.seconds, "requests_per_second": settings.rate},
        "total": total,
        "protocols": protocols,
        "failures": sorted((f for f in failures if f["count"] > 0), key=lambda failure: -failure["count"]),
        "history": history,
        "generator": _generator(first, steps[-1], last, settings, total["latency"]["p99"]),
    }


def _generator(
    first: Snapshot, steady: Snapshot, last: Snapshot, settings: Settings, p99: float | None
) -> dict[str, Any]:
    """What statistics_of says of the generator; steady is the last snapshot under load."""
    found: dict[str, Any] = {
        "workers": last.connected,
        "cpu_percent": _busiest(first, steady, "cpu_seconds"),
        "wanted_percent": _busiest(first, steady, "wanted_seconds"),
    }
    limit = None
    if found["cpu_percent"] >= SATURATED:
        limit = f"a worker used {found['cpu_percent']:.0f} % of a core; give it more workers"
    elif found["wanted_percent"] >= SATURATED:
        limit = (
            f"a worker was running or waiting for a processor {found['wanted_percent']:.0f} % of the time "
            f"and got {found['cpu_percent']:.0f} % of one; give it more workers, or processors of its own"
        )
    found |= {"offered_per_second": None}
    if settings.open:
        lag = last.lag
        late = _seconds(percentile(lag, 0.99))
        found |= {
            "offered": last.sum("offered"),
            "sent": last.sum("sent"),
            "offered_per_second": last.sum("offered") / (last.time - first.time),
            "lag": {
                "p50": _seconds(percentile(lag, 0.5)),
                "p99": late,
                "max": _seconds(max(lag, default=None)),
            },
            "held": last.sum("held"),
            "in_flight_most": max((loop["in_flight_most"] for loop in last.open_loops), default=0),
        }
        if limit is None and late is not None and late > max(LAG_FLOOR, LAG_SHARE * (p99 or 0)):
            beside = "nothing was answered yet" if p99 is None else f"p99 is {p99 * 1000:.3g} ms"
            limit = (
                f"1 in 100 requests left {late * 1000:.3g} ms late or more, where {beside}; give it more "
                "workers, or processors of its own"
            )
    return found | {"limit": limit}


def _busiest(first: Snapshot, last: Snapshot, seconds: str) -> float:
    """The largest share of the time, in per cent, that a worker counted as that."""
    before = {generator.get("id"): generator for generator in first.generators}
    shares = [0.0]
    for generator in last.generators:
        earlier = before.get(generator.get("id"), {"seconds": 0, seconds: 0})
        if (span := generator["seconds"] - earlier["seconds"]) > 0:
            shares.append((generator[seconds] - earlier[seconds]) / span * 100)
    return max(shares)


def _between(earlier: Snapshot, later: Snapshot, protocol: str | None = None) -> dict[str, Any]:
    names = [protocol] if protocol else list(later.requests)
    span = max(later.time - earlier.time, 1e-9)
    requests = sum(later.requests.get(name, 0) - earlier.requests.get(name, 0) for name in names)
    failures = sum(later.failures.get(name, 0) - earlier.failures.get(name, 0) for name in names)
    times: Histogram = merged(
        [
            difference(later.response_times.get(name, {}), earlier.response_times.get(name, {}))
            for name in names
        ]
    )
    return {
        "requests": requests,
        "successes": requests - failures,
        "failures": failures,
        "requests_per_second": (requests - failures) / span,
        "latency": {
            **{f"p{part}": _seconds(percentile(times, part / 100)) for part in (50, 95, 99)},
            "mean": _seconds(mean(times)),
            "max": _seconds(max(times, default=None)),
        },
    }


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _is_steady(history: list[tuple[float, int]]) -> bool:
    def at(moment: float) -> int | None:
        return next((answers for when, answers in reversed(history) if when <= moment), None)

    now, count = history[-1]
    middle, early = at(now - 2), at(now - 4)
    if middle is None or early is None:
        return False
    earlier, later = middle - early, count - middle
    # Counts scatter by their square root: at a few requests a second no two spans are alike.
    return earlier > 0 and abs(later - earlier) <= STEADY * earlier + 2 * earlier**0.5


def _check_running(now: Snapshot, settings: Settings) -> None:
    if now.problems:
        raise _problem(now)
    if now.connected < settings.workers:
        raise CheckFailed(f"a load-test worker is gone: {now.connected} of {settings.workers} are left")
    if now.state not in ("running", "spawning"):
        raise CheckFailed(f"the load was stopped by someone else (Locust is {now.state})")


def _problem(now: Snapshot) -> Exception:
    (first, *_) = now.problems
    return CheckFailed(first) if first.startswith(ENDED) else BadInput(first)


def _worst(now: Snapshot) -> str:
    errors = sorted(now.errors, key=lambda error: -error["count"])
    return f"{errors[0]['error']} ({errors[0]['protocol']})" if errors else "no reason given"


def _wait(api: LocustApi, condition: Callable[[Snapshot], bool], patience: float, failure: str) -> Snapshot:
    deadline = time.monotonic() + patience
    while True:
        now = api.snapshot()
        if now.problems and now.state != "ready":
            raise _problem(now)
        if condition(now):
            return now
        if time.monotonic() > deadline:
            raise CheckFailed(f"{failure} in {patience:.0f} s")
        time.sleep(0.25)
