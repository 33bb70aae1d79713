"""Where clients meet the load balancer: HAProxy, and toxiproxy as the way from a zone to a region's pods.

All of it is in the network namespace of this process, which `make test-regions` makes; what plugs a region in
is a cable to its cluster's switch.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import requests

from ..waiting import until
from .gateway import Backend
from .haproxy import SLOTS, Control, Geography, configuration, pool, server

TOXIPROXY = "http://127.0.0.1:8474"
PATIENCE = 30.0  # seconds for a process to be ready, and for toxiproxy to answer
SETTINGS = Path("/proc/sys/net/ipv4")  # of this network namespace


class Ways:
    """toxiproxy: one proxy a zone, pod and port, which delays each direction by half of the distance."""

    def __init__(self, geography: Geography) -> None:
        self._geography = geography
        self._session = requests.Session()
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}  # proxy -> region

    def open(self, region: str, slot: int, pod: str, port: int) -> None:
        for zone, distances in self._geography.zones.items():
            name = self._name(zone, region, slot, port)
            self._post("/proxies", {
                "name": name, "listen": f"{self._geography.slot(zone, region, slot)}:{port}",
                "upstream": f"{pod}:{port}", "enabled": True,
            })  # fmt: skip
            for stream in ("upstream", "downstream"):
                attributes = {"latency": round(distances[region] / 2), "jitter": 0}
                toxic = {"name": stream, "type": "latency", "stream": stream, "attributes": attributes}
                self._post(f"/proxies/{name}/toxics", toxic)
            with self._lock:
                self._open[name] = region

    def close(self, region: str, slot: int, port: int) -> None:
        for zone in self._geography.zones:
            name = self._name(zone, region, slot, port)
            answer = self._session.delete(f"{TOXIPROXY}/proxies/{name}", timeout=PATIENCE)
            if answer.status_code != requests.codes.not_found:  # an earlier try may have come this far
                answer.raise_for_status()
            with self._lock:
                self._open.pop(name, None)

    def reachable(self, region: str, is_so: bool) -> None:
        """Whether connections to a region can be made at all.

        toxiproxy takes one before it has one to the pod. Of a region whose cable is gone it takes none, so
        that the load balancer sees what it would see without toxiproxy.
        """
        with self._lock:
            names = [name for name, of in self._open.items() if of == region]
        for name in names:
            self._post(f"/proxies/{name}", {"enabled": is_so})

    def ready(self) -> bool:
        try:
            return self._session.get(f"{TOXIPROXY}/version", timeout=1).ok
        except requests.RequestException:
            return False

    def _post(self, path: str, content: dict[str, Any]) -> None:
        answer = self._session.post(f"{TOXIPROXY}{path}", json=content, timeout=PATIENCE)
        if not answer.ok:
            raise requests.HTTPError(f"toxiproxy {path}: {answer.text}")

    @staticmethod
    def _name(zone: str, region: str, slot: int, port: int) -> str:
        return f"{zone}.{region}.{slot}.{port}"


@dataclass
class Pods:
    """Which pod is in which slot of a region, as a controller of network endpoint groups keeps them."""

    region: str
    backends: Sequence[Backend]
    geography: Geography
    ways: Ways
    control: Control
    slots: dict[str, int] = field(default_factory=dict)  # address of a pod that is served
    leaving: dict[str, tuple[int, float]] = field(default_factory=dict)  # slot, and when it is free again

    def set(self, ready: set[str]) -> None:
        """Makes these pods' addresses those that requests go to; those that no longer are drain."""
        for pod in [pod for pod in self.slots if pod not in ready]:
            slot = self.slots.pop(pod)
            self._state(slot, "drain")
            self.leaving[pod] = slot, time.monotonic() + max(each.draining for each in self.backends)
        for pod in ready - self.slots.keys():
            if pod in self.leaving:
                slot, _ = self.leaving.pop(pod)
            else:
                slot = self._free()
                for port in self._ports():
                    self.ways.open(self.region, slot, pod, port)
            self._state(slot, "ready")
            self.slots[pod] = slot
        self.tidy()

    def tidy(self, everything: bool = False) -> None:
        """Closes the ways to pods that have drained."""
        for pod, (slot, end) in list(self.leaving.items()):
            if everything or time.monotonic() > end:
                self._forget(pod, slot)

    def _forget(self, pod: str, slot: int) -> None:
        self._state(slot, "maint")
        for port in self._ports():
            self.ways.close(self.region, slot, port)
        del self.leaving[pod]

    def _free(self) -> int:
        taken = {*self.slots.values(), *(slot for slot, _ in self.leaving.values())}
        free = [slot for slot in range(1, SLOTS + 1) if slot not in taken]
        if not free:  # the one that has drained for longest
            pod, (slot, _) = min(self.leaving.items(), key=lambda item: item[1][1])
            self._forget(pod, slot)
            free = [slot]
        return free[0]

    def _ports(self) -> set[int]:
        return {port for each in self.backends for port in (each.port, each.check.port)}

    def _state(self, slot: int, state: str) -> None:
        for backend in self.backends:
            for zone in self.geography.zones:
                name = f"{pool(backend, self.region, zone)}/{server(self.region, slot)}"
                self.control(f"set server {name} state {state}")


