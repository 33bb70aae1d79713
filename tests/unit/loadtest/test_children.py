"""A worker that has used gRPC starts processes, and none of them is lost on the way."""

from __future__ import annotations

import subprocess
import sys

CHILDREN = 300  # with gRPC's support of forks some three in a hundred were

WORKER = f"""
from loadtest import locustfile
import grpc
from gevent.subprocess import Popen

channel = grpc.insecure_channel("127.0.0.1:1")
try:
    channel.unary_unary("/no/service")(b"", timeout=1)
except grpc.RpcError:
    pass
for _ in range({CHILDREN}):
    if status := Popen(["true"]).wait():
        raise SystemExit(f"a child ended with {{status}}")
print("all came")
"""


def test_no_child_of_a_worker_ends_before_it_begins() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORKER], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.stdout == "all came\n", ended.stderr[-500:]
