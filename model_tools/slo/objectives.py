"""The objectives that a release's values state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from model_tools.console import BadInput

Unit = Literal["fraction", "seconds", "per_second", "requests"]


@dataclass(frozen=True)
class Objective:
    """One promise. name: its path under `slo` in the values. at_least: whether more is better."""

    name: str
    title: str
    threshold: float
    unit: Unit
    at_least: bool

    def met_by(self, value: float) -> bool:
        return value >= self.threshold if self.at_least else value <= self.threshold

    @property
    def promise(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {human(self.threshold, self.unit)}"


def objectives(values: Mapping[str, Any]) -> list[Objective]:
    """Every objective in a release's values, in a report's order. Raises BadInput where one is missing."""
    slo = values.get("slo")
    if not isinstance(slo, Mapping):
        raise BadInput("the release's values have no slo block")
    latencies = _percentiles(slo, "latency", "client")
    return [
        Objective("availability", "Requests answered", _number(slo, "availability"), "fraction", True),
        *(
            Objective(f"latency.client.{name}", f"Latency at the client, {name}", value, "seconds", False)
            for name, value in sorted(latencies.items(), key=lambda item: float(item[0][1:]))
        ),
        *_server_latency(values, slo),
        Objective("queueTime", "Wait in Triton's queue, mean", _number(slo, "queueTime"), "seconds", False),
        Objective("throughput", "Throughput", _number(slo, "throughput"), "per_second", True),
        Objective(
            "batchSize", "Batch that Triton executes, mean", _number(slo, "batchSize"), "requests", True
        ),
    ]


def server_percentile(values: Mapping[str, Any]) -> float | None:
    """The fraction of the requests that slo.latency.server is about; None where nothing measures it.

    Raises BadInput where it is measured and the fraction is missing.
    """
    if not values.get("monitoring", {}).get("serverLatency", {}).get("enabled"):
        return None
    block = _block(values.get("slo", {}), "latency", "server")
    for name in block:
        if name not in ("percentile", "threshold"):
            raise BadInput(f"slo.latency.server.{name} is neither percentile nor threshold")
    return _number(block, "percentile", ("latency", "server"))


def with_overrides(found: list[Objective], overrides: list[str]) -> list[Objective]:
    """Replaces thresholds by NAME=NUMBER overrides. Raises BadInput for a name that isn't there."""
    changed = {objective.name: objective for objective in found}
    for override in overrides:
        name, _, number = override.partition("=")
        if name not in changed:
            raise BadInput(f"no objective {name}: there are {', '.join(changed)}")
        try:
            changed[name] = replace(changed[name], threshold=float(number))
        except ValueError:
            raise BadInput(f"objective {name}: {number!r} is no number") from None
    return list(changed.values())


def human(value: float, unit: Unit) -> str:
    """A measured value as people read it."""
    if unit == "fraction":
        # As many digits as tell 99.9 from 99.99, and never 100 for less than all.
        text = f"{value * 100:.4f}".rstrip("0").rstrip(".")
        return f"{'99.9999' if text == '100' and value < 1 else text} %"
    if unit == "seconds":
        if value >= 1:
            return f"{value:.3g} s"
        return f"{value * 1000:.3g} ms" if value >= 0.001 else f"{value * 1_000_000:.3g} µs"
    if unit == "per_second":
        return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"
    return f"{value:.3g}"


def _server_latency(values: Mapping[str, Any], slo: Mapping[str, Any]) -> list[Objective]:
    percentile = server_percentile(values)
    if percentile is None:
        return []
    threshold = _number(slo["latency"]["server"], "threshold", ("latency", "server"))
    title = f"Latency at the server, p{percentile * 100:g}"
    return [Objective("latency.server", title, threshold, "seconds", False)]


def _percentiles(slo: Mapping[str, Any], *path: str) -> dict[str, float]:
    block = _block(slo, *path)
    for name in block:
        if not re.fullmatch(r"p\d{1,2}(\.\d+)?", name):
            raise BadInput(f"slo.{'.'.join(path)}.{name} is no percentile such as p99")
    return {name: _number(block, name, path) for name in block}


def _block(slo: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    block: Any = slo
    for key in path:
        block = block.get(key) if isinstance(block, Mapping) else None
    if not isinstance(block, Mapping) or not block:
        raise BadInput(f"the release's values have no slo.{'.'.join(path)}")
    return block


def _number(block: Mapping[str, Any], name: str, path: tuple[str, ...] = ()) -> float:
    value = block.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadInput(f"the release's slo.{'.'.join((*path, name))} is no number: {value!r}")
    return float(value)
