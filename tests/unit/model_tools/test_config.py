"""A model configuration either is valid or says which value is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from model_tools.config import RUNTIMES, VERSION_POLICIES, WARMUP_DATA, ModelConfig
from model_tools.console import BadInput

MODEL: dict[str, Any] = {
    "name": "resnet50",
    "runtime": "openvino",
    "precision": "fp32",
    "version": 1,
    "versionPolicy": {"kind": "specific", "count": 1},
    "input": {"name": "image", "dataType": "UINT8", "shape": [224, 224, 3]},
    "output": {"name": "probabilities", "dataType": "FP32", "shape": [1000]},
    "batching": {
        "maxSize": 16,
        "preferredSizes": [8, 16],
        "maxQueueDelayMicroseconds": 2000,
        "queue": {"maxSize": 128, "timeoutMicroseconds": 1000000},
        "priorities": [],
        "defaultPriority": 0,
    },
    "instances": {"count": 2, "kind": "cpu", "threads": 3, "profiles": []},
    "warmup": {"enabled": True, "data": "sample"},
    "responseCache": 0,
    "source": {"type": "image"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """MODEL with the value at a path such as batching.queue.maxSize replaced."""
    model = copy.deepcopy(MODEL)
    *sections, key = path.split(".")
    section = model
    for name in sections:
        section = section[name]
    section[key] = value
    return model


def without(path: str) -> dict[str, Any]:
    model = changed(path, None)
    *sections, key = path.split(".")
    section = model
    for name in sections:
        section = section[name]
    del section[key]
    return model


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        if f"{path}{key}" != "source":
            found += leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]
    return found


def refused(model: Any) -> str:
    with pytest.raises(BadInput) as error:
        ModelConfig.from_values(model)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_every_value_reaches_config_pbtxt() -> None:
    config = text_format.Parse(ModelConfig.from_values(MODEL).to_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("resnet50", "openvino", 16)
    assert config.default_model_filename == "model.onnx"
    assert list(config.version_policy.specific.versions) == [1]
    (image,), (probabilities,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == (
        "image",
        model_config_pb2.TYPE_UINT8,
        [224, 224, 3],
    )
    assert (probabilities.name, list(probabilities.dims)) == ("probabilities", [1000])
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [8, 16]
    assert batching.max_queue_delay_microseconds == 2000
    queue = batching.default_queue_policy
    assert queue.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert (queue.max_queue_size, queue.default_timeout_microseconds) == (128, 1000000)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {"INFERENCE_PRECISION": "f32", "INFERENCE_NUM_THREADS": "3"}


def proto(model: dict[str, Any]) -> Any:
    return text_format.Parse(ModelConfig.from_values(model).to_text(), model_config_pb2.ModelConfig())


def test_the_first_priority_is_level_1_and_a_level_has_the_common_limits_where_it_states_none() -> None:
    batching = proto(changed("batching.priorities", [{"maxSize": 0}, {}])).dynamic_batching
    assert batching.priority_levels == 2
    limits = {
        level: (queue.max_queue_size, queue.default_timeout_microseconds)
        for level, queue in batching.priority_queue_policy.items()
    }
    assert limits == {1: (0, 1000000), 2: (128, 1000000)}


@pytest.mark.parametrize(("stated", "level"), [(0, 3), (1, 1), (3, 3)])
def test_a_request_without_a_priority_is_the_lowest_unless_a_level_is_named(stated: int, level: int) -> None:
    model = changed("batching.priorities", [{}, {}, {}])
    model["batching"]["defaultPriority"] = stated
    assert proto(model).dynamic_batching.default_priority_level == level


def test_the_warm_up_is_one_picture_and_the_largest_batch() -> None:
    def warm_up(**values: Any) -> list[tuple[int, str, bool]]:
        changes = {"warmup": {**MODEL["warmup"], **values}}
        return [
            (batch.batch_size, batch.inputs["image"].input_data_file, batch.inputs["image"].random_data)
            for batch in proto({**MODEL, **changes}).model_warmup
        ]

    assert warm_up() == [(1, "sample", False), (16, "sample", False)]
    assert warm_up(data="random") == [(1, "", True), (16, "", True)]
    assert warm_up(enabled=False) == []


def test_a_size_turns_the_response_cache_on() -> None:
    assert not proto(MODEL).response_cache.enable
    assert proto(changed("responseCache", 1 << 20)).response_cache.enable


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("specific", {"specific": {"versions": [1]}}),
        ("latest", {"latest": {"num_versions": 2}}),
        ("all", {"all": {}}),
    ],
)
def test_the_version_policy_is_tritons(kind: str, policy: dict[str, Any]) -> None:
    expected = ParseDict(policy, model_config_pb2.ModelVersionPolicy())
    assert proto(changed("versionPolicy", {"kind": kind, "count": 2})).version_policy == expected


# What is wrong, and the start of the sentence that says so.
WRONG = [
    (changed("batching.preferredSizes", [16, 32]), "model.batching.preferredSizes: 32 is above"),
    (changed("batching.preferredSizes", [8, 8]), "model.batching.preferredSizes: [8, 8] names a size twice"),
    (changed("batching.preferredSizes", [0]), "model.batching.preferredSizes: 0 is below 1"),
    (changed("batching.preferredSizes", 16), "model.batching.preferredSizes: is 16, and has to be a list"),
    (changed("batching.maxSize", 0), "model.batching.maxSize: 0 is below 1"),
    (changed("batching.queue.maxSize", -1), "model.batching.queue.maxSize: -1 is below 0"),
    (changed("instances.count", 0), "model.instances.count: 0 is below 1"),
    (changed("instances.count", "two"), "model.instances.count: is 'two', and has to be a whole number"),
    (changed("instances.count", 1.5), "model.instances.count: is 1.5, and has to be a whole number"),
    (changed("instances.count", True), "model.instances.count: is True, and has to be a whole number"),
    (changed("instances.kind", "gpu"), "model.instances.kind: openvino runs on cpu only, not on gpu"),
    (changed("instances.kind", "tpu"), "model.instances.kind: 'tpu' is not gpu or cpu"),
    (changed("precision", "fp16"), "model.precision: 'fp16' can't run on openvino, which"),
    (changed("runtime", "tensorrtt"), "model.runtime: 'tensorrtt' is not one of tensorrt, openvino"),
    (changed("runtime", "tensorflow") | {"precision": "int8"}, "model.precision: 'int8' can't run"),
    (changed("runtime", "tensorrt"), "model.instances.kind: tensorrt runs on gpu only, not on cpu"),
    (changed("input.dataType", "UINT88"), "model.input.dataType: 'UINT88' is not one of BOOL, UINT8"),
    (changed("input.shape", []), "model.input.shape: is empty"),
    (changed("output.shape", [-1]), "model.output.shape: -1 is below 1"),
    (changed("name", "../resnet"), "model.name: '../resnet' may hold letters"),
    (changed("name", ""), "model.name: '' may hold letters"),
    (changed("version", 0), "model.version: 0 is below 1"),
    (changed("batching", [16]), "model.batching: is [16], and has to be a mapping"),
    ({**MODEL, "instances": {"count": 1, "kind": "gpu", "threads": 2, "profiles": []},
      "runtime": "onnxruntime"}, "model.instances.threads: 2 needs kind cpu"),
    (changed("instances.profiles", [0]), "model.instances.profiles: only TensorRT engines have profiles"),
    (changed("instances.profiles", [-1]), "model.instances.profiles: -1 is below 0"),
    (changed("instances.profiles", [1, 1]), "model.instances.profiles: [1, 1] names a profile twice"),
    (changed("versionPolicy.kind", "newest"), "model.versionPolicy.kind: 'newest' is not specific or latest"),
    (changed("versionPolicy.count", 0), "model.versionPolicy.count: 0 is below 1"),
    (changed("warmup.data", "zero"), "model.warmup.data: 'zero' is not sample or random"),
    (changed("warmup.enabled", 1), "model.warmup.enabled: is 1, and has to be true or false"),
    (changed("responseCache", -1), "model.responseCache: -1 is below 0"),
    (changed("batching.defaultPriority", 1), "model.batching.defaultPriority: 1 is no level"),
    (changed("batching.priorities", [16]), "model.batching.priorities[0]: is 16, and has to be a mapping"),
    (changed("batching.priorities", [{}, {"maxSize": -1}]), "model.batching.priorities[1].maxSize: -1 is"),
    (changed("batching.priorities", [{"size": 1}]), "model.batching.priorities[0].size: is not a value that"),
    (changed("batching.priorities", [{"timeoutMicroseconds": 2000}]),
     "model.batching.priorities[0].timeoutMicroseconds: 2000 is not above maxQueueDelayMicroseconds, 2000"),
    (changed("batching.queue.timeoutMicroseconds", 1000),
     "model.batching.queue.timeoutMicroseconds: 1000 is not above maxQueueDelayMicroseconds, 2000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "message"), WRONG, ids=[message.partition(" is")[0] for _, message in WRONG]
)
def test_an_impossible_value_is_named_in_one_line(model: dict[str, Any], message: str) -> None:
    assert refused(model).startswith(message)


@pytest.mark.parametrize("path", leaves(MODEL))
def test_a_missing_value_is_named(path: str) -> None:
    assert refused(without(path)) == f"model.{path}: is missing"


@pytest.mark.parametrize(
    "section",
    ["", "versionPolicy.", "input.", "output.", "batching.", "batching.queue.", "instances.", "warmup."],
)
def test_a_misspelt_key_is_named(section: str) -> None:
    assert (
        refused(changed(f"{section}maxSzie", 1))
        == f"model.{section}maxSzie: is not a value that the chart knows"
    )


NUMBERS = st.integers(1, 4096)
QUEUES = st.fixed_dictionaries(
    {
        "maxSize": st.integers(0, 10**6),
        "timeoutMicroseconds": st.just(0) | st.integers(10**6 + 1, 10**9),
    }
)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Valid values of `model`."""
    runtime = draw(st.sampled_from(sorted(RUNTIMES)))
    _, precisions, kinds = RUNTIMES[runtime]
    kind = draw(st.sampled_from(kinds))
    most = draw(st.integers(1, 256))
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)),
        "runtime": runtime,
        "precision": draw(st.sampled_from(precisions)),
        "version": draw(NUMBERS),
        "versionPolicy": {"kind": draw(st.sampled_from(VERSION_POLICIES)), "count": draw(NUMBERS)},
        "input": {
            "name": draw(st.text(min_size=1)),
            "dataType": "BYTES",
            "shape": draw(st.lists(NUMBERS, min_size=1)),
        },
        "output": {"name": "out", "dataType": "BF16", "shape": [draw(NUMBERS)]},
        "batching": {
            "maxSize": most,
            "preferredSizes": draw(st.lists(st.integers(1, most), unique=True, max_size=5)),
            "maxQueueDelayMicroseconds": draw(st.integers(0, 10**6)),
            "queue": draw(QUEUES),
            "priorities": (levels := draw(st.lists(QUEUES, max_size=3))),
            "defaultPriority": draw(st.integers(0, len(levels))),
        },
        "instances": {
            "count": draw(NUMBERS),
            "kind": kind,
            "threads": draw(st.integers(0, 256)) if kind == "cpu" else 0,
            "profiles": draw(st.lists(st.integers(0, 9), unique=True)) if runtime == "tensorrt" else [],
        },
        "warmup": {"enabled": draw(st.booleans()), "data": draw(st.sampled_from(WARMUP_DATA))},
        "responseCache": draw(st.integers(0, 10**12)),
    }


@given(configurations())
def test_whatever_is_valid_survives_config_pbtxt(model: dict[str, Any]) -> None:
    config = ModelConfig.from_values(model)
    parsed = text_format.Parse(config.to_text(), model_config_pb2.ModelConfig())
    assert parsed == config.to_proto()
    assert parsed.max_batch_size >= max(parsed.dynamic_batching.preferred_batch_size, default=1)
    assert parsed.input[0].name == model["input"]["name"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(path=st.sampled_from(leaves(MODEL)), value=JSON)
def test_any_value_is_taken_or_refused_in_one_line(path: str, value: Any) -> None:
    model = changed(path, value)
    problem = None
    try:
        config = ModelConfig.from_values(model)
    except BadInput as error:
        problem = str(error)
    if problem is None:
        assert config.to_proto().name == config.name
    else:
        assert problem.startswith("model.")
        assert "\n" not in problem
