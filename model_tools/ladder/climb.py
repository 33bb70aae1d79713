"""Measuring rungs in rounds, and keeping those that are better beyond the noise."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model_tools.ladder.rungs import Rung, Step, steps
from model_tools.tuning.journal import Journal
from model_tools.tuning.sample import Sample
from model_tools.tuning.show import Report
from model_tools.tuning.statistics import Interval, average, ratio

Measure = Callable[[Step], Sample]


@dataclass(frozen=True)
class Criterion:
    """What a rung has to do to be kept: more throughput beyond the noise, at a p99 of at most `max_p99`.

    In seconds; None for no limit.
    """

    max_p99: float | None = None


@dataclass(frozen=True)
class Verdict:
    """One rung against the last that was kept (`against`; None for the baseline).

    throughput, p99: times the other's, of rounds in which both were measured. to_baseline: the throughput.
    reason: why it was rejected, "" where it was kept.
    """

    step: Step
    against: str | None
    throughput: Interval
    p99: Interval
    to_baseline: Interval
    samples: list[Sample]
    reason: str

    @property
    def kept(self) -> bool:
        return not self.reason

    @property
    def processor(self) -> float | None:
        """Seconds of processors' time a request, the median; None where it is not known."""
        known = [sample.processor for sample in self.samples if sample.processor is not None]
        return statistics.median(known) if known else None

    def mean(self, name: str) -> Interval:
        """The average of one of the samples' numbers over the rounds."""
        return average([getattr(sample, name) for sample in self.samples])

    def median(self, name: str) -> float:
        return statistics.median(getattr(sample, name) for sample in self.samples)


def climb(
    rungs: Sequence[Rung],
    measure: Measure,
    journal: Journal,
    rounds: int,
    seed: int,
    criterion: Criterion,
    report: Report,
) -> list[Verdict]:
    """Verdicts in the rungs' order. Measures what the journal does not have.

    In each round every rung is measured once, in an order of its own. A rejected rung's change is taken out
    of the rungs after it, and what they are then is measured in rounds with the baseline and the last rung
    kept.
    A round that was interrupted is measured again: its halves would be of different times.
    """
    rejected: dict[str, Verdict] = {}
    _forget_interrupted(journal)
    while True:
        now = steps(rungs, rejected)
        found = [_baseline(now[0], journal)]
        for place, step in enumerate(now[1:], start=1):
            anchor = now[place - 1]
            if len(_pairs(journal, anchor, step)) < rounds or len(_pairs(journal, now[0], step)) < rounds:
                # The rungs after it too, for this one will most likely be kept.
                again = {item.digest: item for item in (now[0], anchor, *now[place:])}
                _measure(list(again.values()), measure, journal, rounds, seed, report)
                break
            verdict = _judge(step, anchor, now[0], journal, criterion)
            if not verdict.kept:
                rejected[step.rung.name] = verdict
                break
            found.append(verdict)
        else:
            by_name = {verdict.step.rung.name: verdict for verdict in found} | rejected
            return [by_name[rung.name] for rung in rungs]


def _measure(
    now: list[Step], measure: Measure, journal: Journal, rounds: int, seed: int, report: Report
) -> None:
    first = max((entry["round"] for entry in journal.entries), default=-1) + 1
    planned, done = rounds * len(now), 0
    for number in range(first, first + rounds - _had(now, journal)):
        order = list(now)
        random.Random(f"{seed} {number}").shuffle(order)
        taken = []
        for step in order:
            report(step.rung.name, done, planned)
            taken.append((step, measure(step)))
            done += 1
            journal.add(
                {
                    "round": number,
                    "of": len(order),
                    "rung": step.rung.name,
                    "step": step.digest,
                    "values": step.values,
                    "sample": taken[-1][1].as_dict(),
                }
            )
    report("", planned, planned)


def _had(now: Sequence[Step], journal: Journal) -> int:
    """How many rounds measured all of these steps."""
    wanted = {step.digest for step in now}
    return sum(wanted <= set(measured) for measured in _by_round(journal).values())


def _by_round(journal: Journal) -> dict[int, dict[str, Sample]]:
    found: dict[int, dict[str, Sample]] = {}
    for entry in journal.entries:
        found.setdefault(entry["round"], {})[entry["step"]] = Sample(**entry["sample"])
    return found


def _pairs(journal: Journal, before: Step, after: Step) -> list[tuple[Sample, Sample]]:
    return [
        (measured[before.digest], measured[after.digest])
        for measured in _by_round(journal).values()
        if before.digest in measured and after.digest in measured
    ]


def _forget_interrupted(journal: Journal) -> None:
    sizes: dict[int, int] = {}
    for entry in journal.entries:
        sizes[entry["round"]] = sizes.get(entry["round"], 0) + 1
    journal.keep([entry for entry in journal.entries if sizes[entry["round"]] == entry["of"]])


def _judge(step: Step, anchor: Step, baseline: Step, journal: Journal, criterion: Criterion) -> Verdict:
    pairs = _pairs(journal, anchor, step)
    gain = ratio([(before.throughput, after.throughput) for before, after in pairs])
    tail = ratio([(before.p99, after.p99) for before, after in pairs])
    whole = ratio(
        [(before.throughput, after.throughput) for before, after in _pairs(journal, baseline, step)]
    )
    samples = _samples(step, journal)
    p99 = statistics.median(sample.p99 for sample in samples)
    reason = ""
    if not gain.above_one:
        reason = "less throughput" if gain.below_one else "no more throughput beyond the noise"
    elif criterion.max_p99 is not None and p99 > criterion.max_p99:
        reason = f"a p99 of {p99 * 1000:.0f} ms, above {criterion.max_p99 * 1000:.0f} ms"
    return Verdict(step, anchor.rung.name, gain, tail, whole, samples, reason)


def _baseline(step: Step, journal: Journal) -> Verdict:
    one = Interval(1.0, 1.0, 1.0, 0)
    return Verdict(step, None, one, one, one, _samples(step, journal), "")


def _samples(step: Step, journal: Journal) -> list[Sample]:
    return [measured[step.digest] for measured in _by_round(journal).values() if step.digest in measured]


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """As JSON."""
    from dataclasses import asdict

    def interval(found: Interval) -> dict[str, Any]:
        record = asdict(found)
        # Of one round the interval is everything, which JSON can't say.
        return record if found.count > 1 else {**record, "low": None, "high": None}

    return {
        "rung": verdict.step.rung.name,
        "title": verdict.step.rung.title,
        "values": verdict.step.values,
        "kept": verdict.kept,
        "reason": verdict.reason or None,
        "against": verdict.against,
        "throughput_times": interval(verdict.throughput),
        "p99_times": interval(verdict.p99),
        "throughput_times_baseline": interval(verdict.to_baseline),
        "throughput": interval(verdict.mean("throughput")),
        "p50": verdict.median("p50"),
        "p95": verdict.median("p95"),
        "p99": verdict.median("p99"),
        "queue": verdict.median("queue"),
        "compute": verdict.median("compute"),
        "batch": verdict.median("batch"),
        "processor": verdict.processor,
        "samples": [sample.as_dict() for sample in verdict.samples],
    }
