"""Brings what the benchmarks need to a GPU host that can download nothing and takes files in small pieces.

Here, into pieces of --piece MiB each, with a list of them:

    pack.py pack --libraries DIR --models DIR --wheels DIR --triton-wheels DIR --output build/gpu

    libraries      TensorRT's shared libraries
    models         what `model-tools quantize` wrote: fp32/, fp16/, int8/, ... and int8-calibration.json
    wheels         packages that the host lacks: this project's, such as click, rich, prometheus_client,
                   tritonclient with its grpcio and protobuf, pytest; zstandard's travels beside the pieces
    triton-wheels  nvidia-pytriton, numpy < 2 and tensorrt_cu12_bindings for the host's Python

Another release of TensorRT goes to a folder of its own, where only what differs needs to be: its libraries,
its bindings among the wheels, and with --interpreter DIR (the folder above its bin/) a Python that has
bindings of that release (8.6: up to 3.11), which the wheels are for then. 8.6's libraries need cuBLAS 12's
(both) and cuDNN 8's (libcudnn.so.8, _ops_infer) beside them to load.

There, with all pieces in one folder (an incomplete or changed one is named):

    pack.py unpack --pieces DIR --output /tmp/gpu

gives what was packed of libraries/, models/, site/ (for PYTHONPATH), triton/ (laid out, with this project's
backends) and python/ (the interpreter).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

ROOT = Path(__file__).parents[2]
LIST, FIRST = "pieces.json", "zstandard"
# Not needed to build or run engines of ONNX models without plugins of other frameworks.
LEFT_OUT = ("*vc_plugin*",)
# Of an interpreter: what only those need who develop it or install into it.
DEVELOPERS = (
    "test", "tests", "idlelib", "site-packages", "ensurepip", "config-*", "lib2to3", "tkinter", "__pycache__",
    "*.a",
)  # fmt: skip


def pack(arguments: argparse.Namespace) -> None:
    output = arguments.output
    (output / "parts").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        site, triton, python = (Path(scratch) / name for name in ("site", "triton", "python"))
        site.mkdir()
        wheels = [*arguments.wheels.glob("*.whl")]
        if arguments.triton_wheels:
            lay_out(arguments.triton_wheels, triton, arguments.python)
            wheels += arguments.triton_wheels.glob("tensorrt*.whl")  # the engines' own scripts need them too
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as content:
                content.extractall(site)
        if arguments.interpreter:
            slim(arguments.interpreter, python)
        parts = {"libraries": arguments.libraries, "models": arguments.models, "site": site, "triton": triton,
                 "python": python}  # fmt: skip
        archives = [
            archive(name, folder, output / "parts", arguments.level)
            for name, folder in parts.items()
            if folder is not None and folder.is_dir()
        ]
    shutil.rmtree(output / "pieces", ignore_errors=True)
    (output / "pieces").mkdir()
    pieces = cut(archives, output / "pieces", arguments.piece << 20)
    (output / FIRST).mkdir(exist_ok=True)
    for wheel in arguments.wheels.glob("zstandard-*.whl"):
        shutil.copy(wheel, output / FIRST)
    content = {
        "parts": [[each.name.partition(".")[0], each.stat().st_size] for each in archives],
        "pieces": pieces,
    }
    (output / FIRST / LIST).write_text(json.dumps(content, indent=1) + "\n")
    for name, size in content["parts"]:
        print(f"{name:10} {size / 2**20:7.1f} MiB")
    print(f"{len(pieces)} pieces in {output / 'pieces'}")


def lay_out(wheels: Path, root: Path, python: str) -> None:
    """Triton from its wheel, its Python backend's packages beside it."""
    from model_tools.triton_layout import GPU_PACKAGES, lay_out

    with tempfile.TemporaryDirectory(dir=root.parent) as site:
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as content:
                content.extractall(site)
        lay_out(Path(site), root, ROOT / "model_tools" / "backends", python, GPU_PACKAGES)


def slim(interpreter: Path, output: Path) -> None:
    """What of an interpreter is needed to run it."""
    skip = shutil.ignore_patterns(*DEVELOPERS)
    for name in ("bin", "lib"):
        shutil.copytree(interpreter / name, output / name, symlinks=True, ignore=skip)


