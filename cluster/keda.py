"""KEDA, for a cluster that is up: nothing of it is built or started unless it is asked for."""

from __future__ import annotations

from pathlib import Path

from cluster import components, control, images, paths, shell
from cluster.node import Node
from images.build import Image
from images.build import build as build_image

NAMESPACE = "keda"
CONTAINERFILE = paths.REPOSITORY / "images" / "keda" / "Containerfile"


def build(go: str) -> tuple[Image, Path]:
    """The image of both programs and its archive, made unless the cache has them. Raises StepFailed."""
    image = Image("keda", CONTAINERFILE, components.build(components.KEDA, go))
    return image, build_image(image)


def install(nodes: list[Node], go: str) -> None:
    """Imports the image, applies KEDA's objects, waits until it serves metrics. Raises StepFailed."""
    image, archive = build(go)
    images.load(nodes, [archive])
    control.apply(objects(image))
    shell.wait_for(ready, "KEDA", timeout=180)


def objects(image: Image) -> str:
    """KEDA's own manifests with the changes of manifests/keda.yaml, as YAML."""
    values = {"IMAGE": image.repository(), "TAG": image.tag}
    return control.kustomize(image.context / "config", "keda.yaml", values)


def ready() -> bool:
    """Whether the API server gets external metrics from KEDA's adapter."""
    services = {service["metadata"]["name"]: service for service in control.get("apiservices")["items"]}
    served = services.get("v1beta1.external.metrics.k8s.io", {}).get("status", {}).get("conditions", [])
    deployments = control.get("deployments", "--namespace", NAMESPACE)["items"]
    return (
        any(each["type"] == "Available" and each["status"] == "True" for each in served)
        and len(deployments) == 2
        and all(each["status"].get("readyReplicas") for each in deployments)
    )
