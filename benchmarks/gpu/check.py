"""Whether this host can do what the benchmarks do: one line a capability. Needs Python and a driver."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from model_tools.engine.cuda import Cuda

SIZE = 64 << 20


def report(what: str, check: Callable[[], object]) -> None:
    try:
        print(f"ok      {what}: {check()}", flush=True)
    except Exception as error:
        print(f"MISSING {what}: {type(error).__name__}: {error}", flush=True)


def copies(cuda: Cuda, host: int) -> str:
    """Speed of copies from host memory, and that what comes back is what went."""
    stream, device, back = cuda.stream(), cuda.allocate(SIZE), cuda.allocate_host(SIZE)
    start, end = cuda.event(), cuda.event()
    ctypes.memset(host, 7, SIZE)
    for _ in range(3):
        cuda.record(start, stream)
        cuda.copy(device, host, SIZE, stream)
        cuda.record(end, stream)
        cuda.synchronize_event(end)
    cuda.copy(back, device, SIZE, stream)
    cuda.synchronize_stream(stream)
    assert ctypes.string_at(back, SIZE) == b"\7" * SIZE
    return f"{SIZE / cuda.milliseconds(start, end) / 1e6:.1f} GB/s"


def graph(cuda: Cuda) -> str:
    stream = cuda.stream()
    one, two = cuda.allocate(4096), cuda.allocate(4096)
    cuda.begin_capture(stream)
    cuda.copy(one, two, 4096, stream)
    made = cuda.end_capture(stream)
    began = time.perf_counter()
    for _ in range(1000):
        cuda.launch(made, stream)
    took = time.perf_counter() - began
    cuda.synchronize()
    return f"{took * 1000:.1f} us a launch"


def registered(cuda: Cuda) -> str:
    file = Path(f"/dev/shm/check-{os.getpid()}")
    with file.open("w+b") as stream:
        stream.truncate(SIZE)
        shared = mmap.mmap(stream.fileno(), SIZE)
    file.unlink()
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    cuda._call("cuMemHostRegister_v2", ctypes.c_void_p(address), ctypes.c_size_t(SIZE), ctypes.c_uint(0))
    return copies(cuda, address)


def ipc(cuda: Cuda) -> str:
    address, host, stream = cuda.allocate(SIZE), cuda.allocate_host(8), cuda.stream()
    ctypes.memmove(host, b"from one", 8)
    cuda.copy(address, host, 8, stream)
    cuda.synchronize_stream(stream)
    code = f"""
import ctypes, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from model_tools.engine.cuda import Cuda
cuda = Cuda(); cuda.activate()
class Handle(ctypes.Structure): _fields_ = [("bytes", ctypes.c_char * 64)]
handle = Handle(); ctypes.memmove(ctypes.byref(handle), bytes.fromhex({cuda.ipc_handle(address).hex()!r}), 64)
place = ctypes.c_void_p()
cuda._library.cuIpcOpenMemHandle_v2.argtypes = [ctypes.c_void_p, Handle, ctypes.c_uint]
status = cuda._library.cuIpcOpenMemHandle_v2(ctypes.byref(place), handle, 1)
assert status == 0, status
host, stream = cuda.allocate_host(8), cuda.stream()
cuda.copy(host, place.value, 8, stream); cuda.synchronize_stream(stream)
assert ctypes.string_at(host, 8) == b"from one"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
    return "another process reads this one's memory"


def main() -> None:
    print(platform.python_version(), sys.executable, *platform.libc_ver(), os.cpu_count(), "processors")
    from model_tools.runtime import find_libpython

    report("libpython for Triton's Python backend", find_libpython)
    report(
        "/dev/shm",
        lambda: f"{os.statvfs('/dev/shm').f_frsize * os.statvfs('/dev/shm').f_bavail >> 20} MiB free",
    )
    for name in (
        "numpy",
        "onnx",
        "onnxruntime",
        "google.protobuf",
        "grpc",
        "click",
        "yaml",
        "rich",
        "pytest",
    ):
        print(f"{'has' if importlib.util.find_spec(name.split('.')[0]) else 'LACKS':8}{name}")
    cuda = Cuda()
    cuda.activate()
    report("GPU", lambda: (cuda.device, f"CUDA {cuda.driver()}", f"{cuda.free_memory() >> 20} MiB free"))
    report("copies from pinned memory", lambda: copies(cuda, cuda.allocate_host(SIZE)))
    report("graphs", lambda: graph(cuda))
    report("shared memory can be pinned", lambda: registered(cuda))
    report("memory of the GPU in two processes", lambda: ipc(cuda))


if __name__ == "__main__":
    main()
