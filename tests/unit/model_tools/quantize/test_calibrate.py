"""Calibration is kept by content, and an interrupted one goes on to the same ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SIDE, residual

from model_tools.console import BadInput
from model_tools.quantize import calibrate
from model_tools.quantize.calibrate import FEWEST, float_tensors, histograms, pixels_of
from model_tools.quantize.graph import Graph

PIXELS = np.random.default_rng(2).integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
MODEL = residual().SerializeToString()
TENSORS = float_tensors(Graph(residual()))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "inference-system" / "calibration"


def test_ranges_are_those_of_the_tensors_values() -> None:
    found = histograms(MODEL, TENSORS, PIXELS, "uint8")
    run = calibrate._session(MODEL, TENSORS)
    for index, values in enumerate(run(PIXELS)):
        assert found.largest[index] == pytest.approx(np.abs(values).max(), rel=1e-5)
        assert found.counts[index].sum() == values.size


def test_an_interrupted_calibration_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = histograms(MODEL, TENSORS, PIXELS, "uint8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(calibrate.cache_folder()) / "other"))
    done: list[int] = []

    def advance(pictures: int) -> None:
        done.append(pictures)
        if pictures == 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        histograms(MODEL, TENSORS, PIXELS, "uint8", advance)
    resumed: list[int] = []
    found = histograms(MODEL, TENSORS, PIXELS, "uint8", resumed.append)
    assert done[0] == 0
    assert resumed[0] == calibrate.CHECKPOINT * calibrate.BATCH
    assert np.array_equal(found.counts, whole.counts)
    assert np.array_equal(found.largest, whole.largest)


def test_the_same_calibration_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    histograms(MODEL, TENSORS, PIXELS, "uint8")

    def fail(*_: Any) -> None:
        raise AssertionError("it ran the model")

    monkeypatch.setattr(calibrate, "_session", fail)
    assert histograms(MODEL, TENSORS, PIXELS, "uint8").pictures == len(PIXELS)
    for other in (
        (residual(seed=1).SerializeToString(), TENSORS, PIXELS),
        (MODEL, TENSORS[1:], PIXELS),
        (MODEL, TENSORS, PIXELS[:-1]),
    ):
        with pytest.raises(AssertionError, match="it ran the model"):
            histograms(*other, "uint8")


def test_a_damaged_state_is_calibrated_anew(cache: Path) -> None:
    whole = histograms(MODEL, TENSORS, PIXELS, "uint8")
    (state,) = cache.glob("*/*.npz")
    state.write_bytes(state.read_bytes()[:1000])
    assert np.array_equal(histograms(MODEL, TENSORS, PIXELS, "uint8").counts, whole.counts)


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=PIXELS[: FEWEST - 1])
    with pytest.raises(BadInput, match=r"--calibration: .*few.npz: holds 31 pictures, and fewer than 32"):
        pixels_of(str(tmp_path / "few.npz"), (SIDE, SIDE, 3), 500)
