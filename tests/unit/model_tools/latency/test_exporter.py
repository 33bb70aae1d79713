"""The exporter's two addresses: what it takes, what it refuses, and what it shows."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import generate_latest

from model_tools.latency import metrics as metrics_module
from model_tools.latency import receiver as receiver_module
from model_tools.latency.metrics import LADDER, Metrics
from model_tools.latency.receiver import Receiver
from model_tools.latency.traces import PHASES, Execution, Taken, Traces

EMPTY = json.dumps({"resourceSpans": []}).encode()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics([0.0425, 0.1], 7)


@pytest.fixture
def receiver(metrics: Metrics) -> Iterator[Receiver]:
    with Receiver("127.0.0.1", 0, Traces(), metrics) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def post(receiver: Receiver, body: bytes, path: str = "/v1/traces", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.server_port, timeout=10)
    try:
        given = {
            "Content-Type": "application/json",
            **{key.replace("_", "-"): text for key, text in headers.items()},
        }
        connection.request("POST", path, body, given)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "path", "headers", "status"),
    [
        (EMPTY, "/v1/traces", {}, 200),
        (EMPTY, "/v1/traces", {"Content_Type": "application/json; charset=utf-8"}, 200),
        (EMPTY, "/v1/logs", {}, 404),
        (EMPTY, "/v1/traces", {"Content_Type": "application/x-protobuf"}, 415),
        (b"x", "/v1/traces", {"Content_Length": "minus one"}, 411),
        (b"x", "/v1/traces", {"Content_Length": "99999999999"}, 413),
        (b"", "/v1/traces", {}, 400),
        (b"{", "/v1/traces", {}, 400),
        (b"\xff", "/v1/traces", {}, 400),
        (b"[" * 100_000, "/v1/traces", {}, 400),
        (b"{}", "/v1/traces", {}, 400),
    ],
)
def test_what_is_no_document_of_traces_is_refused_and_counted(
    receiver: Receiver, metrics: Metrics, body: bytes, path: str, headers: dict[str, str], status: int
) -> None:
    assert post(receiver, body, path, **headers) == status
    refused = value(metrics, "inference_server_trace_documents_refused_total")
    assert refused == (0 if status == 200 else 1)
    assert post(receiver, EMPTY) == 200


def test_the_log_has_one_line_for_a_row_of_garbage(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    for body in (b"{", b"[", b"", EMPTY, b"nonsense"):
        post(receiver, body)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("refused: ") for line in lines)


def test_a_sender_that_falls_silent_holds_up_the_next_for_a_moment_only(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(receiver_module, "PATIENCE", 0.05)
    with socket.create_connection(("127.0.0.1", receiver.server_port)) as silent:
        silent.sendall(
            b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        assert post(receiver, EMPTY) == 200
    assert capfd.readouterr().err == ""


def execution(model: str = "resnet50", seconds: float = 0.0425) -> Execution:
    return Execution(model, "1", dict.fromkeys(PHASES, seconds))


def test_a_threshold_is_a_bound_that_counts_what_takes_just_as_long(metrics: Metrics) -> None:
    metrics.take(Taken([execution(seconds=0.0425), execution(seconds=0.0426)]))
    labels = {"model": "resnet50", "version": "1", "phase": "request"}
    name = "inference_server_duration_seconds_bucket"
    assert value(metrics, name, le="0.0425", **labels) == 1
    assert value(metrics, name, le="0.05", **labels) == 2
    text = generate_latest(metrics.registry).decode()
    bounds = [line for line in text.splitlines() if line.startswith(name) and 'phase="request"' in line]
    assert len(bounds) == len(LADDER) + 1 + 1, "0.1 is there once; the last one is +Inf"


def test_all_outcomes_are_there_before_the_first_trace_and_the_sampling_too(metrics: Metrics) -> None:
    for outcome in ("used", "refused", "incomplete", "forced"):
        assert value(metrics, "inference_server_traces_total", outcome=outcome) == 0
    assert value(metrics, "inference_server_trace_sampling") == 7


def test_names_of_models_do_not_grow_the_series_for_ever(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "MODELS", 3)
    for _ in range(2):
        metrics.take(Taken([execution(f"model{index}") for index in range(10)]))
    text = generate_latest(metrics.registry).decode()
    assert {f"model{index}" for index in range(10) if f'"model{index}"' in text} == {
        "model0",
        "model1",
        "model2",
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--bucket", "0"], "--bucket: 0 is no time in seconds"),
        (["--bucket", "nan"], "--bucket: nan is no time"),
        (["--bucket", "fast"], "fast"),
        (["--listen", "4318"], "--listen: 4318 is not HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "--listen: 127.0.0.1:99999 is not HOST:PORT"),
        (["--listen", "192.0.2.1:4318"], "--listen: 192.0.2.1:4318 can't be used"),
        (["--port", "0"], "0"),
        (["--sample-every", "0"], "0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_named(refusal: Callable[..., str], arguments: list[str], named: str) -> None:
    assert named in refusal("latency-exporter", *arguments)


def test_a_port_in_use_is_named(refusal: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert f"--listen: 127.0.0.1:{port} can't be used" in refusal(
            "latency-exporter", "--listen", f"127.0.0.1:{port}"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        assert f"--port: 127.0.0.1:{port} can't be used" in refusal(
            "latency-exporter", "--listen", listen, "--port", port
        )