def archive(name: str, folder: Path, output: Path, level: int) -> Path:
    """A tar of the folder, compressed; one that is there already and newer than every file of it is kept."""
    target = output / f"{name}.tar.zst"
    newest = max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)
    if target.is_file() and name == "libraries" and target.stat().st_mtime > newest:
        return target
    excluded = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    with target.with_suffix(".making").open("wb") as stream:
        tar = subprocess.Popen(["tar", "-C", str(folder), *excluded, "-cf", "-", "."], stdout=subprocess.PIPE)
        compress = ["zstd", f"-{level}", "--long=31", "-q", "-c"]
        subprocess.run(compress, stdin=tar.stdout, stdout=stream, check=True)
        if tar.wait():
            raise SystemExit(f"pack: tar fails on {folder}")
    return target.with_suffix(".making").rename(target)


def cut(archives: list[Path], output: Path, size: int) -> list[dict[str, str]]:
    """The archives end to end, in files of `size` bytes."""
    pieces: list[dict[str, str]] = []
    rest = b""

    def write(content: bytes) -> None:
        file = output / f"{len(pieces):02}"
        file.write_bytes(content)
        pieces.append({"name": file.name, "sha256": hashlib.sha256(content).hexdigest()})

    for each in archives:
        with each.open("rb") as stream:
            while chunk := stream.read(size - len(rest)):
                rest += chunk
                if len(rest) == size:
                    write(rest)
                    rest = b""
    if rest:
        write(rest)
    return pieces


def unpack(arguments: argparse.Namespace) -> None:
    first = arguments.list or ROOT / "build" / "gpu" / FIRST
    content = json.loads((first / LIST).read_text())
    for piece in content["pieces"]:
        file = arguments.pieces / piece["name"]
        if not file.is_file():
            raise SystemExit(f"unpack: {file}: is missing")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != piece["sha256"]:
                raise SystemExit(f"unpack: {file}: is not what was packed")
    with tempfile.TemporaryDirectory() as site:
        for wheel in first.glob("zstandard-*.whl"):
            with zipfile.ZipFile(wheel) as files:
                files.extractall(site)
        sys.path.insert(0, site)
        import zstandard

        stream = Pieces([arguments.pieces / piece["name"] for piece in content["pieces"]])
        for name, size in content["parts"]:
            reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(Slice(stream, size))
            (arguments.output / name).mkdir(parents=True, exist_ok=True)
            with tarfile.open(fileobj=reader, mode="r|") as files:
                files.extractall(arguments.output / name, filter="fully_trusted")
            print(f"{name}: unpacked", flush=True)


class Pieces:
    """Files read as one."""

    def __init__(self, files: list[Path]) -> None:
        self._chunks = self._read(files)
        self._left = b""

    @staticmethod
    def _read(files: list[Path]) -> Iterator[bytes]:
        for file in files:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    yield chunk

    def read(self, size: int) -> bytes:
        while not self._left:
            self._left = next(self._chunks, b"")
            if not self._left:
                return b""
        taken, self._left = self._left[:size], self._left[size:]
        return taken


class Slice(io.RawIOBase):
    """The next `size` bytes of another stream."""

    def __init__(self, stream: Pieces, size: int) -> None:
        self._stream, self._size = stream, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(min(self._size, size if size >= 0 else self._size))
        self._size -= len(content)
        return content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    for name in ("libraries", "wheels", "output"):
        packing.add_argument(f"--{name}", type=Path, required=True)
    for name in ("models", "triton-wheels", "interpreter"):
        packing.add_argument(f"--{name}", type=Path)
    packing.add_argument("--level", type=int, default=12, help="of compression")
    packing.add_argument("--piece", type=int, default=55, help="MiB")
    packing.add_argument("--python", default="3.12", help="of the host")
    unpacking = verbs.add_parser("unpack")
    unpacking.add_argument("--pieces", type=Path, required=True)
    unpacking.add_argument("--list", type=Path, help="folder with the list and zstandard's wheel")
    unpacking.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    {"pack": pack, "unpack": unpack}[arguments.verb](arguments)


if __name__ == "__main__":
    main()
