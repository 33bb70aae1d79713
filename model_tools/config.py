"""Triton's model configuration, from the chart's `model.*` values.

A `ModelConfig` that exists is valid: every rule is checked when it is made, and each message begins with the
key path of the value at fault. The chart renders the same configuration as text; a chart test holds the two
equal.

What each value becomes:

| config.pbtxt | values |
|---|---|
| name | model.name |
| backend | model.runtime: tensorrt, openvino, onnxruntime or tensorflow |
| default_model_filename | of the runtime: model.plan, model.onnx, model.onnx, model.savedmodel |
| max_batch_size | model.batching.maxSize |
| version_policy | specific, model.version alone |
| input, output | model.input, model.output; dims are the shape, which has no batch dimension |
| instance_group | model.instances.count of KIND_GPU or KIND_CPU |
| dynamic_batching | model.batching: sizes, delay, a queue that refuses when full or late; 0: no limit |
| parameters | openvino: INFERENCE_PRECISION, INFERENCE_NUM_THREADS; on the CPU with threads above 0, \
  onnxruntime: intra_op_thread_count, tensorflow: TF_NUM_INTRA_THREADS |

`precision` names how the model was built. It reaches config.pbtxt only for openvino, which chooses at load
time; int8 runs as f32 there, because the graph carries its own quantize and dequantize nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_tools.console import BadInput

# runtime: (file in the version's folder, precisions, kinds of instance)
RUNTIMES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "tensorrt": ("model.plan", ("fp32", "fp16", "bf16", "int8"), ("gpu",)),
    "openvino": ("model.onnx", ("fp32", "bf16", "int8"), ("cpu",)),
    "onnxruntime": ("model.onnx", ("fp32", "fp16", "int8"), ("gpu", "cpu")),
    "tensorflow": ("model.savedmodel", ("savedmodel",), ("gpu", "cpu")),
}
OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
THREADS_PARAMETER = {"onnxruntime": "intra_op_thread_count", "tensorflow": "TF_NUM_INTRA_THREADS"}
DATA_TYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAXIMUM = 2**31 - 1


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a request's one item: `shape` is without the batch dimension."""

    name: str
    data_type: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} {list(self.shape)}"


