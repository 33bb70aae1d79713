"""The little of CUDA that engines need, by the driver's own library: whoever has a GPU has that.

Handles and addresses are plain integers, as TensorRT takes them. Every call is checked. Whatever is allocated
belongs to the process and goes with it, unless it is freed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# CUdevice_attribute
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream
_TIMED, _UNTIMED = 0, 2  # CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaError(Exception):
    """A call that failed; `status` is its CUresult, 0 where the driver is missing altogether."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability such as "7.5", and memory in bytes."""

    name: str
    capability: str
    memory: int


class Cuda:
    """The GPU `ordinal`, current in the thread that makes this. Raises CudaError where there is none."""

    def __init__(self, ordinal: int = 0) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"there is no NVIDIA driver ({error})") from error
        self._call("cuInit", ctypes.c_uint(0))
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        self._device = device.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
            name = text.value.decode() if text.value else str(status)
            raise CudaError(f"{function} fails with {name}", status)

    def _made(self, function: str, *arguments: Any) -> int:
        """What a call writes to its first argument, a handle or an address."""
        made = ctypes.c_void_p()
        self._call(function, ctypes.byref(made), *arguments)
        return made.value or 0

    @property
    def count(self) -> int:
        """GPUs that this process sees."""
        number = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    @cached_property
    def device(self) -> Device:
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), ctypes.c_int(self._device))
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), ctypes.c_int(self._device))
        capability = [
            str(self.attribute(each)) for each in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR)
        ]
        return Device(name.value.decode(errors="replace"), ".".join(capability), memory.value)

    def attribute(self, which: int) -> int:
        number = ctypes.c_int()
        self._call(
            "cuDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(which), ctypes.c_int(self._device)
        )
        return number.value

    def driver(self) -> str:
        """The newest CUDA that the driver knows, such as "13.0"."""
        number = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def activate(self) -> None:
        """Makes the GPU current in this thread: its primary context, which TensorRT uses as well."""
        context = self._made("cuDevicePrimaryCtxRetain", ctypes.c_int(self._device))
        self._call("cuCtxSetCurrent", ctypes.c_void_p(context))

    def synchronize(self) -> None:
        self._call("cuCtxSynchronize")

    def free_memory(self) -> int:
        """In bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return self._made("cuMemAlloc_v2", ctypes.c_size_t(size))

    def allocate_host(self, size: int) -> int:
        """Address of `size` bytes of pinned memory, which copies to and from the GPU need not stop for."""
        return self._made("cuMemHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_void_p(address))

    def free_host(self, address: int) -> None:
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Enqueues a copy in any direction, host memory being pinned."""
        self._call(
            "cuMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )  # fmt: skip

    def stream(self) -> int:
        return self._made("cuStreamCreate", ctypes.c_uint(_NON_BLOCKING))

    def free_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def synchronize_stream(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def event(self, timed: bool = True) -> int:
        return self._made("cuEventCreate", ctypes.c_uint(_TIMED if timed else _UNTIMED))

    def free_event(self, event: int) -> None:
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait(self, stream: int, event: int) -> None:
        """What is enqueued to `stream` from now on waits for `event` as it was last recorded."""
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), ctypes.c_uint(0))

    def synchronize_event(self, event: int) -> None:
        self._call("cuEventSynchronize", ctypes.c_void_p(event))

    def milliseconds(self, start: int, end: int) -> float:
        """Between two events that have happened."""
        took = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(took), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return took.value

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """The graph of what was enqueued since, ready to launch."""
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            return self._made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def ipc_handle(self, address: int) -> bytes:
        """The 64 bytes by which another process opens an allocation of this one."""
        handle = (ctypes.c_char * 64)()
        self._call("cuIpcGetMemHandle", handle, ctypes.c_void_p(address))
        return bytes(handle)
