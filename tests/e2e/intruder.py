"""In a pod of the cluster, `python - GRPC_ADDRESS HTTP_ADDRESS MODEL` prints what Triton says to each call.

JSON: protocol -> call -> "" where Triton did as it was told, its refusal elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


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


def main() -> None:
    grpc_address, http_address, model = sys.argv[1:]
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
    print(json.dumps(said))


if __name__ == "__main__":
    main()
