"""KEDA gives a release the pods that its load needs, leaves them alone while it holds, and guesses nothing.

One release in a namespace of its own is taken through a load, a Prometheus that knows nothing, an upgrade, a
Prometheus that is away, and the end of the load; what its Deployment asked for meanwhile is written down, and
each test reads that. All the while everything that a dashboard may read is there: each panel shows something.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from grafana.boards import BOARDS
from grafana.check import Finding, faults
from loadtest.api import LocustApi
from loadtest.run import Settings, wait_for_workers
from model_tools.kube import Release, api_session, service_session
from model_tools.slo.prometheus import NoData, Prometheus

from .helm import Helm, merged
from .panels import above_the_regions, every_panel
from .recorded_gpu import recorded_gpu
from .volumes import tools_image
from .waiting import until

pytestmark = pytest.mark.timeout(1200)

NAMESPACE = "autoscaled-by-test"
NAME = "autoscaled"
SCALER = f"{NAME}-inference-system-triton"  # the Deployment's name, and the ScaledObject's
RULES = f"{NAME}-inference-system-autoscaling"
MOST = 3
PER_POD, LOAD = 2.0, 5.0  # requests a second: 2.5 pods' worth, far from where 2 or 4 would do
WINDOW, STABILIZATION = 30, 20  # seconds
STEADY = 45  # seconds to watch for a change that must not come: STABILIZATION and a look of the scaler
BLIND = 75  # the same for one that a falling rate would bring: WINDOW longer
UP, DOWN = 180, 180  # seconds that scaling may take
PATIENCE = 120  # seconds until the rules have recorded everything once

AUTOSCALING = {
    "kind": "keda",
    "minReplicas": 1,
    "maxReplicas": MOST,
    "requestsPerSecond": PER_POD,
    "window": f"{WINDOW}s",
    "behavior": {
        "scaleUp": {"policies": [{"type": "Pods", "value": MOST, "periodSeconds": 15}]},
        "scaleDown": {
            "stabilizationWindowSeconds": STABILIZATION,
            "policies": [{"type": "Pods", "value": MOST, "periodSeconds": 15}],
        },
    },
}


@dataclass
class History:
    """What the Deployment asked for, second by second, and when each part of the story began and ended."""

    samples: list[tuple[float, int, int]] = field(default_factory=list)  # time, replicas wanted, ready
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    panels: list[Finding] = field(default_factory=list)  # while the load stayed
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def now(self) -> tuple[int, int]:
        """Replicas wanted and ready."""
        return self.samples[-1][1:]

    def watch(self) -> None:
        session, host = api_session()
        url = f"{host}/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{SCALER}"
        while not self.stopped.wait(1):
            found = session.get(url, timeout=30).json()
            ready = found["status"].get("readyReplicas", 0)
            self.samples.append((time.monotonic(), found["spec"]["replicas"], ready))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.parts[name] = (began, time.monotonic())

    def wanted(self, name: str) -> list[int]:
        """The replicas that were asked for in that part, one number for each change."""
        assert name in self.parts, f"the story did not get as far as '{name}'; it wanted {self.changes()}"
        began, ended = self.parts[name]
        numbers = [replicas for at, replicas, _ in self.samples if began <= at <= ended]
        return [now for before, now in zip([None, *numbers], numbers, strict=False) if now != before]

    def seconds(self, name: str) -> float:
        began, ended = self.parts[name]
        return ended - began

    def changes(self) -> list[str]:
        start = self.samples[0][0]
        seen: list[tuple[float, int]] = []
        for at, replicas, _ in self.samples:
            if not seen or seen[-1][1] != replicas:
                seen.append((at - start, replicas))
        return [f"{replicas} at {at:.0f} s" for at, replicas in seen]


def kubectl(*arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--namespace", NAMESPACE, *arguments],
        input=None if given is None else json.dumps(given),
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


def done(*arguments: str, given: object = None) -> str:
    ended = kubectl(*arguments, given=given)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def scaler_sees() -> bool:
    """Whether the HorizontalPodAutoscaler that KEDA made has a number to go by."""
    conditions = json.loads(done("get", "hpa", f"keda-hpa-{SCALER}", "--output", "json"))["status"]
    active = {each["type"]: each["status"] for each in conditions.get("conditions", [])}
    return active.get("ScalingActive") == "True"


def ask_prometheus_at(address: str) -> str:
    """Lets the scaler ask elsewhere; returns where it asked before."""
    scaled = ("scaledobject", SCALER)
    triggers = json.loads(done("get", *scaled, "--output", "json"))["spec"]["triggers"]
    before = triggers[0]["metadata"]["serverAddress"]
    for trigger in triggers:
        trigger["metadata"]["serverAddress"] = address
    done("patch", *scaled, "--type=merge", "--patch", json.dumps({"spec": {"triggers": triggers}}))
    return str(before)


@contextmanager
def load(api: LocustApi) -> Iterator[None]:
    """LOAD requests a second for as long as the block lasts."""
    settings = Settings(
        users=8, spawn_rate=8, duration=900, protocol="grpc", arrival="constant",
        requests_per_second=LOAD, workers=1,
    )  # fmt: skip
    api.swarm(settings.form)
    try:
        yield
    finally:
        api.stop()


@dataclass(frozen=True)
class Installed:
    """The release that the story is about; `upgrade` installs it with further values."""

    helm: Helm
    chart: Path
    values: dict[str, Any]
    folder: Path
    prometheus: Prometheus

    def upgrade(self, **changes: dict[str, Any]) -> None:
        made = self.helm.install(NAME, self.chart, merged(self.values, changes), self.folder, 240)
        assert made.returncode == 0, made.stdout + made.stderr

    def records(self) -> bool:
        """Whether Prometheus has the series that the scaler reads."""
        query = f'inference:autoscaling:requests{{namespace="{NAMESPACE}"}}'
        try:
            return bool(self.prometheus.samples(query, time.time()))
        except NoData:
            return False


@pytest.fixture(scope="module")
def installed(
    release: Release, helm: Helm, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """A small release of the model under test that KEDA scales, and nothing of it afterwards."""
    from charts.package import package

    if kubectl("get", "crd", "scaledobjects.keda.sh").returncode:
        pytest.skip("KEDA is not in this cluster (the embedded one gets it by `cluster add keda`)")
    changes = {
        "model": {"instances": {"count": 1, "threads": 1}},
        "triton": {
            "gpu": {"count": 0},
            "onePodPerNode": False,
            # The kubelet counts throttling only where there is a limit.
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2"}},
            "drainSeconds": 1,
        },
        "autoscaling": AUTOSCALING,
        "loadtest": {"enabled": True, "workers": 1},
        "monitoring": {
            "podMonitor": {"enabled": True, "interval": "5s"},
            "rules": {"enabled": True},
            "prometheus": release.values["monitoring"]["prometheus"],
        },
    }
    folder = tmp_path_factory.mktemp("autoscaled")
    chart = package(folder / "inference-system")
    values = merged(helm.user_values(release.name), changes)
    found = Installed(Helm(NAMESPACE), chart, values, folder, prometheus)
    made = kubectl("create", "namespace", NAMESPACE)
    assert made.returncode == 0 or "AlreadyExists" in made.stderr, made.stderr
    try:
        found.upgrade()
        yield found
    finally:
        with found.helm.gone_afterwards(NAME):
            pass
        done("delete", "namespace", NAMESPACE, "--timeout=120s")


@pytest.fixture(scope="module")
def history(installed: Installed, release: Release) -> History:
    found = History()
    watcher = threading.Thread(target=found.watch, daemon=True)
    watcher.start()
    try:
        with recorded_gpu(NAMESPACE, tools_image(release), "local"), above_the_regions(NAMESPACE):
            tell(found, installed, [NAMESPACE, release.namespace])
    except AssertionError as failure:
        print(failure)  # the tests of the parts that were not reached say the rest
    finally:
        found.stopped.set()
        watcher.join()
    print("replicas:", ", ".join(found.changes()))
    for name in found.parts:
        print(f"{name}: {found.seconds(name):.0f} s")
    return found


def tell(history: History, installed: Installed, shown: Sequence[str]) -> None:
    """shown: the namespaces that the dashboards are asked for; one of them has pods that ask for GPUs."""
    api = LocustApi(*service_session(NAMESPACE, f"{NAME}-inference-system-loadtest", 8089))
    wait_for_workers(api, 1, 60, lambda *_: None)
    until(scaler_sees, "a first number for the scaler", 120)
    with load(api):
        with history.part("load comes"):
            until(lambda: history.now == (MOST, MOST), f"{MOST} pods that are ready", UP)
        with history.part("load stays"):
            time.sleep(STEADY)
            history.panels = every_panel(installed.prometheus, shown, PATIENCE)
        done("delete", "prometheusrule", RULES)
        until(lambda: not installed.records(), "Prometheus forgetting the rules", 120)
        with history.part("Prometheus knows nothing"):
            time.sleep(STEADY)
        with history.part("upgrade"):  # which replaces every pod, and brings the rules back
            installed.upgrade(triton={"drainSeconds": 2})
        until(installed.records, "Prometheus having the rules again", 120)
        there = ask_prometheus_at("http://nowhere.invalid:9090")
    # Without a load 1 pod would do: what keeps the others is that nobody knows.
    with history.part("Prometheus is away"):
        time.sleep(BLIND)
    assert not scaler_sees()
    with history.part("load is gone"):
        ask_prometheus_at(there)
        until(lambda: history.now == (1, 1), "1 pod", DOWN)


def test_load_brings_pods(history: History) -> None:
    wanted = history.wanted("load comes")
    assert wanted[0] == 1
    assert wanted[-1] == MOST
    assert wanted == sorted(wanted), "pods came and went"


def test_a_steady_load_changes_nothing(history: History) -> None:
    assert history.wanted("load stays") == [MOST]


def test_every_panel_of_every_dashboard_shows_something(history: History) -> None:
    assert list(faults(history.panels)) == []
    assert [finding.panel.title for finding in history.panels if not finding.has_data] == []
    assert len(history.panels) == sum(len(board.panels) for board in BOARDS)


def test_an_upgrade_leaves_the_pods_that_the_scaler_set(history: History) -> None:
    assert history.wanted("upgrade") == [MOST]


@pytest.mark.parametrize("part", ["Prometheus knows nothing", "Prometheus is away"])
def test_pods_stay_where_the_scaler_cannot_know(history: History, part: str) -> None:
    assert history.wanted(part) == [MOST]


def test_pods_go_when_the_load_is_gone(history: History) -> None:
    assert history.wanted("load is gone")[-1] == 1
    assert not [number for _, number, _ in history.samples if number > MOST or number < 1]
