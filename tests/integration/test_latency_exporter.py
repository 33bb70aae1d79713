"""Histograms of the server's latency are what a real Triton, with the chart's own options, has measured."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import helm_python
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import yaml
from colours import MODEL, PICTURE, write_model
from processes import answers, free_ports, prometheus, running
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from charts.package import CHART
from model_tools.bundle import Bundle
from model_tools.config import ModelConfig
from model_tools.repository import write_repository
from model_tools.runtime import triton_runtime
from model_tools.serve import LocalTriton
from model_tools.values import Values, load_values, merge

ROOT = Path(__file__).parents[2]
IMAGES: Values = {
    "tools": {"image": {"repository": "tools", "tag": "1"}},
    "model": {"source": {"image": {"repository": "model", "tag": "1"}}},
}
COLOURS: Values = {
    "name": MODEL,
    "input": {"name": "image", "dataType": "UINT8", "shape": list(PICTURE)},
    "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
}
PHASES = ("request", "queue", "input", "infer", "output")
WAIT = 30.0  # seconds for what was traced to be counted; it takes about one
FULL = "Exceeds maximum queue size"
PATIENCE = 60.0  # seconds for an answer, which takes some milliseconds


class TritonFailed(Exception):
    """Triton hangs or has died, which its tracing is known for: docs/slo.md."""


def again_where_triton_fails(test: Callable[..., None]) -> Callable[..., None]:
    """Repeats a test, up to twice, whose Triton did not answer to the end: it is about the exporter."""

    @functools.wraps(test)
    def repeated(*arguments: Any, **fixtures: Any) -> None:
        for _ in range(2):
            try:
                return test(*arguments, **fixtures)
            except TritonFailed as failure:
                warnings.warn(f"{test.__name__}: {failure}; once more", stacklevel=1)
        return test(*arguments, **fixtures)

    return repeated


class Exporter:
    """`model-tools latency-exporter` as the chart starts it, on ports of this machine."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.trace_port, self._port = free_ports(2)
        own = {"host": "127.0.0.1", "port": self._port, "listen": f"127.0.0.1:{self.trace_port}"}
        kept = [word for word in words if word.partition("=")[0].removeprefix("--") not in own]
        self._command = [
            sys.executable, "-m", "model_tools", "latency-exporter", *kept,
            *(f"--{name}={value}" for name, value in own.items()),
        ]  # fmt: skip
        self.address = f"127.0.0.1:{self._port}"
        self._url = f"http://{self.address}/metrics"
        self._log = folder / "exporter.log"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with running(self._command, answers(self._url), self._log) as process:
            yield process

    def log(self) -> str:
        return self._log.read_text()

    def samples(self) -> dict[tuple[str, ...], float]:
        """By name and the values of the labels phase, outcome and le, where there are such."""
        found = {}
        for family in text_string_to_metric_families(requests.get(self._url, timeout=5).text):
            for sample in family.samples:
                labels = (sample.labels[name] for name in ("phase", "outcome", "le") if name in sample.labels)
                found[sample.name, *labels] = sample.value
        return found

    def wait_for(self, least: int, most: int | None = None) -> dict[tuple[str, ...], float]:
        """The samples, once `least` traces were counted; fails when there are more than `most`."""
        deadline = time.monotonic() + WAIT
        while True:
            samples = self.samples()
            counted = sum(
                value for key, value in samples.items() if key[0] == "inference_server_traces_total"
            )
            if counted >= least:
                assert counted <= (most or least)
                return samples
            assert time.monotonic() < deadline, f"{counted} of {least} traces\n{self.log()}"
            time.sleep(0.1)


class Client:
    def __init__(self, triton: LocalTriton) -> None:
        self._triton = triton
        self._grpc = triton_grpc.InferenceServerClient(triton.grpc)
        tensor = triton_grpc.InferInput("image", [1, *PICTURE], "UINT8")
        self._inputs = [tensor.set_data_from_numpy(np.zeros((1, *PICTURE), np.uint8))]

    def infer(self, _: Any = None, **options: Any) -> float:
        """The seconds that an answer took."""
        start = time.perf_counter()
        try:
            self._grpc.infer(MODEL, self._inputs, client_timeout=PATIENCE, **options)
        except InferenceServerException as error:
            if FULL in error.message():
                raise
            raise TritonFailed(error) from error
        return time.perf_counter() - start

    def load(self, count: int, at_once: int = 2) -> list[float]:
        """The seconds of each; a request that fails is raised. Triton's tracing dies of more at once."""
        return all_of(self.infer, count, at_once)

    def counters(self) -> dict[str, float]:
        """Triton's own, of all models together."""
        found: Counter[str] = Counter()
        text = requests.get(f"http://{self._triton.metrics}/metrics", timeout=5).text
        for line in text.splitlines():
            if line.startswith("nv_inference_"):
                found[line.partition("{")[0]] += float(line.split()[-1])
        return found


