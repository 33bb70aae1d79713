"""What starts Triton in its container, with folders in place of the container's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .render import pods, render_chart

USED = {"v1": "memory/memory.usage_in_bytes", "v2": "memory.current"}
MOST = {"v1": "memory/memory.limit_in_bytes", "v2": "memory.max"}
STATISTICS = {"v1": "memory/memory.stat", "v2": "memory.stat"}


@dataclass
class Container:
    """A folder in place of a container's root, whose control group is files."""

    root: Path
    cgroup: str

    def holds(self, used: int, of_files: int = 0) -> None:
        inactive = of_files // 4
        kinds = {"cache": of_files, "inactive_file": inactive, "active_file": of_files - inactive}
        self.write(STATISTICS, "".join(f"{kind} {size}\n" for kind, size in kinds.items()))
        self.write(USED, f"{used}\n")

    def write(self, name: dict[str, str], text: str) -> None:
        file = self.root / "sys/fs/cgroup" / name[self.cgroup]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)

    @property
    def full(self) -> str:
        file = self.root / "state/full"
        return file.read_text() if file.exists() else ""

    @contextmanager
    def started(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """The command, started by the chart's script; ended after the block."""
        triton = pods(render_chart({}))["Deployment inference-system-triton"]["spec"]["containers"][0]
        folders = r"(/sys/fs/cgroup|/state|/tmp)\b"
        for folder in ("sys/fs/cgroup", "state", "tmp"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        script = re.sub(folders, lambda found: f"{self.root}{found[0]}", triton["args"][2])
        script = script.replace("sleep 5", "sleep 0.05")
        words = [*triton["args"][:2], script, triton["args"][3], *command]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
