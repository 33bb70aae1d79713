"""`python - GRPC_ADDRESS HTTP_ADDRESS MODEL BYTES` in a pod: what Triton says to each call, as JSON.

protocol -> call -> "" where Triton did as it was told, its refusal elsewhere. BYTES: a body to announce.
"""

from __future__ import annotations

import http.client
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.service_pb2 as pb
import tritonclient.http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def calls(client: Any, model: str) -> dict[str, Callable[[], Any]]:
    return {
        "live": client.is_server_live,
        "ready": client.is_server_ready,
        "metadata": lambda: client.get_model_metadata(model),
        "config": lambda: client.get_model_config(model),
        "list the repository": client.get_model_repository_index,
        "load": lambda: client.load_model(model),
        "unload": lambda: client.unload_model(model),
        "register system shared memory": lambda: client.register_system_shared_memory("x", "/x", 64),
        "register CUDA shared memory": lambda: client.register_cuda_shared_memory("x", b"eA==", 0, 64),
        "unregister shared memory": client.unregister_system_shared_memory,
        "read log settings": client.get_log_settings,
        "change log settings": lambda: client.update_log_settings({"log_verbose_level": 0}),
        "read trace settings": client.get_trace_settings,
        "change trace settings": lambda: client.update_trace_settings(settings={"trace_level": ["OFF"]}),
        "statistics": lambda: client.get_inference_statistics(model),
    }


def announce(address: str, model: str, size: str) -> str:
    """The answer to a request's headers alone: whoever waits for the body first gives none."""
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.putrequest("POST", f"/v2/models/{model}/infer")
    connection.putheader("Content-Length", size)
    connection.endheaders()
    answer = connection.getresponse()
    return f"[{answer.status}] {json.loads(answer.read())['error']}"


def none_and_one(address: str, model: str) -> str:
    """The answer to no pictures that bring the bytes of one."""
    (tensor,) = tritonclient.grpc.InferenceServerClient(address).get_model_metadata(model).inputs
    size = math.prod(tensor.shape[1:]) * np.dtype(triton_to_np_dtype(tensor.datatype)).itemsize
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)])
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[0, *tensor.shape[1:]])
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            call(request.SerializeToString(), timeout=10)
        except grpc.RpcError as refusal:
            return f"[{refusal.code().name}] {refusal.details()}"
    return ""


def main() -> None:
    grpc_address, http_address, model, size = sys.argv[1:]
    clients: dict[str, Any] = {
        "grpc": tritonclient.grpc.InferenceServerClient(grpc_address),
        "http": tritonclient.http.InferenceServerClient(http_address),
    }
    said: dict[str, dict[str, str]] = {}
    for protocol, client in clients.items():
        said[protocol] = {}
        for name, call in calls(client, model).items():
            try:
                call()
                said[protocol][name] = ""
            except InferenceServerException as refusal:
                said[protocol][name] = str(refusal)
    said["grpc"]["send no pictures"] = none_and_one(grpc_address, model)
    said["http"]["send a large body"] = announce(http_address, model, size)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
