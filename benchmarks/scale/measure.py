"""One size of the fleet: installs the chart, a pod a node, rolls it out anew, drains a tenth of the nodes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from cluster.shell import tail, tied
from model_tools.console import CheckFailed
from model_tools.kube import api_session, service_session

from . import dns, simulated
from .timeline import promised, shortest_rollout
from .usage import Usage
from .watching import Fleet

RELEASE, NAMESPACE = "scale-inference-system", "scale"
TRITON = f"{RELEASE}-triton"
NAME_SERVER = "10.96.0.10"  # kubeadm's
DRAINS = 10  # kubectl drain at once
# A timeout says that something is stuck, not that the machine is busy: a pod a second, and what all take.
PER_POD, AT_LEAST = 2.0, 240.0


@dataclass(frozen=True)
class Settings:
    """start: seconds from a pod's being scheduled to its being ready. drain: from its being told to end to
    its being gone. wait: how helm waits. sets: values for helm's --set."""

    start: float
    drain: float
    wait: str = "watcher"
    sets: tuple[str, ...] = ()


class Measurement:
    """Measures one size, phase by phase; `record` is written after each."""

    def __init__(
        self, nodes: int, settings: Settings, fleet: Fleet, usage: Usage, chart: Path, scratch: Path,
        keep: Callable[[dict[str, Any]], None], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.nodes, self.settings, self.fleet, self.usage = nodes, settings, fleet, usage
        self._chart, self._scratch, self._keep, self._say = chart, scratch, keep, say
        self.record: dict[str, Any] = {"nodes": nodes, **asdict(settings)}
        self._limit = AT_LEAST + PER_POD * nodes

    def run(self) -> None:
        """Raises CheckFailed where something does not come about in time."""
        self._say(f"{self.nodes} nodes")
        self.record["nodes ready"] = round(simulated.make(self.nodes, self._limit), 1)
        for name, work in (
            ("install", self._install),
            ("monitoring", self._monitoring),
            ("endpoints", self._endpoints),
            ("rollout", self._rollout),
            ("drain", self._drain),
        ):
            self._say(f"{self.nodes} nodes: {name}")
            try:
                self.record[name] = work()
            except CheckFailed as failure:
                self.record["failed"] = {name: str(failure)}
                raise
            finally:
                self._keep(self.record)
            self._say(f"{self.nodes} nodes: {name}: {_short(self.record[name])}")

    def _install(self) -> dict[str, Any]:
        line = self.fleet.timeline
        with self._phase() as found:
            self._helm(lambda: line.serving == self.nodes == len(line), 0, found)
            found["nodes used"] = len(line.used())
        return found

    def _rollout(self) -> dict[str, Any]:
        line, before = self.fleet.timeline, set(self.fleet.timeline.revisions())
        strategy = self._get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{TRITON}")["spec"]["strategy"]
        promise = promised(strategy["rollingUpdate"], self.nodes)
        shortest = shortest_rollout(promise, self.nodes, self.settings.start + self.settings.drain)
        with self._phase() as found:
            found["promise"] = {**asdict(promise), "strategy": strategy["rollingUpdate"]}
            found["shortest"] = shortest

            def done() -> bool:
                return (
                    line.serving == self.nodes == len(line)
                    and len(line.revisions()) == 1
                    and not before & set(line.revisions())
                )

            self._helm(done, shortest, found)
        return found

    def _drain(self) -> dict[str, Any]:
        """A tenth of the nodes, and while their pods have nowhere to go, one more."""
        line = self.fleet.timeline
        names = sorted(line.used())
        tenth = max(1, self.nodes // 10)
        budget = self._get(f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{TRITON}")["status"]
        with self._phase() as found:
            found |= {"nodes": tenth, "least": budget["desiredHealthy"]}
            began = time.monotonic()
            drains = [
                self._start(f"drain-{part}", ["kubectl", "drain", *_DRAIN, *names[part:tenth:DRAINS]])
                for part in range(min(DRAINS, tenth))
            ]
            self.fleet.wait(
                lambda: all(each.poll() is not None for each in drains),
                f"draining {tenth} nodes", self._limit + tenth * self.settings.drain,
            )  # fmt: skip
            for part, each in enumerate(drains):
                self._succeeded(f"drain-{part}", each)
            found["drained"] = round(time.monotonic() - began, 1)
            found["pods left"] = len(line.used() & set(names[:tenth]))
            more = self._start("drain-more", ["kubectl", "drain", *_DRAIN, "--timeout=12s", names[tenth]])
            self.fleet.wait(lambda: more.poll() is not None, "one drain more", 60)
            said = self._log("drain-more").read_text()
            found["one more"] = "refused" if more.returncode and "disruption budget" in said else "allowed"
            found["pending"] = len(line) - line.scheduled
            back = time.monotonic()
            simulated.cordon(names[: tenth + 1], False)
            self.fleet.wait(
                lambda: line.serving == self.nodes == len(line), "pods after the drain", self._limit
            )
            found["whole after"] = round(time.monotonic() - back, 1)
        return found

    def _endpoints(self) -> dict[str, Any]:
        """What the Services of all pods are to those that watch them, and to those that ask for the name."""
        found: dict[str, Any] = {}
        for name in (TRITON, f"{TRITON}-headless"):
            slices = self._get(
                f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
                labelSelector=f"kubernetes.io/service-name={name}",
            )["items"]
            sizes = [len(json.dumps(each, separators=(",", ":"))) for each in slices]
            found[name.removeprefix(f"{TRITON}").removeprefix("-") or "service"] = {
                "slices": len(slices),
                "endpoints": sum(len(each["endpoints"] or []) for each in slices),
                "bytes": sum(sizes),
                "largest": max(sizes, default=0),
            }
        legacy = self._get(f"/api/v1/namespaces/{NAMESPACE}/endpoints/{TRITON}")
        annotations = legacy["metadata"].get("annotations", {})
        found["Endpoints object"] = {
            "addresses": sum(len(each.get("addresses", [])) for each in legacy.get("subsets", [])),
            "over capacity": annotations.get("endpoints.kubernetes.io/over-capacity", ""),
        }
        name = f"{TRITON}-headless.{NAMESPACE}.svc.cluster.local"
        for how, ask in (("DNS over UDP", dns.over_udp), ("DNS over TCP", dns.over_tcp)):
            try:
                found[how] = asdict(ask(NAME_SERVER, name))
            except OSError as error:
                found[how] = {"error": str(error)}
        found["kube-proxy"] = _kube_proxy()
        return found

    def _monitoring(self) -> dict[str, Any]:
        """Prometheus' targets of the release, which nobody answers for, and its rules' last evaluation."""
        session, base = service_session("monitoring", "prometheus-operated", 9090)
        pool, began = f"podMonitor/{NAMESPACE}/{TRITON}/0", time.monotonic()
        targets: list[dict[str, Any]] = []

        def all_found() -> bool:
            nonlocal targets
            answer = session.get(
                f"{base}/api/v1/targets", params={"state": "active", "scrapePool": pool}, timeout=60
            )
            targets = answer.json()["data"]["activeTargets"]
            return len(targets) >= self.nodes and all(each["health"] != "unknown" for each in targets)

        _polled(all_found, self.usage.look, f"Prometheus' targets: {self.nodes}", 240)
        seconds = time.monotonic() - began
        groups = session.get(f"{base}/api/v1/rules", timeout=60).json()["data"]["groups"]
        own = [group for group in groups if f"{NAMESPACE}-{RELEASE}" in group["file"]]
        head = session.get(f"{base}/api/v1/status/tsdb", timeout=60).json()["data"]["headStats"]
        return {
            "targets": len(targets),
            "up": sum(each["health"] == "up" for each in targets),
            "found after": round(seconds, 1),
            "rule groups": len(own),
            "rules": sum(len(group["rules"]) for group in own),
            "rules' evaluation": round(sum(group["evaluationTime"] for group in own), 4),
            "series": head["numSeries"],
        }

    @contextmanager
    def _phase(self) -> Iterator[dict[str, Any]]:
        """What the pods did in it, what was sent about endpoints, what went wrong and what it cost."""
        found: dict[str, Any] = {}
        self.fleet.begin()
        self.usage.begin()
        began = time.monotonic()
        yield found
        found["seconds"] = round(time.monotonic() - began, 1)
        phase = self.fleet.timeline.phase.figures()
        found["pods"] = {k: round(v, 1) if isinstance(v, float) else v for k, v in phase.items()}
        found["slices sent"] = {
            "headless" if headless else "service": {"events": events, "bytes": size}
            for headless, (events, size) in self.fleet.slices.items()
        }
        found["usage"] = self.usage.figures()
        found["ended"] = self.usage.ended
        found["warnings"] = self._warnings()

    def _warnings(self) -> dict[str, int]:
        """Events of the namespace that warn, by reason. They are kept an hour, so earlier phases' too."""
        counts: dict[str, int] = {}
        for each in self._get(f"/api/v1/namespaces/{NAMESPACE}/events", fieldSelector="type=Warning")[
            "items"
        ]:
            counts[each["reason"]] = counts.get(each["reason"], 0) + (each.get("count") or 1)
        return counts

    def _helm(self, done: Callable[[], bool], shortest: float, found: dict[str, Any]) -> None:
        """helm upgrade --install, until helm has ended and the pods are as they should be."""
        values = self._scratch / "values.json"
        # What changes the pods' template from one time to the next.
        delay = 1000 + int(shortest > 0)
        values.write_text(json.dumps(_values(self.nodes, self.settings.drain, delay)))
        limit = self._limit + 3 * shortest
        began = time.monotonic()
        sets = [word for each in self.settings.sets for word in ("--set", each)]
        helm = self._start(
            "helm",
            ["helm", "upgrade", "--install", RELEASE, str(self._chart), "--namespace", NAMESPACE,
             "--create-namespace", "--values", str(values), *sets, f"--wait={self.settings.wait}",
             "--timeout", f"{limit:.0f}s"],
        )  # fmt: skip

        def settled() -> bool:
            return done() or bool(helm.poll())

        self.fleet.wait(settled, "pods of the release", limit)
        found["all ready"] = round(time.monotonic() - began, 1)
        self.fleet.wait(lambda: helm.poll() is not None, "helm", limit)
        self._succeeded("helm", helm)
        found["helm"] = round(time.monotonic() - began, 1)

    def _log(self, name: str) -> Path:
        return self._scratch / f"{name}.log"

    def _start(self, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                tied(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _succeeded(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.returncode:
            raise CheckFailed(f"{name} ended with status {process.returncode}, {tail(self._log(name))}")

    def _get(self, path: str, **options: str) -> dict[str, Any]:
        session, host = api_session()
        answer = session.get(f"{host}{path}", params=options, timeout=60)
        if not answer.ok:
            raise CheckFailed(f"{path}: {answer.text}")
        found: dict[str, Any] = answer.json()
        return found


_DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data")


def _values(replicas: int, drain: float, delay: int) -> dict[str, Any]:
    """The chart's defaults, which are GKE's T4 nodes, but for images, which nobody pulls here."""
    image = {"repository": "example.invalid/image", "tag": "1"}
    return {
        "region": "simulated",
        "model": {"source": {"image": image}, "batching": {"maxQueueDelayMicroseconds": delay}},
        "engine": {"image": image},
        "tools": {"image": image},
        "loadtest": {"enabled": False},
        "triton": {
            "replicas": replicas,
            "drainSeconds": max(1, round(drain)),
            "nodeSelector": {simulated.LABEL: "true"},
        },
    }


def _polled(condition: Callable[[], bool], look: Callable[[], None], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise CheckFailed(f"{what}: not within {timeout:g} s")
        look()
        time.sleep(2)


def _kube_proxy() -> dict[str, float]:
    """Of the control plane's node: rules in iptables, and seconds to write all that changed, on average."""
    answer = requests.get("http://127.0.0.1:10249/metrics", timeout=30)
    answer.raise_for_status()
    series = dict(
        line.rsplit(" ", 1)
        for line in answer.text.splitlines()
        if line.startswith("kubeproxy_sync_proxy_rules")
    )

    def total(prefix: str) -> float:
        return sum(float(value) for name, value in series.items() if name.startswith(prefix))

    count = total("kubeproxy_sync_proxy_rules_duration_seconds_count")
    return {
        "rules": total("kubeproxy_sync_proxy_rules_iptables_total"),
        "syncs": count,
        "seconds a sync": total("kubeproxy_sync_proxy_rules_duration_seconds_sum") / count if count else 0.0,
    }


def _short(found: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in found.items() if isinstance(v, int | float | str))


def remove(look: Callable[[], None] = lambda: None) -> None:
    """Removes the release, its namespace and the simulated nodes, whatever there is of them."""
    session, host = api_session()
    # Without waiting for what kwok ends: the namespace does.
    subprocess.run(
        ["helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--no-hooks"],
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    path = f"{host}/api/v1/namespaces/{NAMESPACE}"
    session.delete(path, timeout=60)
    simulated.remove()
    _polled(lambda: session.get(path, timeout=60).status_code == 404, look, "removing the namespace", 600)
