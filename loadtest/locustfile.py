"""Locust users that send pictures to Triton: `locust -f loadtest/locustfile.py --headless --users 8 ...`.

Settings are options of the locust command, or LOADTEST_* environment variables (`locust -f ... --help`).
In a distributed run the master's settings hold for all workers.
"""

from __future__ import annotations

import itertools
import logging
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

# Locust has patched the standard library by now; gRPC must follow before its first object is made, or one
# waiting request would stop every other user of the process.
from grpc.experimental.gevent import init_gevent  # isort: skip

init_gevent()

from loadtest.arrivals import Schedule  # noqa: E402
from loadtest.clients import Client, GrpcClient, HttpClient, RequestFailed  # noqa: E402
from loadtest.metrics import Metrics  # noqa: E402
from loadtest.payloads import ModelInterface  # noqa: E402
from loadtest.statistics import bucket  # noqa: E402
from model_tools.console import BadInput  # noqa: E402

PAUSE_AFTER_FAILURE = (
    0.1  # seconds; a refused user that asked again at once would flood server and statistics
)
PROBE_TIMEOUT = 10.0  # seconds for a server to describe its model
PROBLEM = "loadtest-problem"

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
        help="which users a run without named users has",
    )
    add(
        "--arrival",
        env_var="LOADTEST_ARRIVAL",
        default="closed",
        choices=("closed", "constant"),
        help="closed: each user sends when it has its answer; constant: --requests-per-second over all users",
    )
    add(
        "--requests-per-second",
        env_var="LOADTEST_REQUESTS_PER_SECOND",
        type=float,
        default=0.0,
        help="total rate of constant arrivals",
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
    # How many users share the rate; the master fills it in, because Locust tells a worker only its own.
    add("--total-users", type=int, default=0, include_in_web_ui=False, help="(internal)")


class Target:
    """What all users of one run share: the model's interface and the prebuilt requests."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self._requests: dict[str, list[Any]] = {}
        self._interface: ModelInterface | None = None
        if options.arrival == "constant" and not options.requests_per_second > 0:
            raise BadInput("constant arrivals need a --requests-per-second above 0")

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

    def schedule(self) -> Schedule | None:
        """One user's part of a constant rate; None in a closed loop."""
        if self.options.arrival == "closed":
            return None
        return Schedule(
            self.options.requests_per_second / max(1, self.options.total_users), time.perf_counter()
        )


class Session:
    """One process of a load test: its metrics, and the target of the run in progress."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.target: Target | None = None
        self.problems: list[str] = []  # why users could not start, one line each


session = Session()


class TritonUser(User):
    abstract = True
    kind: type[GrpcClient] | type[HttpClient]

    def on_start(self) -> None:
        if session.target is None:
            raise StopUser  # the run has no target; its problem is reported already
        self.client = session.target.connect(self.kind)
        self.schedule = session.target.schedule()
        requests = session.target.requests(self.kind.protocol)
        first = random.randrange(len(requests))
        self.requests = itertools.cycle(requests[first:] + requests[:first])

    def on_stop(self) -> None:
        if hasattr(self, "client"):
            self.client.close()

    def wait_time(self) -> float:
        return self.schedule.wait(time.perf_counter()) if self.schedule else 0.0

    @task
    def infer(self) -> None:
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

        add_routes(web_ui.app, environment, session.problems)
    if isinstance(runner, MasterRunner):
        runner.register_message(PROBLEM, on_problem)
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
    if not isinstance(runner, WorkerRunner):
        environment.parsed_options.total_users = runner.target_user_count
    if isinstance(runner, MasterRunner):
        return
    session.target = None
    try:
        find_target(environment)
    except BadInput as error:
        log.error("%s", error)
        session.problems.append(str(error))
        if isinstance(runner, WorkerRunner):
            runner.send_message(PROBLEM, {"problem": str(error)})


def find_target(environment: Any) -> None:
    """Asks the server for the model, over every protocol that the run will use. Raises BadInput."""
    target = Target(environment.parsed_options)
    for user in environment.user_classes:
        target.connect(user.kind).close()
    session.target = target


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
