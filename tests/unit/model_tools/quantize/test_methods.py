"""Each method's cut is what its definition says, computed the long way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_tools.quantize.histogram import Histograms
from model_tools.quantize.methods import LEVELS, entropy_bins, percentile_bins, ranges


def divergence(counts: np.ndarray, kept: int) -> float:
    """Kullback-Leibler divergence of the distribution cut to `kept` bins from its 128 levels, bin by bin."""
    reference = counts[:kept].astype(np.float64).copy()
    inside = reference.copy()
    reference[-1] += counts[kept:].sum()
    levels = np.zeros(kept)
    for level in range(LEVELS):
        part = slice(level * kept // LEVELS, (level + 1) * kept // LEVELS)
        occupied = inside[part] > 0
        if occupied.any():
            levels[part][occupied] = inside[part].sum() / occupied.sum()
    reference, levels = reference / reference.sum(), levels / max(levels.sum(), 1e-300)
    there = reference > 0
    if (levels[there] == 0).any():
        return float("inf")
    return float((reference[there] * np.log(reference[there] / levels[there])).sum())


def slowest_entropy_bins(counts: np.ndarray) -> int:
    counts = counts.copy()
    counts[0] = counts[1]
    found = [divergence(counts, kept) for kept in range(LEVELS, len(counts) + 1)]
    return LEVELS + len(found) - 1 - int(np.argmin(found[::-1]))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(130, 200), st.floats(0.3, 4))
def test_entropy_is_that_of_the_definition(seed: int, bins: int, tail: float) -> None:
    random = np.random.default_rng(seed)
    values = np.abs(random.standard_t(tail, size=3000))
    counts = np.histogram(values, bins=bins)[0] + random.integers(0, 2, bins)
    counts[-1] = max(counts[-1], 1)
    counts[0] = counts[1]
    best, other = entropy_bins(counts), slowest_entropy_bins(counts)
    # Where two cuts lose the same, rounding may choose either.
    assert divergence(counts, best) == pytest.approx(divergence(counts, other), rel=1e-6, abs=1e-9)


def test_entropy_cuts_what_is_rare_and_keeps_what_is_not() -> None:
    counts = np.histogram(np.abs(np.random.default_rng(0).normal(size=1_000_000)), bins=2048, range=(0, 50))[
        0
    ]
    counts[2047] += 1
    kept = entropy_bins(counts) * 50 / 2048
    assert 3 < kept < 6
    assert entropy_bins(np.full(2048, 100)) == 2048


def test_zeros_do_not_decide_the_cut() -> None:
    counts = np.histogram(np.abs(np.random.default_rng(0).normal(size=100_000)), bins=1000)[0]
    relu = counts.copy()
    relu[0] += 10_000_000
    assert entropy_bins(relu) == entropy_bins(counts)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.floats(50, 100))
def test_percentile_keeps_the_share_and_no_bin_more(counts: list[int], percentile: float) -> None:
    counts[-1] += 1
    array = np.array(counts)
    kept = percentile_bins(array, percentile)
    wanted = array.sum() * (percentile / 100)
    assert array[:kept].sum() >= wanted
    assert kept == 1 or array[: kept - 1].sum() < wanted


def test_no_method_keeps_more_than_there_was_and_zeros_stay_zero() -> None:
    made = Histograms.empty(("x", "zero"))
    made.add(0, np.random.default_rng(0).normal(size=10_000))
    made.add(1, np.zeros(10))
    for method in ("max", "percentile", "entropy"):
        found = ranges(made, method)
        assert 2 < found["x"] <= made.largest[0]
        assert found["zero"] == 0
    assert ranges(made, "max")["x"] == made.largest[0]
    assert ranges(made, "percentile", 90)["x"] == pytest.approx(1.645, abs=0.05)
