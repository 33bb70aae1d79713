"""Hostile input: what clients may send does not reach, or does not hurt, Triton behind the chart's proxy."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.grpc.service_pb2 as pb
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from tests.hostile import stack as stacks
from tests.hostile.attack import LOST, PATIENCE, attack, send, summary
from tests.hostile.grammar import SERVICE, HttpCase, head, http_case, sized
from tests.hostile.stack import FLOATS, PICTURE, SIDE, Stack, expected

CASES = 2000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        with stacks.fenced(tmp_path_factory.mktemp("stack")) as stack:
            yield stack
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


def infer(document: Any, *headers: tuple[str, str], body: bytes = b"", path: str | None = None) -> bytes:
    """A request of that JSON and, after it, body."""
    written = document if isinstance(document, bytes) else json.dumps(document).encode()
    path = path or "/v2/models/pictures/infer"
    return head(Random(0), sized(written + body, *headers), path=path) + written + body


def tensor(shape: Any, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "data": [1], **changes}]}


def answer(address: str, data: bytes) -> bytes:
    """What begins to come back for these bytes."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(data)
        return client.recv(4096)


BRACKETS = (
    b'{"inputs":[{"name":"image","shape":[1],"datatype":"UINT8","data":'
    + b"[" * 40_000
    + b"]" * 40_000
    + b"}]}"
)
WALL = b'{"inputs":[' + b"[" * 30 + b"]" * 30 + b"]}"
# Each ends, or fills the memory of, a Triton 24.10 that nothing stands before. The status is the proxy's.
KILLERS = {
    "a shape larger than memory": (infer(tensor([1, 2**64 - 1, 16, 3])), "400"),
    "a shape whose product is zero": (
        infer(tensor([1, 2, 2**64 - 1, 2**63 - 1, 2**31, 0, 3], datatype="FP32")),
        "400",
    ),
    "a shape of many gigabytes": (infer(tensor([10**10, SIDE, SIDE, 3])), "400"),
    "a shape by an escaped name": (
        infer(b'{"inputs":[{"name":"image","sh\\u0061pe":[1e99],"datatype":"UINT8","data":[1]}]}'),
        "400",
    ),
    "a shape after one that is good": (
        infer(
            b'{"inputs":[{"shape":[1],"name":"image","shape":[99999999999],"datatype":"UINT8","data":[1]}]}'
        ),
        "400",
    ),
    "brackets by the ten thousand": (infer(BRACKETS), "413"),
    "brackets said to be no JSON": (infer(BRACKETS, ("Inference-Header-Content-Length", "0")), "413"),
    "brackets beyond what is read of JSON": (
        infer(BRACKETS, ("Inference-Header-Content-Length", str(len(BRACKETS)))),
        "413",
    ),
    "brackets to generate": (
        infer(BRACKETS, ("Inference-Header-Content-Length", "2"), path="/v2/models/pictures/generate"),
        "413",
    ),
    "deeper than any request": (infer(WALL), "400"),
    "a body that unpacks to gigabytes": (
        infer(gzip.compress(b" " * 1_000_000), ("Content-Encoding", "gzip")),
        "415",
    ),
    "chunks of a byte": (head(Random(0), [("Transfer-Encoding", "chunked")]) + b"1\r\n \r\n" * 1000, "411"),
    "a length beyond 32 bits": (head(Random(0), [("Content-Length", str(2**32 + 1))], path="/v2"), "413"),
    "a length beyond 64 bits": (head(Random(0), [("Content-Length", str(2**64))], path="/v2"), "413"),
}


@pytest.mark.parametrize("name", KILLERS)
def test_what_ends_triton_does_not_reach_it(stack: Stack, name: str) -> None:
    data, status = KILLERS[name]
    # Who is still sending may find the connection closed before it has read why.
    assert send(stack, HttpCase(name, data, "half")) in (status, "closed")
    assert stack.alive()


