"""Volumes that pods of all nodes share: a few folders, bound into every node, each a PersistentVolume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cluster import control, paths

COUNT = 4
IN_NODES = "/var/lib/volumes"  # node-init.sh binds folder() there


def folder() -> Path:
    return paths.state() / "volumes"


def make_folders() -> None:
    """Empty folders that any user may write to, as a file server's are by a pod's fsGroup."""
    for name in _names():
        (folder() / name).mkdir(parents=True, exist_ok=True)
        (folder() / name).chmod(0o777)


def install() -> None:
    """The class and its volumes. One whose claim is gone is emptied and can be claimed again."""
    make_folders()
    for each in control.get("persistentvolumes")["items"]:
        name = each["metadata"]["name"]
        if name in _names() and each["status"].get("phase") == "Released":
            control.kubectl("delete", "persistentvolume", name)
            for left in (folder() / name).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    objects = {"apiVersion": "v1", "kind": "List", "items": [_volume(name) for name in _names()]}
    control.apply(f"{control.render('volumes.yaml', {})}\n---\n{json.dumps(objects)}")


def _names() -> list[str]:
    return [f"shared-{number}" for number in range(1, COUNT + 1)]


def _volume(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "shared",
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"{IN_NODES}/{name}", "type": "DirectoryOrCreate"},
        },
    }
