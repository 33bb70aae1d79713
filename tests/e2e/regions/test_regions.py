"""Clients reach the closest region that is healthy and not full: gRPC and HTTP at once; nobody retries."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ..waiting import until
from .conftest import World
from .load import Load, Request, median_seconds

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

NEAR, FAR = "us-central1", "europe-west1"
HERE, THERE = "iowa", "belgium"  # zones: NEAR is close to the first, FAR to the second
# Requests a second over each protocol: all of it fills no region, nor does what follows a stall.
CALM = {HERE: 2.0, THERE: 2.0}
PROTOCOLS = ("grpc", "http")
MOVED = 5.0  # seconds
QUIET = 5.0  # seconds after which a pod without requests asks itself: files/watch-models.lua
SCRAPE = 5.0  # seconds, monitoring.podMonitor.interval of values/local.yaml


def test_each_zone_is_served_by_its_closest_region(world: World) -> None:
    with world.clients(CALM) as load:
        began = load.go_on(10)
    assert [each for each in load.requests() if each.failed] == []
    for zone, region in ((HERE, NEAR), (THERE, FAR)):
        for protocol, shares in load.shares(zone, began).items():
            assert {*shares} == {region}, f"{zone}, {protocol}: {shares}"
    medians = {zone: median_seconds(load.requests(zone)) for zone in CALM}
    world.measured["closest"] = {
        "requests": len(load.requests()), "failed": 0,
        "median milliseconds": {zone: round(1000 * seconds) for zone, seconds in medians.items()},
    }  # fmt: skip


def test_the_regions_own_counters_say_the_same(world: World) -> None:
    """What HAProxy says of who answered is what Triton counted there, and what an idle pod asks itself."""
    now = time.time()
    for name in world.regions:  # what earlier clients sent is to be in it
        until(partial(scraped, world, name, now), f"a look of Prometheus at {name}", 60, 1)
    before = {name: (served(world, name), time.monotonic()) for name in world.regions}
    with world.clients(CALM) as load:
        load.go_on(10)
    answers = load.answers()
    for name, (count, since) in before.items():
        expected = count + sum(each.region == name for each in answers)
        until(partial(counted, world, name, expected), f"{expected} answers of {name}", 60, 1)
        own = (time.monotonic() - since + SCRAPE) / QUIET
        assert served(world, name) <= expected + own + 1


def test_a_full_region_spills_over_to_the_next(world: World) -> None:
    """A pod is full with the rate that the chart derives from autoscaling.requestsPerSecond."""
    full = {each.rates[NEAR] for each in world.backends}
    assert full == {10}
    offered = 15.0
    with world.clients({HERE: offered, THERE: 1.0}) as load:
        began = load.go_on(5)
        began = load.go_on(15)
        ended = time.time()
    assert [each for each in load.requests() if each.failed] == []
    rows = {}
    for protocol, shares in load.shares(HERE, began, ended).items():
        rate = {region: count / (ended - began) for region, count in shares.items()}
        assert sum(rate.values()) > 12, f"the clients came to {rate} only, which fills nothing"
        assert 8 < rate[NEAR] < 11.5, f"{protocol}: {rate}"
        assert rate[FAR] > 1
        rows[protocol] = {region: round(value, 1) for region, value in rate.items()}
    for shares in load.shares(THERE, began, ended).values():
        assert {*shares} == {FAR}
    world.measured["full"] = {"requests": len(load.requests()), "failed": 0, "answers a second": rows}


def test_a_region_that_falls_silent_is_left_and_returned_to(world: World) -> None:
    """Its cable is cut: what is under way hangs, what is new finds no way."""
    with world.clients(CALM) as load:
        load.go_on(3)
        lost = time.time()
        world.cables.cut(NEAR)
        moved = load.served_by(HERE, FAR, lost, 30) - lost
        load.go_on(5)
        mended = time.time()
        world.cables.mend(NEAR)
        returned = load.served_by(HERE, NEAR, mended, 60) - mended
        load.go_on(3)
    failed = check_failures(load, lost, silent=True)
    assert moved < MOVED
    world.measured["silent"] = row(load, failed, moved, returned)


def test_a_region_that_dies_is_left_and_returned_to(world: World) -> None:
    """Its whole cluster is taken down under load, and made anew."""
    region = world.regions[NEAR]
    with world.clients(CALM) as load:
        load.go_on(3)
        meanwhile(region.down, lambda: NEAR in world.cables.lost)
        lost = world.cables.lost[NEAR]
        moved = load.served_by(HERE, FAR, lost - 1, 30) - lost
        load.go_on(5)
        failed = check_failures(load, lost)
        assert moved < MOVED
        region.up()
        plugged = time.time()
        world.attach(NEAR)
        ready = time.time()
        returned = load.served_by(HERE, NEAR, plugged, 60) - ready
        load.go_on(5)
        assert check_failures(load, lost) == failed, "the way back cost requests"
    world.measured["dead"] = row(load, failed, max(0.0, moved), max(0.0, returned))


def test_a_rolling_upgrade_region_by_region_loses_nothing(world: World) -> None:
    """One pod a region: each region has none for a while, and its clients are served by the other one."""
    began = time.time()
    with world.clients(CALM) as load:
        load.go_on(3)
        for name, zone in ((NEAR, HERE), (FAR, THERE)):
            before = {*world.regions[name].pods()}
            world.regions[name].install("model.batching.maxQueueDelayMicroseconds=3000")
            world.wait_for_pods(name)
            assert not before & {*world.regions[name].pods()}, f"{name}: its pod was not replaced"
            load.served_by(zone, name, time.time(), 30)
        load.go_on(3)
    assert [each for each in load.requests() if each.failed] == []
    for zone, other in ((HERE, FAR), (THERE, NEAR)):
        assert any(each.region == other for each in load.answers(zone)), f"{zone} never needed {other}"
    world.measured["upgrade"] = {
        "requests": len(load.requests()), "failed": 0, "seconds": round(time.time() - began),
    }  # fmt: skip


def check_failures(load: Load, lost: float, silent: bool = False) -> list[Request]:
    """No request that was sent once the region was gone has failed, and no client has lost more than the one
    that it had there.

    silent: whether nobody could know at once; then those may fail that were sent before it was found out.
    """
    failed = [each for each in load.requests() if each.failed]
    assert [each for each in failed if each.zone != HERE] == []
    known = lost + (MOVED if silent else 0.0)
    assert [each for each in failed if each.start > known] == []
    users = [(each.protocol, each.user) for each in failed]
    assert len(users) == len({*users}), f"a client lost more than one request: {failed}"
    return failed


def row(load: Load, failed: list[Request], moved: float, returned: float) -> dict[str, Any]:
    return {
        "requests": len(load.requests()),
        "failed": len(failed),
        "how": sorted({f"{each.protocol} {each.outcome[:80]}" for each in failed}),
        "seconds until moved": round(moved, 1),
        "seconds until returned": round(returned, 1),
        "longest answer, seconds": round(
            max(each.end - each.start for each in load.requests() if not each.failed), 1
        ),
    }


def meanwhile(act: Callable[[], None], condition: Callable[[], bool]) -> None:
    """Acts, and returns once that has ended and the condition holds."""
    thread = threading.Thread(target=act)
    thread.start()
    until(condition, "the end of the region", 60, 0.05)
    thread.join(120)
    assert not thread.is_alive()


def counted(world: World, name: str, expected: int) -> bool:
    return served(world, name) >= expected


def scraped(world: World, name: str, since: float) -> bool:
    return any(at >= since for at in queried(world, name, "min(timestamp(nv_inference_request_success))"))


def served(world: World, name: str) -> int:
    """Requests that the region's Triton has answered, as its Prometheus has them."""
    (count,) = queried(world, name, "sum(nv_inference_request_success)")
    return int(count)


def queried(world: World, name: str, query: str) -> list[float]:
    """The values that a query gives in a region's Prometheus."""
    path = "/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy/api/v1/query?query="
    said = world.regions[name].run("kubectl", "get", "--raw", f"{path}{query}")
    return [float(series["value"][1]) for series in json.loads(said)["data"]["result"]]
