"""What the chart's objects tell a Gateway controller such as GKE's: hosts, health checks, capacities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_RATE = "networking.gke.io/max-rate-per-endpoint"
Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """How pods are asked whether they are ready; times in seconds."""

    path: str
    port: int
    interval: int
    timeout: int
    healthy: int
    unhealthy: int


@dataclass(frozen=True)
class Backend:
    """A Service of every region behind one host.

    port: of the pods. timeout, draining: seconds for an answer, and for those under way when a pod leaves.
    rates: region -> requests a second that fill a pod; a region without one is never full.
    """

    name: str
    host: str
    port: int
    http2: bool
    check: Check
    timeout: int
    draining: int
    rates: Mapping[str, int]


def backends(regions: Mapping[str, Iterable[Manifest]]) -> list[Backend]:
    """Reads the objects of each region's release. Raises LookupError for what a controller would miss."""
    objects = {region: list(manifests) for region, manifests in regions.items()}
    everything = [each for manifests in objects.values() for each in manifests]
    gateways = [each for each in everything if each["kind"] == "Gateway"]
    if len(gateways) != 1:
        raise LookupError(f"{len(gateways)} Gateways in {', '.join(objects)}: one region holds it")
    found = []
    for route in everything:
        if route["kind"] not in ("HTTPRoute", "GRPCRoute"):
            continue
        (rule,) = route["spec"]["rules"]
        (target,) = rule["backendRefs"]
        (host,) = route["spec"]["hostnames"]
        found.append(_backend(objects, target["name"], int(target["port"]), host))
    return found


def _backend(objects: Mapping[str, list[Manifest]], name: str, port: int, host: str) -> Backend:
    everywhere = [each for manifests in objects.values() for each in manifests]
    services = {region: _named(manifests, "Service", name) for region, manifests in objects.items()}
    for manifests in objects.values():
        _named(manifests, "ServiceExport", name)
    protocols = {_port(service, port).get("appProtocol", "") for service in services.values()}
    if len(protocols) != 1:
        raise LookupError(f"Service {name}: regions speak {', '.join(sorted(protocols))}")
    policy = _policy(everywhere, "GCPBackendPolicy", name)
    rates = {
        region: int(service["metadata"]["annotations"][MAX_RATE])
        for region, service in services.items()
        if MAX_RATE in service["metadata"].get("annotations", {})
    }
    return Backend(
        name=name,
        host=host,
        port=port,
        http2=protocols == {"kubernetes.io/h2c"},
        check=_check(_policy(everywhere, "HealthCheckPolicy", name)),
        timeout=int(policy["timeoutSec"]),
        draining=int(policy["connectionDraining"]["drainingTimeoutSec"]),
        rates=rates,
    )


def _check(policy: Manifest) -> Check:
    config = policy["config"]
    if config["type"] != "HTTP":
        raise LookupError(
            f"HealthCheckPolicy: a check of type {config['type']} is none of this load balancer's"
        )
    http = config["httpHealthCheck"]
    return Check(
        path=http["requestPath"],
        port=int(http["port"]),
        interval=int(policy["checkIntervalSec"]),
        timeout=int(policy["timeoutSec"]),
        healthy=int(policy["healthyThreshold"]),
        unhealthy=int(policy["unhealthyThreshold"]),
    )


def _named(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    for each in manifests:
        if each["kind"] == kind and each["metadata"]["name"] == name:
            return each
    raise LookupError(f"a region has no {kind} {name}")


def _port(service: Manifest, port: int) -> Manifest:
    for each in service["spec"]["ports"]:
        if int(each["port"]) == port:
            return dict(each)
    raise LookupError(f"Service {service['metadata']['name']} has no port {port}")


def _policy(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    for each in manifests:
        if each["kind"] == kind and each["spec"]["targetRef"]["name"] == name:
            return dict(each["spec"]["default"])
    raise LookupError(f"no {kind} is about {name}")
