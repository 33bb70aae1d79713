"""Triton backend `tensorrt` for a Triton that has none of its own: runs 1/model.plan on an NVIDIA GPU.

A Python-based backend: Triton starts one process of this an instance. The model's configuration names it as
`backend: "tensorrt"`, as it names NVIDIA's own C++ backend, so the two can take each other's place. It is
made so that the GPU does not wait for Python:

- Inputs go to the GPU from where Triton put them. The memory that Triton shares with this process is pinned
  once, so that nothing is gathered, concatenated or copied on the way; an input that is on the GPU already,
  in CUDA shared memory, is copied there (config.pbtxt: FORCE_CPU_ONLY_INPUT_TENSORS "no").
- A batch size that comes again is a CUDA graph: one launch instead of one a layer.
- There are two places for batches. A batch of few requests is answered from a thread when it is done, while
  the next is already copied and enqueued; one of many requests is answered all at once, which costs less a
  request.

Triton's option --backend-config=python,shm-default-byte-size=N should hold the inputs in flight (2 batches an
instance): Triton grows that memory as it needs, and each growth has to be pinned anew.

It needs nothing but the standard library, numpy < 2 and TensorRT's Python bindings, which lie beside Triton's
Python backend, and TensorRT's libraries where the system looks for them.
"""

import ctypes
import json
import math
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

_PLACES = 2  # batches that are under way
_FEW = 4  # requests that are answered one by one
_GRAPHS = 64  # batch sizes that have one
_SHARED = (
    "_backend_shm_region_"  # in the name of the memory that Triton shares; the backend's comes before it
)
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Loads the plan. Raises TritonModelException, which Triton shows as its reason."""
        try:
            self._initialize(args)
        except _CudaError as error:
            _tell_kubernetes(str(error))
            raise pb_utils.TritonModelException(str(error)) from error
        except pb_utils.TritonModelException as error:
            _tell_kubernetes(str(error))
            raise

    def _initialize(self, args: dict[str, str]) -> None:
        numpy, trt = _libraries()
        config = json.loads(args["model_config"])
        self._input = _tensor(numpy, config, "input")
        self._output = _tensor(numpy, config, "output")
        largest = max(1, config["max_batch_size"])
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config["default_model_filename"] or "model.plan")

        began = time.monotonic()
        self._cuda = _Cuda(int(args["model_instance_device_id"]))
        # Held for as long as there are contexts.
        self._runtime, self._engine = _load(trt, file)
        _check(trt, self._engine, file, (self._input, self._output), largest)
        sizes = {1, largest, *config.get("dynamic_batching", {}).get("preferred_batch_size", [])}
        self._places = [
            _Place(self._cuda, numpy, self._engine, self._input, self._output, largest)
            for _ in range(_PLACES)
        ]
        self._free: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        for place in self._places:
            for size in sorted(sizes):  # ready should mean ready
                place.prepare(size)
            self._free.put(place)
        self._shared = _SharedMemory(self._cuda)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()
        pinned = f"{self._shared.size >> 20} MiB of Triton's shared memory pinned"
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']}: TensorRT {trt.__version__}, {self._cuda.name}, {pinned},"
            f" engine loaded in {time.monotonic() - began:.2f} s"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one dynamic batch, each with its own rows, or with its own error.

        None stands for one that is answered later.
        """
        responses: list[Any] = [None] * len(requests)
        job = _Job()
        for index, request in enumerate(requests):
            tensor = pb_utils.get_input_tensor_by_name(request, self._input.name)
            try:
                part = _Part.of(tensor, self._input)
            except ValueError as problem:
                responses[index] = _failure(str(problem))
                continue
            job.add(index, part)
        if not job.parts:
            return responses
        place = self._free.get()
        try:
            place.start(job.parts, job.rows, self._shared)
        except _CudaError as error:
            self._free.put(place)
            for index in job.indices:
                responses[index] = _failure(str(error))
            return responses
        job.place = place
        if len(requests) <= _FEW:
            job.senders = [requests[index].get_response_sender() for index in job.indices]
            job.requests = requests  # their memory is read until the batch is on the GPU
            self._jobs.put(job)
            return responses
        for index, response in zip(job.indices, self._responses(job), strict=True):
            responses[index] = response
        self._free.put(place)  # Triton has copied the answers before this is called again
        return responses

    def finalize(self) -> None:
        """Waits for what is under way, and lets the GPU go."""
        if hasattr(self, "_answering"):
            self._jobs.put(None)
            self._answering.join()
            for place in self._places:
                place.close()

    def _answer(self) -> None:
        """The thread that answers the batches of few requests, in their order."""
        self._cuda.activate()
        while (job := self._jobs.get()) is not None:
            for sender, response in zip(job.senders, self._responses(job), strict=True):
                try:
                    sender.send(response, flags=_FINAL)
                except Exception as error:  # Triton gave the request up
                    pb_utils.Logger.log_warn(f"tensorrt: an answer could not be sent ({error})")
            assert job.place is not None
            self._free.put(job.place)
            del job, sender, response  # and with them the memory of the requests

    def _responses(self, job: "_Job") -> list[Any]:
        """One for each part, when the batch is done."""
        assert job.place is not None
        try:
            rows = job.place.wait()
        except _CudaError as error:
            return [_failure(str(error)) for _ in job.parts]
        made, start = [], 0
        for part in job.parts:
            output = pb_utils.Tensor(self._output.name, rows[start : start + part.rows])
            made.append(pb_utils.InferenceResponse([output]))
            start += part.rows
        return made


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: Any
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True)
class _Part:
    """A request's input: where it lies, and what keeps it there."""

    address: int
    rows: int
    size: int
    on_gpu: bool
    owner: Any

    @classmethod
    def of(cls, tensor: Any, wanted: _Tensor) -> "_Part":
        """Raises ValueError for an input that config.pbtxt does not allow: its batch must not fail for it."""
        if tensor is None:
            raise ValueError(f"input {wanted.name} is missing")
        if tensor.is_cpu():
            array = tensor.as_numpy()
            shape, size = array.shape, array.nbytes
            address, owner = array.__array_interface__["data"][0], array
        else:
            shape = tuple(tensor.shape())
            size = math.prod(shape) * wanted.dtype.itemsize
            owner = tensor.to_dlpack()
            address = _dlpack_address(owner)
        if shape[1:] != wanted.shape or size != shape[0] * wanted.bytes:
            raise ValueError(
                f"input {wanted.name} is {list(shape[1:])}, and has to be {wanted.dtype} {list(wanted.shape)}"
            )
        return cls(address, shape[0], size, not tensor.is_cpu(), owner)