def all_of(call: Callable[[int], Any], count: int, at_once: int) -> list[Any]:
    """What the calls return; the first that raises ends them."""
    pool = ThreadPoolExecutor(at_once)
    try:
        return list(pool.map(call, range(count)))
    finally:
        pool.shutdown(cancel_futures=True)


Start = Callable[..., tuple[Exporter, Client]]


@dataclasses.dataclass(frozen=True)
class Pod:
    """Triton and the exporter of a rendered pod."""

    exporter: Exporter
    triton: LocalTriton
    log: list[str]
    endpoints: dict[str, dict[str, Any]]  # of the PodMonitor, by port


@pytest.fixture
def pod(tmp_path: Path) -> Callable[..., Pod]:
    """A function that takes both from the pod that the chart renders with some values; neither runs yet.

    tracing: more of Triton's settings of it.
    """

    def make(sample_every: int = 1, exit_seconds: int = 0, tracing: Sequence[str] = (), **model: Any) -> Pod:
        own: Values = {
            "model": {**COLOURS, "warmup": {"data": "random"}, **model},
            "monitoring": {"serverLatency": {"sampleEvery": sample_every}},
        }
        values = merge(merge(load_values([ROOT / "values" / "local.yaml"]), IMAGES), own)
        with helm_python.Chart.load(CHART) as chart:
            files = chart.render(values, name="inference-system", namespace="inference")
        deployment = yaml.safe_load(files[f"{CHART.name}/templates/triton/deployment.yaml"])
        containers = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["containers"]}
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        repository = folder / "repository"
        repository.mkdir()
        served = (Bundle.load(write_model(folder / "model")), ModelConfig.from_values(values["model"]))
        write_repository([served], repository)
        exporter = Exporter([word for word in containers["latency"]["command"] if word[:2] == "--"], folder)
        options = [
            word.replace("127.0.0.1:4318", f"127.0.0.1:{exporter.trace_port}")
            for word in containers["triton"]["args"]
            if word.startswith(("--trace-config", "--cache-config"))
        ]
        options += [f"--trace-config=opentelemetry,{each}" for each in tracing]
        runtime = triton_runtime()
        environment = {
            entry["name"]: entry["value"]
            for entry in containers["triton"]["env"]
            if entry["name"].startswith("OTEL_")
        }
        runtime = dataclasses.replace(runtime, environment=runtime.environment | environment)
        monitors = yaml.safe_load_all(files[f"{CHART.name}/templates/monitoring/podmonitors.yaml"])
        (monitor,) = (each for each in monitors if each and each["metadata"]["name"].endswith("-triton"))
        endpoints = {each["port"]: each for each in monitor["spec"]["podMetricsEndpoints"]}
        log: list[str] = []
        triton = LocalTriton(
            repository, options=options, runtime=runtime, log=log.append, exit_seconds=exit_seconds
        )
        return Pod(exporter, triton, log, endpoints)

    return make


