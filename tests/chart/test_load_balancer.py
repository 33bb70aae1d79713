"""What a fleet renders is what the load balancer of the tests of several regions reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e.regions import fleet, gateway, haproxy

from .render import Manifest, render_chart

GEOGRAPHY = haproxy.Geography(
    {
        "here": {"us-central1": 4, "europe-west1": 100},
        "there": {"us-central1": 100, "europe-west1": 4},
    }
)


def rendered(*more: dict[str, Any]) -> dict[str, list[Manifest]]:
    """By region, from the files that the tests install; their images are built later."""
    return {
        region.name: render_chart(*(file for file in region.values if file != fleet.IMAGES), *more)
        for region in fleet.fleet(GEOGRAPHY)
    }


def test_hosts_checks_and_capacities_are_the_values(tmp_path: Path) -> None:
    check = {"intervalSeconds": 2, "timeoutSeconds": 1, "healthyThreshold": 3, "unhealthyThreshold": 2}
    hosts = {"http": "one.example", "grpc": "two.example"}
    routing = {"routing": {"healthCheck": check, "hosts": hosts, "grpcShare": 0.25}}
    found = {each.host: each for each in gateway.backends(rendered(routing))}
    assert {*found} == {"one.example", "two.example"}
    assert found["one.example"].check == gateway.Check("/v2/health/ready", 8003, 2, 1, 3, 2)
    assert (found["one.example"].port, found["two.example"].port) == (8000, 8001)
    assert (found["one.example"].http2, found["two.example"].http2) == (False, True)
    assert found["one.example"].rates == {"us-central1": 15, "europe-west1": 15}
    assert found["two.example"].rates == {"us-central1": 5, "europe-west1": 5}


def test_a_fleet_has_one_gateway() -> None:
    with pytest.raises(LookupError, match="0 Gateways in us-central1, europe-west1"):
        gateway.backends(rendered({"routing": {"configCluster": "asia-northeast1"}}))


def test_a_region_that_exports_nothing_is_missed() -> None:
    objects = rendered()
    objects["europe-west1"] = [each for each in objects["europe-west1"] if each["kind"] != "ServiceExport"]
    with pytest.raises(LookupError, match="a region has no ServiceExport"):
        gateway.backends(objects)


def test_each_zone_asks_its_closest_region_first() -> None:
    assert GEOGRAPHY.closest_first("here") == ["us-central1", "europe-west1"]
    assert GEOGRAPHY.closest_first("there") == ["europe-west1", "us-central1"]
    text = haproxy.configuration(
        gateway.backends(rendered()), GEOGRAPHY, Path("/certificate"), Path("/control")
    )
    chosen = [line.split()[1] for line in text.splitlines() if "use_backend inference-system-grpc" in line]
    order = [name.removeprefix("inference-system-grpc.") for name in chosen]
    assert order[:2] == ["us-central1.from.here", "europe-west1.from.here"]
    assert order[4:6] == ["europe-west1.from.there", "us-central1.from.there"]


def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    certificate = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=x", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_text((tmp_path / "certificate").read_text() + (tmp_path / "key").read_text())
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        haproxy.configuration(gateway.backends(rendered()), GEOGRAPHY, certificate, tmp_path / "control")
    )
    done = subprocess.run([program, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
