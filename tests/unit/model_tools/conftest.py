"""A model directory of the right form around bytes that are no model, and `model-tools` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_tools import bundle

Run = Callable[..., "subprocess.CompletedProcess[str]"]


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
    """Runs `model-tools` as a process."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model_tools", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def refusal(run: Run) -> Callable[..., str]:
    """Runs `model-tools`, which has to fail with status 2, and gives its one line."""

    def refusal(*arguments: object) -> str:
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        return line.removeprefix("model-tools: ")

    return refusal
