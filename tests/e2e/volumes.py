"""Files and programs of a test inside the cluster, by the image of tools that the release has anyway."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model_tools.kube import Release

from .helm import applied, kubectl


def tools_image(release: Release) -> dict[str, Any]:
    """What a container says of its image to run the release's tools."""
    image = release.values["tools"]["image"]
    which = f"@{image['digest']}" if image.get("digest") else f":{image['tag']}"
    return {
        "image": f"{image['repository']}{which}",
        "imagePullPolicy": image.get("pullPolicy", "IfNotPresent"),
    }


@contextmanager
def on_a_claim(files: dict[str, bytes], release: Release, namespace: str) -> Iterator[str]:
    """Files on a volume that pods of the release can mount, by the name of its claim in a namespace.

    The volume is a folder of a node that runs one of the release's Triton pods: others may not take any.
    """
    name = "files-of-test"
    selector = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=triton"
    pods = kubectl(
        "get", "pods", "--selector", selector, "--field-selector", "status.phase=Running", "--output", "json",
        namespace=release.namespace,
    )  # fmt: skip
    node = json.loads(pods.stdout)["items"][0]["spec"]["nodeName"]
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    # A class that no provisioner has keeps a default one from making another volume.
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": name}
    size = {"storage": "1Mi"}
    writer = {
        "restartPolicy": "Never",
        "nodeName": node,
        "containers": [
            {
                "name": "writer",
                **tools_image(release),
                "command": ["sh", "-c", "rm -rf /volume/* && cp -L /files/* /volume/"],
                "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
                "volumeMounts": [
                    {"name": "files", "mountPath": "/files"},
                    {"name": "volume", "mountPath": "/volume"},
                ],
            }
        ],
        "volumes": [
            {"name": "files", "configMap": {"name": name}},
            {"name": "volume", "persistentVolumeClaim": {"claimName": name}},
        ],
    }
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "binaryData": {key: base64.b64encode(content).decode() for key, content in files.items()},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {
                **claim,
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": f"/tmp/{namespace}-{name}", "type": "DirectoryOrCreate"},
                "claimRef": {"name": name, "namespace": namespace},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {**claim, "resources": {"requests": size}, "volumeName": f"{namespace}-{name}"},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": writer},
    ]
    with applied(namespace, *items):
        written = kubectl(
            "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s",
            namespace=namespace,
        )  # fmt: skip
        assert written.returncode == 0, written.stderr
        yield name
