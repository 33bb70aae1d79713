"""How every region of a fleet is: versions, pods, engines, objectives; of one that can't be asked, why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.kube import Release, api_session, service_session
from model_tools.regions.fleet import Region
from model_tools.regions.helm import Helm, HelmFailed, Installed

if TYPE_CHECKING:
    from rich.table import Table

ENGINE = "build-engine"  # what the names of the init containers begin with


@dataclass
class Status:
    """One region. problem: why it is not as it should be, empty where it is."""

    region: Region
    installed: Installed | None = None
    model: str = ""
    pods: tuple[int, int] = (0, 0)  # ready, wanted
    engines: dict[str, int] = field(
        default_factory=dict
    )  # pods by what their engine is: ready, building, ...
    budgets: dict[str, float] = field(default_factory=dict)  # the part of each error budget that is left
    alerts: list[str] = field(default_factory=list)  # that fire
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """For machines."""
        installed = self.installed
        return {
            "region": self.region.name,
            "context": self.region.context,
            "revision": installed.revision if installed else None,
            "status": installed.status if installed else "not installed",
            "chart": installed.chart if installed else None,
            "appVersion": installed.app_version if installed else None,
            "updated": installed.updated if installed else None,
            "model": self.model or None,
            "pods": {"ready": self.pods[0], "wanted": self.pods[1]},
            "engines": self.engines,
            "errorBudgetRemaining": self.budgets,
            "alerts": self.alerts,
            "problem": self.problem or None,
        }


def status(regions: Sequence[Region]) -> list[Status]:
    """Asks all regions at once."""
    with ThreadPoolExecutor(max(1, len(regions))) as pool:
        return list(pool.map(_of, regions))


def _of(region: Region) -> Status:
    found = Status(region)
    try:
        found.installed = Helm(region, timeout=60).installed()
        if not found.installed:
            found.problem = "not installed"
            return found
        release = Release.load(region.release, region.namespace, region.context)
        model = release.values["model"]
        found.model = f"{model['name']} {model['version']}, {model['runtime']} {model['precision']}"
        _pods(found, release)
    except (BadInput, HelmFailed) as error:
        found.problem = str(error)
        return found
    try:
        _objectives(found, release)
    except BadInput as error:
        found.problem = str(error)
    ready, wanted = found.pods
    if found.installed.status != "deployed":
        found.problem = f"helm: {found.installed.status}"
    elif ready < wanted:
        found.problem = f"{wanted - ready} of {wanted} pods not ready"
    elif found.alerts:
        found.problem = f"alerts: {', '.join(found.alerts)}"
    return found


def _pods(found: Status, release: Release) -> None:
    session, host = api_session(release.context)
    deployments = f"{host}/apis/apps/v1/namespaces/{release.namespace}/deployments"
    deployment = _json(session, f"{deployments}/{release.fullname}-triton")
    ready = deployment.get("status", {}).get("readyReplicas", 0)
    found.pods = (ready, deployment["spec"]["replicas"])
    labels = ",".join(
        f"{key}={value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items()
    )
    pods = _json(session, f"{host}/api/v1/namespaces/{release.namespace}/pods", labelSelector=labels)
    states = [engine_state(pod) for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]
    found.engines = dict(Counter(state for state in states if state))


def engine_state(pod: dict[str, Any]) -> str:
    """What a pod's engines are: ready, building, waiting or failed; empty where it needs none.

    pod: as the API server has it.
    """
    states = [
        each.get("state", {})
        for each in pod.get("status", {}).get("initContainerStatuses", [])
        if each["name"].startswith(ENGINE)
    ]
    if not states:
        wanted = [each for each in pod["spec"].get("initContainers", []) if each["name"].startswith(ENGINE)]
        return "waiting" if wanted else ""
    if any(_has_failed(state) for state in states):
        return "failed"
    if any("running" in state for state in states):
        return "building"
    return "ready" if all("terminated" in state for state in states) else "waiting"


def _has_failed(state: dict[str, Any]) -> bool:
    if "terminated" in state:
        return bool(state["terminated"]["exitCode"])
    return state.get("waiting", {}).get("reason") not in (None, "PodInitializing")


def _objectives(found: Status, release: Release) -> None:
    """Out of the rules that the release's Prometheus records."""
    from model_tools.slo.prometheus import NoData, Prometheus

    if not release.values["monitoring"]["rules"]["enabled"]:
        return
    place = release.values["monitoring"]["prometheus"]
    where = (place["namespace"], place["service"], place["port"])
    prometheus = Prometheus(*service_session(*where, context=release.context))
    now = time.time()

    def samples(query: str) -> list[Any]:
        try:
            return prometheus.samples(query, now)
        except NoData:
            return []

    model = release.values["model"]["name"]
    mine = f'namespace="{release.namespace}",job=~"{release.namespace}/{release.fullname}-.+"'
    for sample in samples(f'inference:slo_error_budget:remaining{{{mine},model="{model}"}}'):
        found.budgets[sample.labels["slo"]] = sample.value
    fires = f'ALERTS{{alertstate="firing",alertname=~"Inference.+",namespace="{release.namespace}"}}'
    found.alerts = sorted({sample.labels["alertname"] for sample in samples(fires)})


def _json(session: Any, url: str, **parameters: str) -> dict[str, Any]:
    import requests

    try:
        answer = session.get(url, params=parameters, timeout=20)
    except requests.RequestException as error:
        raise BadInput(f"{url}: {' '.join(str(error).split())[:200]}") from None
    if not answer.ok:
        raise BadInput(f"{url}: HTTP {answer.status_code}")
    return dict(answer.json())


def table(found: Sequence[Status]) -> Table:
    """The fleet for a terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for title in ("Region", "Chart", "Revision", "Model", "Pods", "Engines", "Error budget left"):
        right = title in ("Revision", "Pods")
        shown.add_column(title, justify="right" if right else "left", no_wrap=title == "Region")
    # In a line of its own at the end, too, as whole as it is.
    shown.add_column("", no_wrap=True, max_width=40)
    for each in found:
        installed = each.installed
        budgets = ", ".join(f"{slo} {left:.0%}" for slo, left in sorted(each.budgets.items()))
        engines = ", ".join(f"{count} {state}" for state, count in sorted(each.engines.items()))
        shown.add_row(
            each.region.name,
            installed.chart.removeprefix("inference-system-") if installed else "-",
            str(installed.revision) if installed else "-",
            each.model or "-",
            f"{each.pods[0]}/{each.pods[1]}",
            engines or "-",
            budgets or "-",
            Text(each.problem, "bold red", overflow="ellipsis") if each.problem else Text("ok", "green"),
        )
    return shown
