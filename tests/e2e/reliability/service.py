"""A small release that gets hurt: its model takes a fixed time and next to no processor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.kube import Release, service_session

from ..helm import Helm, kubectl, merged
from ..volumes import tools_image
from ..waiting import until

NAMESPACE = "reliability-of-test"
NAME = "reliable"
FULLNAME = f"{NAME}-inference-system"
DEPLOYMENT = f"deployment/{FULLNAME}-triton"
SELECTOR = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=triton"
HERE = Path(__file__).parent
BACKEND = Path(__file__).parents[3] / "model_tools/backends/openvino/model.py"
CLAIM = "model"

BATCH, INSTANCES = 8, 2
FIXED, EACH = 0.04, 0.005  # seconds that a batch takes, and a row of it more; the instances share the device
# Requests a second that one pod can answer, when all batches are full.
CAPACITY = BATCH / (FIXED + BATCH * EACH)
OBJECTIVE = 2.0  # seconds in which a request has to be answered
# Seconds that one may wait: half of the objective, which leaves the rest to its batch and the way.
QUEUE = 1.0

VALUES: dict[str, Any] = {
    "model": {
        "runtime": "openvino",
        "precision": "fp32",
        "batching": {
            "maxSize": BATCH,
            "preferredSizes": [BATCH],
            "maxQueueDelayMicroseconds": 2000,
            "queue": {"maxSize": 200, "timeoutMicroseconds": int(QUEUE * 1e6)},
            "priorities": [{"maxSize": 64}, {}],
        },
        "instances": {"count": INSTANCES, "kind": "cpu", "threads": 1},
        "source": {"type": "pvc", "pvc": {"claimName": CLAIM}, "path": "/"},
        "warmup": {"data": "random"},
    },
    "triton": {
        "replicas": 1,
        "gpu": {"count": 0},
        "onePodPerNode": True,
        "executionSeconds": 5,
        "drainSeconds": 4,
        # What taking in and refusing five times the capacity needs (docs/reliability.md).
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    },
    "engine": {"enabled": False},
    "autoscaling": {"kind": "none"},
    "loadtest": {"enabled": False},
    "slo": {"latency": {"client": {"p50": OBJECTIVE / 2, "p95": OBJECTIVE, "p99": OBJECTIVE}}},
    "monitoring": {
        "podMonitor": {"enabled": True, "interval": "5s"},
        "rules": {"enabled": False},
        "dashboards": {"enabled": False},
        "serverLatency": {"enabled": False},
    },
}


def run(*arguments: str, given: object = None) -> str:
    """kubectl in the release's namespace; its output."""
    ended = kubectl(*arguments, namespace=NAMESPACE, given=None if given is None else json.dumps(given))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@dataclass(frozen=True)
