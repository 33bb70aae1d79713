"""Lays out Triton as NVIDIA's images have it, from the wheels of requirements/triton-cpu.txt.

    python triton_layout.py SITE_PACKAGES ROOT BACKENDS

gives ROOT/bin/tritonserver, ROOT/lib, ROOT/caches/local and ROOT/backends/{python,openvino}. numpy and
openvino lie in backends/python, where the process of a Python backend finds them whatever is installed beside
it. What a CPU server never loads is left out.

Standard library only: the image runs it before anything is installed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# Of OpenVINO's libraries: other devices, and frontends for files other than ONNX.
_LEFT_OUT = (
    "libopenvino_intel_gpu_plugin*", "libopenvino_intel_npu_plugin*", "cache.json", "libopenvino_tensorflow*",
    "libopenvino_pytorch*", "libopenvino_paddle*", "libopenvino_gguf*", "libopenvino_jax*", "libopenvino_c.*",
    "libopenvino_auto_*", "libopenvino_hetero*", "libtbbmalloc_proxy*", "include", "cmake", "*.pyi",
    "__pycache__",
)  # fmt: skip


def stubs(site: Path) -> list[str]:
    """Versions of Python, such as 3.11, that the wheel has a backend process for."""
    return sorted(folder.name for folder in (site / "pytriton/tritonserver/python_backend_stubs").iterdir())


# What lies beside the Python backend, and what of it is left out.
CPU_PACKAGES = {
    "numpy": ("tests", "f2py", "*.pyi", "*.pxd", "*.a", "include", "__pycache__"),
    "numpy.libs": (),
    "openvino": _LEFT_OUT,
}
GPU_PACKAGES = {
    "numpy": CPU_PACKAGES["numpy"],
    "numpy.libs": (),
    "tensorrt_bindings": ("__pycache__",),
}


def lay_out(
    site: Path,
    root: Path,
    backends: Path,
    python: str,
    packages: Mapping[str, tuple[str, ...]] = CPU_PACKAGES,
) -> None:
    """Fills `root` from the packages installed in `site`, for Python `python` (3.11), with our `backends`."""
    triton = site / "pytriton" / "tritonserver"
    shutil.copytree(triton / "bin", root / "bin")
    shutil.copytree(triton / "caches" / "local", root / "caches" / "local")
    # The wheel's own copy of libpython belongs to its stub for Python 3.13.
    shutil.copytree(site / "nvidia_pytriton.libs", root / "lib", ignore=shutil.ignore_patterns("libpython*"))
    python_backend = root / "backends" / "python"
    shutil.copytree(
        triton / "backends" / "python", python_backend, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(triton / "python_backend_stubs" / python / "triton_python_backend_stub", python_backend)
    for package, left_out in packages.items():
        shutil.copytree(site / package, python_backend / package, ignore=shutil.ignore_patterns(*left_out))
    for backend in backends.iterdir():
        if (backend / "model.py").is_file():
            (root / "backends" / backend.name).mkdir()
            shutil.copy(backend / "model.py", root / "backends" / backend.name)
    for program in (root / "bin" / "tritonserver", python_backend / "triton_python_backend_stub"):
        program.chmod(0o755)


if __name__ == "__main__":
    _site, _root, _backends = (Path(argument) for argument in sys.argv[1:])
    lay_out(_site, _root, _backends, f"{sys.version_info.major}.{sys.version_info.minor}")