def none_and_one() -> bytes:
    """A request of no pictures that brings the bytes of one."""
    none = tensor([0, SIDE, SIDE, 3], parameters={"binary_data_size": PICTURE})
    del none["inputs"][0]["data"]
    size = ("Inference-Header-Content-Length", str(len(json.dumps(none))))
    return infer(none, size, body=bytes(PICTURE))


@pytest.mark.parametrize("data", [none_and_one(), infer(tensor([0, SIDE, SIDE, 3], data=[]))])
def test_a_request_of_no_pictures_gets_into_no_batch(stack: Stack, data: bytes) -> None:
    said = answer(stack.http, data)
    assert said.startswith(b"HTTP/1.1 400")
    assert b"a shape has a size of 0" in said


def called(channel: grpc.Channel, method: str, count: int) -> str:
    """The refusal of that many pictures that bring the bytes of one; "" where they are answered."""
    request = pb.ModelInferRequest(model_name="pictures", raw_input_contents=[bytes(PICTURE)])
    request.inputs.add(name="image", datatype="UINT8", shape=[count, SIDE, SIDE, 3])
    message = request.SerializeToString()
    try:
        if method == "ModelInfer":
            channel.unary_unary(SERVICE + method)(message, timeout=PATIENCE)
            return ""
        parsed = pb.ModelStreamInferResponse.FromString
        stream = channel.stream_stream(SERVICE + method, response_deserializer=parsed)
        (said,) = stream(iter([message]), timeout=PATIENCE)
        return str(said.error_message)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def called_beside(address: str, method: str, count: int) -> tuple[set[str], set[str]]:
    """What 50 such calls are told, and what the calls of one picture by three clients beside them."""
    over = threading.Event()

    def beside() -> set[str]:
        told = set()
        while not over.is_set():
            told.add(called(channel, "ModelInfer", 1))
        return told

    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(beside) for _ in range(3)]
        try:
            told = {called(channel, method, count) for _ in range(50)}
        finally:
            over.set()
        return told, set().union(*(client.result() for client in clients))


# Of a batch, Triton keeps 32 bits.
NO_PICTURES = [0, 2**32, -(2**32)]


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("count", NO_PICTURES)
def test_a_call_of_no_pictures_costs_nobody_else_anything(stack: Stack, method: str, count: int) -> None:
    told, beside = called_beside(stack.grpc, method, count)
    assert beside == {""}
    status = "" if method == "ModelStreamInfer" else "INVALID_ARGUMENT: "
    assert told == {f"{status}input 'image': a shape has the size {count}, sizes are 1 to 2147483647"}


def test_nor_does_one_over_http_that_the_proxy_has_not_seen(stack: Stack) -> None:
    said = answer(stack.direct, none_and_one())
    assert said.startswith(b"HTTP/1.1 400")
    assert b"input 'image': a shape has the size 0, sizes are 1 to 2147483647" in said


def test_a_triton_that_nothing_stands_before_counts_no_pictures_as_many(stack: Stack) -> None:
    """Where this fails, Triton has been mended: the fences against such shapes can be looked at again.

    The shape stands there without the batch, so its first size, SIDE, is taken for the number of pictures: as
    soon as another request is in it, more than a batch may have. Alone it comes as far as the model.
    """
    from model_tools.serve import LocalTriton

    with LocalTriton(stack.config.parent / "repository", exit_seconds=0) as triton:
        assert b"input image is uint8 [16, 3]" in answer(triton.http, none_and_one())
        for count in NO_PICTURES:
            for lost in called_beside(triton.grpc, "ModelInfer", count):
                assert any("max allowed is 16" in refusal for refusal in lost)


def test_a_triton_that_nothing_stands_before_is_ended_by_a_few_bytes(stack: Stack, tmp_path: Path) -> None:
    """Where this fails, Triton has been mended: what the fence is for can be looked at again."""
    from model_tools.serve import LocalTriton

    data, _ = KILLERS["a shape larger than memory"]
    with LocalTriton(stack.config.parent / "repository", exit_seconds=0) as triton:
        assert send(stack, HttpCase("alone", data), triton.http) == "closed"
        assert triton.wait() != 0


