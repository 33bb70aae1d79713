"""What an engine saves when Triton starts: `python benchmarks/engine_start.py [ROUNDS]`.

Starts a local Triton by turns on ResNet-50 with its engine beside it and without, and reads from its log how
long the openvino backend took to have the model. Turns, because machines are noisy: the ratio counts.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from pathlib import Path

from model_tools.bundle import Bundle
from model_tools.config import ModelConfig
from model_tools.engine.builders import builder
from model_tools.engine.key import Limits
from model_tools.export import cached_resnet50
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import load_values

ROOT = Path(__file__).parents[1]


def seconds(repository: Path, how: str) -> float:
    """Of a start whose log has to say that the model was had in this way."""
    log: list[str] = []
    with LocalTriton(repository, log=log.append):
        pass
    found = re.search(rf", {how} in ([0-9.]+) s", "\n".join(log))
    assert found, f"Triton did not say {how!r}"
    return float(found[1])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    config = ModelConfig.from_values(load_values([ROOT / "values" / "local.yaml"])["model"])
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        write_repository([(Bundle.load(cached_resnet50()), config)], repository)
        version = repository / config.name / str(config.version)
        limits = Limits(config.precision, config.batching.max_size, (config.batching.max_size,))
        builder("openvino").build(version / "model.onnx", limits, Path(folder) / "engine")
        taken: dict[str, list[float]] = {"compiled": [], "engine loaded": []}
        for _ in range(rounds):
            taken["compiled"].append(seconds(repository, "compiled"))
            (Path(folder) / "engine").rename(version / "model.blob")
            taken["engine loaded"].append(seconds(repository, "engine loaded"))
            (version / "model.blob").rename(Path(folder) / "engine")
    for how, each in taken.items():
        print(f"{how}: {statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})")
    ratios = [a / b for a, b in zip(*taken.values(), strict=True)]
    print(f"compiled/loaded: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
