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
| version_policy | model.versionPolicy: specific (model.version alone), the latest few, or all |
| input, output | model.input, model.output; dims are the shape, which has no batch dimension |
| instance_group | model.instances: count of KIND_GPU or KIND_CPU, optimization profiles |
| dynamic_batching | model.batching: sizes, delay, a queue that refuses when full or late; 0: no limit; \
  each of model.batching.priorities has a queue of its own, the first is level 1, the highest |
| model_warmup | model.warmup: batches of 1 and of maxSize, of a real picture or of random numbers |
| response_cache | on where model.responseCache is above 0 |
| parameters | openvino: INFERENCE_PRECISION, INFERENCE_NUM_THREADS; on the CPU with threads above 0, \
  onnxruntime: intra_op_thread_count, tensorflow: TF_NUM_INTRA_THREADS |

`precision` names how the model was built. It reaches config.pbtxt only for openvino, which chooses at load
time; int8 runs as f32 there, because the graph carries its own quantize and dequantize nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
WARMUP_SAMPLE = "sample"  # file with the bytes of one request's input, where Triton looks: NAME/warmup/
WARMUP_DATA = ("sample", "random")
VERSION_POLICIES = ("specific", "latest", "all")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAXIMUM = 2**31 - 1
MAXIMUM_BYTES = 2**40


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a request's one item: `shape` is without the batch dimension."""

    name: str
    data_type: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.data_type} {list(self.shape)}"


