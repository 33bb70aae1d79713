"""FP16 and INT8 keep a network's accuracy on labelled pictures; what lost it is not served unnoticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import SIDE

from model_tools import bundle as bundles
from model_tools.bundle import Bundle
from model_tools.evaluate import verdict
from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.histogram import Histograms
from model_tools.quantize.placement import place
from tests.commands import model_tools as run

PICTURES = 600  # of the digits, where all would take a while
# Least top-1 of FP32 and largest drop of INT8. Random features tell digits apart by little differences, of
# which INT8 leaves less than of a trained model's; what counts here is that a mistake costs far more.
MODELS = {"small": (90, 3.5), "mobilenet_folder": (90, 2.0)}


def refused(*arguments: object) -> str:
    """The one line of a call that ends with status 2."""
    result = run(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.startswith("model-tools: ")]
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    return lines[0].removeprefix("model-tools: ")


@pytest.fixture(scope="module", autouse=True)
def cache(bundle: Bundle, mobilenet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of this module's own, but for the exported models, which take a minute to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def quantized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, Path]]:
    """(FP32 folder, quantized folder) by model and precision."""
    made = {}
    folder = tmp_path_factory.mktemp("quantized")
    for model in MODELS:
        source = request.getfixturevalue(model)
        for precision in ("fp16", "int8"):
            target = folder / f"{model}-{precision}"
            calibration = ["--calibration", "digits", "--pictures", 128] if precision == "int8" else []
            result = run("quantize", source, target, "--precision", precision, *calibration)
            assert result.returncode == 0, result.stderr
            made[model, precision] = (source, target)
    return made


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("model", MODELS)
def test_accuracy_is_kept_and_the_model_then_served(
    quantized: dict[tuple[str, str], tuple[Path, Path]], tmp_path: Path, model: str, precision: str
) -> None:
    source, target = quantized[model, precision]
    least, drop = MODELS[model]
    loaded = Bundle.load(target)
    assert loaded.metadata["precision"] == precision
    assert (loaded.input, loaded.output) == (Bundle.load(source).input, Bundle.load(source).output)
    smaller = {"fp16": 0.6, "int8": 0.5}[precision]
    assert loaded.model.stat().st_size < Bundle.load(source).model.stat().st_size * smaller

    values = tmp_path / "values.yaml"
    values.write_text(
        json.dumps(
            {
                "model": {
                    "name": "m",
                    "runtime": "onnxruntime",
                    "precision": precision,
                    "input": {"name": "image", "dataType": "UINT8", "shape": list(loaded.input.shape)},
                    "output": {"name": loaded.output.name, "dataType": "FP32", "shape": [10]},
                    "instances": {"count": 1, "kind": "cpu"},
                }
            }
        )
    )
    serve = ["repository", "--model", target, "--values", values, "--output", tmp_path / "repository"]
    (target / verdict.VERDICT).unlink(missing_ok=True)
    assert f"is {precision}, and what that costs in accuracy is not known" in refused(*serve)

    result = run("evaluate", target, "--reference", source, "--pictures", PICTURES, "--json",
                 "--max-top1-drop", drop if precision == "int8" else 0.5)  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((target / verdict.VERDICT).read_text())
    assert found["reference_top1"] > least
    assert found["agreement"] > (99 if precision == "fp16" else 90)
    served = run(*serve)
    assert served.returncode == 0, served.stderr


def test_openvino_says_what_onnxruntime_says(quantized: dict[tuple[str, str], tuple[Path, Path]]) -> None:
    source, target = quantized["small", "int8"]
    found = {}
    for runtime in ("onnxruntime", "openvino"):
        result = run("evaluate", target, "--reference", source, "--runtime", runtime, "--json",
                     "--pictures", PICTURES, "--max-top1-drop", 5)  # fmt: skip
        assert result.returncode == 0, result.stderr
        found[runtime] = json.loads(result.stdout)
    assert found["openvino"]["reference_top1"] == pytest.approx(
        found["onnxruntime"]["reference_top1"], abs=0.2
    )
    # docs/models.md: a processor without VNNI adds up INT8 with less room.
    apart = 1 if "vnni" in Path("/proc/cpuinfo").read_text() else 4
    assert found["openvino"]["top1"] == pytest.approx(found["onnxruntime"]["top1"], abs=apart)


def test_bf16_is_used_where_the_processor_has_it_and_said_where_not(small: Path) -> None:
    import openvino

    there = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    result = run("evaluate", small, "--runtime", "openvino", "--compute", "bf16", "--json", "--pictures", 100,
                 "--max-top1-drop", 100)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["compute"] == ("bf16" if there else "fp32")
    assert ("this processor has no BF16" in result.stderr) != there
    assert refused("evaluate", small, "--compute", "bf16").startswith("--compute: onnxruntime computes")


def test_a_damaged_model_fails_its_gate_and_is_served_on_demand_only(
    quantized: dict[tuple[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    source, target = quantized["small", "int8"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    model = onnx.load(str(target / "model.onnx"))
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("/int8")]
    for tensor in weights[:8]:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.flip(array, 0).copy(), tensor.name))
    (damaged / "model.onnx").write_bytes(model.SerializeToString())
    bundles.write(damaged, Bundle.load(target).metadata, *Bundle.load(target).reference())
    result = run("evaluate", damaged, "--reference", source, "--pictures", PICTURES)
    assert result.returncode == 1
    assert "more than --max-top1-drop 0.5" in result.stderr.splitlines()[-1]
    assert json.loads((damaged / verdict.VERDICT).read_text())["passed"] is False
    serve = ["repository", "--model", damaged, "--output", tmp_path / "repository"]
    assert "evaluation.json: the model failed" in refused(*serve)
    # Past the gate, the chart's values are another model's.
    assert refused(*serve, "--allow-unevaluated").startswith("model.")


def test_a_killed_calibration_is_taken_up_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", images=pixels)
    quantize = ["quantize", small, tmp_path / "int8", "--precision", "int8", "--calibration"]
    quantize += [tmp_path / "pictures.npz", "--pictures", len(pixels), "--method", "max"]
    quantize += ["--no-bias-correction"]
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "model_tools", *map(str, quantize)],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(cache.rglob("histograms.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (state,) = cache.rglob("histograms.npz")
    done = Histograms.load(state).pictures
    assert 0 < done < len(pixels)
    assert not (tmp_path / "int8").exists()

    whole = run(*[tmp_path / "whole" if word == tmp_path / "int8" else word for word in quantize])
    assert whole.returncode == 0, whole.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    resumed = run(*quantize)
    assert resumed.returncode == 0, resumed.stderr
    assert f"({done} of them before)" in resumed.stderr
    assert (tmp_path / "int8" / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()


def test_bad_input_is_one_line_and_leaves_nothing(
    small: Path, quantized: dict[tuple[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    int8 = quantized["small", "int8"][1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "picture.png").write_bytes(b"no picture")
    np.savez(tmp_path / "sizes.npz", images=np.zeros((40, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "few.npz", images=np.zeros((5, SIDE, SIDE, 3), np.uint8))
    before = sorted(tmp_path.iterdir())
    quantize = ["quantize", small, tmp_path / "out", "--precision", "int8"]
    for arguments, message in (
        ([*quantize], "--calibration: INT8 needs pictures"),
        ([*quantize, "--calibration", tmp_path / "none"], "none: no such folder or file"),
        ([*quantize, "--calibration", tmp_path / "empty"], "empty: holds no pictures"),
        ([*quantize, "--calibration", tmp_path / "bad"], "picture.png: is no readable picture"),
        ([*quantize, "--calibration", tmp_path / "sizes.npz"], "holds pictures of [8, 8, 3], and the model"),
        ([*quantize, "--calibration", tmp_path / "few.npz"], "holds 5 pictures, and fewer than 32"),
        ([*quantize, "--calibration", "digits", "--exclude", "Cnov"], "--exclude: Cnov is neither"),
        (["quantize", int8, tmp_path / "out", "--precision", "fp16"], "is int8 already"),
        (["quantize", tmp_path / "empty", tmp_path / "out", "--precision", "fp16"], "SHA256SUMS: is missing"),
        (["evaluate", int8], "--reference: "),
        (["evaluate", int8, "--reference", int8], "is not the model that"),
        (["evaluate", small, "--dataset", tmp_path / "sizes.npz"], "holds pictures of [8, 8, 3]"),
        (["evaluate", small, "--dataset", tmp_path / "few.npz"], "few.npz: has no labels"),
    ):
        assert message in refused(*arguments)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("dimension", "value", "shown"), [(0, 1, r"[1, 32, 32, 3]"), (1, None, r"[?, ?, 32, 3]")]
)
def test_a_model_of_one_batch_size_or_of_any_picture_size_is_refused(
    small: Path, tmp_path: Path, dimension: int, value: int | None, shown: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    model = onnx.load(str(small / "model.onnx"))
    size = model.graph.input[0].type.tensor_type.shape.dim[dimension]
    size.ClearField("dim_param" if value else "dim_value")
    if value:
        size.dim_value = value
    onnx.save(model, folder / "model.onnx")
    bundles.write(folder, Bundle.load(small).metadata, *Bundle.load(small).reference())
    line = refused("quantize", folder, tmp_path / "out", "--precision", "fp16")
    assert f"takes {shown}, and has to take [?, 32, 32, 3]" in line


def test_labels_of_a_data_set_are_the_models_own_classes(small: Path, tmp_path: Path) -> None:
    pixels, answers = Bundle.load(small).reference()
    labels = answers.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 10
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels + 1)
    evaluate = ["evaluate", small, "--dataset", tmp_path / "data.npz"]
    result = run(*evaluate, "--first-label", 1, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["top1"] == 87.5
    if labels.max() == 9:
        assert "has the label 10, and the model the classes 0 to 9" in refused(*evaluate)


def test_every_residual_block_of_resnet50_is_int8_from_end_to_end(bundle: Bundle) -> None:
    graph = Graph.load(bundle.model)
    simplify(graph)
    edges = {edge for places in place(graph).edges.values() for edge in places}
    nodes = graph.nodes
    index = {node.name: number for number, node in enumerate(nodes)}
    kinds = [node.op_type for node in nodes]
    assert [kinds.count(kind) for kind in ("Conv", "Gemm", "Add", "Pad", "Slice")] == [53, 1, 17, 0, 0]
    blocks = [node for node in nodes if node.op_type == "Add" and len(graph.activations(node)) == 2]
    assert len(blocks) == 16
    for add in blocks:
        (skip,) = (one for one in (0, 1) if (index[add.name], one) in edges)
        fused = graph.producer(add.input[1 - skip])
        assert fused is not None
        assert (index[fused.name], 0) in edges
        (relu,) = graph.consumers(add.output[0])
        for reader in graph.consumers(relu.output[0]):
            assert (index[reader.name], list(reader.input).index(relu.output[0])) in edges
    weighted = [number for number, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 54
    assert all((number, 0) in edges for number in weighted)
