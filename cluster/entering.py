"""`cluster exec`: a command where the cluster's network is, and everything else as the caller has it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cluster import kube_tools, paths
from cluster.control import CONTROL_PLANE
from model_tools.console import BadInput

CLONE_NEWNET = 0x40000000


def become(argv: Sequence[str]) -> NoReturn:
    """Replaces this process by argv, in the control plane's network namespace.

    No process is left between the caller and the command: status, signals, files, folder and environment
    are its own. KUBECONFIG is set, helm and kubectl come first on PATH. Raises BadInput for an unknown
    command.
    """
    environment = {
        **os.environ,
        "KUBECONFIG": str(paths.kubeconfig()),
        "PATH": f"{kube_tools.tools_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    _join_network(Path(f"/proc/{CONTROL_PLANE.pid()}/ns/net"))
    try:
        os.execvpe(argv[0], list(argv), environment)
    except OSError as error:
        raise BadInput(f"{argv[0]}: {error.strerror}") from error


def _join_network(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"entering {namespace}")
