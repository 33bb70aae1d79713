"""Calls buildah with a store of its own, and lends a build this machine's way to packages.

Builds have no daemon and no registry: a store in the cache, chroot isolation, a mount namespace that ends
with the call, and a base image made by debootstrap. What this machine knows of package sources (apt's
settings, pip's settings, its trusted certificates) is mounted while a RUN line runs and never written into
an image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import paths, shell

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def folder() -> Path:
    return paths.cache() / "images"


def log(name: str) -> Path:
    return paths.cache() / "log" / f"image-{name}.log"


def call(name: str, command: str, *arguments: str | Path) -> None:
    """Runs one buildah command, its output in the image's log. Raises StepFailed."""
    temporary = folder() / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    policy = folder() / "policy.json"
    making = policy.with_suffix(f".making-{os.getpid()}-{threading.get_ident()}")
    making.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    making.rename(policy)  # builds run side by side, and one must not read half of another's
    signatures = [] if command == "rmi" else ["--signature-policy", policy]
    shell.run(
        ["unshare", "--mount", *_buildah(), command, *signatures, *arguments],
        log(name),
        f"image {name}: buildah {command}",
        env={"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(temporary)},
    )


def exists(image: str) -> bool:
    """Whether the store has the image."""
    probe = ["unshare", "--mount", *_buildah(), "inspect", "--type", "image", image]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _buildah() -> list[str]:
    store = folder() / "store"
    return ["buildah", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "overlay"]


@contextmanager
def package_access() -> Iterator[list[str]]:
    """The --volume options that lend a build this machine's way to Debian and Python packages."""
    with tempfile.TemporaryDirectory(prefix="inference-system-") as made:
        lent = Path(made)
        volumes = {}
        if Path("/etc/apt").is_dir() and _same_release():
            shutil.copytree("/etc/apt", lent / "apt", symlinks=True)
            if CERTIFICATES.exists():
                conf = lent / "apt/apt.conf.d/99lent-certificates"
                conf.write_text('Acquire::https::CaInfo "/run/lent/ca-certificates.crt";\n')
            volumes[lent / "apt"] = "/etc/apt"
            volumes[Path("/usr/share/keyrings")] = "/usr/share/keyrings"
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, lent / "ca-certificates.crt")
            volumes[lent / "ca-certificates.crt"] = "/run/lent/ca-certificates.crt"
        settings = pip_settings(os.environ, _pip_files())
        if CERTIFICATES.exists():
            settings["cert"] = "/run/lent/ca-certificates.crt"
        for folder_of_wheels in settings.get("find-links", "").split():
            if Path(folder_of_wheels).is_dir():
                volumes[Path(folder_of_wheels)] = folder_of_wheels
        (lent / "pip.conf").write_text(pip_conf(settings))
        volumes[lent / "pip.conf"] = "/etc/pip.conf"
        yield [f"--volume={here}:{there}:ro" for here, there in volumes.items() if here.exists()]


def pip_settings(environment: os._Environ[str] | dict[str, str], files: str = "") -> dict[str, str]:
    """pip's settings here: `key = value` lines of its files, then PIP_* variables, which win."""
    found = dict(re.findall(r"^\s*([a-z-]+)\s*=\s*(\S.*)$", files, re.MULTILINE))
    for name, value in environment.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def pip_conf(settings: dict[str, str]) -> str:
    return "\n".join(["[global]", *(f"{key} = {value}" for key, value in sorted(settings.items())), ""])


def _pip_files() -> str:
    files = [Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
    if os.environ.get("PIP_CONFIG_FILE"):
        files.append(Path(os.environ["PIP_CONFIG_FILE"]))
    return "\n".join(file.read_text() for file in files if file.is_file())


def _same_release() -> bool:
    """This machine's package sources only serve an image of the same Debian release."""
    release = Path("/etc/os-release")
    return release.exists() and "VERSION_CODENAME=bookworm" in release.read_text()
