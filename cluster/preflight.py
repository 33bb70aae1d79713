"""Whether this machine can run the embedded cluster, and Debian packages that it lacks."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from cluster import cgroups, paths, shell
from model_tools.console import BadInput

ELSEWHERE = "; to use a cluster that you have: KUBECONFIG=... make demo"
GO = (1, 25)
# What a program's absence says about its package.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "ethtool": "ethtool",
    "socat": "socat",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "modprobe": "kmod",
}


def check() -> None:
    """Raises BadInput, one line that names what is missing, where no embedded cluster can run."""
    if platform.system() != "Linux":
        raise BadInput(f"the embedded cluster needs Linux, this is {platform.system()}{ELSEWHERE}")
    if platform.machine() != "x86_64":
        raise BadInput(
            f"the embedded cluster needs an x86-64 machine, this is {platform.machine()}{ELSEWHERE}"
        )
    root()


def room(folder: Path, least: int, variable: str) -> None:
    """Raises BadInput where the disk of a folder has less than so many bytes free."""
    free = shutil.disk_usage(paths.existing(folder)).free
    if free < least:
        raise BadInput(
            f"{folder} has {free / 2**30:.1f} GiB of disk left and the cluster needs {least / 2**30:.1f}:"
            f" make room, or name a folder with more in {variable}"
        )


def memory(least: int) -> None:
    """Raises BadInput where the machine, or what cgroups let the cluster take of it, has less left."""
    left = cgroups.memory_left()
    if left < least:
        raise BadInput(
            f"{left / 2**30:.1f} GiB of memory are left and the cluster needs {least / 2**30:.1f}:"
            f" end something, or start fewer nodes{ELSEWHERE}"
        )


def root() -> None:
    if os.geteuid() != 0:
        raise BadInput(f"the embedded cluster needs root, this is user id {os.geteuid()}{ELSEWHERE}")


def go() -> str:
    """The go command. Raises BadInput where it is missing or too old to build Kubernetes."""
    command = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not command:
        raise BadInput(f"the embedded cluster needs Go {GO[0]}.{GO[1]} or newer, none is on PATH{ELSEWHERE}")
    version = go_version(command)
    if not new_enough(version):
        raise BadInput(
            f"the embedded cluster needs Go {GO[0]}.{GO[1]} or newer, {command} is {version}{ELSEWHERE}"
        )
    return command


def go_version(command: str) -> str:
    return subprocess.run(
        [command, "env", "GOVERSION"], capture_output=True, text=True, check=True
    ).stdout.strip()


def new_enough(version: str) -> bool:
    """Whether a `go env GOVERSION` such as go1.24.3 reaches GO."""
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= GO


def missing_packages() -> list[str]:
    return sorted({package for program, package in PACKAGES.items() if not _present(program)})


def install(packages: list[str], log: Path) -> None:
    """Installs Debian packages, removing none. Raises BadInput where apt-get is not to be had."""
    if not shutil.which("apt-get"):
        raise BadInput(
            f"the embedded cluster needs {', '.join(packages)}, and there is no apt-get{ELSEWHERE}"
        )
    with paths.making("packages"):
        _install(packages, log)


def _install(packages: list[str], log: Path) -> None:
    settings = {"DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "-y", "--no-install-recommends", "--no-remove", "install", *packages]
    try:
        shell.run(get, log, "apt-get install", env=settings)
    except shell.StepFailed:  # lists that are old or were never fetched, or an installation cut short
        shell.run(["dpkg", "--configure", "-a"], log, "dpkg --configure", env=settings)
        shell.run(["apt-get", "update"], log, "apt-get update", env=settings)
        shell.run(get, log, "apt-get install", env=settings)


def load_modules() -> None:
    """Kernel parts that a distribution may keep as modules; built-in ones need nothing."""
    wanted = {"overlay": Path("/sys/module/overlay"), "br_netfilter": Path("/proc/sys/net/bridge")}
    for module, sign in wanted.items():
        if not sign.exists():
            subprocess.run(["modprobe", module], capture_output=True, check=False)


def _present(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else bool(_which(program))


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def log() -> Path:
    return paths.cache() / "log" / "packages.log"