@dataclass(frozen=True)
class Queue:
    """Requests that wait: how many, and for how long in microseconds. A limit of 0 is none."""

    size: int = 0
    timeout: int = 0


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    `max_queue_delay` is in microseconds. `priorities` are the queues of the priority levels, the highest
    first; none: all requests are equal. `default_priority` is the level, counted from 1, of a request that
    names none; 0 is the lowest.
    """

    max_size: int
    preferred_sizes: tuple[int, ...] = ()
    max_queue_delay: int = 0
    queue: Queue = Queue()
    priorities: tuple[Queue, ...] = ()
    default_priority: int = 0


@dataclass(frozen=True)
class Instances:
    """Copies of the model: `kind` is gpu or cpu, `profiles` are indices of a TensorRT engine's profiles."""

    count: int
    kind: str
    threads: int = 0
    profiles: tuple[int, ...] = ()


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions are served: `kind` is one of VERSION_POLICIES, `count` is for latest."""

    kind: str = "specific"
    count: int = 1


@dataclass(frozen=True)
class ModelConfig:
    """One model as Triton serves it. Raises BadInput when made with values that can't work.

    `response_cache` is this model's part of the cache in bytes, 0 for none; `warmup` is one of WARMUP_DATA,
    or None for no warm-up. `path` is where its values stand, for messages.
    """

    name: str
    runtime: str
    precision: str
    version: int
    input: Tensor
    output: Tensor
    batching: Batching
    instances: Instances
    version_policy: VersionPolicy = VersionPolicy()
    response_cache: int = 0
    warmup: str | None = None
    path: str = field(default="model", compare=False)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BadInput(f"{self.path}.{problem}")

    def _problems(self) -> Iterator[str]:
        """The messages of all rules that are broken; each begins with its key's place below `path`."""
        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} may hold letters, digits, '.', '_' and '-' only"
        if self.runtime not in RUNTIMES:
            yield f"runtime: {self.runtime!r} is not one of {', '.join(RUNTIMES)}"
            return
        _, precisions, _ = RUNTIMES[self.runtime]
        if self.precision not in precisions:
            taken = " or ".join(precisions)
            yield f"precision: {self.precision!r} can't run on {self.runtime}, which takes {taken}"
        yield from self._version_problems()
        yield from _tensor_problems("input", self.input)
        yield from _tensor_problems("output", self.output)
        yield from self._instance_problems()
        yield from self._batching_problems()
        if self.warmup not in (None, *WARMUP_DATA):
            yield f"warmup.data: {self.warmup!r} is not {' or '.join(WARMUP_DATA)}"
        yield from _outside("responseCache", self.response_cache, 0, MAXIMUM_BYTES)

    def _version_problems(self) -> Iterator[str]:
        yield from _outside("version", self.version, 1)
        if self.version_policy.kind not in VERSION_POLICIES:
            yield f"versionPolicy.kind: {self.version_policy.kind!r} is not {' or '.join(VERSION_POLICIES)}"
        yield from _outside("versionPolicy.count", self.version_policy.count, 1)

    def _instance_problems(self) -> Iterator[str]:
        instances = self.instances
        _, _, kinds = RUNTIMES[self.runtime]
        if instances.kind not in ("gpu", "cpu"):
            yield f"instances.kind: {instances.kind!r} is not gpu or cpu"
        elif instances.kind not in kinds:
            yield f"instances.kind: {self.runtime} runs on {kinds[0]} only, not on {instances.kind}"
        yield from _outside("instances.count", instances.count, 1)
        yield from _outside("instances.threads", instances.threads, 0)
        if instances.threads > 0 and instances.kind == "gpu":
            yield f"instances.threads: {instances.threads} needs kind cpu; GPU instances take 0"
        for profile in instances.profiles:
            yield from _outside("instances.profiles", profile, 0)
        if _repeats(instances.profiles):
            yield f"instances.profiles: {list(instances.profiles)} names a profile twice"
        if instances.profiles and self.runtime != "tensorrt":
            yield f"instances.profiles: only TensorRT engines have profiles, not {self.runtime}"

    def _batching_problems(self) -> Iterator[str]:
        batching = self.batching
        yield from _outside("batching.maxSize", batching.max_size, 1)
        for size in batching.preferred_sizes:
            yield from _outside("batching.preferredSizes", size, 1)
            if size > batching.max_size:
                yield f"batching.preferredSizes: {size} is above maxSize, {batching.max_size}"
        if _repeats(batching.preferred_sizes):
            yield f"batching.preferredSizes: {list(batching.preferred_sizes)} names a size twice"
        yield from _outside("batching.maxQueueDelayMicroseconds", batching.max_queue_delay, 0)
        levels = {f"batching.priorities[{index}]": queue for index, queue in enumerate(batching.priorities)}
        for path, queue in ({"batching.queue": batching.queue} | levels).items():
            yield from _outside(f"{path}.maxSize", queue.size, 0)
            yield from _outside(f"{path}.timeoutMicroseconds", queue.timeout, 0)
            if 0 < queue.timeout <= batching.max_queue_delay:
                yield (
                    f"{path}.timeoutMicroseconds: {queue.timeout} is not above maxQueueDelayMicroseconds,"
                    f" {batching.max_queue_delay}, so a request that waits for its batch is refused"
                )
        if not 0 <= batching.default_priority <= len(levels):
            yield (
                f"batching.defaultPriority: {batching.default_priority} is no level:"
                f" batching.priorities has {len(levels)}"
            )

    @property
    def filename(self) -> str:
        """What the version's folder holds."""
        return RUNTIMES[self.runtime][0]

    @classmethod
    def from_values(cls, model: Mapping[str, Any], path: str = "model") -> ModelConfig:
        """From one of `model_tools.values.models`. A key missing, misspelt or of a wrong type is BadInput."""
        values = _Section(path, model)
        config = cls(
            name=values.text("name"),
            runtime=values.text("runtime"),
            precision=values.text("precision"),
            version=values.integer("version"),
            version_policy=_version_policy(values.section("versionPolicy")),
            input=_tensor(values.section("input")),
            output=_tensor(values.section("output")),
            batching=_batching(values.section("batching")),
            instances=_instances(values.section("instances")),
            response_cache=values.integer("responseCache"),
            warmup=_warmup(values.section("warmup")),
            path=path,
        )
        values.ignore("source")  # where the files come from: the pod's business, not Triton's
        values.nothing_left()
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
        config = {
            "name": self.name,
            "backend": self.runtime,
            "default_model_filename": self.filename,
            "max_batch_size": self.batching.max_size,
            "version_policy": self._version_policy(),
            "input": [_tensor_dict(self.input)],
            "output": [_tensor_dict(self.output)],
            "instance_group": [self._instance_group()],
            "dynamic_batching": self._dynamic_batching(),
            "model_warmup": self._model_warmup(),
            "parameters": {key: {"string_value": value} for key, value in self._parameters().items()},
        }
        if self.response_cache:
            config["response_cache"] = {"enable": True}
        return config

    def _version_policy(self) -> dict[str, Any]:
        choices: dict[str, dict[str, Any]] = {
            "specific": {"versions": [self.version]},
            "latest": {"num_versions": self.version_policy.count},
            "all": {},
        }
        return {self.version_policy.kind: choices[self.version_policy.kind]}

    def _instance_group(self) -> dict[str, Any]:
        return {
            "count": self.instances.count,
            "kind": f"KIND_{self.instances.kind.upper()}",
            "profile": [str(profile) for profile in self.instances.profiles],
        }

    def _dynamic_batching(self) -> dict[str, Any]:
        batching = self.batching
        message = {
            "preferred_batch_size": list(batching.preferred_sizes),
            "max_queue_delay_microseconds": batching.max_queue_delay,
            "default_queue_policy": _queue_policy(batching.queue),
        }
        if levels := len(batching.priorities):
            message["priority_levels"] = levels
            message["default_priority_level"] = batching.default_priority or levels
            message["priority_queue_policy"] = {
                level: _queue_policy(queue) for level, queue in enumerate(batching.priorities, start=1)
            }
        return message

    def _model_warmup(self) -> list[dict[str, Any]]:
        if self.warmup is None:
            return []
        data: dict[str, Any] = {"random_data": True}
        if self.warmup == "sample":
            data = {"input_data_file": WARMUP_SAMPLE}
        tensor = _tensor_dict(self.input)
        given = {"data_type": tensor["data_type"], "dims": tensor["dims"]} | data
        return [
            {"name": f"batch of {size}", "batch_size": size, "inputs": {self.input.name: given}}
            for size in sorted({1, self.batching.max_size})
        ]

    def _parameters(self) -> dict[str, str]:
        threads = self.instances.threads
        if self.runtime == "openvino":
            return {
                "INFERENCE_PRECISION": OPENVINO_PRECISION[self.precision],
                "INFERENCE_NUM_THREADS": str(threads),
            }
        if self.runtime in THREADS_PARAMETER and threads > 0:
            return {THREADS_PARAMETER[self.runtime]: str(threads)}
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

    def flag(self, key: str) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            raise BadInput(f"{self.path}.{key}: is {_kind(value)}, and has to be true or false")
        return value

    def integer(self, key: str) -> int:
        return _integer(f"{self.path}.{key}", self._take(key))

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BadInput(f"{self.path}.{key}: is {_kind(value)}, and has to be a list of whole numbers")
        return tuple(_integer(f"{self.path}.{key}", item) for item in value)

    def sections(self, key: str) -> list[_Section]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BadInput(f"{self.path}.{key}: is {_kind(value)}, and has to be a list of mappings")
        return [_Section(f"{self.path}.{key}[{index}]", item) for index, item in enumerate(value)]

    def integer_or(self, key: str, default: int) -> int:
        return self.integer(key) if key in self._left else default

    def ignore(self, key: str) -> None:
        self._left.pop(key, None)

    def nothing_left(self) -> None:
        for key in self._left:
            raise BadInput(f"{self.path}.{key}: is not a value that the chart knows")