@dataclass
class _Job:
    """A batch: `indices` are its requests' places among those of the call."""

    indices: list[int] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    rows: int = 0
    place: "_Place | None" = None
    senders: list[Any] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    def add(self, index: int, part: _Part) -> None:
        self.indices.append(index)
        self.parts.append(part)
        self.rows += part.rows


class _Place:
    """Where one batch is computed: a context with its stream, memory on both sides, and graphs."""

    def __init__(
        self, cuda: "_Cuda", numpy: Any, engine: Any, given: _Tensor, made: _Tensor, largest: int
    ) -> None:
        self._cuda = cuda
        self._shape, self._name = given.shape, given.name
        self._output_bytes = made.bytes
        self._stream = cuda.stream()
        self._done = cuda.event()
        self._input = cuda.allocate(largest * given.bytes)
        self._output = cuda.allocate(largest * made.bytes)
        # Where inputs are gathered that lie in memory which can't be pinned.
        self._gathered = cuda.allocate_host(largest * given.bytes)
        self._answer = cuda.allocate_host(largest * made.bytes)
        pinned = (ctypes.c_char * (largest * made.bytes)).from_address(self._answer)
        self._rows = numpy.frombuffer(pinned, made.dtype).reshape(largest, *made.shape)
        self._count = 0
        self._context = engine.create_execution_context()
        if self._context is None:
            raise _CudaError("out of GPU memory: TensorRT makes no context; serve fewer instances")
        if engine.num_optimization_profiles > 1:
            self._context.set_optimization_profile_async(_profile(engine, given.name, largest), self._stream)
        self._context.set_tensor_address(given.name, self._input)
        self._context.set_tensor_address(made.name, self._output)
        self._graphs: dict[int, int] = {}
        self._seen: set[int] = set()

    def prepare(self, rows: int) -> None:
        """Has a graph for a batch size before anyone waits for it."""
        self._enqueue(rows)
        self._capture(rows)
        self._cuda.launch(self._graphs[rows], self._stream)
        self._cuda.synchronize(self._stream)

    def start(self, parts: list[_Part], rows: int, shared: "_SharedMemory") -> None:
        """Enqueues the batch: inputs in, the engine, answers out."""
        cuda, to, gathered = self._cuda, self._input, self._gathered
        for part in parts:
            source = part.address
            if not (part.on_gpu or shared.holds(part.address, part.size)):
                ctypes.memmove(gathered, part.address, part.size)
                source = gathered
            cuda.copy(to, source, part.size, self._stream)
            to += part.size
            gathered += part.size
        if rows in self._graphs:
            cuda.launch(self._graphs[rows], self._stream)
        else:
            self._enqueue(rows)
            if rows in self._seen and len(self._graphs) < _GRAPHS:
                self._capture(rows)
            self._seen.add(rows)
        cuda.copy(self._answer, self._output, rows * self._output_bytes, self._stream)
        cuda.record(self._done, self._stream)
        self._count = rows

    def wait(self) -> Any:
        """The rows of the answer, valid until the place is used again."""
        self._cuda.wait(self._done)
        return self._rows[: self._count]

    def close(self) -> None:
        self._cuda.synchronize(self._stream)
        self._context = None

    def _enqueue(self, rows: int) -> None:
        self._context.set_input_shape(self._name, (rows, *self._shape))
        if not self._context.execute_async_v3(self._stream):
            raise _CudaError("TensorRT refuses to run the engine; Triton's log says why")

    def _capture(self, rows: int) -> None:
        """Needs an enqueue of that size before: what TensorRT allocates at the first can't be captured."""
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(rows)
        finally:
            self._graphs[rows] = self._cuda.end_capture(self._stream)