@dataclass(frozen=True)
class Batching:
    """How requests are put together. Times are in microseconds; a queue limit of 0 is no limit."""

    max_size: int
    preferred_sizes: tuple[int, ...] = ()
    max_queue_delay: int = 0
    queue_size: int = 0
    queue_timeout: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """One model as Triton serves it. Raises BadInput when made with values that can't work."""

    name: str
    runtime: str
    precision: str
    version: int
    input: Tensor
    output: Tensor
    batching: Batching
    instances: int
    kind: str
    threads: int = field(default=0)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BadInput(problem)

    def _problems(self) -> Any:
        """The messages of all rules that are broken."""
        if not _NAME.fullmatch(self.name):
            yield f"model.name: {self.name!r} may hold letters, digits, '.', '_' and '-' only"
        if self.runtime not in RUNTIMES:
            yield f"model.runtime: {self.runtime!r} is not one of {', '.join(RUNTIMES)}"
            return
        _, precisions, kinds = RUNTIMES[self.runtime]
        if self.precision not in precisions:
            taken = " or ".join(precisions)
            yield f"model.precision: {self.precision!r} can't run on {self.runtime}, which takes {taken}"
        if self.kind not in ("gpu", "cpu"):
            yield f"model.instances.kind: {self.kind!r} is not gpu or cpu"
        elif self.kind not in kinds:
            yield f"model.instances.kind: {self.runtime} runs on {kinds[0]} only, not on {self.kind}"
        yield from _below("model.version", self.version, 1)
        yield from _below("model.instances.count", self.instances, 1)
        yield from _below("model.instances.threads", self.threads, 0)
        if self.threads > 0 and self.kind == "gpu":
            yield f"model.instances.threads: {self.threads} needs kind cpu; GPU instances take 0"
        for path, tensor in (("model.input", self.input), ("model.output", self.output)):
            if not tensor.name:
                yield f"{path}.name: is empty"
            if tensor.data_type not in DATA_TYPES:
                yield f"{path}.dataType: {tensor.data_type!r} is not one of {', '.join(DATA_TYPES)}"
            if not tensor.shape:
                yield f"{path}.shape: is empty; give the dimensions after the batch's"
            for dimension in tensor.shape:
                yield from _below(f"{path}.shape", dimension, 1)
        yield from self._batching_problems()

    def _batching_problems(self) -> Any:
        batching = self.batching
        yield from _below("model.batching.maxSize", batching.max_size, 1)
        for size in batching.preferred_sizes:
            yield from _below("model.batching.preferredSizes", size, 1)
            if size > batching.max_size:
                most = batching.max_size
                yield f"model.batching.preferredSizes: {size} is above model.batching.maxSize, {most}"
        if len(set(batching.preferred_sizes)) < len(batching.preferred_sizes):
            yield f"model.batching.preferredSizes: {list(batching.preferred_sizes)} names a size twice"
        yield from _below("model.batching.maxQueueDelayMicroseconds", batching.max_queue_delay, 0)
        yield from _below("model.batching.queue.maxSize", batching.queue_size, 0)
        yield from _below("model.batching.queue.timeoutMicroseconds", batching.queue_timeout, 0)

    @property
    def filename(self) -> str:
        """What the version's folder holds."""
        return RUNTIMES[self.runtime][0]

    @classmethod
    def from_values(cls, model: Mapping[str, Any]) -> ModelConfig:
        """From the chart's `model` values. A key missing, misspelt or of a wrong type is BadInput."""
        values = _Section("model", model)
        batching, instances = values.section("batching"), values.section("instances")
        queue = batching.section("queue")
        config = cls(
            name=values.text("name"),
            runtime=values.text("runtime"),
            precision=values.text("precision"),
            version=values.integer("version"),
            input=_tensor(values.section("input")),
            output=_tensor(values.section("output")),
            batching=Batching(
                max_size=batching.integer("maxSize"),
                preferred_sizes=batching.integers("preferredSizes"),
                max_queue_delay=batching.integer("maxQueueDelayMicroseconds"),
                queue_size=queue.integer("maxSize"),
                queue_timeout=queue.integer("timeoutMicroseconds"),
            ),
            instances=instances.integer("count"),
            kind=instances.text("kind"),
            threads=instances.integer("threads"),
        )
        values.ignore("source")  # where the files come from: the pod's business, not Triton's
        for section in (values, batching, queue, instances):
            section.nothing_left()
        return config

    def to_proto(self) -> Any:
        """The `model_config_pb2.ModelConfig` message."""
        from google.protobuf.json_format import ParseDict
        from tritonclient.grpc import model_config_pb2

        return ParseDict(self._as_dict(), model_config_pb2.ModelConfig())

    def to_text(self) -> str:
        """The text of config.pbtxt."""
        from google.protobuf import text_format

        return str(text_format.MessageToString(self.to_proto()))

    def _as_dict(self) -> dict[str, Any]:
        batching = self.batching
        return {
            "name": self.name,
            "backend": self.runtime,
            "default_model_filename": self.filename,
            "max_batch_size": batching.max_size,
            "version_policy": {"specific": {"versions": [self.version]}},
            "input": [_tensor_dict(self.input)],
            "output": [_tensor_dict(self.output)],
            "instance_group": [{"count": self.instances, "kind": f"KIND_{self.kind.upper()}"}],
            "dynamic_batching": {
                "preferred_batch_size": list(batching.preferred_sizes),
                "max_queue_delay_microseconds": batching.max_queue_delay,
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": batching.queue_timeout,
                    "max_queue_size": batching.queue_size,
                },
            },
            "parameters": {key: {"string_value": value} for key, value in self._parameters().items()},
        }

    def _parameters(self) -> dict[str, str]:
        if self.runtime == "openvino":
            return {
                "INFERENCE_PRECISION": OPENVINO_PRECISION[self.precision],
                "INFERENCE_NUM_THREADS": str(self.threads),
            }
        if self.runtime in THREADS_PARAMETER and self.threads > 0:
            return {THREADS_PARAMETER[self.runtime]: str(self.threads)}
        return {}


class _Section:
    """One mapping of the values, whose keys are taken out one by one; what is left over is a misspelling."""

    def __init__(self, path: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise BadInput(f"{path}: is {_kind(values)}, and has to be a mapping")
        self.path = path
        self._left = dict(values)

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise BadInput(f"{self.path}.{key}: is missing")
        return self._left.pop(key)

    def section(self, key: str) -> _Section:
        return _Section(f"{self.path}.{key}", self._take(key))

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str):
            raise BadInput(f"{self.path}.{key}: is {_kind(value)}, and has to be text")
        return value

    def integer(self, key: str) -> int:
        return _integer(f"{self.path}.{key}", self._take(key))

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BadInput(f"{self.path}.{key}: is {_kind(value)}, and has to be a list of whole numbers")
        return tuple(_integer(f"{self.path}.{key}", item) for item in value)

    def ignore(self, key: str) -> None:
        self._left.pop(key, None)

    def nothing_left(self) -> None:
        for key in self._left:
            raise BadInput(f"{self.path}.{key}: is not a value that the chart knows")


def _tensor(section: _Section) -> Tensor:
    tensor = Tensor(section.text("name"), section.text("dataType"), section.integers("shape"))
    section.nothing_left()
    return tensor


def _tensor_dict(tensor: Tensor) -> dict[str, Any]:
    data_type = "STRING" if tensor.data_type == "BYTES" else tensor.data_type
    return {"name": tensor.name, "data_type": f"TYPE_{data_type}", "dims": list(tensor.shape)}


def _integer(path: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Helm's values are JSON, where 16 may come back as 16.0
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{path}: is {_kind(value)}, and has to be a whole number")
    return value


def _kind(value: Any) -> str:
    return "empty" if value is None else repr(value)


def _below(path: str, value: int, least: int) -> Any:
    if value < least:
        yield f"{path}: {value} is below {least}"
    if value > _MAXIMUM:
        yield f"{path}: {value} is above {_MAXIMUM}"
