"""A constant load of every zone's clients, and what they and the load balancer saw of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..waiting import until
from .fleet import ROOT
from .haproxy import PORT, Geography

USERS = 4  # of each protocol, in each zone
SLICE = 0.1  # seconds between two looks at what was written


@dataclass(frozen=True)
class Request:
    """As its client saw it; times in unix seconds."""

    zone: str
    protocol: str
    user: int
    start: float
    end: float
    outcome: str

    @property
    def failed(self) -> bool:
        return self.outcome != "success"


@dataclass(frozen=True)
class Answer:
    """As the load balancer saw it. region: empty where no pod was asked."""

    zone: str
    protocol: str
    at: float
    region: str
    status: int
    tries: int


@dataclass
class Load:
    """Clients that run."""

    files: Mapping[str, Path]  # zone -> what its clients write
    log: Path
    skip: int  # bytes of the log that are of earlier loads
    protocols: Mapping[str, str]  # a pool's Service -> protocol

    def requests(self, zone: str | None = None) -> list[Request]:
        """Those that are over."""
        found = []
        for name, file in self.files.items():
            if zone in (None, name):
                found += [Request(name, **json.loads(line)) for line in _lines(file)]
        return found

    def answers(
        self, zone: str | None = None, since: float = 0.0, until: float = float("inf")
    ) -> list[Answer]:
        found = []
        for line in _lines(self.log, self.skip):
            said = json.loads(line) if line.startswith("{") else {}
            service = str(said.get("pool", "")).partition(".")[0]
            # Others are the clients' questions for the model's interface, and what reached no route.
            if said.get("method") != "POST":
                continue
            if (
                service in self.protocols
                and zone in (None, said["zone"])
                and since <= said["at"] / 1000 <= until
            ):
                region = said["server"].rpartition("-")[0] if said["server"] != "<NOSRV>" else ""
                tries = 1 + int(said["retries"].removeprefix("+"))
                protocol = self.protocols[service]
                found.append(Answer(said["zone"], protocol, said["at"] / 1000, region, said["status"], tries))
        return found

    def shares(self, zone: str, since: float = 0.0, until: float = float("inf")) -> dict[str, Counter[str]]:
        """How many answers each region gave to a zone, by protocol."""
        counted: dict[str, Counter[str]] = {protocol: Counter() for protocol in self.protocols.values()}
        for each in self.answers(zone, since, until):
            counted[each.protocol][each.region] += 1
        return counted

    def go_on(self, seconds: float) -> float:
        """Lets the load run for that long, and until every zone has had answers since; when that began."""
        began = time.time()
        time.sleep(seconds)

        def answered() -> bool:
            zones = {
                (each.zone, each.protocol)
                for each in self.requests()
                if each.start > began and not each.failed
            }
            return len(zones) == len(self.files) * len(self.protocols)

        until(answered, "answers in every zone over every protocol", 60, SLICE)
        return began

    def served_by(self, zone: str, region: str, since: float, timeout: float) -> float:
        """Waits until a zone's answers of the last second are that region's alone; when the first came."""

        def latest() -> list[Answer]:
            now = time.time()
            return self.answers(zone, max(since, now - 1.0), now)

        def settled() -> bool:
            seen = {(each.protocol, each.region) for each in latest()}
            return seen == {(protocol, region) for protocol in self.protocols.values()}

        until(settled, f"{zone} served by {region}", timeout, SLICE)
        others = [each.at for each in self.answers(zone, since) if each.region != region]
        return min(each.at for each in self.answers(zone, max([since, *others])) if each.region == region)


def median_seconds(requests: list[Request]) -> float:
    return statistics.median(each.end - each.start for each in requests if not each.failed)


@contextmanager
def clients(
    geography: Geography,
    hosts: Mapping[str, str],
    services: Mapping[str, str],
    model: str,
    rates: Mapping[str, float],
    log: Path,
    certificate: Path,
    folder: Path,
) -> Iterator[Load]:
    """Starts the clients; the block begins once every zone has had answers over both protocols.

    hosts, services: by protocol. rates: requests a second over each protocol, by zone. certificate: trusted.
    """  # fmt: skip
    folder.mkdir(parents=True)
    protocols = {service: protocol for protocol, service in services.items()}
    load = Load({zone: folder / f"{zone}.jsonl" for zone in rates}, log, log.stat().st_size, protocols)
    with ExitStack() as stack:
        for zone, rate in rates.items():
            load.files[zone].touch()
            stack.enter_context(
                _zone(geography, zone, hosts, model, rate, load.files[zone], certificate, folder)
            )
        load.go_on(0)
        yield load


@contextmanager
def _zone(
    geography: Geography, zone: str, hosts: Mapping[str, str], model: str, rate: float, output: Path,
    certificate: Path, folder: Path,
) -> Iterator[None]:  # fmt: skip
    # The same names everywhere, and in each zone the address that is close.
    names = folder / f"{zone}.hosts"
    names.write_text(f"127.0.0.1 localhost\n{geography.frontend(zone)} {' '.join(hosts.values())}\n")
    command = [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts; exec "$@"', str(names),
        sys.executable, "-m", "tests.e2e.regions.clients", "--model", model,
        "--grpc-url", f"grpcs://{hosts['grpc']}:{PORT}", "--http-url", f"https://{hosts['http']}:{PORT}",
        "--users", str(USERS), "--rate", str(rate), "--output", str(output),
    ]  # fmt: skip
    with (folder / f"{zone}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT,
            env={**os.environ, "LOADTEST_CA_FILE": str(certificate)},
        )  # fmt: skip
        assert process.stdin
        try:
            yield
            assert process.poll() is None, (
                f"clients in {zone} ended: {(folder / f'{zone}.log').read_text()[-2000:]}"
            )
        finally:
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _lines(file: Path, skip: int = 0) -> list[str]:
    """Whole lines."""
    with file.open("rb") as content:
        content.seek(skip)
        return content.read().decode().split("\n")[:-1]
