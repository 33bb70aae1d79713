"""A model directory of the right form around bytes that are no model, and `model-tools`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_tools import bundle
from tests import commands

Run = Callable[..., commands.Done]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 5000)
    metadata = {
        "name": "resnet50",
        "input": {"name": "image", "data_type": "UINT8", "shape": [224, 224, 3]},
        "output": {"name": "probabilities", "data_type": "FP32", "shape": [1000]},
    }
    bundle.write(folder, metadata, np.zeros((1, 224, 224, 3), np.uint8), np.zeros((1, 1000), np.float32))
    return folder


@pytest.fixture
def run() -> Run:
    """Runs `model-tools` in this process; test_cli.py starts every verb as one."""
    return commands.model_tools


@pytest.fixture
def refusal(run: Run) -> Callable[..., str]:
    """Runs `model-tools`, which has to fail with status 2, and gives its one line."""
    return lambda *arguments: commands.refused(run(*arguments))
