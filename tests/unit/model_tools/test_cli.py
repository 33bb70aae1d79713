"""The command line: its help is quick, and bad input is one line and status 2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_tools.cli import VERBS
from tests.commands import process, refused

ROOT = Path(__file__).parents[3]
LOCAL = ROOT / "values" / "local.yaml"
HEAVY = (
    "tensorflow",
    "keras",
    "openvino",
    "onnx",
    "onnxruntime",
    "numpy",
    "skimage",
    "google",
    "grpc",
    "tritonclient",
)


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys, click; from model_tools.cli import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: ")
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["exprot"], "exprot"),
        (["export"], "--output"),
        (["export", "--output", "x", "--input-type", "int4"], "int4"),
        (["serve", "/nowhere"], "/nowhere: no such folder"),
        (["repository", "--model", "/nowhere", "--output", "/tmp/never"], "/nowhere: no such folder"),
        (["fetch", "/nowhere", "/tmp/never"], "/nowhere/SHA256SUMS: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_named_in_one_line(arguments: list[str], named: str) -> None:
    """By a process, whose exit status and output a user sees."""
    values = ["--values", LOCAL] if arguments[0] == "repository" else []
    assert named in refused(process("model_tools", *arguments, *values))


class TestRepository:
    def test_holds_the_model_and_its_configuration(self, run: Any, model: Path, tmp_path: Path) -> None:
        result = run("repository", "--model", model, "--values", LOCAL, "--output", tmp_path / "repository")
        assert result.returncode == 0, result.stderr
        served = tmp_path / "repository" / "resnet50"
        assert (served / "1" / "model.onnx").read_bytes() == (model / "model.onnx").read_bytes()
        assert (served / "warmup" / "sample").read_bytes() == (model / "warmup" / "sample").read_bytes()
        config = text_format.Parse((served / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (config.name, config.backend) == ("resnet50", "openvino")

    def test_holds_every_model_of_the_release(
        self, refusal: Callable[..., str], run: Any, model: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other=one"
        shutil.copytree(model, other)
        values = tmp_path / "values.yaml"
        values.write_text(
            "extraModels: {small.fast: {version: 7, batching: {maxSize: 4, preferredSizes: []}}}"
        )
        output = tmp_path / "repository"
        arguments = ["repository", "--values", LOCAL, "--values", values, "--output", output]

        line = refusal(*arguments, "--model", model)
        assert line == "extraModels.small.fast: give its model directory, --model small.fast=DIR"
        line = refusal(*arguments, "--model", f"small.fast={other}")
        assert line == "model: give its model directory, --model resnet50=DIR"
        both = ["--model", other, "--model", f"small.fast={model}"]
        assert "the values have no model tiny, only resnet50, small.fast" in refusal(
            *arguments, *both, "--model", f"tiny={model}"
        )
        assert f"resnet50 has the folder {other} already" in refusal(
            *arguments, *both, "--model", f"resnet50={model}"
        )
        assert not output.exists()

        result = run(*arguments, *both)
        assert result.returncode == 0, result.stderr
        assert {file.parent.name for file in output.glob("*/config.pbtxt")} == {"resnet50", "small.fast"}
        assert (output / "small.fast" / "7" / "model.onnx").exists()
        text = (output / "small.fast" / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.name, config.max_batch_size) == ("small.fast", 4)

    def test_a_value_of_one_of_several_models_is_named_with_its_place(
        self, refusal: Callable[..., str], model: Path, tmp_path: Path
    ) -> None:
        values = tmp_path / "values.yaml"
        values.write_text("extraModels: {small: {input: {shape: [32, 32, 3]}}}")
        models = ["--model", model, "--model", f"small={model}", "--output", tmp_path / "repository"]
        line = refusal("repository", "--values", LOCAL, "--values", values, *models)
        assert line.startswith("extraModels.small.input.shape: is [32, 32, 3], and the model in ")

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ("model: {batching: {preferredSizes: [32]}}", "model.batching.preferredSizes: 32 is above"),
            ("model: {instances: {count: 0}}", "model.instances.count: 0 is below 1"),
            ("model: {runtme: openvino}", "model.runtme: is not a value that the chart knows"),
            ("model: {input: {shape: [299, 299, 3]}}", "model.input.shape: is [299, 299, 3], and the model"),
            ("model: {input: {dataType: FP32}}", "model.input.dataType: is FP32, and the model"),
            ("model: {output: {name: logits}}", "model.output.name: is logits, and the model"),
            (
                "model: {runtime: tensorrt, instances: {kind: gpu}}",
                "model.runtime: tensorrt serves a model.plan",
            ),
            ("model: [", "changes.yaml: not YAML in line 1"),
        ],
    )
    def test_values_that_can_not_work_are_refused_and_what_was_there_stays(
        self, refusal: Callable[..., str], run: Any, model: Path, tmp_path: Path, values: str, named: str
    ) -> None:
        arguments = ["repository", "--model", model, "--output", tmp_path / "repository", "--values", LOCAL]
        assert run(*arguments).returncode == 0
        before = {file: file.read_bytes() for file in (tmp_path / "repository").rglob("*") if file.is_file()}
        changes = tmp_path / "changes.yaml"
        changes.write_text(values)
        assert named in refusal(*arguments, "--values", changes)
        after = {file: file.read_bytes() for file in (tmp_path / "repository").rglob("*") if file.is_file()}
        assert after == before

    def test_a_model_without_a_sample_is_served_with_random_warm_up(
        self, refusal: Callable[..., str], run: Any, model: Path, tmp_path: Path
    ) -> None:
        sums = [line for line in (model / "SHA256SUMS").read_text().splitlines(True) if "warmup" not in line]
        (model / "SHA256SUMS").write_text("".join(sums))
        (model / "warmup" / "sample").unlink()
        arguments = ["repository", "--model", model, "--values", LOCAL, "--output", tmp_path / "repository"]
        assert refusal(*arguments).startswith("model.warmup.data: is sample, and ")
        changes = tmp_path / "changes.yaml"
        changes.write_text("model: {warmup: {data: random}}")
        assert run(*arguments, "--values", changes).returncode == 0

    @pytest.mark.parametrize("content", [b"", b"other"], ids=["empty", "corrupt"])
    @pytest.mark.parametrize("name", ["model.onnx", "model.json", "SHA256SUMS"])
    def test_a_broken_file_of_the_model_is_named(
        self, refusal: Callable[..., str], model: Path, tmp_path: Path, name: str, content: bytes
    ) -> None:
        (model / name).write_bytes(content)
        output = tmp_path / "repository"
        line = refusal("repository", "--model", model, "--values", LOCAL, "--output", output)
        assert line.startswith(str(model / name))
        assert not output.exists()

    def test_a_folder_of_something_else_is_not_replaced(
        self, refusal: Callable[..., str], model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "letter.txt").write_text("dear")
        line = refusal("repository", "--model", model, "--values", LOCAL, "--output", tmp_path / "home")
        assert "is not empty" in line
        assert (tmp_path / "home" / "letter.txt").exists()


class TestExport:
    """What is found before TensorFlow is loaded."""

    @pytest.mark.parametrize(
        ("files", "model", "named"),
        [
            ({}, "none", "none: no such SavedModel folder or .keras file"),
            ({"saved/readme": "x"}, "saved", "saved: is no SavedModel"),
            ({"saved/saved_model.pb": ""}, "saved", "saved_model.pb: is empty"),
            ({"net.keras": ""}, "net.keras", "net.keras: is empty"),
            ({"net.keras": "x"}, "net.keras", "net.keras: is no .keras file"),
            ({"net.h5": "x"}, "net.h5", "net.h5: is neither a SavedModel folder nor a .keras file"),
        ],
    )
    def test_a_model_that_is_not_there_is_named(
        self, refusal: Callable[..., str], tmp_path: Path, files: dict[str, str], model: str, named: str
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        output = tmp_path / "output"
        assert named in refusal("export", "--model", tmp_path / model, "--output", output)
        assert not output.exists()

    def test_weights_that_are_not_there_are_named(self, refusal: Callable[..., str], tmp_path: Path) -> None:
        line = refusal("export", "--weights", "none.h5", "--output", tmp_path / "output")
        assert line.startswith("--weights: none.h5: no such file")

    def test_an_output_that_can_not_be_written_is_named(
        self, refusal: Callable[..., str], tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        line = refusal("export", "--output", tmp_path / "file" / "model")
        assert line.startswith(f"{tmp_path}/file/model: can't be written")