def test_thousands_of_hostile_requests_cost_no_other_client_anything(stack: Stack) -> None:
    found = attack(stack, CASES, seed=1)
    print(summary(found))
    assert not found.problems
    assert sum(found.cases.values()) == CASES
    assert len(found.cases) > 20  # kinds
    for told in found.witness.values():
        assert told["sent"] > 20
    assert stack.alive()


@settings(max_examples=150)
@given(random=st.randoms(use_true_random=False))
def test_every_http_request_is_answered_or_its_connection_ended(stack: Stack, random: Random) -> None:
    outcome = send(stack, http_case(random))
    assert outcome not in {*LOST, "hung"}
    assert stack.alive()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name_and_its_batch_is_not(
    stack: Stack, protocol: str, value: float
) -> None:
    module: Any = tritonclient.grpc if protocol == "grpc" else tritonclient.http
    client = module.InferenceServerClient(getattr(stack, protocol))

    def ask(rows: Any) -> Any:
        given = module.InferInput("values", rows.shape, "FP32")
        given.set_data_from_numpy(rows)
        return client.infer("floats", [given]).as_numpy("probabilities")

    good = np.ones((2, FLOATS), np.float32)
    bad = good.copy()
    bad[1, 3] = value
    with pytest.raises(InferenceServerException, match="values that are not finite"):
        ask(bad)
    assert np.abs(ask(good) - expected(good)).max() < 1e-5
    client.close()


def connections(address: str, count: int, source: str, stack: ExitStack) -> list[socket.socket]:
    """Those that are let in."""
    host, port = address.split(":")
    made = []
    for _ in range(count):
        with suppress(OSError):
            made.append(stack.enter_context(socket.create_connection((host, int(port)), 5, (source, 0))))
    return made


def test_a_client_that_holds_thousands_of_connections_keeps_nobody_out(stack: Stack) -> None:
    """It gets half of them. Who comes from another address is served, and probes are when none is left."""
    with ExitStack() as held:
        connections(stack.http, 1500, "127.0.0.2", held)
        newcomer = http.client.HTTPConnection(stack.http, timeout=5, source_address=("127.0.0.3", 0))
        newcomer.request("GET", "/v2/models/pictures")
        assert newcomer.getresponse().status == 200
        newcomer.close()
        connections(stack.http, 1000, "127.0.0.4", held)
        for path in ("v2/health/ready", "proxy"):
            assert requests.get(f"http://{stack.health}/{path}", timeout=5).ok, path
    deadline = time.monotonic() + 20  # all is as before
    while send(stack, HttpCase("ready", head(Random(0), [], "GET", "/v2/health/ready"))) != "200":
        assert time.monotonic() < deadline


def test_a_request_that_does_not_come_is_given_up(stack: Stack) -> None:
    """Headers, and a body's first 16 KB, have five seconds."""
    slow = [b"GET /v2 HTTP/1.1\r\nHost: x\r\n", infer({"inputs": []})[:-1]]
    with ExitStack() as held:
        clients = connections(stack.http, len(slow), "127.0.0.1", held)
        for client, data in zip(clients, slow, strict=True):
            client.settimeout(20)
            client.sendall(data)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_binary_data_passes_whatever_bytes_it_has(stack: Stack) -> None:
    """No rule for JSON looks beyond it."""
    for byte in b'[{"\\09':
        pixels = np.full((1, SIDE, SIDE, 3), byte, np.uint8)
        given = {
            "name": "image",
            "shape": [1, SIDE, SIDE, 3],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": PICTURE},
        }
        said = json.dumps({"inputs": [given]}).encode()
        data = infer(said, ("Inference-Header-Content-Length", str(len(said))), body=pixels.tobytes())
        assert send(stack, HttpCase("binary", data)) == "200", chr(byte)
    # All of the body is the input.
    raw = infer(b"[" * PICTURE, ("Inference-Header-Content-Length", "0"))
    assert send(stack, HttpCase("raw", raw)) == "200"
