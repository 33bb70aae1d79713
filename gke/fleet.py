"""The fleet that values/fleet.yaml and values/regions/*.yaml describe, as far as it is Google Cloud's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from model_tools.console import BadInput
from model_tools.values import Values, load_values, models

NAMESPACE = "inference"
RELEASE = "inference-system"
PREFIX = "inference"  # of everything that is made
ACCELERATOR = "cloud.google.com/gke-accelerator"
# Enough for one pod of the chart's defaults and what GKE itself runs on a node.
MACHINES = {
    "nvidia-tesla-t4": "n1-standard-4",
    "nvidia-l4": "g2-standard-8",
    "nvidia-tesla-a100": "a2-highgpu-1g",
}
IMAGE = re.compile(r"^(?P<location>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/.+$")


@dataclass(frozen=True)
class Region:
    """One cluster. nodes: the fewest and the most GPU nodes."""

    name: str
    project: str
    repository: str
    accelerator: str
    gpus: int
    nodes: tuple[int, int]
    machine: str
    account: str  # the pods' service account
    buckets: tuple[str, ...]

    @property
    def cluster(self) -> str:
        return f"{PREFIX}-{self.name}"

    @property
    def context(self) -> str:
        """Of the kubeconfig: `model-tools regions` takes the region's own name."""
        return self.name


@dataclass(frozen=True)
class Fleet:
    """All clusters, and what stands in front of them. Empty names: there is none of it."""

    project: str
    regions: tuple[Region, ...]
    config: Region | None  # the cluster that holds a multi-cluster Gateway
    gateway: bool
    address: str
    certificate_map: str
    hosts: tuple[tuple[str, str], ...]  # protocol, name
    security_policy: str
    source_ranges: tuple[str, ...]


def read_fleet(fleet: Path, regions: list[Path], machine: str | None = None) -> Fleet:
    """machine: of the GPU nodes, in place of the one for the region's accelerator.

    Raises BadInput, with file and key, for values that name no project, accelerator or config cluster.
    """
    if not regions:
        raise BadInput("no region: give the values file of at least one")
    values = {file: load_values([fleet, file]) for file in regions}
    found = tuple(_region(file, each, machine) for file, each in values.items())
    names = [region.name for region in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"region: {', '.join(sorted(twice))} is named by two files")
    projects = sorted({region.project for region in found})
    if len(projects) > 1:
        raise BadInput(f"tools.image.repository: the regions name several projects, {', '.join(projects)}")
    routing = next(iter(values.values()))["routing"]
    config = None
    if routing["kind"] == "multiClusterGateway":
        config = next((region for region in found if region.name == routing["configCluster"]), None)
        if not config:
            raise BadInput(
                f"{fleet}: routing.configCluster: {routing['configCluster']!r} is none of the regions"
            )
    gateway = routing["kind"] in ("gateway", "multiClusterGateway")
    share = routing["grpcShare"]
    routed = [name for name, there in (("http", share < 1), ("grpc", share > 0)) if gateway and there]
    return Fleet(
        project=projects[0],
        regions=found,
        config=config,
        gateway=gateway,
        address=routing["gateway"]["address"] if gateway else "",
        certificate_map=routing["gateway"]["certificateMap"] if gateway else "",
        hosts=tuple((name, routing["hosts"][name]) for name in routed),
        security_policy=routing["securityPolicy"] if gateway else "",
        source_ranges=tuple(routing["gateway"]["sourceRanges"]) if gateway else (),
    )


def _region(file: Path, values: Values, machine: str | None) -> Region:
    name = values["region"]
    if not name:
        raise BadInput(f"{file}: region: is empty")
    repository = values["tools"]["image"]["repository"]
    image = IMAGE.match(repository)
    if not image or image["location"] != name:
        raise BadInput(
            f"{file}: tools.image.repository: {repository!r} is no image of an Artifact Registry in {name},"
            f" such as {name}-docker.pkg.dev/PROJECT/REPOSITORY/tools"
        )
    triton, scaling = values["triton"], values["autoscaling"]
    accelerator = triton["nodeSelector"].get(ACCELERATOR)
    if not accelerator:
        raise BadInput(f"{file}: triton.nodeSelector: has no {ACCELERATOR}, which names the nodes' GPUs")
    machine = machine or MACHINES.get(accelerator)
    if not machine:
        raise BadInput(f"{file}: no machine type is known for {accelerator}: give --machine-type")
    fixed = scaling["kind"] == "none"
    sources = [model["source"] for model in models(values).values()]
    buckets = {
        each["url"].split("/")[2] for each in sources if each["type"] == "url" and each["url"][:5] == "gs://"
    }
    return Region(
        name=name,
        project=image["project"],
        repository=image["repository"],
        accelerator=accelerator,
        gpus=max(1, triton["gpu"]["count"]),
        nodes=(triton["replicas"],) * 2 if fixed else (scaling["minReplicas"], scaling["maxReplicas"]),
        machine=machine,
        account=triton["serviceAccountName"] or "default",
        buckets=tuple(sorted(buckets)),
    )
