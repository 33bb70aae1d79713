"""A region: an embedded cluster of its own with a release of the chart, installed from the fleet's values."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .haproxy import Geography

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build"
CHART = BUILD / "regions" / "chart"
MODEL = BUILD / "regions" / "model"
IMAGES = BUILD / "regions" / "images.yaml"
DEFINITIONS = BUILD / "regions" / "definitions.json"
REPORT = BUILD / "regions" / "measured.json"
# The variable that says where toxiproxy is; without it nothing has been prepared.
TOXIPROXY = "REGIONS_TOXIPROXY"
VALUES = ROOT / "values"
RELEASE = "inference-system"
NAMESPACE = "inference"
NETWORK = 24  # bits of a cluster's network of nodes that are its own
TIMEOUT = 300  # seconds for a release to be installed


@dataclass(frozen=True)
class Region:
    """number: which range its cluster's addresses are of (cluster/README.md)."""

    name: str
    number: int

    @property
    def environment(self) -> dict[str, str]:
        return {"CLUSTER_NAME": f"region-{self.number}", "CLUSTER_RANGE": str(self.number)}

    @property
    def values(self) -> list[Path]:
        """As a fleet on GKE is installed, on a cluster without GPUs, and with what the tests need."""
        here = Path(__file__).parent / "values.yaml"
        return [
            VALUES / "fleet.yaml",
            VALUES / "local.yaml",
            VALUES / "regions" / f"{self.name}.yaml",
            IMAGES,
            here,
        ]

    def cluster(self, *arguments: str | Path, check: bool = True) -> str:
        """Runs the command `cluster` on this region's; its output."""
        command = [str(Path(sys.executable).parent / "cluster"), *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            env={**os.environ, **self.environment},
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"
        return done.stdout

    def up(self) -> None:
        self.cluster("up", "--nodes", "1", "--images", IMAGES)

    def down(self) -> None:
        self.cluster("down")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cluster("status", "--json", check=False))
        return found

    @cached_property
    def kubeconfig(self) -> Path:
        """The file; what is in it is another cluster's after the region was made anew."""
        return Path(self.cluster("kubeconfig").strip())

    def run(self, *command: str | Path, given: str | None = None, timeout: float = 120) -> str:
        """Runs helm or kubectl on the cluster, from where the tests are; its output."""
        done = subprocess.run(
            [str(word) for word in command],
            input=given, capture_output=True, text=True, check=False, timeout=timeout,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr[-3000:]}"
        return done.stdout

    def install(self, *settings: str, definitions: Path | None = None) -> None:
        """Installs the release, or upgrades it; returns when its pods are ready. settings: for --set."""
        if definitions:
            self.run("kubectl", "apply", "--server-side", "--filename", definitions)
            self.run("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        files = [word for file in self.values for word in ("--values", file)]
        sets = [word for setting in settings for word in ("--set", setting)]
        self.run(
            "helm", "upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace",
            *files, *sets, "--wait", "--timeout", f"{TIMEOUT}s", timeout=TIMEOUT + 60,
        )  # fmt: skip
        self.run(
            "kubectl", "--namespace", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}-triton",
            f"--timeout={TIMEOUT}s", timeout=TIMEOUT + 60,
        )  # fmt: skip

    def objects(self) -> list[dict[str, Any]]:
        """What Helm has installed."""
        manifest = self.run("helm", "get", "manifest", RELEASE, "--namespace", NAMESPACE)
        return [each for each in yaml.load_all(manifest, yaml.CSafeLoader) if each]

    def pods(self) -> dict[str, str]:
        """Addresses of the Triton pods that run, by name."""
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=triton"
        found = self.run(
            "kubectl", "--namespace", NAMESPACE, "get", "pods", "--selector", selector, "--output", "json"
        )
        return {
            each["metadata"]["name"]: each["status"]["podIP"]
            for each in json.loads(found)["items"]
            if "podIP" in each["status"]
        }


def geography() -> Geography:
    return Geography(yaml.safe_load((Path(__file__).parent / "geography.yaml").read_text()))


def fleet(places: Geography) -> list[Region]:
    return [Region(name, number) for number, name in enumerate(places.regions, 1)]


def gateway(node: str) -> str:
    """The load balancer's address in the network of a region's nodes, one of which is given."""
    return str(ipaddress.ip_network(f"{node}/{NETWORK}", strict=False)[250])
