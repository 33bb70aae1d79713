"""Triton serves the engine that `model-tools engine build` makes, and lives with one that it can't use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from model_tools.bundle import Bundle
from model_tools.cli import cli
from model_tools.console import BadInput
from model_tools.serve import LocalTriton

TOLERANCE = 1e-3  # of a probability, as in test_serving.py
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests here share."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def repository(small_repository: Path, engines: Path) -> Path:
    """A repository whose model has its engine beside it, as the pod's init container leaves it."""
    command = ["engine", "build", "--model", small_repository / "small", "--cache", engines]
    command += ["--values", ROOT / "values" / "local.yaml"]
    cli.main([str(word) for word in command], standalone_mode=False)
    return small_repository


def serve(repository: Path, small: Path) -> str:
    """Triton's log after it answered as ONNX Runtime does."""
    log: list[str] = []
    pictures, expected = Bundle.load(small).reference()
    with LocalTriton(repository, log=log.append, exit_seconds=0) as triton:
        client = triton_grpc.InferenceServerClient(triton.grpc)
        tensor = triton_grpc.InferInput("image", pictures.shape, "UINT8")
        tensor.set_data_from_numpy(pictures)
        answers = client.infer("small", [tensor]).as_numpy("probabilities")
        client.close()
    assert np.abs(answers - expected).max() < TOLERANCE
    return "\n".join(log)


def test_the_engine_is_served_and_needs_no_model_beside_it(repository: Path, small: Path) -> None:
    (repository / "small" / "1" / "model.onnx").unlink()
    assert re.search(r"OpenVINO \S+, precision f32, .*engine loaded in \d", serve(repository, small))


def test_without_an_engine_the_model_is_compiled(repository: Path, small: Path) -> None:
    (repository / "small" / "1" / "model.blob").unlink()
    assert re.search(r"precision f32, .*, compiled in \d", serve(repository, small))


# OpenVINO writes at the blob's begin what it was compiled for.
FOREIGN = {
    "another OpenVINO": (rb"ov=[0-9.]+", b"ov=2019.1.0", "ov=2019.1.0"),
    "another processor": (rb"isa=Intel [A-Z0-9-]+", b"isa=Intel NONE", "isa=Intel NONE"),
}


def foreign(blob: Path, which: str) -> str:
    pattern, instead, named = FOREIGN[which]
    content = blob.read_bytes()
    found = re.search(pattern, content[:400])
    assert found, content[:80]
    padded = instead[: len(found[0])].ljust(len(found[0]))
    blob.write_bytes(content.replace(found[0], padded, 1))
    return named


@pytest.mark.parametrize("which", FOREIGN)
def test_an_engine_for_something_else_is_named_in_a_line_and_the_model_compiled(
    repository: Path, small: Path, which: str
) -> None:
    blob = repository / "small" / "1" / "model.blob"
    named = foreign(blob, which)
    log = serve(repository, small)
    (line,) = (line for line in log.splitlines() if "OpenVINO can't load it" in line)
    assert str(blob) in line
    assert named in line
    assert "compiling model.onnx instead" in line
    assert ", compiled in " in log


@pytest.mark.parametrize("content", [b"", b"no engine", None], ids=["empty", "no engine", "half"])
def test_an_engine_that_is_none_is_named_where_there_is_no_model(
    repository: Path, content: bytes | None
) -> None:
    version = repository / "small" / "1"
    whole = (version / "model.blob").read_bytes()
    (version / "model.blob").write_bytes(whole[: len(whole) // 2] if content is None else content)
    (version / "model.onnx").unlink()
    with (
        pytest.raises(BadInput, match=r"model small version 1 does not load: .*model\.blob: OpenVINO can't"),
        LocalTriton(repository),
    ):
        pass


def test_an_engine_whose_model_has_other_inputs_is_named(
    repository: Path,
) -> None:
    config = repository / "small" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "image"', 'name: "pixels"'))
    with (
        pytest.raises(BadInput, match=r"model\.blob: has input image, and config\.pbtxt pixels"),
        LocalTriton(repository),
    ):
        pass