def _tensor(section: _Section) -> Tensor:
    tensor = Tensor(section.text("name"), section.text("dataType"), section.integers("shape"))
    section.nothing_left()
    return tensor


def _version_policy(section: _Section) -> VersionPolicy:
    policy = VersionPolicy(section.text("kind"), section.integer("count"))
    section.nothing_left()
    return policy


def _batching(section: _Section) -> Batching:
    queue = _queue(section.section("queue"))
    batching = Batching(
        max_size=section.integer("maxSize"),
        preferred_sizes=section.integers("preferredSizes"),
        max_queue_delay=section.integer("maxQueueDelayMicroseconds"),
        queue=queue,
        priorities=tuple(_queue(level, under=queue) for level in section.sections("priorities")),
        default_priority=section.integer("defaultPriority"),
    )
    section.nothing_left()
    return batching


def _queue(section: _Section, under: Queue | None = None) -> Queue:
    """The limits that the section states; a level may leave out those of `under`."""
    if under:
        queue = Queue(
            section.integer_or("maxSize", under.size),
            section.integer_or("timeoutMicroseconds", under.timeout),
        )
    else:
        queue = Queue(section.integer("maxSize"), section.integer("timeoutMicroseconds"))
    section.nothing_left()
    return queue


def _queue_policy(queue: Queue) -> dict[str, Any]:
    return {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": queue.timeout,
        "max_queue_size": queue.size,
    }


def _instances(section: _Section) -> Instances:
    instances = Instances(
        count=section.integer("count"),
        kind=section.text("kind"),
        threads=section.integer("threads"),
        profiles=section.integers("profiles"),
    )
    section.nothing_left()
    return instances


def _warmup(section: _Section) -> str | None:
    """Its kind of data, None without a warm-up. What is switched off has to be right too, as in the chart."""
    enabled, data = section.flag("enabled"), section.text("data")
    section.nothing_left()
    if data not in WARMUP_DATA:
        raise BadInput(f"{section.path}.data: {data!r} is not {' or '.join(WARMUP_DATA)}")
    return data if enabled else None


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


def _tensor_problems(path: str, tensor: Tensor) -> Iterator[str]:
    if not tensor.name:
        yield f"{path}.name: is empty"
    if tensor.data_type not in DATA_TYPES:
        yield f"{path}.dataType: {tensor.data_type!r} is not one of {', '.join(DATA_TYPES)}"
    if not tensor.shape:
        yield f"{path}.shape: is empty; give the dimensions after the batch's"
    for dimension in tensor.shape:
        yield from _outside(f"{path}.shape", dimension, 1)


def _outside(path: str, value: int, least: int, most: int = _MAXIMUM) -> Iterator[str]:
    if value < least:
        yield f"{path}: {value} is below {least}"
    if value > most:
        yield f"{path}: {value} is above {most}"


def _repeats(values: tuple[int, ...]) -> bool:
    return len(set(values)) < len(values)
