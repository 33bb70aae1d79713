"""Triton on this machine, without a container: made once from the locked wheels and kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model_tools.console import BadInput
from model_tools.files import cached

_HERE = Path(__file__).parent
BACKENDS = _HERE / "backends"
TENSORFLOW_LOCK = "triton-tensorflow.txt"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Runtime:
    """A Triton laid out as /opt/tritonserver is in NVIDIA's images, and its processes' environment."""

    root: Path
    environment: dict[str, str]

    @property
    def server(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.root / "backends"


def triton_runtime(tensorflow: bool = False) -> Runtime:
    """The local Triton, installed at the first call (about 400 MB of wheels).

    tensorflow: with TensorFlow for the backend of that name (another 250 MB of wheels). Raises BadInput where
    it can't run: another system, a Python that the wheel has no backend process for, no libpython.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise BadInput("a local Triton needs Linux on x86_64; elsewhere use the cluster's")
    libpython = find_libpython()
    root = cached("triton", _key(), _install)
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(root / "lib"), libpython.folder]))
    if tensorflow:
        environment["TENSORFLOW_PACKAGES"] = str(cached("tensorflow", _tensorflow_key(), _install_tensorflow))
    return Runtime(root, environment | libpython.environment())


@dataclass(frozen=True)
class LibPython:
    """Where this version's shared library lies ("": where the system looks), and its standard library."""

    folder: str
    home: str

    def environment(self) -> dict[str, str]:
        """Of a Triton whose Python backends see no packages but those of `home` and of Triton's folder.

        Their Python looks for itself on the PATH, and takes the packages of a virtual environment that it
        finds itself in. With numpy 2 among them every output arrives empty, with no error at all.
        """
        return {"PATH": f"{self.home}/bin:/usr/bin:/bin", "PYTHONHOME": self.home}


def find_libpython() -> LibPython:
    """The shared library that the process of a Python backend links; where it is missing, Triton hangs."""
    name = f"libpython{PYTHON}.so.1.0"
    own = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
    if (own / name).is_file():
        return LibPython(str(own), sys.base_prefix)
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise BadInput(
            f"Triton's Python backend needs {name}, and neither {own} nor the system has it:"
            f" apt-get install libpython{PYTHON}, or use a Python built with --enable-shared"
        ) from error
    if not Path(f"/usr/lib/python{PYTHON}/os.py").is_file():
        raise BadInput(
            f"/usr/lib/python{PYTHON}: has no standard library: apt-get install libpython{PYTHON}-stdlib"
        )
    return LibPython("", "/usr")


def lock_file(name: str = "triton-cpu.txt") -> Path:
    """The locked requirements: in the package where it was installed, else in the checkout."""
    for file in (_HERE / name, _HERE.parent / "requirements" / name):
        if file.is_file():
            return file
    raise BadInput(f"requirements/{name}: is missing; install model_tools from a checkout or a wheel of it")


def _key() -> str:
    """Changes with whatever the runtime is made of."""
    parts = [PYTHON.encode(), lock_file().read_bytes(), (_HERE / "triton_layout.py").read_bytes()]
    parts += [file.read_bytes() for file in sorted(BACKENDS.glob("*/model.py"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _install(root: Path) -> None:
    from model_tools.progress import steps
    from model_tools.triton_layout import lay_out, stubs

    with tempfile.TemporaryDirectory(dir=root.parent) as scratch, steps() as step:
        site = Path(scratch)
        step("installing Triton from its wheel")
        _install_wheels(lock_file(), site, "Triton")
        if PYTHON not in stubs(site):
            raise BadInput(f"Triton's wheel serves Python {', '.join(stubs(site))}, not {PYTHON}")
        lay_out(site, root, BACKENDS, PYTHON)


def _tensorflow_key() -> str:
    return hashlib.sha256(PYTHON.encode() + lock_file(TENSORFLOW_LOCK).read_bytes()).hexdigest()[:16]


def _install_tensorflow(folder: Path) -> None:
    from model_tools.progress import steps

    with steps() as step:
        step("installing TensorFlow for Triton")
        _install_wheels(lock_file(TENSORFLOW_LOCK), folder, "TensorFlow")
        # Headers, a fifth of it all: nothing is compiled.
        shutil.rmtree(folder / "tensorflow" / "include", ignore_errors=True)


def _install_wheels(lock: Path, folder: Path, what: str) -> None:
    installer = [*_installer(), "--no-deps", "--require-hashes", "-r", str(lock), "--target", str(folder)]
    result = subprocess.run(installer, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or result.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise BadInput(f"{what}'s wheels can't be installed for Python {PYTHON}: {reason}")


def _installer() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
        ]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise BadInput(f"{sys.executable}: has no pip, and there is no uv on the PATH")
