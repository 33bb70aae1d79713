"""The SLOs of an installed release: what its values promise against what Prometheus and Locust saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.kube import Release, api_session, service_session
from model_tools.slo.measure import Measurement, Source, last_window, measure, read_load, seen_by_clients
from model_tools.slo.objectives import Objective, objectives, with_overrides
from model_tools.slo.prometheus import Prometheus
from model_tools.slo.verdict import Verdict, judge


@dataclass(frozen=True)
class Outcome:
    """Everything the report of one release shows."""

    verdicts: list[Verdict]
    measurement: Measurement
    facts: dict[str, str]
    title: str


def promised(release: Release, overrides: list[str]) -> list[Objective]:
    """The release's objectives; overrides: NAME=NUMBER thresholds. Raises BadInput."""
    return with_overrides(objectives(release.values), overrides)


def judge_load(values: Mapping[str, Any], load: Mapping[str, Any]) -> list[Verdict]:
    """What a load alone says of a release's objectives: those that its clients see. Raises BadInput."""
    wanted = objectives(values)
    seen = seen_by_clients(load, _percentiles(wanted))
    measurement = Measurement(load["start"], load["end"], seen)
    return judge([objective for objective in wanted if objective.name in seen], measurement)


def _percentiles(wanted: list[Objective]) -> list[str]:
    return [o.name.rpartition(".")[2] for o in wanted if o.name.startswith("latency.client.")]


def evaluate(release: Release, wanted: list[Objective], load: Path | None, window: str) -> Outcome:
    """Measures a release over its load test, or over the window (such as 5m) that ends now without one.

    Raises BadInput when the statistics can't be read or Prometheus can't be reached. An objective that can't
    be measured is missed.
    """
    statistics = read_load(load, release.name, release.namespace) if load else None
    start, end = (statistics["start"], statistics["end"]) if statistics else last_window(window)
    place = release.values["monitoring"]["prometheus"]
    where = (place["namespace"], place["service"], place["port"])
    prometheus = Prometheus(*service_session(*where, context=release.context))
    # Without a load the window ends now, and the next scrape is yet to come.
    end = end if statistics else end - Source.of(release).interval
    measurement = measure(prometheus, Source.of(release), start, end, statistics, _percentiles(wanted))
    title = f"{release.name} in namespace {release.namespace}"
    return Outcome(judge(wanted, measurement), measurement, _facts(release, prometheus, statistics), title)


def _facts(release: Release, prometheus: Prometheus, load: dict[str, Any] | None) -> dict[str, str]:
    values = release.values
    model, triton = values["model"], values["triton"]
    batching, instances = model["batching"], model["instances"]
    scaling = values["autoscaling"]
    pods = triton["replicas"]
    if scaling["kind"] != "none":
        pods = f"{scaling['minReplicas']} to {scaling['maxReplicas']}"
    sizes = ", ".join(str(size) for size in batching["preferredSizes"])
    facts = {
        "Model": f"{model['name']}, version {model['version']}",
        "Runtime": f"{model['runtime']}, {model['precision']}",
        "Batching": f"up to {batching['maxSize']}, preferred {sizes or 'none'}",
        "Instances": f"{instances['count']} a pod on {instances['kind'].upper()}, {pods} pods",
        "Region": values.get("region") or "none",
    }
    if load:
        settings = load["settings"]
        arrival = "closed loop"
        if settings["arrival"] != "closed":
            arrival = f"{settings['requests_per_second']:g}/s {settings['arrival']}"
        facts["Load"] = f"{settings['users']} users, {settings['protocol']}, {arrival}"
    facts["Triton"] = _version(lambda: _triton(release))
    kubernetes = _version(lambda: _kubernetes(release.context))
    facts["Kubernetes, Prometheus"] = f"{kubernetes}, {_version(prometheus.version)}"
    return facts


def _triton(release: Release) -> str:
    triton = (release.namespace, f"{release.fullname}-triton", 8000)
    session, base = service_session(*triton, context=release.context)
    answer = session.get(f"{base}/v2", timeout=10)
    answer.raise_for_status()
    return str(answer.json()["version"])


def _kubernetes(context: str | None) -> str:
    session, host = api_session(context)
    answer = session.get(f"{host}/version", timeout=10)
    answer.raise_for_status()
    return str(answer.json()["gitVersion"])


def _version(ask: Any) -> str:
    """A version for the page's head; a part that doesn't tell its own must not cost the report."""
    import requests

    from model_tools.console import BadInput

    try:
        return str(ask()) or "unknown"
    except (BadInput, requests.RequestException, KeyError, ValueError):
        return "unknown"
