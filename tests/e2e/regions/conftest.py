"""Two regions, plugged in and installed, and the load balancer before them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..waiting import until
from . import edge, endpoints, fleet, gateway, load
from .edge import Balancer, Cables, Pods
from .fleet import DEFINITIONS, NAMESPACE, REPORT, TOXIPROXY, Region, geography
from .haproxy import Geography


@dataclass
class World:
    """What the tests look at and act on. measured: rows for the table of failures."""

    geography: Geography
    regions: dict[str, Region]
    backends: list[gateway.Backend]
    cables: Cables
    balancer: Balancer
    certificate: Path
    folder: Path
    controllers: dict[str, endpoints.Controller]
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    loads: int = 0

    @property
    def hosts(self) -> dict[str, str]:
        return {"grpc" if each.http2 else "http": each.host for each in self.backends}

    @property
    def services(self) -> dict[str, str]:
        return {"grpc" if each.http2 else "http": each.name for each in self.backends}

    def clients(self, rates: Mapping[str, float]) -> AbstractContextManager[load.Load]:
        """A load of these requests a second over each protocol, by zone."""
        self.loads += 1
        return load.clients(
            self.geography, self.hosts, self.services, "small", rates, self.balancer.log, self.certificate,
            self.folder / f"load-{self.loads}",
        )  # fmt: skip

    def attach(self, name: str) -> None:
        """Plugs in a region whose cluster is up, installs its release and waits for its pod to be served."""
        plug(self.cables, self.regions[name])
        self.regions[name].install(definitions=DEFINITIONS)
        self.controllers[name].look_at(self.regions[name].kubeconfig)
        self.wait_for_pods(name)

    def wait_for_pods(self, name: str) -> None:
        """Until the load balancer has the pods that run."""
        known, running = self.controllers[name], self.regions[name].pods
        until(lambda: known.ready and known.ready == {*running().values()}, f"pods of {name}", 120, 0.5)


@pytest.fixture(autouse=True)
def whole(world: World) -> None:
    """A test that failed may have left a region down."""
    for name in [*world.cables.lost]:
        world.regions[name].up()
        world.attach(name)


def plug(cables: Cables, region: Region) -> None:
    status = region.status()
    nodes = {each["address"]: each["pods"] for each in status["nodes"]}
    cables.plug(region.name, status["switch"], nodes, fleet.gateway(next(iter(nodes))))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not os.environ.get(TOXIPROXY):
        pytest.skip("two clusters, and a network for what is between them: make test-regions")
    places = geography()
    folder = tmp_path_factory.mktemp("regions")
    regions = {each.name: each for each in fleet.fleet(places)}
    cables = Cables(places.regions)
    edge.ip(["link", "set", "lo", "up"])
    for region in regions.values():
        plug(cables, region)
        region.install(definitions=DEFINITIONS)
    backends = gateway.backends({name: region.objects() for name, region in regions.items()})
    certificate = make_certificate([each.host for each in backends], folder)
    with ExitStack() as stack:
        toxiproxy = Path(os.environ[TOXIPROXY])
        balancer = stack.enter_context(
            edge.balancer(places, backends, cables, toxiproxy, certificate, folder)
        )
        controllers = {
            name: endpoints.Controller(
                Pods(name, backends, places, balancer.ways, balancer.control), NAMESPACE
            )
            for name in regions
        }
        found = World(places, regions, backends, cables, balancer, certificate, folder, controllers)
        for name, controller in controllers.items():
            controller.look_at(regions[name].kubeconfig)
            controller.start()
            stack.callback(controller.stop)
        for name in regions:
            found.wait_for_pods(name)
        yield found
        REPORT.write_text(json.dumps(found.measured, indent=2) + "\n")


def make_certificate(hosts: list[str], folder: Path) -> Path:
    """For these names, signed by itself, with its key in the same file."""
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    names = ",".join(f"DNS:{host}" for host in hosts)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={names}",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text(certificate.read_text() + key.read_text())
    return both
