"""Triton with the tensorflow backend serves what `export --saved-model` writes: the baseline of a ladder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from model_tools.bundle import SAVED_MODEL, SUMS, Bundle
from model_tools.config import ModelConfig
from model_tools.console import BadInput
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import Values, merge

TOLERANCE = 1e-5  # of a probability: the same library, other sums' order


@pytest.fixture(scope="module")
def exported(mobilenet_folder: Path) -> Bundle:
    return Bundle.load(mobilenet_folder)


def configuration(bundle: Bundle, local_model: Values, **changes: Any) -> ModelConfig:
    tensors = {kind: bundle.metadata[kind] for kind in ("input", "output")}
    named = {kind: {"name": tensor["name"], "shape": tensor["shape"]} for kind, tensor in tensors.items()}
    model: Values = {
        "name": bundle.metadata["name"],
        "runtime": "tensorflow",
        "precision": "savedmodel",
        **named,
    }
    return ModelConfig.from_values(merge(merge(local_model, model), changes))


@pytest.fixture(scope="module")
def served(
    exported: Bundle, local_model: Values, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalTriton, ModelConfig]]:
    repository = tmp_path_factory.mktemp("tensorflow")
    config = configuration(exported, local_model, instances={"threads": 1})
    write_repository([(exported, config)], repository)
    log: list[str] = []
    try:
        with LocalTriton(repository, log=log.append, timeout=300, exit_seconds=0) as triton:
            assert any("1 threads, loaded in" in line for line in log)
            yield triton, config
    finally:
        print("\n".join(log))  # pytest shows it with a failure


def infer(triton: LocalTriton, config: ModelConfig, pictures: Any) -> Any:
    with triton_grpc.InferenceServerClient(triton.grpc) as client:
        tensor = triton_grpc.InferInput(config.input.name, pictures.shape, np_to_triton_dtype(pictures.dtype))
        tensor.set_data_from_numpy(pictures)
        return client.infer(config.name, [tensor]).as_numpy(config.output.name)


def test_a_batch_has_the_numbers_that_tensorflow_gives(
    served: tuple[LocalTriton, ModelConfig], exported: Bundle
) -> None:
    pictures, expected = exported.reference()
    answers = infer(*served, pictures)
    assert np.abs(answers - expected).max() < TOLERANCE
    assert np.abs(np.diff(expected, axis=0)).max() > 10 * TOLERANCE


def test_each_request_of_a_dynamic_batch_gets_its_own_answer(
    served: tuple[LocalTriton, ModelConfig], exported: Bundle
) -> None:
    pictures, expected = exported.reference()
    with ThreadPoolExecutor(len(pictures)) as pool:
        answers = list(pool.map(lambda picture: infer(*served, picture[None])[0], pictures))
    assert np.abs(np.stack(answers) - expected).max() < TOLERANCE


def test_the_savedmodel_has_checksums_like_the_rest(exported: Bundle) -> None:
    sums = (exported.folder / SUMS).read_text()
    assert f"{SAVED_MODEL}/saved_model.pb\n" in sums
    assert f"{SAVED_MODEL}/variables/variables.data-00000-of-00001\n" in sums


def test_a_model_without_it_is_refused_by_name(exported: Bundle, local_model: Values, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("model.onnx", "model.json"):
        (bare / file).write_bytes((exported.folder / file).read_bytes())
    bundle = Bundle(bare, json.loads((bare / "model.json").read_text()))
    with pytest.raises(
        BadInput, match=r"tensorflow serves a model\.savedmodel, and .*bare holds a model\.onnx"
    ):
        write_repository([(bundle, configuration(exported, local_model))], tmp_path / "repository")


def test_a_signature_with_other_names_is_refused_with_both(
    exported: Bundle, local_model: Values, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    config = configuration(exported, local_model)
    write_repository([(exported, config)], repository)
    file = repository / config.name / "config.pbtxt"
    file.write_text(file.read_text().replace(f'"{config.output.name}"', '"scores"'))
    with (
        pytest.raises(BadInput, match=f"has output {config.output.name}, and config.pbtxt scores"),
        LocalTriton(repository, timeout=300, exit_seconds=0),
    ):
        pass


def test_pictures_of_another_size_are_refused(
    served: tuple[LocalTriton, ModelConfig], exported: Bundle
) -> None:
    with pytest.raises(InferenceServerException, match="shape"):
        infer(*served, exported.reference()[0][:, :32])