class Cables:
    """What plugs regions in: a cable from the switch of each region's cluster to where this process is."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = regions
        self._nodes: dict[str, Mapping[str, str]] = {}
        # region -> when its cable was gone and toxiproxy had been told, unix seconds
        self.lost: dict[str, float] = {}
        self.reachable: Callable[[str, bool], None] = lambda region, is_so: None

    def plug(self, region: str, switch: int, nodes: Mapping[str, str], address: str) -> None:
        """switch: a process of its network. nodes: address -> its pods' network. address: our own there."""
        cable = self._name(region)
        there = ["nsenter", "--target", str(switch), "--net", "--"]
        # That of a run before goes with its network namespace, which the kernel ends some time later.
        subprocess.run([*there, "ip", "link", "delete", "edge"], capture_output=True, check=False)
        ip(["link", "add", "edge", "type", "veth", "peer", "name", cable, "netns", str(os.getpid())], there)
        ip(["link", "set", "edge", "master", "bridge", "up"], there)
        # A node without pods yet sends their packets back, and a redirect that would outlive that by minutes.
        for interface in ("all", cable):
            (SETTINGS / "conf" / interface / "accept_redirects").write_text("0")
        ip(["addr", "add", f"{address}/24", "dev", cable])
        ip(["link", "set", cable, "up"])
        for node, pods in nodes.items():
            ip(["route", "add", pods, "via", node])
        self._nodes[region] = nodes
        self.lost.pop(region, None)
        self.reachable(region, True)

    def cut(self, region: str) -> None:
        """What is under way gets no answer; what is new finds no way."""
        ip(["link", "set", self._name(region), "down"])

    def mend(self, region: str) -> None:
        ip(["link", "set", self._name(region), "up"])
        for node, pods in self._nodes[region].items():  # they went with the link
            ip(["route", "add", pods, "via", node])

    def watch(self, lines: IO[str]) -> None:
        """Reads `ip monitor link`: the end of a cluster takes its cable along."""
        for line in lines:
            for region in self._regions:
                if line.startswith("Deleted") and f": {self._name(region)}" in line:
                    self.reachable(region, False)
                    self.lost[region] = time.time()

    def _name(self, region: str) -> str:
        return f"region-{self._regions.index(region)}"


def ip(arguments: Sequence[str], prefix: Sequence[str] = ()) -> None:
    done = subprocess.run([*prefix, "ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass(frozen=True)
class Balancer:
    """toxiproxy and HAProxy, running. log: what HAProxy says of each request, one JSON object a line."""

    ways: Ways
    control: Control
    log: Path


@contextmanager
def balancer(
    geography: Geography,
    backends: Sequence[Backend],
    cables: Cables,
    toxiproxy: Path,
    certificate: Path,
    folder: Path,
) -> Iterator[Balancer]:
    """With no pod to send to yet. certificate: PEM with its key."""
    ways, control = Ways(geography), Control(folder / "haproxy.sock")
    config, log = folder / "haproxy.cfg", folder / "haproxy.log"
    config.write_text(configuration(backends, geography, certificate, control.path))
    # toxiproxy answers nobody while it ends a proxy that waits for a pod: a pod that is gone, 2 minutes long.
    (SETTINGS / "tcp_syn_retries").write_text("1")
    with ExitStack() as stack:
        stack.enter_context(_process([str(toxiproxy)], folder / "toxiproxy.log"))
        until(ways.ready, "toxiproxy", PATIENCE)
        stack.enter_context(_process(["haproxy", "-db", "-f", str(config)], log))
        until(control.path.exists, "HAProxy", PATIENCE)
        monitor = stack.enter_context(_process(["ip", "-o", "monitor", "link"], None))
        assert monitor.stdout
        cables.reachable = ways.reachable
        threading.Thread(target=cables.watch, args=(monitor.stdout,), daemon=True).start()
        yield Balancer(ways, control, log)


@contextmanager
def _process(command: list[str], log: Path | None) -> Iterator[subprocess.Popen[str]]:
    """log: None gives its standard output to whoever called."""
    with log.open("wb") if log else nullcontext() as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdout=output or subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, "LOG_LEVEL": "info"},  # toxiproxy's is trace, by default
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)
