"""A request for an inference as clients send it over HTTP: a head of JSON, then the tensor's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import triton_to_np_dtype

HEAD = "Inference-Header-Content-Length"


def infer(
    session: requests.Session,
    base: str,
    spec: dict[str, Any],
    *,
    model: str | None = None,
    shape: Sequence[int] | None = None,
) -> requests.Response:
    """The answer to a tensor of zeros, as JSON. spec: `model` of the release's values; by default one row."""
    given = spec["input"]
    zeros = np.zeros(shape or [1, *given["shape"]], triton_to_np_dtype(given["dataType"]))
    tensor = InferInput(given["name"], list(zeros.shape), given["dataType"]).set_data_from_numpy(zeros)
    output = InferRequestedOutput(spec["output"]["name"], binary_data=False)
    body, head = InferenceServerClient.generate_request_body([tensor], outputs=[output])
    headers = {HEAD: str(head), "Content-Type": "application/octet-stream"}
    url = f"{base}/v2/models/{model or spec['name']}/infer"
    return session.post(url, data=body, headers=headers, timeout=30)
