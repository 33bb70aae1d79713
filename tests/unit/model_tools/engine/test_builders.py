"""What can be said of the builders without a GPU, and OpenVINO's for real on a small model."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_tools.config import ModelConfig
from model_tools.console import BadInput
from model_tools.engine.builders import builder, tensorrt
from model_tools.engine.builders.tensorrt import shapes, way
from model_tools.engine.command import preferred_sizes
from model_tools.engine.key import Limits
from model_tools.engine.trt import FLAGS, GENERATIONS
from model_tools.values import load_values, merge

FP16 = Limits("fp16", maximum=16, preferred=(8,))


class TestTensorRT:
    def test_a_profile_holds_one_picture_to_the_largest_batch(self) -> None:
        small, best, large = shapes("image", (-1, 224, 224, 3), preferred=8, maximum=16)
        assert (small, best, large) == ((1, 224, 224, 3), (8, 224, 224, 3), (16, 224, 224, 3))
        assert builder("tensorrt").profile(FP16) == {"min": 1, "opt": [8], "max": 16}

    def test_what_the_build_is_told_is_in_the_key(self) -> None:
        limits = Limits("fp16", 16, (16,), level=2, workspace=1 << 30)
        assert builder("tensorrt").settings(limits) == {"level": 2, "workspace": 1 << 30}
        assert builder("openvino").settings(limits) == {}

    def test_a_model_of_one_batch_size_takes_that_alone(self) -> None:
        assert shapes("image", (16, 3), 8, 16) == ((16, 3), (16, 3), (16, 3))
        with pytest.raises(BadInput, match="--max-batch: is 16, and input image takes batches of 4"):
            shapes("image", (4, 3), 8, 16)

    @pytest.mark.parametrize("shape", [(), (-1, -1, 224, 3), (16, 224, -1, 3)])
    def test_any_other_unknown_size_is_named(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(BadInput, match=r"input image is.*export the model with fixed sizes"):
            shapes("image", shape, 8, 16)

    def test_every_precision_has_its_flags(self) -> None:
        assert set(FLAGS) == set(builder("tensorrt").precisions)

    @pytest.mark.parametrize(
        ("major", "precision", "carried", "calibrated", "typed"),
        [
            (8, "fp32", "", False, False),
            (8, "fp16", "", False, False),
            (8, "fp16", "fp16", False, False),
            (8, "int8", "int8", False, False),
            (8, "int8", "", True, False),
            (10, "fp32", "", False, False),
            (10, "tf32", "", False, False),
            (10, "fp16", "", False, False),
            (10, "fp16", "fp16", False, True),
            (10, "bf16", "", False, False),
            (10, "int8", "int8", False, False),  # flags give the rest FP16
            (10, "int8", "int8 fp16", False, True),
            (10, "int8", "", True, False),
            (11, "fp32", "", False, True),
            (11, "fp16", "fp16", False, True),
            (11, "int8", "int8", False, True),
            (11, "int8", "int8 fp16", False, True),
        ],
    )
    def test_each_generation_takes_a_precision_its_way(
        self, major: int, precision: str, carried: str, calibrated: bool, typed: bool
    ) -> None:
        assert way(GENERATIONS[major], precision, frozenset(carried.split()), calibrated) is typed

    @pytest.mark.parametrize(
        ("major", "precision", "carried", "calibrated", "named"),
        [
            (10, "fp32", "fp16", False, "--precision: is fp32, and model.onnx is fp16"),
            (10, "fp16", "int8", False, "--precision: is fp16, and model.onnx is quantized to int8"),
            (10, "bf16", "fp16", False, "--precision: is bf16, and model.onnx is fp16"),
            (10, "int8", "", False, "neither quantize nodes nor a calibration.cache: model-tools quantize"),
            (8, "bf16", "", False, "--precision: TensorRT 8 has no bf16"),
            (11, "fp16", "", False, "model-tools quantize --precision fp16 writes one"),
            (11, "int8", "", True, "has no quantize nodes: model-tools quantize makes one"),
        ],
    )
    def test_a_precision_that_nothing_can_give_is_named_with_what_to_do(
        self, major: int, precision: str, carried: str, calibrated: bool, named: str
    ) -> None:
        with pytest.raises(BadInput, match=named):
            way(GENERATIONS[major], precision, frozenset(carried.split()), calibrated)

    @pytest.mark.parametrize(("version", "precision", "rewritten"), [
        ("8.6.1", "int8", True), ("8.6.1", "fp16", False), ("10.6.0", "int8", False),
    ])  # fmt: skip
    def test_8_alone_is_given_int8_weights_as_floats(
        self, monkeypatch: pytest.MonkeyPatch, version: str, precision: str, rewritten: bool
    ) -> None:
        read: list[Any] = []
        network = SimpleNamespace(num_layers=0)
        monkeypatch.setattr(tensorrt, "with_float_weights", lambda model: b"with floats")
        monkeypatch.setattr(tensorrt, "_parsed", lambda *given: read.append(given[-1]) or (network, None))
        monkeypatch.setattr(tensorrt, "_carried", lambda *given: frozenset({precision}))
        trt = SimpleNamespace(
            __version__=version, DataType=None,
            NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1),
        )  # fmt: skip
        builder("tensorrt")._network(trt, None, None, Path("model.onnx"), precision)
        assert (b"with floats" in read) is rewritten

    @pytest.mark.parametrize(("version", "hint"), [
        ("8.6.1", "; of INT8 models it takes those of model-tools quantize --rest fp32"), ("10.6.0", ""),
    ])  # fmt: skip
    def test_a_node_that_the_parser_refuses_does_not_make_the_file_none(
        self, version: str, hint: str
    ) -> None:
        """As 8.6.1 said of scales in FP16; its errors name no operator."""
        said = 'Assertion failed: scaleAllPositive && "Scale coefficients must all be positive"'
        error = SimpleNamespace(code=lambda: "ErrorCode.INVALID_NODE", desc=lambda: said)
        assert tensorrt._refusal(Path("model.onnx"), version, [error]) == (
            f"model.onnx: TensorRT {version} can't take it: {said}{hint}"
        )


class TestPreferredSizes:
    @staticmethod
    def of(**model: Any) -> tuple[int, ...]:
        return preferred_sizes(ModelConfig.from_values(merge(load_values([])["model"], model)))

    def test_the_largest_where_instances_name_no_profiles(self) -> None:
        assert self.of(batching={"maxSize": 32, "preferredSizes": [4, 16]}) == (16,)
        assert self.of(batching={"maxSize": 32, "preferredSizes": []}) == (32,)

    def test_one_profile_for_each_preferred_size_up_to_the_last_that_is_named(self) -> None:
        sizes = {"maxSize": 32, "preferredSizes": [4, 16, 32]}
        assert self.of(batching=sizes, instances={"profiles": [1]}) == (4, 16)
        with pytest.raises(BadInput, match=r"model\.instances\.profiles: names profile 3"):
            self.of(batching=sizes, instances={"profiles": [0, 3]})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a model of one addition, [N, 4]."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", numbers, ["n", 4])
    made = helper.make_tensor_value_info("y", numbers, ["n", 4])
    one = helper.make_tensor("one", numbers, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "small", [given], [made], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model").mkdir()
    onnx.save(model, tmp_path / "model" / "model.onnx")
    return tmp_path / "model"


class TestCommand:
    """The command, with OpenVINO itself."""

    @pytest.fixture
    def engine(self, run: Any, tmp_path: Path) -> Callable[..., Any]:
        def engine(folder: Path, *more: object, runtime: str = "openvino", precision: str = "fp32") -> Any:
            return run(
                "engine", "build", "--model", folder, "--output", tmp_path / "out", "--runtime", runtime,
                "--cache", tmp_path / "cache", "--precision", precision, "--max-batch", 4, *more,
            )  # fmt: skip

        return engine

    def test_builds_once_then_finds_it_and_the_engine_computes(
        self, engine: Any, run: Any, small: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("openvino")
        first = engine(small)
        assert (first.returncode, first.stdout.count(" s and stored in the cache\n")) == (0, 1), first.stderr
        second = engine(small, "--json")
        assert json.loads(second.stdout)["found"] is True
        assert engine(small).stdout.endswith(": found in the cache\n")

        import numpy as np
        import openvino

        blob = (tmp_path / "out" / "model.blob").read_bytes()
        compiled = openvino.Core().import_model(blob, "CPU")
        (answer,) = compiled([np.zeros((3, 4), np.float32)]).values()
        assert answer.tolist() == np.ones((3, 4)).tolist()

        listed = run("engine", "list", tmp_path / "cache", "--json")
        assert listed.returncode == 0
        (entry,) = json.loads(listed.stdout)
        assert entry["parts"]["runtime"] == "openvino"
        (tmp_path / "cache" / entry["name"] / "engine").write_bytes(blob[:-1])
        listed = run("engine", "list", tmp_path / "cache")
        assert listed.returncode == 1
        assert "is truncated" in listed.stdout
        assert listed.stderr.count("\n") == 1

    def test_a_build_removes_what_nobody_took_for_long_and_nothing_else(
        self, engine: Any, run: Any, small: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("openvino")
        own = json.loads(engine(small, "--json").stdout)["key"]
        other = tmp_path / "cache" / ("0" * 64)
        shutil.copytree(tmp_path / "cache" / own, other)
        for folder in (other, other.with_name(own)):
            os.utime(folder, (0, 0))
        assert engine(small).stderr == ""
        done = engine(small, "--keep-days", 30)
        assert done.stdout.endswith(": found in the cache\n")
        assert re.fullmatch(r"0{12}  [0-9.]+ MiB, not used for \d+ days: removed\n", done.stderr)
        assert not other.exists()

        prune = ["engine", "prune", tmp_path / "cache", "--keep-days"]
        assert run(*prune, 1).stdout == "0 removed, 0.0 MiB\n"
        os.utime(tmp_path / "cache" / own / "used", (0, 0))
        (removed,) = json.loads(run(*prune, 1, "--json").stdout)
        assert removed["name"] == own
        done = run("engine", "prune", tmp_path / "none", "--keep-days", 1)
        assert (done.returncode, done.stderr) == (
            2, f"model-tools: {tmp_path}/none: no such file or directory\n",
        )  # fmt: skip

    def test_another_batch_size_needs_no_other_engine_but_another_model_does(
        self, engine: Any, small: Path
    ) -> None:
        pytest.importorskip("openvino")
        engine(small)
        assert json.loads(engine(small, "--max-batch", 32, "--json").stdout)["found"] is True
        import onnx

        model = onnx.load(small / "model.onnx")
        model.graph.initializer[0].float_data[0] = 2.0
        onnx.save(model, small / "model.onnx")
        assert json.loads(engine(small, "--json").stdout)["found"] is False

    def test_what_is_no_model_is_named(self, engine: Any, small: Path) -> None:
        pytest.importorskip("openvino")
        (small / "model.onnx").write_bytes(b"this is not a model")
        done = engine(small)
        assert done.returncode == 2
        assert "model.onnx: is no ONNX model" in done.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"runtime": "tensorflow"}, "--runtime: tensorflow has no engines; openvino and tensorrt have"),
            (
                {"precision": "fp16"},
                "--precision: fp16 can't run on openvino, which takes fp32 or bf16 or int8",
            ),
            ({"runtime": "tensorrt"}, "--runtime: tensorrt is not installed here"),
        ],
    )
    def test_bad_input_is_one_line(
        self, engine: Any, small: Path, options: dict[str, str], named: str
    ) -> None:
        done = engine(small, **options)
        assert done.returncode == 2
        assert done.stderr.startswith(f"model-tools: {named}")
        assert done.stderr.count("\n") == 1

    def test_a_model_or_a_cache_that_is_not_there_is_named(
        self, engine: Any, run: Any, tmp_path: Path
    ) -> None:
        done = engine(tmp_path / "none")
        assert (done.returncode, done.stderr) == (
            2, f"model-tools: {tmp_path}/none/model.onnx: no such folder\n",
        )  # fmt: skip
        done = run("engine", "list", tmp_path / "none")
        assert (done.returncode, done.stderr) == (
            2, f"model-tools: {tmp_path}/none: no such file or directory\n",
        )  # fmt: skip

    def test_values_say_what_no_option_does(self, run: Any, small: Path, tmp_path: Path) -> None:
        pytest.importorskip("openvino")
        values = tmp_path / "values.yaml"
        values.write_text(
            "model: {runtime: openvino, precision: fp32, instances: {kind: cpu},"
            " batching: {maxSize: 8, preferredSizes: [4, 8]}}"
        )
        done = run(
            "engine", "build", "--model", small, "--output", tmp_path / "out", "--values", values, "--json"
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["parts"]["precision"] == "fp32"
        described = json.loads((tmp_path / "out" / "model.blob.json").read_text())
        assert described["key"]["runtime"] == "openvino"
        inspected = run("engine", "inspect", tmp_path / "out" / "model.blob")
        assert inspected.returncode == 0, inspected.stderr
        assert inspected.stdout.startswith("model.blob: openvino ")

    def test_values_that_the_chart_refuses_are_named(self, run: Any, small: Path, tmp_path: Path) -> None:
        values = tmp_path / "values.yaml"
        values.write_text("model: {batching: {maxsize: 8}}")
        done = run("engine", "build", "--model", small, "--values", values)
        assert (done.returncode, done.stderr) == (
            2, "model-tools: model.batching.maxsize: is not a value that the chart knows\n",
        )  # fmt: skip
