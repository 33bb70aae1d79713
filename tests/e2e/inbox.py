"""A receiver in the cluster for what its own Alertmanager sends, for a test to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model_tools.kube import Release

from .helm import applied, kubectl
from .volumes import tools_image

NAME = "inbox-of-test"
PORT = 9099
# Writes each notification to the log, a line each.
PROGRAM = f"""
import http.server
class Inbox(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["content-length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("", {PORT}), Inbox).serve_forever()
"""


@dataclass(frozen=True)
class Inbox:
    """What has come from Alertmanager so far."""

    namespace: str

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert of every notification, oldest first, with its status: firing or resolved."""
        logs = kubectl("logs", NAME, namespace=self.namespace)
        assert logs.returncode == 0, logs.stderr
        # Beside notifications there may be tracebacks, of a connection that Alertmanager gave up.
        notices = [json.loads(line) for line in logs.stdout.splitlines() if line.startswith("{")]
        return [alert for notice in notices for alert in notice["alerts"]]

    def wait_for(self, status: str, patience: float, **labels: str) -> dict[str, Any]:
        """The newest notice of an alert with these labels, once its status is that."""
        deadline = time.monotonic() + patience
        while True:
            all_of_them = self.alerts()
            found = [alert for alert in all_of_them if labels.items() <= alert["labels"].items()]
            if found and found[-1]["status"] == status:
                return found[-1]
            seen = sorted({f"{alert['labels']['alertname']} {alert['status']}" for alert in all_of_them})
            assert time.monotonic() < deadline, f"{labels} not {status} in {patience:.0f} s; came: {seen}"
            time.sleep(1)


def alertmanager_is_there() -> bool:
    found = kubectl("get", "alertmanagers", "--all-namespaces", "--output", "name", namespace="default")
    return found.returncode == 0 and bool(found.stdout.strip())


@contextmanager
def inbox(release: Release) -> Iterator[Inbox]:
    """Every alert of the release's namespace comes here at once, and once more when it is over."""
    metadata = {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}}
    container = {
        "name": "inbox",
        **tools_image(release),
        "command": ["python3", "-c", PROGRAM],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    webhook = {
        "url": f"http://{NAME}.{release.namespace}.svc:{PORT}/",
        "sendResolved": True,
    }
    route = {
        "receiver": "inbox",
        "groupBy": ["alertname", "severity", "slo", "pod", "release"],
        "groupWait": "1s",
        "groupInterval": "5s",
        "repeatInterval": "1h",
    }
    items = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"containers": [container], "securityContext": user},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": metadata["labels"], "ports": [{"port": PORT}]},
        },
        {
            "apiVersion": "monitoring.coreos.com/v1alpha1",
            "kind": "AlertmanagerConfig",
            "metadata": metadata,
            "spec": {"route": route, "receivers": [{"name": "inbox", "webhookConfigs": [webhook]}]},
        },
    ]
    with applied(release.namespace, *items):
        ready = kubectl(
            "wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=90s", namespace=release.namespace
        )
        assert ready.returncode == 0, ready.stderr
        yield Inbox(release.namespace)
