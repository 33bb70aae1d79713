"""Triton with the openvino backend answers as TensorFlow does, and names what is wrong with a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from model_tools.bundle import Bundle
from model_tools.serve import LocalTriton

# Of a probability. Pictures differ by up to 0.75, OpenVINO and TensorFlow by about 1e-5 (order of sums).
TOLERANCE = 1e-3


class Client:
    """One protocol of one server."""

    def __init__(self, triton: LocalTriton, protocol: str) -> None:
        self.module: Any = triton_grpc if protocol == "grpc" else triton_http
        address = triton.grpc if protocol == "grpc" else triton.http
        self.client = self.module.InferenceServerClient(
            address, **({} if protocol == "grpc" else {"concurrency": 16})
        )

    def infer(self, pictures: Any, model: str = "resnet50", name: str = "image") -> Any:
        tensor = self.module.InferInput(name, pictures.shape, np_to_triton_dtype(pictures.dtype))
        tensor.set_data_from_numpy(pictures)
        return self.client.infer(model, [tensor]).as_numpy("probabilities")


@pytest.fixture(params=["grpc", "http"])
def client(triton: LocalTriton, request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(triton, request.param)
    yield client
    client.client.close()


def test_a_batch_has_the_numbers_that_tensorflow_gives(client: Client, bundle: Bundle) -> None:
    pictures, expected = bundle.reference()
    answers = client.infer(pictures)
    assert answers.shape == expected.shape
    assert np.abs(answers - expected).max() < TOLERANCE
    # A server that mixed pictures up would not pass: they are further apart than the tolerance.
    for one, other in zip(expected, np.roll(expected, 1, axis=0), strict=True):
        assert np.abs(one - other).max() > 10 * TOLERANCE


def test_each_request_of_a_dynamic_batch_gets_its_own_answer(
    triton: LocalTriton, client: Client, bundle: Bundle
) -> None:
    pictures, expected = bundle.reference()
    # Of one, two and three pictures, so that rows have to be cut at the right places.
    parts = [range(start, min(start + size, 8)) for size in (1, 2, 3) for start in range(0, 8, size)]
    before = statistics(triton)
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(lambda part: client.infer(pictures[list(part)]), parts))
    after = statistics(triton)
    for part, answer in zip(parts, answers, strict=True):
        assert np.abs(answer - expected[list(part)]).max() < TOLERANCE, f"pictures {list(part)}"
    assert after["nv_inference_request_success"] - before["nv_inference_request_success"] == len(parts)
    executions = after["nv_inference_exec_count"] - before["nv_inference_exec_count"]
    assert executions < len(parts), "no requests were put together"


BAD_REQUESTS = {
    "a wrong height": (np.zeros((1, 225, 224, 3), np.uint8), {}, "image"),
    "a channel first": (np.zeros((1, 3, 224, 224), np.uint8), {}, "image"),
    "no batch dimension": (np.zeros((224, 224, 3), np.uint8), {}, "resnet50"),
    "more pictures than a batch has": (np.zeros((17, 224, 224, 3), np.uint8), {}, "<= 16"),
    "a wrong type": (np.zeros((1, 224, 224, 3), np.float32), {}, "image"),
    "an unknown input": (np.zeros((1, 224, 224, 3), np.uint8), {"name": "imgae"}, "imgae"),
    "an unknown model": (np.zeros((1, 224, 224, 3), np.uint8), {"model": "resnet51"}, "resnet51"),
}


@pytest.mark.parametrize("fault", BAD_REQUESTS)
def test_a_bad_request_is_refused_by_name_and_the_server_stays_ready(
    client: Client, bundle: Bundle, fault: str
) -> None:
    pictures, where, named = BAD_REQUESTS[fault]
    with pytest.raises(InferenceServerException) as refused:
        client.infer(pictures, **where)
    assert named in str(refused.value)
    assert client.client.is_server_ready()
    assert client.client.is_model_ready("resnet50")
    good, expected = bundle.reference()
    assert np.abs(client.infer(good[:1]) - expected[:1]).max() < TOLERANCE


def test_a_full_queue_refuses_with_unavailable_and_answers_the_rest(
    make_repository: Callable[..., Path], bundle: Bundle
) -> None:
    queue = {"maxSize": 4, "timeoutMicroseconds": 60_000_000}
    repository = make_repository(batching={"maxSize": 1, "preferredSizes": [], "queue": queue})
    pictures, expected = bundle.reference()
    with LocalTriton(repository, exit_seconds=0) as triton:
        client = triton_grpc.InferenceServerClient(triton.grpc)
        answers = [infer_later(client, pictures[index % 8][None]) for index in range(40)]
        outcomes = [answer.exception(60) or answer.result() for answer in answers]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, InferenceServerException)]
        assert 0 < len(refusals) < len(outcomes)
        for refusal in refusals:
            assert refusal.status() == "StatusCode.UNAVAILABLE"
            assert "maximum queue size" in refusal.message()
        for index, outcome in enumerate(outcomes):
            if not isinstance(outcome, InferenceServerException):
                assert np.abs(outcome.as_numpy("probabilities") - expected[index % 8]).max() < TOLERANCE
        assert client.is_server_ready()
        client.close()


def infer_later(client: Any, picture: Any) -> Future[Any]:
    """Sends a request without waiting for its answer."""
    tensor = triton_grpc.InferInput("image", picture.shape, "UINT8")
    tensor.set_data_from_numpy(picture)
    future: Future[Any] = Future()

    def done(result: Any, error: Exception | None) -> None:
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)

    client.async_infer("resnet50", [tensor], callback=done)
    return future


def statistics(triton: LocalTriton) -> dict[str, float]:
    """Triton's counters of the model. They follow an answer with a delay: reads until nothing is pending."""
    deadline = time.monotonic() + 10
    while True:
        found = {}
        for line in requests.get(f"http://{triton.metrics}/metrics", timeout=5).text.splitlines():
            if not line.startswith("#") and 'model="resnet50"' in line:
                name, value = line.partition("{")[0], float(line.split()[-1])
                found[name] = found.get(name, 0.0) + value
        if found["nv_inference_pending_request_count"] == 0 or time.monotonic() > deadline:
            return found
