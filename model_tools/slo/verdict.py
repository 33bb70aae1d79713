"""Objectives against what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_tools.slo.measure import Measured, Measurement
from model_tools.slo.objectives import Objective, human

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Verdict:
    """One objective's outcome. An objective that could not be measured is missed."""

    objective: Objective
    measured: Measured

    @property
    def met(self) -> bool:
        return self.measured.value is not None and self.objective.met_by(self.measured.value)

    @property
    def word(self) -> str:
        if self.measured.value is None:
            return "not measured"
        return "met" if self.met else "missed"

    @property
    def shown(self) -> str:
        value = self.measured.value
        return "no data" if value is None else human(value, self.objective.unit)

    @property
    def sentence(self) -> str:
        """What failed, in one line that names the objective."""
        detail = f" ({self.measured.detail})" if self.measured.detail else ""
        return f"{self.objective.name}: promised {self.objective.promise}, measured {self.shown}{detail}"


def judge(objectives: list[Objective], measurement: Measurement) -> list[Verdict]:
    missing = Measured(None, "nothing measures it")
    return [Verdict(objective, measurement.values.get(objective.name, missing)) for objective in objectives]


def summary(verdicts: list[Verdict]) -> str:
    missed = [verdict for verdict in verdicts if not verdict.met]
    if not missed:
        return f"All {len(verdicts)} objectives met"
    return f"{len(missed)} of {len(verdicts)} objectives missed"


def table(verdicts: list[Verdict], title: str) -> Table:
    """The report for a terminal."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    shown.add_column("Objective")
    shown.add_column("Promised", justify="right")
    shown.add_column("Measured", justify="right")
    shown.add_column("Verdict")
    shown.add_column("", style="dim")
    for verdict in verdicts:
        shown.add_row(
            verdict.objective.name,
            verdict.objective.promise,
            verdict.shown,
            Text(verdict.word, style="green" if verdict.met else "bold red"),
            verdict.measured.detail,
        )
    return shown
