"""What Grafana puts in for `$...` in a query, for those who ask Prometheus without a Grafana."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_tools.console import BadInput

EVERYTHING = ".*"
NAMES = ("region", "namespace", "model", "pod")


@dataclass(frozen=True)
class Window:
    """What a dashboard shows: unix seconds, and the distance of two points of a plot in seconds.

    scrape: the interval at which Prometheus scrapes, in seconds; Grafana has it from its data source.
    """

    start: float
    end: float
    step: float
    scrape: float = 15.0

    @property
    def rate_interval(self) -> float:
        """Grafana's $__rate_interval: wide enough for four scrapes."""
        return max(self.step + self.scrape, 4 * self.scrape)


def filled(expr: str, window: Window, choices: Mapping[str, Sequence[str]]) -> str:
    """The query as Grafana would send it. choices: values by variable; a variable without one is "All"."""
    values = {name: regular_expression(choices.get(name, ())) for name in NAMES}
    values["__rate_interval"] = f"{round(window.rate_interval)}s"
    values["__range"] = f"{max(1, round(window.end - window.start))}s"
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def regular_expression(chosen: Sequence[str]) -> str:
    """Of the chosen values, as Grafana writes them into a selector."""
    if not chosen:
        return EVERYTHING
    escaped = [re.sub(r"([\\^$.*+?()\[\]{}|])", r"\\\\\1", value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def choices(options: Sequence[str]) -> dict[str, list[str]]:
    """The values of NAME=VALUE options, a name as often as there are values. Raises BadInput."""
    found: dict[str, list[str]] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in NAMES or not value:
            raise BadInput(f"--variable {option}: it is NAME=VALUE, and NAME one of {', '.join(NAMES)}")
        found.setdefault(name, []).append(value)
    return found
