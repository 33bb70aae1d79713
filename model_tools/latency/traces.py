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
_ANSWERED = "REQUEST_END"  # the mark that a request which finds the queue full never gets
_ROOT = "InferRequest"
# Triton holds back 2048 spans at most and loses what comes then, so some never get their root: this many wait
# for it before the oldest trace is given up.
SPANS = 8192
NAME = 256  # characters of a model's name; Triton's ids have 16 and 32


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
    """What a document completed. refusals: models and versions whose queue took no more. Outcomes of traces:

    used: a model computed an answer, or failed to (Triton's traces don't tell);
    refused: the queue was full, which Triton's own counters of failures leave out;
    incomplete: no model computed (answered from the response cache), or spans were lost;
    forced: a trace context of its client asked for it, and it is left out as Triton leaves others out.
    """

    executions: list[Execution] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Span:
    trace: str
    id: str
    parent: str
    root: bool
    model: str  # only the middle one of the three spans has one
    version: str
    marks: dict[str, int]  # nanoseconds


class Traces:
    """Takes documents of spans and gives what is complete; holds SPANS unfinished ones at most.

    Triton traces one request in sample_every, and each that comes with a trace context (W3C's traceparent),
    sampled or not. One in sample_every of those is used too, so that such clients count no more than others.
    """

    def __init__(self, sample_every: int = 1) -> None:
        self._open: OrderedDict[str, list[_Span]] = OrderedDict()
        self._held = 0
        self._sample_every = sample_every
        self._forced = 0

    def take(self, document: Any) -> Taken:
        """Takes an ExportTraceServiceRequest as JSON has it. Raises Malformed, and has taken nothing then."""
        taken = Taken()
        for span in list(_spans(document)):
            if not span.root:
                self._hold(span, taken)
                continue
            spans = self._below(span)
            if span.parent and not self._keeps_forced():
                taken.outcomes["forced"] += 1
            else:
                _measure(spans, taken)
        return taken

    def _hold(self, span: _Span, taken: Taken) -> None:
        self._open.setdefault(span.trace, []).append(span)
        self._held += 1
        if self._held > SPANS:
            _, given_up = self._open.popitem(last=False)
            self._held -= len(given_up)
            taken.outcomes["incomplete"] += 1

    def _below(self, root: _Span) -> list[_Span]:
        """Removes and gives a root's own spans: a client may have several requests in a trace of its own."""
        own, others, parents = [], [], {root.id}
        for span in reversed(self._open.pop(root.trace, [])):  # a parent ends after its children
            if span.parent in parents:
                own.append(span)
                parents.add(span.id)
            else:
                others.append(span)
        self._held -= len(own)
        if others:
            self._open[root.trace] = others[::-1]
        return own

    def _keeps_forced(self) -> bool:
        self._forced += 1
        return self._forced % self._sample_every == 0


def _measure(spans: list[_Span], taken: Taken) -> None:
    computed = {span.parent: span.marks for span in spans if not span.model}
    executions, refusals = [], []
    for span in spans:
        marks = span.marks | computed.get(span.id, {})
        if span.model and marks.keys() >= _MARKS:
            seconds = {name: (marks[end] - marks[start]) / 1e9 for name, (start, end) in PHASES.items()}
            executions.append(Execution(span.model, span.version, seconds))
        elif span.model and _ANSWERED not in marks:
            refusals.append((span.model, span.version))
    taken.executions += executions
    taken.refusals += refusals
    taken.outcomes["used" if executions else "refused" if refusals else "incomplete"] += 1


def _spans(document: Any) -> Iterator[_Span]:
    try:
        for resource in document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    yield _span(span)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise Malformed(f"no document of spans ({type(error).__name__}: {error})") from error


def _span(span: dict[str, Any]) -> _Span:
    attributes = {attribute["key"]: attribute["value"] for attribute in span.get("attributes", ())}
    model = _text(attributes.get("triton.model_name"))
    return _Span(
        trace=_short(span["traceId"]),
        id=_short(span["spanId"]),
        parent=_short(span.get("parentSpanId", "")),
        root=span["name"] == _ROOT and not model,
        model=model,
        version=_text(attributes.get("triton.model_version")),
        marks={
            event["name"]: int(event["timeUnixNano"])
            for event in span.get("events", ())
            if event["name"] in _MARKS
        },
    )


def _text(value: dict[str, Any] | None) -> str:
    """The only entry of {"stringValue": "..."}, {"intValue": "1"} and the like."""
    return _short(str(next(iter(value.values())))) if value else ""


def _short(text: str) -> str:
    if len(text) > NAME:
        raise ValueError(f"{text[:20]!r}... is too long")
    return str(text)