class Service:
    """The release, and the image and the monitoring of the one that lent its images."""

    release: Release
    helm: Helm
    chart: Path
    values: dict[str, Any]
    folder: Path

    def pods(self) -> list[dict[str, Any]]:
        """Triton's pods that are not about to go."""
        found = json.loads(run("get", "pods", "--selector", SELECTOR, "--output", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> int:
        return sum(
            condition["type"] == "Ready" and condition["status"] == "True"
            for pod in self.pods()
            for condition in pod["status"].get("conditions", [])
        )

    def restarts(self) -> dict[str, int]:
        """How often the container of Triton was started again, by pod."""
        return {
            pod["metadata"]["name"]: each["restartCount"]
            for pod in self.pods()
            for each in pod["status"].get("containerStatuses", [])
            if each["name"] == "triton"
        }

    def renew(self) -> None:
        """Two pods that have never been restarted: the kubelet makes one wait whose container ended often."""
        self.scale(2)
        worn = [name for name, restarts in self.restarts().items() if restarts]
        if worn:
            run("delete", "pod", *worn)
            self.settle(2)

    def scale(self, replicas: int, timeout: int = 180) -> None:
        run("scale", DEPLOYMENT, f"--replicas={replicas}")
        self.settle(replicas, timeout)

    def settle(self, replicas: int, timeout: float = 180) -> None:
        """Returns when that many pods are ready, and no others are there."""
        until(
            lambda: self.ready() == len(self.pods()) == replicas,
            f"{replicas} pods that are ready",
            timeout,
        )

    def prometheus(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """The samples that a query gives at a Unix time, now if none is said."""
        where = self.values["monitoring"]["prometheus"]
        session, base = service_session(where["namespace"], where["service"], where["port"])
        asked = {"query": query} | ({} if at is None else {"time": f"{at:.3f}"})
        answer = session.get(f"{base}/api/v1/query", params=asked, timeout=30).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def watched(self) -> bool:
        """Whether Prometheus is there and has scraped every pod."""
        try:
            found = self.prometheus(f'up{{namespace="{NAMESPACE}"}} == 1')
        except (AssertionError, ValueError):
            return False
        return len(found) >= self.ready()

    def upgrade(self, changes: dict[str, Any]) -> None:
        made = self.helm.install(NAME, self.chart, merged(self.values, changes), self.folder, 240)
        assert made.returncode == 0, made.stdout + made.stderr


def model() -> bytes:
    """Pixels to probabilities as ResNet-50 has them, with next to no work between."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(3, 1000)).astype("float32") / 100
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    given = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 224, 224, 3])
    answer = helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 1000])
    graph = helper.make_graph(
        nodes, "network", [given], [answer], [numpy_helper.from_array(weights, "weights")]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def config_map(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    import base64

    data = {key: base64.b64encode(content).decode() for key, content in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": data}


def restricted(name: str, image: dict[str, Any], command: list[str], **more: Any) -> dict[str, Any]:
    """A pod that runs a command once, with /tmp to write to."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    **image,
                    "command": command,
                    "resources": {"requests": {"cpu": more.get("cpu", "10m"), "memory": "128Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *more.get("mounts", [])],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}, *more.get("volumes", [])],
        },
    }


def deliver_model(image: dict[str, Any]) -> None:
    """The model on a claim of the cluster's default class, which pods of any node can mount."""
    content = model()
    sums = f"{hashlib.sha256(content).hexdigest()}  model.onnx\n".encode()
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    writer = restricted(
        "writer",
        image,
        ["sh", "-c", "cp -L /files/* /volume/"],
        mounts=[{"name": "files", "mountPath": "/files"}, {"name": "volume", "mountPath": "/volume"}],
        volumes=[
            {"name": "files", "configMap": {"name": "model"}},
            {"name": "volume", "persistentVolumeClaim": {"claimName": CLAIM}},
        ],
    )
    files = config_map("model", {"model.onnx": content, "SHA256SUMS": sums})
    run(
        "apply",
        "--filename",
        "-",
        given={"apiVersion": "v1", "kind": "List", "items": [files, claim, writer]},
    )
    run("wait", "pod/writer", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")


@contextmanager
def installed(release: Release, helm: Helm, chart: Path, folder: Path) -> Iterator[Service]:
    """The service with one pod that is ready; nothing of it afterwards."""
    lent = helm.user_values(release.name)
    values = merged(lent, VALUES)
    service = Service(release, Helm(NAMESPACE), chart, merged(release.values, VALUES) | {}, folder)
    made = kubectl("create", "namespace", NAMESPACE, namespace="default")
    assert made.returncode == 0 or "AlreadyExists" in made.stderr, made.stderr
    try:
        deliver_model(tools_image(release))
        paced = config_map(
            "paced", {"model.py": (HERE / "paced.py").read_bytes(), "real.py": BACKEND.read_bytes()}
        )
        client = config_map("client", {"client.py": (HERE / "client.py").read_bytes()})
        run("apply", "--filename", "-", given={"apiVersion": "v1", "kind": "List", "items": [paced, client]})
        file = folder / f"{NAME}.json"
        file.write_text(json.dumps(values))
        done = service.helm("upgrade", "--install", NAME, str(chart), "--values", str(file))
        assert done.returncode == 0, done.stderr
        pace = {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {
                                "name": "triton",
                                "env": [{"name": "PACE", "value": f"{FIXED} {EACH}"}],
                                "volumeMounts": [
                                    {
                                        "name": "paced",
                                        "mountPath": "/opt/tritonserver/backends/openvino",
                                        "readOnly": True,
                                    }
                                ],
                            }
                        ],
                        "volumes": [{"name": "paced", "configMap": {"name": "paced"}}],
                    }
                }
            }
        }
        run("patch", DEPLOYMENT, "--type=strategic", "--patch", json.dumps(pace))
        run("rollout", "status", DEPLOYMENT, "--timeout=240s")
        service.settle(1)
        yield service
    finally:
        with service.helm.gone_afterwards(NAME):
            pass
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", namespace="default")
