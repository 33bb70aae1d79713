"""Processors' time and memory of the control plane, kwok, Prometheus and CoreDNS, from /proc."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

# argv[0] of a process -> what it is called here. What is not named is the cluster's, and no matter of scale.
PROGRAMS = {
    "kube-apiserver": "API server",
    "etcd": "etcd",
    "kube-controller-manager": "controller manager",
    "kube-scheduler": "scheduler",
    "kube-proxy": "kube-proxy",
    "kube-network-policies": "network policies",
    "coredns": "CoreDNS",
    "prometheus": "Prometheus",
    "prometheus-operator": "Prometheus' operator",
    "kube-state-metrics": "kube-state-metrics",
    "kwok": "kwok",
}
EVERY = 5.0  # seconds from one look to the next
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """What processes have used since `begin`; look at it often enough to see what ends meanwhile.

    processes: gives the ids of those that may be of interest. ended: the programs of those that did.
    """

    def __init__(self, processes: Callable[[], Iterable[int]], folder: Path = Path("/proc")) -> None:
        self._processes, self._folder = processes, folder
        self._seconds: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self.begin()

    def begin(self) -> None:
        self._memory: dict[str, int] = {}
        self._alive: set[int] = set()
        self.ended: list[str] = []
        self._take()
        self._first = dict(self._seconds)

    def look(self) -> None:
        """Takes the figures of all processes, unless that was done a moment ago."""
        if time.monotonic() - self._looked >= EVERY:
            self._take()

    def figures(self) -> dict[str, dict[str, float]]:
        """By program: processors' seconds since `begin`, and the most MiB of memory that were seen."""
        self._take()
        seconds: dict[str, float] = defaultdict(float)
        for pid, used in self._seconds.items():
            seconds[self._names[pid]] += used - self._first.get(pid, 0.0)
        return {
            name: {"processor": round(seconds[name], 2), "memory": round(bytes_ / 2**20, 1)}
            for name, bytes_ in sorted(self._memory.items())
        }

    def _take(self) -> None:
        self._looked = time.monotonic()
        memory: dict[str, int] = defaultdict(int)
        found = set()
        names = {pid: self._name(pid) for pid in self._processes()}
        for pid, name in names.items():
            try:
                # After the name in brackets: state, ppid, pgrp, and so on to utime and stime (proc(5)).
                stat = (self._folder / str(pid) / "stat").read_text().rpartition(")")[2].split()
                pages = int((self._folder / str(pid) / "statm").read_text().split()[1])
            except OSError:  # it ended meanwhile
                continue
            # Between fork and exec a child has its parent's name.
            if name is None or names.get(int(stat[1])) == name:
                continue
            found.add(pid)
            self._names[pid] = name
            self._seconds[pid] = (int(stat[11]) + int(stat[12])) / _TICKS
            memory[name] += pages * _PAGE
        self.ended += [self._names[pid] for pid in sorted(self._alive - found)]
        self._alive = found
        for name, bytes_ in memory.items():
            self._memory[name] = max(self._memory.get(name, 0), bytes_)

    def _name(self, pid: int) -> str | None:
        try:
            argv = (self._folder / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        program = Path(argv[0].decode(errors="replace")).name
        if program == "operator" or program.startswith("prometheus-operator"):
            program = "prometheus-operator"
        return PROGRAMS.get(program)
