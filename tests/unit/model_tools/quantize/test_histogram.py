"""Distributions depend on the values alone, and survive being interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from model_tools.console import BadInput
from model_tools.quantize.histogram import BINS, Histograms

values = nps.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**90), 2.0**90, width=32))


def counted(*parts: np.ndarray) -> Histograms:
    made = Histograms.empty(("x",))
    for part in parts:
        made.add(0, part)
    return made


@given(st.lists(values, min_size=1, max_size=6), st.randoms())
def test_batches_and_their_order_do_not_matter(parts: list[np.ndarray], random: object) -> None:
    whole = counted(np.concatenate(parts))
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    split = counted(*shuffled)
    assert np.array_equal(whole.counts, split.counts)
    assert (whole.exponents, whole.largest) == (split.exponents, split.largest)


@given(values)
def test_every_value_is_in_the_bin_that_holds_it(array: np.ndarray) -> None:
    made = counted(array)
    counts, width = made.bins(0)
    assert counts.sum() == array.size
    assert made.largest[0] == np.abs(array).max()
    edges = np.arange(len(counts) + 1, dtype=np.float64) * width
    expected = np.histogram(np.abs(array.astype(np.float64)), bins=np.append(edges[:-1], np.inf))[0]
    assert np.array_equal(counts, expected)


@pytest.mark.parametrize("largest", [0.3, 1.0, 1.9, 6e4])
def test_between_half_and_all_of_the_bins_are_in_use(largest: float) -> None:
    counts, _ = counted(np.linspace(0, largest, 10 * BINS)).bins(0)
    assert BINS / 2 <= len(counts) <= BINS


def test_a_saved_state_goes_on_where_it_was(tmp_path: Path) -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 100))
    state = counted(first)
    state.pictures = 8
    state.save(tmp_path / "state.npz")
    resumed = Histograms.load(tmp_path / "state.npz")
    assert (resumed.tensors, resumed.pictures) == (("x",), 8)
    resumed.add(0, second * 100)
    assert np.array_equal(resumed.counts, counted(first, second * 100).counts)
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_tensor_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(BadInput, match="x is not finite"):
        counted(np.array([1, bad]))
