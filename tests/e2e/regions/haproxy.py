"""HAProxy's configuration where Cloud Load Balancing stands: the closest region that is healthy and not full.

A zone is a frontend; a region as one zone sees it is a backend with slots for pods, at addresses that
toxiproxy listens on.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .gateway import Backend

SLOTS = 4  # pods of a region at a time, those that leave included
PORT = 443

Zones = Mapping[str, Mapping[str, float]]  # zone -> region -> milliseconds there and back


@dataclass(frozen=True)
class Geography:
    """Who is how far from whom."""

    zones: Zones

    @property
    def regions(self) -> list[str]:
        return list(next(iter(self.zones.values())))

    def closest_first(self, zone: str) -> list[str]:
        return sorted(self.zones[zone], key=lambda region: self.zones[zone][region])

    def frontend(self, zone: str) -> str:
        """The address at which the load balancer meets the clients of a zone."""
        return f"127.{list(self.zones).index(zone) + 1}.0.1"

    def slot(self, zone: str, region: str, number: int) -> str:
        """The address of a region's pod as a zone sees it; the pod's ports are its own."""
        return f"127.{list(self.zones).index(zone) + 1}.{self.regions.index(region) + 1}.{number}"


def server(region: str, number: int) -> str:
    return f"{region}-{number}"


def pool(backend: Backend, region: str, zone: str) -> str:
    """The backend that sends a zone's requests to a region, and to others where none of its pods is left."""
    return f"{backend.name}.{region}.from.{zone}"


def configuration(backends: Sequence[Backend], geography: Geography, certificate: Path, control: Path) -> str:
    """haproxy.cfg. certificate: PEM with its key. control: the socket of its runtime API."""
    parts = [_head(control)]
    for zone in geography.zones:
        parts.append(_frontend(backends, geography, zone, certificate))
    for backend in backends:
        for zone in geography.zones:
            for region in geography.regions:
                parts.append(_pool(backend, geography, zone, region))
                parts.append(_count(backend, zone, region))
    return "\n\n".join(parts) + "\n"


def _head(control: Path) -> str:
    log = (
        '{"at":%[date(0,ms)],"zone":"%f","pool":"%b","server":"%s","method":"%HM","status":%ST,'
        '"milliseconds":%Ta,"retries":"%rc","end":"%ts"}'
    )
    return f"""\
global
  log stdout format raw local0
  stats socket {control} mode 600 level admin
  maxconn 1000

defaults
  mode http
  log global
  log-format '{log}'
  timeout connect 2s
  timeout client 600s
  timeout server 30s
  timeout http-request 10s
  # What has reached a pod is not sent twice: Cloud Load Balancing does not either, for a POST.
  retries 5
  retry-on conn-failure
  option redispatch 1"""


def _frontend(backends: Sequence[Backend], geography: Geography, zone: str, certificate: Path) -> str:
    requests, choices = [], []
    for backend in backends:
        for region in geography.closest_first(zone):
            healthy = f"{{ nbsrv({_counted(backend, region, zone)}) gt 0 }}"
            requests += _room(backend, geography, zone, region)
            full = (
                f" {{ var({_variable(geography, region)}) -m int gt 0 }}" if region in backend.rates else ""
            )
            choices.append(
                f"  use_backend {pool(backend, region, zone)} if {_asked(backend)} {healthy}{full}"
            )
        # All are full.
        for region in geography.closest_first(zone):
            healthy = f"{{ nbsrv({_counted(backend, region, zone)}) gt 0 }}"
            choices.append(f"  use_backend {pool(backend, region, zone)} if {_asked(backend)} {healthy}")
    asked = " or ".join(_asked(backend) for backend in backends)
    return "\n".join([
        f"frontend {zone}",
        f"  bind {geography.frontend(zone)}:{PORT} ssl crt {certificate} alpn h2,http/1.1",
        *requests,
        f"  http-request return status 404 unless {asked}",
        *choices,
    ])  # fmt: skip


def _asked(backend: Backend) -> str:
    return f"{{ req.hdr(host),field(1,:) -i {backend.host} }}"


def _variable(geography: Geography, region: str) -> str:
    return f"txn.room.{geography.regions.index(region)}"


def _room(backend: Backend, geography: Geography, zone: str, region: str) -> list[str]:
    """Rules for what a region can still take, in requests a second: what its healthy pods can, less what all
    zones send. None where it is never full."""
    if region not in backend.rates:
        return []
    rules = []
    for number, other in enumerate(geography.zones):
        rules.append(f"set-var(txn.rate.{number}) be_sess_rate({pool(backend, region, other)})")
    terms = [f"nbsrv({_counted(backend, region, zone)})", f"mul({backend.rates[region]})"]
    terms += [f"sub(txn.rate.{number})" for number in range(len(geography.zones))]
    rules.append(f"set-var({_variable(geography, region)}) {','.join(terms)}")
    return [f"  http-request {rule} if {_asked(backend)}" for rule in rules]


def _pool(backend: Backend, geography: Geography, zone: str, region: str) -> str:
    check = backend.check
    lines = [
        f"backend {pool(backend, region, zone)}",
        "  balance roundrobin",
        # The end of a gRPC connection's age can come together with an answer's trailers: HAProxy 2.6 takes
        # the answer for one that was cut short.
        f"  http-reuse {'never' if backend.http2 else 'always'}",
        f"  timeout server {backend.timeout}s",
        f"  timeout check {check.timeout}s",
        "  option httpchk",
        f"  http-check send meth GET uri {check.path}",
        "  http-check expect status 200",
        "  option allbackups",
    ]
    spoken = " proto h2" if backend.http2 else ""
    checked = (
        f"check check-proto h1 port {check.port} inter {check.interval}s"
        f" rise {check.healthy} fall {check.unhealthy}"
        # What hangs on a pod that is silent is ended. Only checks may find a pod out: a request that cannot
        # connect would mark it down itself (observe), and be ended with what hangs, though it is tried again.
        " fastinter 200ms on-marked-down shutdown-sessions"
    )
    for number in range(1, SLOTS + 1):
        address = f"{geography.slot(zone, region, number)}:{backend.port}"
        lines.append(f"  server {server(region, number)} {address}{spoken} {checked} disabled")
    for other in geography.closest_first(zone):
        if other != region:
            for number in range(1, SLOTS + 1):
                address = f"{geography.slot(zone, other, number)}:{backend.port}"
                tracked = f"{pool(backend, other, zone)}/{server(other, number)}"
                lines.append(f"  server {server(other, number)} {address}{spoken} backup track {tracked}")
    return "\n".join(lines)


def _counted(backend: Backend, region: str, zone: str) -> str:
    return f"{pool(backend, region, zone)}.healthy"


def _count(backend: Backend, zone: str, region: str) -> str:
    """Never sent to: nbsrv of a pool would count its backups once the region has no pod."""
    lines = [f"backend {_counted(backend, region, zone)}"]
    for number in range(1, SLOTS + 1):
        tracked = f"{pool(backend, region, zone)}/{server(region, number)}"
        lines.append(f"  server {server(region, number)} 127.0.0.1:1 track {tracked}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Control:
    """HAProxy's runtime API."""

    path: Path

    def __call__(self, command: str) -> str:
        """What it says to a command. Raises RuntimeError where it says that something is wrong."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(str(self.path))
            client.sendall(f"{command}\n".encode())
            answer = b""
            while part := client.recv(65536):
                answer += part
        said = answer.decode().strip()
        if command.startswith("set ") and said:
            raise RuntimeError(f"HAProxy on {command!r}: {said}")
        return said
