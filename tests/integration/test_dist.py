"""The wheel that `make dist` writes works alone: outside the checkout, with nothing of it in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from charts import dist
from model_tools.bundle import Bundle

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "dev.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dist.wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment that holds the wheel and what it depends on, at the locked versions."""
    folder = tmp_path_factory.mktemp("elsewhere")
    uv = Path(sys.executable).parent / "uv"
    constraints = folder / "constraints.txt"
    pins = [
        line for line in LOCK.read_text().splitlines() if "==" in line and not line.startswith(("#", " "))
    ]
    constraints.write_text("\n".join(pin.rstrip(" \\") for pin in pins))
    python = folder / "env" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "env"], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--constraint", constraints, wheel]
    subprocess.run(install, check=True, cwd=folder, timeout=300)
    return folder


def run(elsewhere: Path, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [elsewhere / "env" / "bin" / command, *map(str, arguments)],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["model-tools", "loadtest"])
def test_a_command_of_the_wheel_starts(elsewhere: Path, command: str) -> None:
    ended = run(elsewhere, command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def test_the_wheel_writes_a_model_repository(elsewhere: Path, bundle: Bundle, tmp_path: Path) -> None:
    """The chart's defaults travel in the wheel: only what differs from them is given."""
    values = tmp_path / "values.yaml"
    values.write_text(
        "model: {runtime: openvino, precision: fp32, instances: {count: 1, kind: cpu, threads: 0}}"
    )
    ended = run(
        elsewhere, "model-tools", "repository", "--values", values, "--model", bundle.folder,
        "--output", tmp_path / "repository",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "max_batch_size: 16" in (tmp_path / "repository" / "resnet50" / "config.pbtxt").read_text()
