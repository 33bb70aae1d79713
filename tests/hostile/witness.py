"""`python -m tests.hostile.witness HTTP GRPC`: the client beside, which does no harm and must lose nothing.

Sends pictures over both protocols, 20 a second each, with no retries, compares every answer with the right
one, and prints what became of them, as JSON, when its standard input ends.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

from .stack import SIDE, expected

RATE = 20.0  # a second and protocol
TIMEOUT = 10.0  # seconds; what takes longer is lost
NEW = 50  # requests on a connection; then a new one, for newcomers must get in as well


class Http:
    def __init__(self, address: str) -> None:
        self._client = http.client.HTTPConnection(address, timeout=TIMEOUT)

    def infer(self, pictures: Any) -> Any:
        tensor = tritonclient.http.InferInput("image", pictures.shape, "UINT8")
        tensor.set_data_from_numpy(pictures)
        body, size = tritonclient.http.InferenceServerClient.generate_request_body([tensor])
        headers = {"Inference-Header-Content-Length": str(size)}
        self._client.request("POST", "/v2/models/pictures/infer", body, headers)
        answer = self._client.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:200]!r}")
        size = answer.headers.get("Inference-Header-Content-Length")
        result = tritonclient.http.InferenceServerClient.parse_response_body(
            content, header_length=None if size is None else int(size)
        )
        return result.as_numpy("probabilities")

    def close(self) -> None:
        self._client.close()


class Grpc:
    def __init__(self, address: str) -> None:
        # Without the option, channels to one address share a connection.
        self._client = tritonclient.grpc.InferenceServerClient(
            address, channel_args=[("grpc.use_local_subchannel_pool", 1)]
        )

    def infer(self, pictures: Any) -> Any:
        tensor = tritonclient.grpc.InferInput("image", pictures.shape, "UINT8")
        tensor.set_data_from_numpy(pictures)
        return self._client.infer("pictures", [tensor], client_timeout=TIMEOUT).as_numpy("probabilities")

    def close(self) -> None:
        self._client.close()


def witness(
    connect: Callable[[], Http | Grpc], started: threading.Barrier, over: threading.Event
) -> dict[str, Any]:
    """Sends until it is over; all have started when the first is answered.

    Returns how many were sent, what failed, and the slowest, in seconds.
    """
    numbers = np.random.default_rng(2)
    sent, failed, slowest = 0, [], 0.0
    client = connect()
    due = time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        due = max(due + 1 / RATE, time.monotonic() - 1)
        if sent % NEW == NEW - 1:
            client.close()
            client = connect()
        pictures = numbers.integers(0, 256, (1 + sent % 3, SIDE, SIDE, 3), np.uint8)
        sent, began = sent + 1, time.monotonic()
        try:
            wrong = float(np.abs(client.infer(pictures) - expected(pictures)).max())
            if not wrong < 1e-4:
                failed.append(f"wrong by {wrong}")
        except Exception as error:  # whatever it is, the request is lost
            failed.append(f"{type(error).__name__}: {error}"[:300])
            client.close()
            client = connect()
        slowest = max(slowest, time.monotonic() - began)
        if sent == 1:
            started.wait()
    client.close()
    return {"sent": sent, "failed": len(failed), "why": failed[:5], "slowest_seconds": round(slowest, 3)}


def main(http_address: str, grpc_address: str) -> None:
    over = threading.Event()
    started = threading.Barrier(3)
    found: dict[str, dict[str, Any]] = {}

    def run(protocol: str, connect: Callable[[], Http | Grpc]) -> None:
        found[protocol] = witness(connect, started, over)

    threads = [
        threading.Thread(target=run, args=("http", lambda: Http(http_address))),
        threading.Thread(target=run, args=("grpc", lambda: Grpc(grpc_address))),
    ]
    for thread in threads:
        thread.start()
    started.wait()
    print("ready", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
