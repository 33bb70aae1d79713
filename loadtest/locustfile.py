"""Locust users that send pictures to Triton: `locust -f loadtest/locustfile.py --headless --users 8 ...`.

Settings are options of the locust command, or LOADTEST_* environment variables (`locust -f ... --help`).
In a distributed run the master's settings hold for all workers.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import sys
import time
from typing import Any

import locust.runners
import locust.stats
from gevent import sleep
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

# The open loop's sender is a process. gRPC's support of forks would start a poller in the child, whose
# descriptors are closed before it becomes the sender, and at times end it there (grpc/grpc#43157).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# Locust has patched the standard library by now; gRPC must follow before its first object is made, or one
# waiting request would stop every other user of the process.
from grpc.experimental.gevent import init_gevent  # isort: skip

init_gevent()

from loadtest.arrivals import Profile, Stage  # noqa: E402
from loadtest.clients import Client, GrpcClient, HttpClient, RequestFailed  # noqa: E402
from loadtest.metrics import Metrics  # noqa: E402
from loadtest.payloads import ModelInterface  # noqa: E402
from loadtest.processor import Usage  # noqa: E402
from loadtest.sender import Order, Sender  # noqa: E402
from loadtest.statistics import add_statistics, bucket  # noqa: E402
from model_tools.console import BadInput  # noqa: E402

PAUSE_AFTER_FAILURE = (
    0.1  # seconds; a refused user that asked again at once would flood server and statistics
)
PROBE_TIMEOUT = 10.0  # seconds for a server to describe its model
USERS_EVERY = 1.0  # seconds between two changes of a closed loop's users
PROBLEM, BEGIN = "loadtest-problem", "loadtest-begin"

log = logging.getLogger("loadtest")

# One second instead of three, and three significant digits instead of two: the statistics' resolution.
locust.runners.WORKER_REPORT_INTERVAL = 1.0
locust.stats.bucket_response_time = bucket


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    add = parser.add_argument
    add(
        "--grpc-url",
        env_var="LOADTEST_GRPC_URL",
        default="localhost:8001",
        help="host:port, dns:///name:port (spread over all its addresses), or grpcs://host:port",
    )
    add(
        "--http-url",
        env_var="LOADTEST_HTTP_URL",
        default="localhost:8000",
        help="host:port or http(s)://host:port",
    )
    add("--model", env_var="LOADTEST_MODEL", default="resnet50", help="name of the model")
    add(
        "--protocol",
        env_var="LOADTEST_PROTOCOL",
        default="grpc",
        choices=("grpc", "http", "both"),
        help="what an open loop speaks, and which users a closed one without named users has",
    )
    add(
        "--arrival",
        env_var="LOADTEST_ARRIVAL",
        default="closed",
        choices=("closed", "constant", "poisson", "replay"),
        help="closed: each user sends when it has its answer; constant and poisson: --requests-per-second, "
        "whatever the server does; replay: a trace that `loadtest run` brings",
    )
    add(
        "--requests-per-second",
        env_var="LOADTEST_REQUESTS_PER_SECOND",
        type=float,
        default=0.0,
        help="rate of arrivals over all workers",
    )
    add(
        "--stages",
        env_var="LOADTEST_STAGES",
        default="",
        help="SECONDS:TARGET,...: over so many seconds go to so many requests a second (closed: users)",
    )
    add(
        "--max-in-flight",
        env_var="LOADTEST_MAX_IN_FLIGHT",
        type=int,
        default=1024,
        help="requests without an answer that a worker of an open loop sends at most; the others wait, timed",
    )
    add(
        "--request-timeout",
        env_var="LOADTEST_REQUEST_TIMEOUT",
        type=float,
        default=30.0,
        help="seconds until a request counts as failed",
    )
    add(
        "--metrics-port",
        env_var="LOADTEST_METRICS_PORT",
        type=int,
        default=0,
        include_in_web_ui=False,
        help="serve Prometheus metrics on this port",
    )
    # How many share the rate; the master fills it in, because Locust tells a worker only its own users.
    add("--total-users", type=int, default=0, include_in_web_ui=False, help="(internal)")
    add("--total-workers", type=int, default=0, include_in_web_ui=False, help="(internal)")


class Target:
    """What all users of one run share: the model's interface and the prebuilt requests."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self._requests: dict[str, list[Any]] = {}
        self._interface: ModelInterface | None = None
        self.open = options.arrival != "closed"
        if self.open and not options.requests_per_second > 0:
            raise BadInput(f"{options.arrival} arrivals need a --requests-per-second above 0")
        self.stages = tuple(Stage.read(text) for text in options.stages.split(",") if text)

    def connect(self, kind: type[GrpcClient] | type[HttpClient], timeout: float | None = None) -> Client:
        """A new connection for one user. Raises BadInput when the server has no such model."""
        url = self.options.grpc_url if kind is GrpcClient else self.options.http_url
        if self._interface is None:
            probe = kind(url, self.options.model, PROBE_TIMEOUT)
            try:
                self._interface = ModelInterface.from_metadata(probe.metadata())
            except RequestFailed as failure:
                raise BadInput(f"model {self.options.model} at {url} ({kind.protocol}): {failure}") from None
            finally:
                probe.close()
        if kind.protocol not in self._requests:
            self._requests[kind.protocol] = kind.build(self._interface)
        return kind(url, self.options.model, timeout or self.options.request_timeout, self._interface)

    def requests(self, protocol: str) -> list[Any]:
        return self._requests[protocol]

    def order(self, protocols: tuple[str, ...], index: int) -> Order:
        """What this worker, that of this index, sends in an open loop."""
        options = self.options
        workers = max(1, options.total_workers)
        assert self._interface is not None
        return Order(
            grpc_url=options.grpc_url,
            http_url=options.http_url,
            protocols=protocols,
            interface=self._interface,
            arrival=options.arrival,
            rate=options.requests_per_second,
            stages=self.stages,
            connections=max(1, -(-options.total_users // workers)),
            limit=options.max_in_flight,
            timeout=options.request_timeout,
            index=max(0, index),
            of=workers,
        )


class Session:
    """One process of a load test: its metrics, and the target of the run in progress."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.target: Target | None = None
        self.problems: list[str] = []  # why users could not start, one line each
        self.sender: Sender | None = None
        self.sent: dict[str, Any] | None = None  # the sender's last report
        self.generators: dict[str, dict[str, Any]] = {}  # at the master: each worker's `generator()`
        self.usage = Usage()

    def generator(self) -> dict[str, Any]:
        """What this process says of itself as a load generator; its sender's report where it has one."""
        if self.sent is not None:
            return {key: value for key, value in self.sent.items() if not key.startswith("recent")}
        return dict(self.usage.read())

    def stop(self) -> None:
        sender, self.sender, self.sent = self.sender, None, None
        if sender:
            sender.stop()


session = Session()


class TritonUser(User):
    abstract = True
    kind: type[GrpcClient] | type[HttpClient]

    def on_start(self) -> None:
        if session.target is None:
            raise StopUser  # the run has no target; its problem is reported already
        if session.target.open:
            return  # the sender sends; users are its connections
        self.client = session.target.connect(self.kind)
        requests = session.target.requests(self.kind.protocol)
        first = random.randrange(len(requests))
        self.requests = itertools.cycle(requests[first:] + requests[:first])

    def on_stop(self) -> None:
        if hasattr(self, "client"):
            self.client.close()

    def wait_time(self) -> float:
        return 0.0 if hasattr(self, "client") else 1.0

    @task
    def infer(self) -> None:
        if not hasattr(self, "client"):
            return
        failure: RequestFailed | None = None
        size = 0
        start = time.perf_counter()
        try:
            size = self.client.infer(next(self.requests)).nbytes
        except RequestFailed as error:
            failure = error
        seconds = time.perf_counter() - start
        session.metrics.observe(self.kind.protocol, failure.outcome if failure else "success", seconds)
        self.environment.events.request.fire(
            request_type=self.kind.protocol,
            name=self.environment.parsed_options.model,
            # A failure has no latency: a quick refusal must not make the percentiles look better.
            response_time=None if failure else seconds * 1000,
            response_length=size,
            exception=failure,
            context={},
        )
        if failure:
            sleep(PAUSE_AFTER_FAILURE)


class GrpcUser(TritonUser):
    """Sends pictures over gRPC on a channel of its own."""

    kind = GrpcClient


class HttpUser(TritonUser):
    """Sends pictures over HTTP on a kept-alive connection of its own."""

    kind = HttpClient


def users_of(protocol: str) -> list[type[TritonUser]]:
    return {"grpc": [GrpcUser], "http": [HttpUser], "both": [GrpcUser, HttpUser]}[protocol]


@events.init.add_listener
def prepare(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    """Once a process: serves metrics and state, and ends a headless run whose server isn't there."""
    options = environment.parsed_options
    if options.metrics_port and not isinstance(runner, MasterRunner):
        session.metrics.count_users(lambda: int(runner.user_count))
        try:
            session.metrics.serve(options.metrics_port)
        except OSError as error:
            _exit(f"metrics port {options.metrics_port}: {error.strerror or error}")
    if web_ui:
        from loadtest.master import add_routes

        add_routes(
            web_ui.app, environment, session.problems, session.generators, lambda *what: begin(runner, *what)
        )
    if isinstance(runner, MasterRunner):
        runner.register_message(PROBLEM, on_problem)
    if isinstance(runner, WorkerRunner):
        runner.register_message(BEGIN, on_begin)
    if (
        not isinstance(runner, WorkerRunner)
        and not options.user_classes
        and (options.headless or not options.class_picker)
    ):
        environment.user_classes = users_of(options.protocol)
    if isinstance(runner, LocalRunner) and options.headless:
        try:
            find_target(environment)
        except BadInput as error:
            _exit(str(error))


@events.test_start.add_listener
def start(environment: Any, **_: Any) -> None:
    """At every start of a run: the master counts the users, the others look at the model."""
    runner = environment.runner
    session.problems.clear()
    session.generators.clear()
    options = environment.parsed_options
    if not isinstance(runner, WorkerRunner):
        options.total_users = runner.target_user_count
        options.total_workers = getattr(runner, "worker_count", 1)
    if isinstance(runner, MasterRunner):
        return
    session.stop()
    session.target = None
    try:
        find_target(environment)
    except BadInput as error:
        report_problem(environment, str(error))
        return
    assert session.target is not None
    if session.target.open:
        # Not environment.user_classes: a worker whose master has a class picker knows all of them.
        protocols = tuple(user.kind.protocol for user in users_of(options.protocol))
        session.sender = Sender(
            session.target.order(protocols, getattr(runner, "worker_index", 0)),
            lambda report: on_sent(environment, report),
            lambda problem: report_problem(environment, problem),
        )
        if isinstance(runner, LocalRunner) and session.target.stages:
            session.sender.begin(Profile(0, session.target.stages).seconds)


@events.test_stop.add_listener
def stop(**_: Any) -> None:
    session.stop()


@events.quitting.add_listener
def quitting(**_: Any) -> None:
    session.stop()


def report_problem(environment: Any, problem: str) -> None:
    log.error("%s", problem)
    session.problems.append(problem)
    if isinstance(environment.runner, WorkerRunner):
        environment.runner.send_message(PROBLEM, {"problem": problem})


def find_target(environment: Any) -> None:
    """Asks the server for the model, over every protocol that the run will use. Raises BadInput."""
    target = Target(environment.parsed_options)
    for user in environment.user_classes:
        target.connect(user.kind).close()
    session.target = target


def begin(runner: Any, seconds: float, trace: list[float] | None) -> None:
    """At the master: the measured part of an open loop, and of stages, begins; workers share the trace."""
    workers = [worker.id for worker in runner.clients.values() if worker.state != "missing"]
    for index, worker in enumerate(workers):
        part = trace[index :: len(workers)] if trace is not None else None
        runner.send_message(BEGIN, {"seconds": seconds, "trace": part}, client_id=worker)
    if runner.environment.parsed_options.arrival == "closed" and runner.environment.parsed_options.stages:
        runner.greenlet.spawn(follow_stages, runner)


def follow_stages(runner: Any) -> None:
    """At the master: a closed loop has as many users as its stages say, looked at once a second."""
    options = runner.environment.parsed_options
    stages = tuple(Stage.read(text) for text in options.stages.split(","))
    profile = Profile(runner.target_user_count, stages)
    began = time.perf_counter()
    while runner.state in ("spawning", "running"):
        seconds = time.perf_counter() - began
        users = max(1, round(profile.at(min(seconds, profile.seconds))))
        if users != runner.target_user_count:
            # All of a second's change within the second, or a jump would be a ramp.
            runner.start(users, max(options.spawn_rate or 1, abs(users - runner.target_user_count)))
        if seconds >= profile.seconds:
            return
        sleep(USERS_EVERY)


def on_begin(environment: Any, msg: Any, **_: Any) -> None:
    """At a worker."""
    if session.sender:
        session.sender.begin(msg.data["seconds"], msg.data["trace"])


def on_sent(environment: Any, report: dict[str, Any]) -> None:
    """What the sender did since its last report becomes Locust's statistics and Prometheus' metrics."""
    before = session.sent["offered_ever"] if session.sent else 0
    session.sent = report
    lag = {float(key): count for key, count in report["recent_lag"].items()}
    session.metrics.schedule(report["offered_ever"] - before, report["in_flight"], lag)
    model = environment.parsed_options.model
    for protocol, recent in report["recent"].items():
        times = {
            outcome: {float(key): count for key, count in histogram.items()}
            for outcome, histogram in recent["times"].items()
        }
        for outcome, histogram in times.items():
            session.metrics.observe_all(protocol, outcome, histogram)
        add_statistics(environment.runner.stats, protocol, model, times, recent["errors"])


@events.report_to_master.add_listener
def report_generator(client_id: str, data: dict[str, Any]) -> None:
    data["generator"] = {"id": client_id, **session.generator()}


@events.worker_report.add_listener
def keep_generator(client_id: str, data: dict[str, Any]) -> None:
    session.generators[client_id] = data.get("generator", {})


def on_problem(environment: Any, msg: Any, **_: Any) -> None:
    """At the master: a worker could not start. A headless run ends here; `loadtest run` asks for the list."""
    problem = msg.data["problem"]
    if problem not in session.problems:
        session.problems.append(problem)
    log.error("worker %s: %s", msg.node_id, problem)
    if environment.parsed_options.headless:
        environment.process_exit_code = 2
        environment.runner.quit()


def _exit(problem: str) -> None:
    print(f"loadtest: {problem}", file=sys.stderr)
    sys.exit(2)
