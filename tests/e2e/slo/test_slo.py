"""The release keeps what its values promise."""

from __future__ import annotations

from model_tools.slo.release import Outcome


def test_objective_is_met(objective: str, outcome: Outcome) -> None:
    verdict = next(verdict for verdict in outcome.verdicts if verdict.objective.name == objective)
    assert verdict.met, verdict.sentence
