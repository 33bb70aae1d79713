"""Triton backend `openvino`: runs 1/model.blob, or else 1/model.onnx, with OpenVINO on the CPU.

model.blob is the model compiled for this processor, as `model-tools engine build` makes it. One of another
OpenVINO or processor is named in Triton's log, and model.onnx compiled instead.

A Python-based backend: Triton starts one process of this an instance. The model's configuration names it as
`backend: "openvino"`, as it names OpenVINO's own C++ backend, and takes the same two parameters:

INFERENCE_PRECISION    f32 (default), bf16 (f32 on a processor without it), or dynamic: the processor's best.
INFERENCE_NUM_THREADS  threads an instance computes with; 0 (default) shares what the container may use
                       between the instances.

Triton goes on without a process that died: it is ready, and fails what it would have given to that one. So
an instance that ends before it is told to takes Triton along, and whoever runs Triton starts it anew. A batch
that takes longer than the environment's EXECUTION_SECONDS (0 or none: no limit) ends its instance so, with a
trace of all threads in Triton's log; one whose process stands still for as long takes Triton along too.

It needs nothing but the standard library, bash, numpy < 2 and openvino, which lie beside Triton's Python
backend.
"""

import contextlib
import faulthandler
import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Compiles the model. Raises TritonModelException, which Triton shows as its reason."""
        try:
            self._initialize(args)
        except pb_utils.TritonModelException as error:
            _tell_kubernetes(str(error))
            raise

    def _initialize(self, args: dict[str, str]) -> None:
        self._log = pb_utils.Logger.log_info
        numpy, openvino = _libraries()
        self._numpy = numpy
        config = json.loads(args["model_config"])
        self._max_batch = config["max_batch_size"]
        self._input = _tensor(config, "input")
        self._output = _tensor(config, "output")
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config["default_model_filename"] or "model.onnx")

        core = openvino.Core()
        properties, shown = _properties(core, config)
        began = time.monotonic()
        engine = file.with_name("model.blob")
        compiled = self._load(core, engine, file, properties) if engine.is_file() else None
        how = "engine loaded"
        if compiled is None:
            compiled, how = self._compile(openvino, core, file, properties), "compiled"
        shown = f"{shown}, {how} in {time.monotonic() - began:.2f} s"
        streams = int(compiled.get_property("NUM_STREAMS"))
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        # Several requests are gathered here, once copied; one alone is read where it lies.
        self._batch = numpy.zeros((self._max_batch, *self._input.shape), self._input.dtype)
        # The first inference of a batch size prepares memory and kernels; ready should mean ready.
        for size in {1, self._max_batch, *config["dynamic_batching"].get("preferred_batch_size", [])}:
            self._infer(self._batch[:size])
        release = openvino.__version__.split("-")[0]
        self._log(f"{args['model_instance_name']}: OpenVINO {release}, {shown}, {streams} streams")
        self._limit = float(os.environ.get("EXECUTION_SECONDS") or 0)
        self._guard = _Guard(self._limit)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one dynamic batch, each with its own rows, or with its own error."""
        if self._limit:  # a thread of C's, so it runs out however the batch hangs
            faulthandler.dump_traceback_later(self._limit, exit=True)
        try:
            return self._execute(requests)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _execute(self, requests: list[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        pixels: list[Any] = []
        places: list[int] = []
        for place, request in enumerate(requests):
            tensor = pb_utils.get_input_tensor_by_name(request, self._input.name)
            problem = self._problem(tensor)
            if problem:
                responses[place] = _failure(problem)
            else:
                pixels.append(tensor.as_numpy())
                places.append(place)
        try:
            rows = self._infer(self._gather(pixels)) if pixels else ()
        except RuntimeError as error:
            for place in places:
                responses[place] = _failure(f"OpenVINO: {_reason(error)}")
            return responses
        start = 0
        for place, part in zip(places, pixels, strict=True):
            output = pb_utils.Tensor(self._output.name, rows[start : start + len(part)])
            responses[place] = pb_utils.InferenceResponse([output])
            start += len(part)
        return responses

    def finalize(self) -> None:
        """Lets OpenVINO's threads go before the process ends, as it is meant to."""
        self._requests = []
        self._guard.leave()

    def _load(self, core: Any, engine: Path, model: Path, properties: dict[str, Any]) -> Any | None:
        """The engine, or None where model.onnx has to do instead. Raises where there is no model.onnx."""
        try:
            compiled = core.import_model(engine.read_bytes(), "CPU", properties)
        except RuntimeError as error:
            problem = f"{engine}: OpenVINO can't load it ({_reason(error)})"
            if not model.is_file():
                raise pb_utils.TritonModelException(problem) from error
            pb_utils.Logger.log_warn(f"{problem}; compiling {model.name} instead")
            return None
        self._check(engine, compiled)
        return compiled

    def _compile(self, openvino: Any, core: Any, file: Path, properties: dict[str, Any]) -> Any:
        model = self._read(openvino, file)
        self._check(file, model)
        try:
            return core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise pb_utils.TritonModelException(
                f"{file}: OpenVINO can't compile it ({_reason(error)})"
            ) from error

    def _read(self, openvino: Any, file: Path) -> Any:
        if not file.is_file() or file.stat().st_size == 0:
            raise pb_utils.TritonModelException(f"{file}: is {'empty' if file.is_file() else 'missing'}")
        try:
            # Not Core.read_model, which tries every format that it knows and blames none.
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            return frontend.convert(frontend.load(str(file)))
        except Exception as error:  # a frontend raises types of its own
            raise pb_utils.TritonModelException(f"{file}: is no ONNX model ({_reason(error)})") from error

    def _check(self, file: Path, model: Any) -> None:
        """Raises where the model's input and output are not what config.pbtxt says."""
        for kind, wanted, ports in (
            ("input", self._input, model.inputs),
            ("output", self._output, model.outputs),
        ):
            there = {name: port for port in ports for name in port.names}
            if len(ports) != 1 or wanted.name not in there:
                names = ", ".join(sorted(there)) or "none"
                raise pb_utils.TritonModelException(
                    f"{file}: has {kind} {names}, and config.pbtxt {wanted.name}"
                )
            port = there[wanted.name]
            shape = [-1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
            # An output's sizes may follow from the input's only when it runs, so an unknown one passes.
            fits = len(shape) == 1 + len(wanted.shape) and all(
                size in (-1, stated) for size, stated in zip(shape[1:], wanted.shape, strict=True)
            )
            if not fits or port.element_type.to_dtype() != wanted.dtype:
                raise pb_utils.TritonModelException(
                    f"{file}: has {kind} {wanted.name} of {port.element_type.to_dtype()} {shape[1:]},"
                    f" and config.pbtxt says {wanted.dtype} {list(wanted.shape)}"
                )

    def _problem(self, tensor: Any) -> str | None:
        """What is wrong with a request's input, or None: a batch must not fail for one of its requests."""
        if tensor is None:
            return f"input {self._input.name} is missing"
        array = tensor.as_numpy()
        if array.dtype != self._input.dtype or array.shape[1:] != self._input.shape:
            return (
                f"input {self._input.name} is {array.dtype} {list(array.shape[1:])},"
                f" and has to be {self._input.dtype} {list(self._input.shape)}"
            )
        if array.dtype.kind == "f" and not self._numpy.isfinite(array).all():
            return f"input {self._input.name} has values that are not finite"
        return None

    def _gather(self, parts: list[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        size = sum(len(part) for part in parts)
        return self._numpy.concatenate(parts, out=self._batch[:size])

    def _infer(self, batch: Any) -> Any:
        """Rows of the output. Each stream computes its share of the batch, with no copy of the input.

        Streams wait for each other once a batch; the threads of one stream do so at every layer.
        """
        share = math.ceil(len(batch) / len(self._requests))
        parts = [batch[start : start + share] for start in range(0, len(batch), share)]
        running = self._requests[: len(parts)]
        for request, part in zip(running, parts, strict=True):
            request.start_async([part], share_inputs=True)
        errors = []
        for request in running:  # all of them, for they read the batch's memory
            try:
                request.wait()
            except RuntimeError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        rows = [request.get_output_tensor(0).data for request in running]
        return rows[0] if len(rows) == 1 else self._numpy.concatenate(rows)


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: Any
    shape: tuple[int, ...]


class _Guard:
    """A shell that kills Triton when this process has ended, or been silent for `limit` seconds (0: however
    long), unless it is told that the end is meant.

    It waits at a pipe that nobody else holds, which the kernel closes even where this process is killed. Told
    to end in good order, Triton would first fail requests for as long as it waits for what is gone.
    """

    # A read's time is up as well when the machine's clock is put forward, so one alone is no silence.
    SCRIPT = """
        silent=0
        while [ $silent -lt 2 ]; do
            if read -r ${2:+-t "$2"} line; then
                [ "$line" = end ] && exit
                silent=0
            elif [ $? -gt 128 ]; then
                silent=$((silent + 1))
            else
                break
            fi
        done
        [ $silent = 2 ] && what="stands still" || what="has died"
        echo "an instance $what: Triton ends" >&2
        kill -KILL "$1"
    """

    def __init__(self, limit: float) -> None:
        triton = str(os.getppid())
        command = ["bash", "-c", self.SCRIPT, "guard", triton, *([str(limit / 2)] if limit else [])]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._ending = threading.Event()
        if limit:
            threading.Thread(target=self._beats, args=(limit / 5,), daemon=True).start()

    def _beats(self, every: float) -> None:
        with contextlib.suppress(BrokenPipeError):  # the shell has been told to leave meanwhile
            while not self._ending.wait(every):
                self._tell(b"alive\n")

    def _tell(self, line: bytes) -> None:
        assert self._shell.stdin is not None
        os.write(self._shell.stdin.fileno(), line)

    def leave(self) -> None:
        self._ending.set()
        self._tell(b"end\n")
        self._shell.wait()


def _libraries() -> tuple[Any, Any]:
    """numpy and openvino from beside Triton's Python backend. Checks what would otherwise fail in silence."""
    beside = Path(pb_utils.__file__).resolve().parent
    sys.path.insert(0, str(beside))
    try:
        import numpy
        import openvino
    except ImportError as error:
        raise pb_utils.TritonModelException(
            f"the openvino backend can't import {error.name}: {error}"
        ) from error
    if int(numpy.__version__.split(".")[0]) > 1:
        raise pb_utils.TritonModelException(
            f"numpy {numpy.__version__} in {Path(numpy.__file__).parent}: Triton's Python backend needs numpy"
            " below 2 (with 2, every output arrives empty)"
        )
    return numpy, openvino


def _tensor(config: dict[str, Any], kind: str) -> _Tensor:
    import numpy

    if len(config[kind]) != 1:
        raise pb_utils.TritonModelException(f"the openvino backend takes one {kind}, not {len(config[kind])}")
    tensor = config[kind][0]
    dtype = numpy.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"]))
    return _Tensor(tensor["name"], dtype, tuple(int(size) for size in tensor["dims"]))


def _properties(core: Any, config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """OpenVINO's settings, and one line that says what is used."""
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    instances = sum(group["count"] for group in config["instance_group"])
    threads = _whole_number(parameters, "INFERENCE_NUM_THREADS") or max(1, processors() // instances)
    wanted = parameters.get("INFERENCE_PRECISION", "f32")
    if wanted not in ("f32", "bf16", "dynamic"):
        raise pb_utils.TritonModelException(f"INFERENCE_PRECISION: {wanted!r} is not f32, bf16 or dynamic")
    properties = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": str(threads),
        # Pinned threads of two pods or instances would meet on the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    precision = wanted
    if wanted == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precision = "f32"
    if precision != "dynamic":
        properties["INFERENCE_PRECISION_HINT"] = precision
    note = "" if precision == wanted else f" (the processor has no {wanted})"
    return properties, f"precision {precision}{note}, {threads} threads"


def _whole_number(parameters: dict[str, str], name: str) -> int:
    text = parameters.get(name, "0")
    if not text.isdecimal():
        raise pb_utils.TritonModelException(f"{name}: {text!r} is not a whole number")
    return int(text)


def processors() -> int:
    """Processors that this container may use: its CPU set, cut to its quota, which OpenVINO ignores."""
    count = len(os.sched_getaffinity(0))
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            text = Path(quota_file).read_text() + (Path(period_file).read_text() if period_file else "")
        except OSError:
            continue
        quota, period = text.split()[:2]
        if quota not in ("max", "-1"):
            return max(1, min(count, math.ceil(int(quota) / int(period))))
    return count


def _tell_kubernetes(reason: str) -> None:
    """Leaves the reason where `kubectl describe pod` shows it: Triton's log ends with tables that hide it."""
    file = Path("/dev/termination-log")
    if os.access(file, os.W_OK):
        file.write_text(reason)


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))


def _reason(error: Exception) -> str:
    """What is wrong, out of the many lines that OpenVINO says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    # An engine for something else: what it is for, and what is here.
    versions = [line for line in telling if line.startswith(("blob:", "current:"))]
    return "; ".join([*(telling or lines or [type(error).__name__])[:1], *versions])
