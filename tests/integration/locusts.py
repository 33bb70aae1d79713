"""A Locust master with workers, as processes of a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from colours import MODEL
from processes import answers, free_ports, loadtest, running

from loadtest.api import LocustApi
from model_tools.serve import LocalTriton


@dataclass(frozen=True)
class Load:
    """A Locust master with workers on a Triton. metrics: host:port of the first worker's."""

    master: str
    metrics: str
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def api(self) -> LocustApi:
        return LocustApi(requests.Session(), self.master, gone_after=2)


@contextmanager
def locust(triton: LocalTriton, folder: Path, workers: int = 1) -> Iterator[Load]:
    """Its processes are `master`, `worker` and, of several, `worker2` and so on; their logs are in folder."""
    web, port, *metrics = free_ports(2 + workers)
    target = ["--grpc-url", triton.grpc, "--http-url", triton.http, "--model", MODEL]
    master = [
        "--web-host", "127.0.0.1", "--web-port", str(web),
        "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port),
    ]  # fmt: skip
    with ExitStack() as stack:
        processes = {
            # A worker answers once it is connected, so nobody has to wait for the master as well.
            "master": stack.enter_context(
                running(loadtest("master", *master, *target), lambda: True, folder / "master.log")
            )
        }
        for number, own in enumerate(metrics, 1):
            name = "worker" if number == 1 else f"worker{number}"
            worker = ["--master-host", "127.0.0.1", "--master-port", str(port), "--metrics-port", str(own)]
            processes[name] = stack.enter_context(
                running(
                    loadtest("worker", *worker, *target),
                    answers(f"http://127.0.0.1:{own}/metrics"),
                    folder / f"{name}.log",
                )
            )
        yield Load(f"http://127.0.0.1:{web}", f"127.0.0.1:{metrics[0]}", processes)