class _SharedMemory:
    """The memory in which Triton passes inputs to this process, pinned so that the GPU reads it by itself."""

    def __init__(self, cuda: "_Cuda") -> None:
        self._cuda = cuda
        self._pinned: list[tuple[int, int]] = []
        self._refused: list[tuple[int, int]] = []
        self._pin()

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self._pinned)

    def holds(self, address: int, size: int) -> bool:
        """Whether the GPU can read there."""
        for start, end in self._pinned:
            if start <= address and address + size <= end:
                return True
        for start, end in self._refused:
            if start <= address < end:
                return False
        self._pin()  # Triton has mapped more, or the same again elsewhere
        if any(start <= address and address + size <= end for start, end in self._pinned):
            return True
        self._refused.append((address, address + size))
        return False

    def _pin(self) -> None:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if _SHARED not in line:
                continue
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if (start, end) in self._pinned or (start, end) in self._refused:
                continue
            try:
                self._cuda.register(start, end - start)
            except _CudaError as error:
                pb_utils.Logger.log_warn(
                    f"tensorrt: shared memory can't be pinned ({error}), so it is copied"
                )
                self._refused.append((start, end))
            else:
                self._pinned.append((start, end))


class _CudaError(Exception):
    pass


class _Cuda:
    """What is needed of CUDA, by the driver's library: there is nothing to install for it."""

    def __init__(self, ordinal: int) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise _CudaError(f"the tensorrt backend needs an NVIDIA GPU and its driver ({error})") from error
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint
        for function, types in {
            "cuMemcpyAsync": (pointer, pointer, size, pointer),
            "cuGraphLaunch": (pointer, pointer),
            "cuEventRecord": (pointer, pointer),
            "cuEventSynchronize": (pointer,),
            "cuStreamSynchronize": (pointer,),
            "cuMemHostRegister_v2": (pointer, size, number),
            "cuStreamBeginCapture_v2": (pointer, ctypes.c_int),
            "cuGraphDestroy": (pointer,),
        }.items():
            getattr(self._library, function).argtypes = types
        self._call("cuInit", number(0))
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self.name = name.value.decode(errors="replace")
        self._context = self._made("cuDevicePrimaryCtxRetain", device)
        self.activate()

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
            raise _CudaError(f"{function} fails with {text.value.decode() if text.value else status}")

    def _made(self, function: str, *arguments: Any) -> int:
        made = ctypes.c_void_p()
        self._call(function, ctypes.byref(made), *arguments)
        return made.value or 0

    def activate(self) -> None:
        """In the thread that calls it."""
        self._call("cuCtxSetCurrent", ctypes.c_void_p(self._context))

    def allocate(self, size: int) -> int:
        return self._made("cuMemAlloc_v2", ctypes.c_size_t(size))

    def allocate_host(self, size: int) -> int:
        return self._made("cuMemHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))

    def register(self, address: int, size: int) -> None:
        self._call("cuMemHostRegister_v2", address, size, 0)

    def stream(self) -> int:
        return self._made("cuStreamCreate", ctypes.c_uint(1))  # CU_STREAM_NON_BLOCKING

    def event(self) -> int:
        return self._made(
            "cuEventCreate", ctypes.c_uint(3)
        )  # CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyAsync", to, source, size, stream)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, event: int) -> None:
        self._call("cuEventSynchronize", event)

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", stream, 1)  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def end_capture(self, stream: int) -> int:
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        made = self._made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)
        return made