@pytest.fixture
def start(pod: Callable[..., Pod]) -> Iterator[Start]:
    """A function that starts both and gives the exporter and a client of Triton."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> tuple[Exporter, Client]:
            made = pod(*arguments, **options)
            stack.enter_context(made.exporter.running())
            return made.exporter, Client(stack.enter_context(made.triton))

        yield start


@again_where_triton_fails
def test_all_requests_traced_are_what_tritons_own_counters_say(start: Start) -> None:
    exporter, client = start(1)
    before = client.counters()
    client.load(800)
    exporter.wait_for(800)
    # A trace is counted before its phases are: a look in between sees fewer of these.
    counts = "inference_server_duration_seconds_count"
    wait_until(lambda: all(exporter.samples().get((counts, phase)) == 800 for phase in PHASES))
    samples = exporter.samples()
    after = client.counters()
    counters = {
        "queue": "queue",
        "input": "compute_input",
        "infer": "compute_infer",
        "output": "compute_output",
    }
    for phase, counter in counters.items():
        name = f"nv_inference_{counter}_duration_us"
        seconds = (after[name] - before[name]) / 1e6
        assert samples["inference_server_duration_seconds_count", phase] == 800
        # Triton cuts each request's time to whole microseconds.
        measured = samples["inference_server_duration_seconds_sum", phase]
        assert seconds <= measured + 1e-6
        assert measured <= seconds + 800 * 1.1e-6
    request = samples["inference_server_duration_seconds_sum", "request"]
    name = "nv_inference_request_duration_us"
    # The counter stops when the answer is made, the trace when the request is let go of, a little later.
    assert (after[name] - before[name]) / 1e6 <= request
    assert sum(samples["inference_server_duration_seconds_sum", phase] for phase in counters) <= request


@again_where_triton_fails
def test_one_request_in_seven_is_counted_and_no_server_time_is_longer_than_the_clients(start: Start) -> None:
    exporter, client = start(7)
    times = client.load(7 * 60)
    samples = exporter.wait_for(60)
    for phase in PHASES:
        assert samples["inference_server_duration_seconds_count", phase] == 60
    assert samples["inference_server_trace_sampling",] == 7
    bounds = buckets(samples, "request")
    assert bounds[-1] == (math.inf, 60)
    assert 15 in dict(bounds), "the objective's threshold"
    # Whatever was traced took its client longer, so at most as many as all clients' were above a bound.
    for bound, within in bounds:
        assert 60 - within <= sum(seconds > bound for seconds in times)
    for share in (0.5, 0.99):
        low, high = bracket(bounds, share)
        assert 0 <= low < high
        assert low <= max(times)
    total = samples["inference_server_duration_seconds_sum", "request"]
    pairs = list(itertools.pairwise([(0.0, 0.0), *bounds]))
    assert sum(low * (more - less) for (low, less), (_, more) in pairs) <= total
    assert total <= sum(high * (more - less) for (_, less), (high, more) in pairs if more > less)


def buckets(samples: dict[tuple[str, ...], float], phase: str) -> list[tuple[float, float]]:
    """Upper bounds with the number of requests within."""
    name = "inference_server_duration_seconds_bucket"
    return sorted((float(key[2]), value) for key, value in samples.items() if key[:2] == (name, phase))


def bracket(bounds: list[tuple[float, float]], share: float) -> tuple[float, float]:
    """The bucket that a quantile lies in."""
    wanted = share * bounds[-1][1]
    below = 0.0
    for bound, within in bounds:
        if within >= wanted:
            return below, bound
        below = bound
    raise AssertionError("an histogram without +Inf")


@again_where_triton_fails
def test_triton_serves_on_without_an_exporter_and_a_new_one_counts_on(pod: Callable[..., Pod]) -> None:
    made = pod(1)
    with made.triton as triton:
        client = Client(triton)
        client.load(50)
        with made.exporter.running() as exporter:
            client.load(50)
            made.exporter.wait_for(50, 100)  # Triton may still have had some of the first
            exporter.kill()
            exporter.wait()
            client.load(50)
        with made.exporter.running():
            client.load(50)
            made.exporter.wait_for(50, 150)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@again_where_triton_fails
def test_an_exporter_that_hangs_stops_neither_answers_nor_tritons_end(pod: Callable[..., Pod]) -> None:
    kept = 64  # spans; three a request, and what it has is given up once a second
    tracing = (f"bsp_max_queue_size={kept}", f"bsp_max_export_batch_size={kept}")
    made = pod(1, exit_seconds=10, tracing=tracing)
    with made.exporter.running() as exporter:
        exporter.send_signal(signal.SIGSTOP)
        try:
            with made.triton as triton:
                client = Client(triton)
                client.load(300)
                descriptors = len(list(Path(f"/proc/{triton.pid}/fd").iterdir()))
                client.load(300)
                assert len(list(Path(f"/proc/{triton.pid}/fd").iterdir())) <= descriptors + 4
                triton.stop()
                assert triton.wait() != -signal.SIGKILL
            # What it says on stdout comes when it ends in order.
            log = "\n".join(made.log)
            assert "queue is full - dropping span" in log
            assert re.search(r"timed out after 10\d\d milliseconds", log)
        finally:
            exporter.send_signal(signal.SIGCONT)


@again_where_triton_fails
def test_requests_that_no_model_computed_are_counted_beside_the_histogram(start: Start) -> None:
    exporter, client = start(1, instances={"count": 1}, batching={"queue": {"maxSize": 1}})

    def infer(_: int) -> bool:
        try:
            client.infer()
        except InferenceServerException:
            return False
        return True

    answered = all_of(infer, 400, 32)
    assert 0 < sum(answered) < 400
    samples = exporter.wait_for(400)
    assert samples["inference_server_traces_total", "used"] == sum(answered)
    assert samples["inference_server_traces_total", "refused"] == 400 - sum(answered)
    assert samples["inference_server_refused_total",] == 400 - sum(answered)
    # Which is why it is counted here.
    assert client.counters()["nv_inference_request_failure"] == 0
    for phase in PHASES:
        assert samples["inference_server_duration_seconds_count", phase] == sum(answered)


@again_where_triton_fails
def test_clients_with_trace_contexts_count_no_more_than_others(start: Start) -> None:
    """Triton traces each of their requests; these are all of one trace, as those of one page are."""
    exporter, client = start(5)
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    def infer(_: int) -> float:
        return client.infer(headers={"traceparent": context})

    all_of(infer, 200, 16)
    # A few contexts get lost in Triton when many requests come at once: those are requests like any other.
    exporter.wait_for(180, 200)

    def numbers() -> tuple[float, float, float]:
        samples = exporter.samples()
        traces = (samples["inference_server_traces_total", outcome] for outcome in ("used", "forced"))
        return *traces, samples["inference_server_duration_seconds_count", "request"]

    wait_until(lambda: (now := numbers())[0] == now[2])  # more may be coming in
    used, forced, _ = numbers()
    assert forced >= 140
    assert abs(used - 200 / 5) <= 10


@pytest.mark.parametrize(("every", "traced"), [(4, {3, 7}), (8, {7}), (7, set(range(8)))])
def test_a_rate_in_step_with_clients_traces_always_the_same_of_them(
    pod: Callable[..., Pod], every: int, traced: set[int]
) -> None:
    """Why the default is a prime: eight clients in turn stand for the places in a batch."""
    made = pod(every)
    with spans_at(made.exporter.trace_port) as spans, made.triton as triton:
        client = Client(triton)
        for index in range(8 * every * 4):
            client.infer(request_id=str(index % 8 + 1))
        wait_until(lambda: sum(span["name"] == "compute" for span in spans) == 32)
    found = Counter(
        int(attribute["value"]["stringValue"]) - 1
        for span in spans
        for attribute in span.get("attributes", ())
        if attribute["key"] == "triton.request_id"
    )
    assert set(found) == traced
    assert len(set(found.values())) == 1, "each of them as often as the others"


@contextmanager
def spans_at(port: int) -> Iterator[list[Any]]:
    """The spans that Triton sends there, as they come."""
    spans: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in document["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield spans
        finally:
            server.shutdown()
            thread.join()


def test_the_exporter_ends_at_once_when_it_is_told(pod: Callable[..., Pod]) -> None:
    made = pod(1)
    with made.exporter.running() as process:
        process.terminate()
        assert process.wait(5) == 0
    assert re.search(r"^ready: .*^stopped$", made.exporter.log(), re.DOTALL | re.MULTILINE)


def test_prometheus_keeps_the_series_under_tritons_job_and_the_exporters_up_apart(
    pod: Callable[..., Pod], tmp_path: Path
) -> None:
    """As the operator makes scrape configurations of the PodMonitor's endpoints."""
    made = pod(7)
    with made.exporter.running():
        endpoint = made.endpoints["latency"]
        scrape = {
            "job_name": "inference/inference-system-triton",
            "static_configs": [{"targets": [made.exporter.address]}],
            "relabel_configs": rules(endpoint["relabelings"]),
            "metric_relabel_configs": rules(endpoint["metricRelabelings"]),
        }

        def labels(series: str) -> list[dict[str, str]]:
            answer = requests.get(f"{url}/api/v1/query", {"query": series}, timeout=5).json()
            return [each["metric"] for each in answer["data"]["result"]]

        with prometheus(tmp_path, {"scrape_configs": [scrape]}) as url:
            wait_until(lambda: bool(labels("inference_server_trace_sampling")))
            (sampling,) = labels("inference_server_trace_sampling")
            (up,) = labels("up")
    assert (sampling["job"], sampling["region"]) == ("inference/inference-system-triton", "local")
    assert (up["job"], up["region"]) == ("inference/inference-system-latency", "local")


def rules(relabelings: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"target_label": each["targetLabel"], "replacement": each["replacement"]} for each in relabelings]
