"""Where the cluster keeps what it builds, and what it runs from."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMPONENTS = Path(__file__).resolve().parent / "components"
MANIFESTS = Path(__file__).resolve().parent / "manifests"


def cache() -> Path:
    """Things that are dear to make and keyed by what they are made from; survives `cluster down`."""
    return _home("XDG_CACHE_HOME", ".cache")


def state() -> Path:
    """The running cluster: nodes' disks, logs, kubeconfig; removed by `cluster down`."""
    return _home("XDG_STATE_HOME", ".local/state") / "cluster"


def logs() -> Path:
    return state() / "log"


def kubeconfig() -> Path:
    return state() / "kubeconfig"


def _home(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "inference-system"
