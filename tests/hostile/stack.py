"""A real Triton and a real HAProxy as the chart configures them, on ports of this machine's loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model_tools.runtime import Runtime, triton_runtime
from model_tools.serve import LocalTriton
from tests.chart.render import ROOT, only, pods, render_chart
from tests.integration.processes import answers, free_ports, running

SIDE = 16
PICTURE = SIDE * SIDE * 3  # bytes
CLASSES = 10
FLOATS = 8
OPERATOR = "the operator's key"
# Options that LocalTriton sets itself: of this machine, or as the chart does.
OWN = (
    "model-repository", "disable-auto-complete-config", "exit-", "http-address", "http-port", "grpc-address",
    "grpc-port", "metrics-", "rate-limit",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "model": {
        "name": "pictures",
        "input": {"shape": [SIDE, SIDE, 3]},
        "output": {"shape": [CLASSES]},
        "warmup": {"enabled": False},
        "batching": {"maxQueueDelayMicroseconds": 500},
    },
    "extraModels": {
        "floats": {
            "input": {"name": "values", "dataType": "FP32", "shape": [FLOATS]},
            "output": {"shape": [CLASSES]},
            "source": {"type": "image", "image": {"repository": "example/floats", "tag": "1"}},
        }
    },
    # Its exporter is no part of this.
    "monitoring": {"serverLatency": {"enabled": False}},
}
# Strings have a length of their own in their tensor. No runtime of the chart takes them, so the chart has no
# configuration for this one.
WORDS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.lengths(request)]) for request in requests]

    def lengths(self, request):
        words = pb_utils.get_input_tensor_by_name(request, "words").as_numpy()
        sizes = np.array([len(word) for word in words.ravel()], np.int32)
        return pb_utils.Tensor("lengths", sizes.reshape(words.shape))
"""
WORDS_CONFIG = """
name: "words" backend: "python" max_batch_size: 4
input { name: "words" data_type: TYPE_STRING dims: [2] }
output { name: "lengths" data_type: TYPE_INT32 dims: [2] }
dynamic_batching {}
"""


@dataclass(frozen=True)
class Stack:
    """Addresses as host:port: of HTTP through the proxy and past it, of the probes' port, and of gRPC."""

    http: str
    direct: str
    health: str
    grpc: str
    triton: LocalTriton
    proxy: int
    config: Path
    log: list[str]

    def memory(self) -> int:
        """Bytes of memory that Triton's own process holds."""
        return resident(self.triton.pid)

    def files(self) -> int:
        """Open file descriptors of Triton's own process."""
        return len(list(Path(f"/proc/{self.triton.pid}/fd").iterdir()))

    def alive(self) -> bool:
        return _runs(self.triton.pid) and _runs(self.proxy)


@contextmanager
def fenced(folder: Path) -> Iterator[Stack]:
    """The stack, ready; ended after the block. Raises FileNotFoundError where something is not installed."""
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if haproxy is None:
        raise FileNotFoundError("haproxy is not installed (Debian: apt install haproxy)")
    manifests = render_chart(ROOT / "values" / "local.yaml", VALUES)
    repository = folder / "repository"
    write_repository(repository, only(manifests, "ConfigMap", "-model-config")["data"])
    log: list[str] = []
    options = triton_options(manifests)
    with LocalTriton(
        repository, options=options, exit_seconds=0, log=log.append, runtime=preloaded(folder)
    ) as triton:
        http, health = free_ports(2)
        configured = only(manifests, "ConfigMap", "-proxy-config")["data"]
        file = folder / "haproxy.cfg"
        config = configured.pop("haproxy.cfg").replace("/config", str(folder))
        for name, text in configured.items():  # its scripts, and the requests that they send
            moved = text.replace("127.0.0.1:8080", triton.http).replace("127.0.0.1:8002", triton.metrics)
            (folder / name).write_text(moved)
        file.write_text(on_loopback(config, http, health, triton.http))
        ready = answers(f"http://127.0.0.1:{health}/v2/health/ready")
        with running([haproxy, "-db", "-f", str(file)], ready, folder / "haproxy.log") as proxy:
            yield Stack(
                f"127.0.0.1:{http}",
                triton.http,
                f"127.0.0.1:{health}",
                triton.grpc,
                triton,
                proxy.pid,
                file,
                log,
            )


def preloaded(folder: Path) -> Runtime:
    """The local Triton with the library that the project's images preload into it.

    Raises FileNotFoundError where gcc is not installed.
    """
    if shutil.which("gcc") is None:
        raise FileNotFoundError("gcc is not installed (Debian: apt install gcc libc6-dev)")
    library = folder / "preload.so"
    subprocess.run([ROOT / "images" / "preload" / "compile", library], check=True)
    runtime = triton_runtime()
    return replace(runtime, environment=runtime.environment | {"LD_PRELOAD": str(library)})


def on_loopback(config: str, http: int, health: int, triton: str) -> str:
    """The chart's configuration of the proxy with ports of this machine."""
    changes = {
        "bind :8000\n": f"bind 127.0.0.1:{http}\n",
        "bind :8003\n": f"bind 127.0.0.1:{health}\n",
        "server triton 127.0.0.1:8080": f"server triton {triton}",
    }
    for old, new in changes.items():
        assert config.count(old) == 1, old
        config = config.replace(old, new)
    return config


def triton_options(manifests: list[dict[str, Any]]) -> list[str]:
    pod = pods(manifests)["Deployment inference-system-triton"]["spec"]
    (triton,) = (each for each in pod["containers"] if each["name"] == "triton")
    given = [word for word in triton["args"] if word.startswith("--") and not word[2:].startswith(OWN)]
    # The pod's shell makes the key and adds these two, with what stands before the server's name.
    closed = triton["args"][triton["args"].index("tritonserver") - 1]
    closing = ("http-restricted-api", "grpc-restricted-protocol")
    return [*given, *(f"--{option}={closed}:operator={OPERATOR}" for option in closing)]


def write_repository(folder: Path, configs: dict[str, str]) -> None:
    """Two models that compute next to nothing, by the chart's own configurations, and the one of strings."""
    for name, (tensor, shape, kind) in {
        "pictures": ("image", [SIDE, SIDE, 3], "UINT8"),
        "floats": ("values", [FLOATS], "FLOAT"),
    }.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(configs[f"{name}.pbtxt"])
        (folder / name / "1" / "model.onnx").write_bytes(linear(tensor, shape, kind))
    (folder / "words" / "1").mkdir(parents=True)
    (folder / "words" / "config.pbtxt").write_text(WORDS_CONFIG)
    (folder / "words" / "1" / "model.py").write_text(WORDS)


def weights(rows: int) -> Any:
    """What the models multiply their input with; small, so that probabilities differ and none is 1."""
    return (np.random.default_rng(1).normal(size=(rows, CLASSES)) / (4 * rows)).astype(np.float32)


def linear(tensor: str, shape: list[int], kind: str) -> bytes:
    """softmax(input * weights) as ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", [tensor], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["product"]),
        helper.make_node("Softmax", ["product"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes, "linear",
        [helper.make_tensor_value_info(tensor, getattr(TensorProto, kind), ["batch", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weights(int(np.prod(shape))), "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def expected(rows: Any) -> Any:
    """The models' answer to rows of input, by numpy."""
    flat = rows.reshape(len(rows), -1).astype(np.float32)
    powers = np.exp(flat @ weights(flat.shape[1]))
    return powers / powers.sum(axis=1, keepdims=True)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
