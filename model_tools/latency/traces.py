"""Triton's traces as OpenTelemetry has them, put together from their spans and measured.

A traced request is three spans that Triton sends as they end: `compute`, below it the span that is called as
the model and holds its name and version, and the root, `InferRequest`, last. Marks of time are events of the
spans. Sources: Triton's src/tracer.cc, and OTLP's JSON encoding, where 64-bit numbers are strings.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Each phase with the marks that it lies between.
PHASES = {
    "request": ("REQUEST_START", "REQUEST_END"),
    "queue": ("QUEUE_START", "COMPUTE_START"),
    "input": ("COMPUTE_START", "COMPUTE_INPUT_END"),
    "infer": ("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
    "output": ("COMPUTE_OUTPUT_START", "COMPUTE_END"),
}
_MARKS = {mark for between in PHASES.values() for mark in between}
_ROOT = "InferRequest"
# Triton holds back 2048 spans at most and loses what comes then. This many traces may lack their root before
# the oldest is given up, and one may have so many spans (an ensemble has two a step).
TRACES = 2048
SPANS = 64


class Malformed(ValueError):
    """Not a document of spans as OTLP has them; the message says what is wrong with it."""


@dataclass(frozen=True)
class Execution:
    """A request that a model computed, and the seconds of each of PHASES."""

    model: str
    version: str
    seconds: dict[str, float]


@dataclass
class Taken:
    """What a document completed. Outcomes of traces:

    used: a model computed an answer, or failed to (Triton's traces don't tell);
    incomplete: no model computed (refused, or answered from the response cache), or spans were lost;
    forced: its client asked for it, so it is no fair sample.
    """

    executions: list[Execution] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Span:
    trace: str
    id: str
    parent: str
    name: str
    marks: dict[str, int]  # nanoseconds
    attributes: dict[str, str]

    @property
    def model(self) -> str | None:
        """The name of the model that was called; only the middle one of the three spans has one."""
        return self.attributes.get("triton.model_name")


class Traces:
    """Takes documents of spans and gives what is complete; holds TRACES unfinished ones at most."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, list[_Span]] = OrderedDict()

    def take(self, document: Any) -> Taken:
        """Takes an ExportTraceServiceRequest as JSON has it. Raises Malformed, and has taken nothing then."""
        taken = Taken()
        for span in list(_spans(document)):
            if span.name == _ROOT and span.model is None:
                _measure(span, self._open.pop(span.trace, []), taken)
            else:
                self._hold(span, taken)
        return taken

    def _hold(self, span: _Span, taken: Taken) -> None:
        spans = self._open.setdefault(span.trace, [])
        if len(spans) < SPANS:
            spans.append(span)
        if len(self._open) > TRACES:
            self._open.popitem(last=False)
            taken.outcomes["incomplete"] += 1


def _measure(root: _Span, spans: list[_Span], taken: Taken) -> None:
    if root.parent:
        taken.outcomes["forced"] += 1
        return
    computed = {span.parent: span.marks for span in spans if span.model is None}
    executions = []
    for span in spans:
        marks = span.marks | computed.get(span.id, {})
        if span.model is not None and marks.keys() >= _MARKS:
            seconds = {name: (marks[end] - marks[start]) / 1e9 for name, (start, end) in PHASES.items()}
            version = span.attributes.get("triton.model_version", "")
            executions.append(Execution(span.model, version, seconds))
    taken.executions += executions
    taken.outcomes["used" if executions else "incomplete"] += 1


def _spans(document: Any) -> Iterator[_Span]:
    try:
        for resource in document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    yield _Span(
                        trace=str(span["traceId"]),
                        id=str(span["spanId"]),
                        parent=str(span.get("parentSpanId", "")),
                        name=str(span["name"]),
                        marks={
                            str(event["name"]): int(event["timeUnixNano"]) for event in span.get("events", ())
                        },
                        attributes={
                            str(attribute["key"]): _text(attribute["value"])
                            for attribute in span.get("attributes", ())
                        },
                    )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"no document of spans ({type(error).__name__}: {error})") from error


def _text(value: dict[str, Any]) -> str:
    """The only entry of {"stringValue": "..."}, {"intValue": "1"} and the like."""
    return str(next(iter(value.values()), ""))
