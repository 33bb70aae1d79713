"""One exported ResNet-50 and one Triton that serves it, for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SIDE, write_small

from model_tools import export as exporting
from model_tools.bundle import Bundle
from model_tools.config import ModelConfig
from model_tools.export import cached_resnet50
from model_tools.files import cached
from model_tools.pictures import pictures
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import Values, load_values, merge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """ResNet-50 with random weights, exported once a machine and kept in the cache."""
    return Bundle.load(cached_resnet50())


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small residual network as `export` would leave it."""
    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    write_small(folder)
    return folder


@pytest.fixture(scope="session")
def keras() -> Any:
    exporting._quiet_tensorflow()
    import keras

    return keras


@pytest.fixture(scope="session")
def mobilenet(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first blocks of MobileNetV2 as a .keras file: depthwise convolutions, ReLU6, linear bottlenecks.

    With random weights and statistics of real pictures its features tell digits apart (94 %); those of the
    whole network, random block after random block, hardly do (28 %).
    """
    keras.utils.set_random_seed(1)
    whole = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, include_top=False)
    features = keras.layers.Flatten()(whole.get_layer("block_6_expand_relu").output)
    model = keras.Model(whole.inputs, keras.layers.Dense(10, activation="softmax")(features))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pictures(16, 64, 64).astype(np.float32) / 127.5 - 1, training=True)
    path = tmp_path_factory.mktemp("models") / "mobilenet.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def mobilenet_folder(request: pytest.FixtureRequest) -> Path:
    """Its model directory, SavedModel included, exported once a machine and kept in the cache."""

    def build(folder: Path) -> None:
        model = str(request.getfixturevalue("mobilenet"))
        exporting.export(folder, model=model, preprocessing="tf", saved_model=True)

    return cached("models", exporting.key(Path(__file__).read_text()), build)


@pytest.fixture(scope="session")
def local_model() -> Values:
    """`model.*` of the values that run without a GPU."""
    model = load_values([ROOT / "values" / "local.yaml"])["model"]
    assert isinstance(model, dict)
    return model


@pytest.fixture(scope="session")
def make_repository(
    bundle: Bundle, local_model: Values, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that writes a model repository, with changes to the values of `model.*`."""

    def make(**changes: Any) -> Path:
        repository = tmp_path_factory.mktemp("repository")
        config = ModelConfig.from_values(merge(local_model, changes))
        write_repository([(bundle, config)], repository)
        return repository

    return make


@pytest.fixture(scope="session")
def small_values(local_model: Values) -> Values:
    """`model.*` of the small network."""
    shapes = {"input": {"shape": [SIDE, SIDE, 3]}, "output": {"shape": [10]}}
    return merge(local_model, {"name": "small", **shapes})


@pytest.fixture
def small_repository(small: Path, small_values: Values, tmp_path: Path) -> Path:
    """A model repository with the small network, for a test to change."""
    repository = tmp_path / "repository"
    write_repository([(Bundle.load(small), ModelConfig.from_values(small_values))], repository)
    return repository


@pytest.fixture(scope="session")
def triton(make_repository: Callable[..., Path]) -> Iterator[LocalTriton]:
    """A real Triton, ready."""
    log: list[str] = []
    try:
        with LocalTriton(make_repository(), log=log.append, exit_seconds=0) as triton:
            yield triton
    finally:
        print("\n".join(log))  # pytest shows it with a failure
