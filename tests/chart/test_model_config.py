"""The chart's config.pbtxt is the message that model_tools builds from the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from model_tools.config import ModelConfig
from model_tools.console import BadInput
from model_tools.values import models

from .render import IMAGES, ROOT, Refused, chart, layers, merge, only, render_chart, render_files

FILES = sorted({*(ROOT / "values").rglob("*.yaml")} - {ROOT / "values" / "fleet.yaml"})  # laid under regions

COUNTS = st.integers(min_value=-1, max_value=64)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z_:/.0-9]{1,12}", fullmatch=True),
        "dataType": st.sampled_from(["UINT8", "FP16", "BF16", "FP32", "INT64", "BOOL", "BYTES", "FLOAT"]),
        "shape": st.lists(st.integers(min_value=0, max_value=2**31), max_size=4),
    }
)
QUEUES = st.fixed_dictionaries(
    {}, optional={"maxSize": COUNTS, "timeoutMicroseconds": st.sampled_from([0, 1, 10**4, 10**6, 2**31])}
)
# Parts of a model that may be bad.
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text("abcXYZ019._ -/", max_size=12),
    "runtime": st.sampled_from(["tensorrt", "openvino", "onnxruntime", "tensorflow"]),
    "precision": st.sampled_from(["savedmodel", "fp32", "fp16", "bf16", "int8"]),
    "version": COUNTS,
    "versionPolicy": st.fixed_dictionaries(
        {"kind": st.sampled_from(["specific", "latest", "all", "none"]), "count": COUNTS}
    ),
    "warmup": st.fixed_dictionaries(
        {"enabled": st.booleans(), "data": st.sampled_from(["sample", "random", "zero"])}
    ),
    "responseCache": st.integers(min_value=-1, max_value=2**41),
    "input": TENSORS,
    "output": TENSORS,
    "batching": st.fixed_dictionaries(
        {
            "maxSize": COUNTS,
            "preferredSizes": st.lists(st.integers(min_value=0, max_value=64), max_size=3),
            "maxQueueDelayMicroseconds": st.integers(min_value=-1, max_value=10**4),
            "queue": st.fixed_dictionaries(
                {"maxSize": COUNTS, "timeoutMicroseconds": st.integers(min_value=0, max_value=2**31)}
            ),
            "priorities": st.lists(QUEUES, max_size=3),
            "defaultPriority": st.integers(min_value=-1, max_value=4),
        }
    ),
    "instances": st.fixed_dictionaries(
        {
            "count": COUNTS,
            "kind": st.sampled_from(["gpu", "cpu"]),
            "threads": st.integers(min_value=-1, max_value=8),
            "profiles": st.lists(st.integers(min_value=-1, max_value=3), max_size=3),
        }
    ),
}
ONE_PART = st.sampled_from(sorted(PARTS)).flatmap(lambda key: st.tuples(st.just(key), PARTS[key]))


@st.composite
def valid_models(draw: st.DrawFn) -> dict[str, Any]:
    """Models that the rules allow, spread over all runtimes."""
    runtime, precision, kind = draw(
        st.sampled_from(
            [("tensorrt", p, "gpu") for p in ("fp32", "fp16", "bf16", "int8")]
            + [("openvino", p, "cpu") for p in ("fp32", "bf16", "int8")]
            + [("onnxruntime", p, k) for p in ("fp32", "fp16", "int8") for k in ("gpu", "cpu")]
            + [("tensorflow", "savedmodel", k) for k in ("gpu", "cpu")]
        )
    )
    largest = draw(st.integers(min_value=1, max_value=1024))
    tensor = st.fixed_dictionaries(
        {
            "name": st.from_regex(r"[A-Za-z_:/.0-9]{1,12}", fullmatch=True),
            "dataType": st.sampled_from(["UINT8", "FP16", "BF16", "FP32", "INT64", "BOOL", "BYTES"]),
            "shape": st.lists(st.integers(min_value=1, max_value=2**31 - 1), min_size=1, max_size=4),
        }
    )
    limits = {
        "maxSize": st.integers(0, 2**31 - 1),
        "timeoutMicroseconds": st.sampled_from([0, 10**5, 2**31 - 1]),
    }
    levels = draw(st.lists(st.fixed_dictionaries({}, optional=limits), max_size=4))
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)),
        "runtime": runtime,
        "precision": precision,
        "version": draw(st.integers(min_value=1, max_value=2**31 - 1)),
        "versionPolicy": {
            "kind": draw(st.sampled_from(["specific", "latest", "all"])),
            "count": draw(st.integers(1, 9)),
        },
        "input": draw(tensor),
        "output": draw(tensor),
        "batching": {
            "maxSize": largest,
            "preferredSizes": draw(st.lists(st.integers(1, largest), max_size=4, unique=True)),
            "maxQueueDelayMicroseconds": draw(st.integers(min_value=0, max_value=10**5 - 1)),
            "queue": draw(st.fixed_dictionaries(limits)),
            "priorities": levels,
            "defaultPriority": draw(st.integers(0, len(levels))),
        },
        "instances": {
            "count": draw(st.integers(1, 64)),
            "kind": kind,
            "threads": draw(st.integers(0, 64)) if kind == "cpu" else 0,
            "profiles": draw(st.lists(st.integers(0, 9), unique=True, max_size=3))
            if runtime == "tensorrt"
            else [],
        },
        "warmup": {"enabled": draw(st.booleans()), "data": draw(st.sampled_from(["sample", "random"]))},
        "responseCache": draw(st.sampled_from([0, 1, 2**30, 2**40])),
    }


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


# The source holds plans: engines that pods build have other profiles than any model may name.
REST: dict[str, Any] = {"slo": {"batchSize": 1}, "engine": {"enabled": False}}


def charts_message(model: dict[str, Any]) -> Any:
    """The message in the ConfigMap that these model values give. Raises Refused."""
    files = render_files({"model": model, **REST})
    manifest = yaml.safe_load(files["inference-system/templates/triton/config.yaml"])
    return parse(manifest["data"][f"{model['name']}.pbtxt"])


@pytest.mark.parametrize("file", [None, *FILES], ids=lambda file: "defaults" if file is None else file.stem)
def test_chart_and_model_tools_agree_on_a_values_file(file: Path | None) -> None:
    values = merge(chart().values, IMAGES, *(layers(file) if file else []))
    configurations = only(render_chart(values), "ConfigMap", "-model-config")["data"]
    for path, model in models(values).items():
        given = parse(configurations[f"{model['name']}.pbtxt"])
        assert given == ModelConfig.from_values(model, path).to_proto()


@given(model=valid_models())
def test_chart_and_model_tools_agree_on_every_model(model: dict[str, Any]) -> None:
    assert charts_message(model) == ModelConfig.from_values(model).to_proto()


CHANGES = st.fixed_dictionaries({}, optional=PARTS)


@given(valid=valid_models(), changes=CHANGES)
def test_chart_and_model_tools_lay_an_extra_model_over_the_first_alike(
    valid: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Parts of the changes may be bad, zero or empty."""
    values = {"model": valid, "extraModels": {"an.Extra_1": changes}, **REST}
    try:
        expected = [ModelConfig.from_values(model, path).to_proto() for path, model in models(values).items()]
    except BadInput:
        with pytest.raises(Refused):
            render_files(values)
    else:
        manifest = yaml.safe_load(render_files(values)["inference-system/templates/triton/config.yaml"])
        given = [parse(manifest["data"][f"{name}.pbtxt"]) for name in (valid["name"], "an.Extra_1")]
        assert given == expected


@given(valid=valid_models(), part=ONE_PART)
def test_chart_and_model_tools_refuse_the_same_models(valid: dict[str, Any], part: tuple[str, Any]) -> None:
    """One part of a good model is replaced by one that may be bad."""
    key, value = part
    model = {**valid, key: value}
    try:
        expected = ModelConfig.from_values(model).to_proto()
    except BadInput:
        with pytest.raises(Refused):
            charts_message(model)
    else:
        assert charts_message(model) == expected
