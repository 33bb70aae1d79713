"""A pod that says what a GPU said: the scrapes that benchmarks/gpu/capture.py recorded, over and over again.

No node here has a GPU. What Prometheus scrapes, and what rules and dashboards make of it, is as real as the
rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .helm import applied, kubectl

NAME = "recorded-gpu"
PORT = 9400
RECORDED = Path(__file__).parents[2] / "benchmarks" / "gpu" / "results" / "h200-scrapes.jsonl"
# The scrape whose time it is, from the beginning again after the last: counters that fall are a restart's.
PROGRAM = f"""
import http.server, json, time
scrapes = [json.loads(line) for line in open("/recorded/scrapes")]
length = scrapes[-1]["seconds"] + 1
began = time.monotonic()
class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        now = (time.monotonic() - began) % length
        scrape = [each for each in scrapes if each["seconds"] <= now][-1]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(scrape[self.path.strip("/")].encode())
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("", {PORT}), Exporter).serve_forever()
"""
ONLY = "nv_gpu_.+|nv_energy_consumption|DCGM_.+"  # the rest is of the model that was served there


def _endpoint(path: str, region: str) -> dict[str, Any]:
    return {
        "port": "metrics",
        "path": path,
        "interval": "5s",
        # dcgm-exporter names the node itself.
        "relabelings": [
            {"targetLabel": "region", "replacement": region},
            {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "Hostname"},
        ],
        "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": ONLY, "action": "keep"}],
    }


@contextmanager
def recorded_gpu(namespace: str, image: dict[str, Any], region: str) -> Iterator[None]:
    """While the block runs, Prometheus is told of a GPU in that namespace.

    image: the keys `image` and `imagePullPolicy` of a container that has Python.
    """
    metadata = {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}}
    container = {
        "name": "exporter",
        **image,
        "command": ["python3", "-c", PROGRAM],
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/dcgm", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "recorded", "mountPath": "/recorded"}],
    }
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"scrapes": RECORDED.read_text()},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "containers": [container],
                "volumes": [{"name": "recorded", "configMap": {"name": NAME}}],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            },
        },
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": metadata["labels"]},
                "podMetricsEndpoints": [_endpoint(path, region) for path in ("/triton", "/dcgm")],
            },
        },
    ]
    with applied(namespace, *items):
        ready = kubectl("wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=90s", namespace=namespace)
        assert ready.returncode == 0, ready.stderr
        yield
