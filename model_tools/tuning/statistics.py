"""What may be said of measurements that scatter: intervals of ratios, and where a load has warmed up.

A machine's speed drifts while it is measured, so two settings are never compared by their means. They are
measured in rounds, one straight after the other, and each round gives a ratio, in which what slowed both
down cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of every interval
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; any table of the distribution has them.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds the true one in 95 of 100 cases; infinite with one measurement."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def above_one(self) -> bool:
        """Whether it is a gain beyond the noise."""
        return self.low > 1

    @property
    def below_one(self) -> bool:
        return self.high < 1


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    # Beyond the table the first two terms of its expansion in 1/freedom (Abramowitz and Stegun, 26.7.5).
    return _T[freedom - 1] if freedom <= len(_T) else 1.95996 + 2.3723 / freedom + 2.8225 / freedom**2


def ratio(pairs: Sequence[tuple[float, float]]) -> Interval:
    """How many times as large the second of each pair is as the first: geometric mean and its interval.

    Logarithms make twice and half the same distance from 1. Raises ValueError without pairs or for numbers
    that are not above 0.
    """
    if not pairs or any(before <= 0 or after <= 0 for before, after in pairs):
        raise ValueError("a ratio needs pairs of numbers above 0")
    logs = [math.log(after / before) for before, after in pairs]
    mean, half = _mean(logs), _half(logs)
    return Interval(math.exp(mean), _exp(mean - half), _exp(mean + half), len(logs))


def average(values: Sequence[float]) -> Interval:
    """The mean and its interval. Raises ValueError without values."""
    if not values:
        raise ValueError("a mean needs values")
    mean, half = _mean(values), _half(values)
    return Interval(mean, mean - half, mean + half, len(values))


def warm_from(counts: Sequence[float]) -> int | None:
    """The first of equal spans of a load from which on it is steady; None where it never becomes so.

    counts: answers in each span. MSER (White, "An effective truncation heuristic for bias reduction in
    simulation output", Simulation 69(6), 1997): cut where the standard error of what is left is smallest,
    among cuts in the first half; the last of them says that the load was still changing.
    """
    size = len(counts)
    if size < 4:
        return None
    best, where = math.inf, 0
    for cut in range(size // 2 + 1):
        left = counts[cut:]
        mean = _mean(left)
        error = sum((count - mean) ** 2 for count in left) / len(left) ** 2
        if error < best:
            best, where = error, cut
    return where if where < size // 2 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _half(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return math.inf
    mean = _mean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return student(count - 1) * math.sqrt(variance / count)


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)
