"""A real inference over each protocol, once: what `helm test` runs."""

from __future__ import annotations

import time

from loadtest.clients import Client, GrpcClient, HttpClient, RequestFailed
from loadtest.payloads import ModelInterface
from model_tools.console import CheckFailed

# Two runs of one picture through the same graph; batching and threads move the last bits, INT8 a little more.
AGREEMENT = 0.01


def smoke(grpc_url: str, http_url: str, model: str, timeout: float) -> dict[str, int]:
    """Sends every picture over gRPC and HTTP and checks the answers; returns how many each protocol gave.

    Waits up to timeout seconds for the model. Raises CheckFailed, naming protocol and reason, when it isn't
    there by then, when an answer is wrong, when both protocols disagree about a picture, or when all pictures
    get the same answer.
    """
    import numpy as np

    deadline = time.monotonic() + timeout
    answers: dict[str, list[np.ndarray]] = {}
    kinds: list[tuple[type[GrpcClient] | type[HttpClient], str]]
    kinds = [(GrpcClient, grpc_url), (HttpClient, http_url)]
    for kind, url in kinds:
        interface = _interface(kind, url, model, deadline)
        client: Client = kind(url, model, max(1.0, deadline - time.monotonic()), interface)
        try:
            answers[kind.protocol] = [client.infer(request) for request in kind.build(interface)]
        except RequestFailed as failure:
            raise CheckFailed(f"{kind.protocol} at {url}: {failure}") from None
        finally:
            client.close()
    for index, (one, other) in enumerate(zip(answers["grpc"], answers["http"], strict=True)):
        apart = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
        if apart > AGREEMENT:
            raise CheckFailed(f"gRPC and HTTP disagree by {apart:.3g} about picture {index}")
    if all(np.array_equal(answers["grpc"][0], answer) for answer in answers["grpc"][1:]):
        raise CheckFailed("every picture gets the same answer: the model does not look at its input")
    return {protocol: len(given) for protocol, given in answers.items()}


def _interface(
    kind: type[GrpcClient] | type[HttpClient], url: str, model: str, deadline: float
) -> ModelInterface:
    while True:
        client = kind(url, model, max(1.0, min(5.0, deadline - time.monotonic())))
        try:
            return ModelInterface.from_metadata(client.metadata())
        except RequestFailed as failure:
            # A model that is still loading and one that will never come look the same until the deadline.
            if time.monotonic() + 1 > deadline:
                raise CheckFailed(f"{kind.protocol} at {url}: {failure}") from None
            time.sleep(1)
        finally:
            client.close()