def _libraries() -> tuple[Any, Any]:
    """numpy and TensorRT from beside Triton's Python backend. Checks what would otherwise fail in silence."""
    sys.path.insert(0, str(Path(pb_utils.__file__).resolve().parent))
    try:
        import numpy

        try:
            import tensorrt
        except ModuleNotFoundError:
            import tensorrt_bindings as tensorrt
    except ImportError as error:
        raise pb_utils.TritonModelException(
            f"the tensorrt backend can't import {error.name}: {error}"
        ) from error
    if int(numpy.__version__.split(".")[0]) > 1:
        raise pb_utils.TritonModelException(
            f"numpy {numpy.__version__} in {Path(numpy.__file__).parent}: Triton's Python backend needs numpy"
            " below 2 (with 2, every output arrives empty)"
        )
    return numpy, tensorrt


def _tensor(numpy: Any, config: dict[str, Any], kind: str) -> _Tensor:
    if len(config[kind]) != 1:
        raise pb_utils.TritonModelException(f"the tensorrt backend takes one {kind}, not {len(config[kind])}")
    tensor = config[kind][0]
    dtype = numpy.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"]))
    return _Tensor(tensor["name"], dtype, tuple(int(size) for size in tensor["dims"]))


def _load(trt: Any, file: Path) -> tuple[Any, Any]:
    """The runtime and the engine of a plan."""
    if not file.is_file() or file.stat().st_size == 0:
        raise pb_utils.TritonModelException(f"{file}: is {'empty' if file.is_file() else 'missing'}")
    errors: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(message.strip())

    runtime = trt.Runtime(Logger())
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        reason = errors[-1] if errors else "TensorRT gives no reason"
        raise pb_utils.TritonModelException(
            f"{file}: TensorRT {trt.__version__} can't load it ({reason}); a plan is for one GPU and one"
            " version: model-tools engine build"
        )
    return runtime, engine


def _check(trt: Any, engine: Any, file: Path, wanted: tuple[_Tensor, _Tensor], largest: int) -> None:
    """Raises where the engine's input and output are not what config.pbtxt says."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for kind, mode, tensor in zip(
        ("input", "output"), (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT), wanted, strict=True
    ):
        there = [name for name in names if engine.get_tensor_mode(name) == mode]
        if there != [tensor.name]:
            raise pb_utils.TritonModelException(
                f"{file}: has {kind} {', '.join(there)}, and config.pbtxt {tensor.name}"
            )
        shape = tuple(engine.get_tensor_shape(tensor.name))[1:]
        size = math.prod(shape) * engine.get_tensor_dtype(tensor.name).itemsize
        if shape != tensor.shape or size != tensor.bytes:
            raise pb_utils.TritonModelException(
                f"{file}: has {kind} {tensor.name} of {engine.get_tensor_dtype(tensor.name)} {list(shape)},"
                f" and config.pbtxt says {tensor.dtype} {list(tensor.shape)}"
            )
    _profile(engine, wanted[0].name, largest)


def _profile(engine: Any, name: str, largest: int) -> int:
    """Index of the optimization profile that takes batches of 1 to `largest` and is tuned nearest to that."""
    best = (math.inf, -1)
    for index in range(engine.num_optimization_profiles):
        least, opt, most = (shape[0] for shape in engine.get_tensor_profile_shape(name, index))
        if least <= 1 and largest <= most:
            best = min(best, (abs(opt - largest), index))
    if best[1] < 0:
        raise pb_utils.TritonModelException(
            f"max_batch_size: is {largest}, and the engine takes batches of {least} to {most}"
        )
    return int(best[1])


def _dlpack_address(capsule: Any) -> int:
    """Where the data of a DLPack capsule lies: DLTensor's `data` and, 40 bytes on, its `byte_offset`."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = get(capsule, b"dltensor")
    data = ctypes.c_uint64.from_address(tensor).value
    return int(data + ctypes.c_uint64.from_address(tensor + 40).value)


def _tell_kubernetes(reason: str) -> None:
    """Leaves the reason where `kubectl describe pod` shows it: Triton's log ends with tables that hide it."""
    file = Path("/dev/termination-log")
    if os.access(file, os.W_OK):
        file.write_text(reason)


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
