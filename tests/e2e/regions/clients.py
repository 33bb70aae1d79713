"""A zone's clients, gRPC and HTTP at once, at a constant rate: `python -m tests.e2e.regions.clients --help`.

Nobody retries. Each request is a line of the file, written when it is over: protocol, user, start and end in
unix seconds, outcome. Ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import IO

import click

from loadtest.clients import Client, GrpcClient, HttpClient, RequestFailed
from loadtest.payloads import ModelInterface

TIMEOUT = 20.0  # seconds


class Log:
    def __init__(self, file: IO[str]) -> None:
        self._file, self._lock = file, threading.Lock()

    def write(self, protocol: str, user: int, start: float, outcome: str) -> None:
        line = json.dumps(
            {"protocol": protocol, "user": user, "start": start, "end": time.time(), "outcome": outcome}
        )
        with self._lock:
            self._file.write(f"{line}\n")
            self._file.flush()


def interface(url: str, model: str) -> ModelInterface:
    """What the model takes, asked until somebody answers."""
    deadline = time.monotonic() + 60
    while True:
        asked = HttpClient(url, model, TIMEOUT)
        try:
            return ModelInterface.from_metadata(asked.metadata())
        except RequestFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        finally:
            asked.close()


def use(kind: type[GrpcClient] | type[HttpClient], url: str, model: ModelInterface, user: int, rate: float,
        log: Log, over: threading.Event) -> None:  # fmt: skip
    client: Client = kind(url, model.name, TIMEOUT, model)
    requests = kind.build(model)
    began, number = time.perf_counter(), 0
    while not over.wait(max(0.0, began + number / rate - time.perf_counter())):
        start, outcome = time.time(), "success"
        try:
            client.infer(requests[(user + number) % len(requests)])
        except RequestFailed as failure:
            outcome = str(failure)
        log.write(kind.protocol, user, start, outcome)
        number += 1
    client.close()


@click.command(help=__doc__)
@click.option("--grpc-url", required=True)
@click.option("--http-url", required=True)
@click.option("--model", required=True)
@click.option("--users", type=int, required=True, help="Of each protocol.")
@click.option("--rate", type=float, required=True, help="Requests a second over each protocol.")
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(grpc_url: str, http_url: str, model: str, users: int, rate: float, output: Path) -> None:
    over = threading.Event()
    described = interface(http_url, model)
    with output.open("w") as file:
        log = Log(file)
        threads = [
            threading.Thread(target=use, args=(kind, url, described, user, rate / users, log, over))
            for kind, url in ((GrpcClient, grpc_url), (HttpClient, http_url))
            for user in range(users)
        ]
        for each in threads:
            each.start()
        sys.stdin.read()
        over.set()
        for each in threads:
            each.join()


if __name__ == "__main__":
    main()
