"""Traces are put together from spans in whatever documents they come, and nothing grows without end."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest

from model_tools.latency import traces as module
from model_tools.latency.traces import Malformed, Traces

MARKS = {
    "request": {"REQUEST_START": 0, "QUEUE_START": 100, "REQUEST_END": 9000},
    "compute": {
        "COMPUTE_START": 1100, "COMPUTE_INPUT_END": 3100, "COMPUTE_OUTPUT_START": 6100, "COMPUTE_END": 8600
    },
}  # fmt: skip
SECONDS = {"request": 9e-6, "queue": 1e-6, "input": 2e-6, "infer": 3e-6, "output": 2.5e-6}


def span(name: str, identity: str, parent: str = "", trace: str = "t", **more: Any) -> dict[str, Any]:
    return {"name": name, "spanId": identity, "parentSpanId": parent, "traceId": trace, **more}


def events(marks: dict[str, int]) -> list[dict[str, Any]]:
    """At a time that a double would round."""
    return [{"name": name, "timeUnixNano": str(1795491130269384000 + ns)} for name, ns in marks.items()]


def request(
    number: int = 1, client: str = "", trace: str = "", model: str = "resnet50"
) -> list[dict[str, Any]]:
    """The spans of a request, in the order in which they end."""
    trace = trace or f"trace{number}"
    attributes = [
        {"key": "triton.model_name", "value": {"stringValue": model}},
        {"key": "triton.model_version", "value": {"intValue": "3"}},
    ]
    root, called = f"root{number}", f"model{number}"
    return [
        span("compute", f"compute{number}", called, trace, events=events(MARKS["compute"])),
        span(model, called, root, trace, events=events(MARKS["request"]), attributes=attributes),
        span("InferRequest", root, client, trace, events=events({"GRPC_SEND_END": 9900})),
    ]


def document(spans: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}


def test_the_phases_lie_between_tritons_marks() -> None:
    taken = Traces().take(document(request()))
    (execution,) = taken.executions
    assert (execution.model, execution.version) == ("resnet50", "3")
    assert execution.seconds == pytest.approx(SECONDS, rel=1e-12)
    assert taken.outcomes == {"used": 1}


def test_a_request_that_never_ended_was_refused_by_its_queue() -> None:
    """As Triton 2.51 traces it: no compute, and no mark of the request's end."""
    _, called, root = request()
    called["events"] = [event for event in called["events"] if event["name"] != "REQUEST_END"]
    taken = Traces().take(document([called, root]))
    assert taken.refusals == [("resnet50", "3")]
    assert taken.outcomes == {"refused": 1}
    assert not taken.executions


@pytest.mark.parametrize("cut", [1, 2])
def test_a_trace_may_come_in_several_documents(cut: int) -> None:
    traces, spans = Traces(), request()
    assert traces.take(document(spans[:cut])).outcomes == {}
    assert traces.take(document(spans[cut:])).outcomes == {"used": 1}


@pytest.mark.parametrize("missing", ["compute", "resnet50"])
def test_a_trace_without_one_of_its_spans_is_incomplete(missing: str) -> None:
    spans = [span for span in request() if span["name"] != missing]
    taken = Traces().take(document(spans))
    assert taken.outcomes == {"incomplete": 1}
    assert not taken.executions
    assert not taken.refusals


@pytest.mark.parametrize("name", ["compute", "InferRequest"])
def test_a_model_may_have_the_name_of_another_span(name: str) -> None:
    (execution,) = Traces().take(document(request(model=name))).executions
    assert execution.model == name


def test_requests_of_one_client_trace_are_told_apart_in_any_order() -> None:
    traces = Traces()
    first, second = request(1, "client", "page"), request(2, "client", "page")
    spans = [first[0], second[0], first[1], second[1], second[2], first[2]]
    assert traces.take(document(spans)).outcomes == {"used": 2}


def test_one_in_so_many_of_the_traces_that_clients_ask_for_is_used() -> None:
    traces, outcomes = Traces(sample_every=7), Counter[str]()
    for number in range(70):
        outcomes += traces.take(document(request(number, "client"))).outcomes
    assert outcomes == {"used": 10, "forced": 60}


def test_each_trace_that_triton_chose_is_used() -> None:
    traces, outcomes = Traces(sample_every=7), Counter[str]()
    for number in range(70):
        outcomes += traces.take(document(request(number))).outcomes
    assert outcomes == {"used": 70}


def test_spans_whose_root_never_comes_are_given_up_and_the_newest_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SPANS", 20)
    traces = Traces()
    lost = Counter[str]()
    for number in range(100):
        lost += traces.take(document(request(number)[:2])).outcomes
    assert lost == {"incomplete": 90}
    assert traces.take(document(request(99)[2:])).outcomes == {"used": 1}
    assert traces.take(document(request(5)[2:])).outcomes == {"incomplete": 1}


def test_spans_that_were_used_are_held_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPANS", 3)
    traces, outcomes = Traces(), Counter[str]()
    for number in range(100):
        outcomes += traces.take(document(request(number))).outcomes
    assert outcomes == {"used": 100}


GARBAGE: dict[str, Any] = {
    "a list": [],
    "nothing": None,
    "a number": 7,
    "other names": {"spans": []},
    "spans of text": document(["span"]),  # type: ignore[list-item]
    "a span without its name": document([{"spanId": "1", "traceId": "1"}]),
    "a time that is none": document(
        [span("compute", "1", events=[{"name": "COMPUTE_END", "timeUnixNano": "soon"}])]
    ),
    "an identity that is a number": document([{**span("compute", "1"), "spanId": 1}]),
    "a long identity": document([span("compute", "x" * 1000)]),
    "an empty attribute": document(
        [span("m", "1", attributes=[{"key": "triton.model_name", "value": "resnet50"}])]
    ),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_and_what_was_held_stays(garbage: Any) -> None:
    traces, spans = Traces(), request()
    traces.take(document(spans[:2]))
    with pytest.raises(Malformed, match="no document of spans"):
        traces.take(garbage)
    assert traces.take(document(spans[2:])).outcomes == {"used": 1}


def test_a_document_with_one_bad_span_is_not_taken_in_part() -> None:
    traces, spans = Traces(), request()
    bad = copy.deepcopy(spans)
    bad[2].pop("name")
    with pytest.raises(Malformed):
        traces.take(document(bad))
    assert traces.take(document(spans[2:])).outcomes == {"incomplete": 1}
