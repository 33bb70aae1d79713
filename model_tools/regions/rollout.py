"""One region's upgrade after another, each of which has to keep its objectives before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from model_tools.console import BadInput, CheckFailed
from model_tools.regions.changes import changes
from model_tools.regions.fleet import Region
from model_tools.regions.gate import Gate
from model_tools.regions.helm import Helm, HelmFailed, Installed
from model_tools.slo.verdict import Verdict

Action = Literal["unchanged", "upgraded", "rolled back", "failed", "not begun"]


class Releases(Protocol):
    """What is asked of Helm in a region."""

    def installed(self) -> Installed | None: ...
    def manifest(self) -> str: ...
    def planned(self, chart: Path) -> str: ...
    def upgrade(self, chart: Path) -> None: ...
    def rollback(self, revision: int) -> None: ...


@dataclass
class Outcome:
    """What became of one region. before: the revision to go back to; None where it was never deployed."""

    region: Region
    before: int | None
    action: Action = "not begun"
    reason: str = ""
    verdicts: list[Verdict] = field(default_factory=list)


def upgrade(
    regions: Sequence[Region],
    chart: Path,
    gate: Gate,
    *,
    all_back: bool = False,
    report: Callable[[str], None] = lambda text: None,
    helm: Callable[[Region], Releases] = Helm,
) -> list[Outcome]:
    """Upgrades the regions in their order and stops at the first that fails.

    Before anything is changed, every region's cluster has to take what would be installed there; one where
    nothing would change is passed over. A region whose upgrade fails is taken back by Helm, one that misses
    an objective after it by `helm rollback`; all_back: so are those that were upgraded before it. Raises
    BadInput where a cluster can't be asked or refuses the objects.
    """
    releases = {region: helm(region) for region in regions}
    outcomes = []
    for region, release in releases.items():
        report(f"{region.name}: what would change")
        try:
            installed = release.installed()
            outcome = Outcome(region, installed.deployed if installed else None)
            # A release that is half there is changed, even where its manifest says nothing of it.
            whole = installed is not None and installed.status == "deployed"
            if whole and not changes(release.manifest(), release.planned(chart)):
                outcome.action = "unchanged"
            elif not whole:
                release.planned(chart)
        except HelmFailed as error:
            raise BadInput(f"{region.name}: {error}") from None
        outcomes.append(outcome)

    for outcome in outcomes:
        if outcome.action == "unchanged":
            continue
        _upgrade(outcome, releases[outcome.region], chart, gate, report)
        if outcome.action != "upgraded":
            if all_back:
                for earlier in outcomes[: outcomes.index(outcome)]:
                    if earlier.action == "upgraded":
                        _back(earlier, releases[earlier.region], f"{outcome.region.name} failed", report)
            break
    return outcomes


def _upgrade(
    outcome: Outcome, release: Releases, chart: Path, gate: Gate, report: Callable[[str], None]
) -> None:
    region = outcome.region
    report(f"{region.name}: upgrade")
    try:
        release.upgrade(chart)
    except HelmFailed as error:
        outcome.action, outcome.reason = "failed", str(error)
        return
    report(f"{region.name}: objectives")
    try:
        outcome.verdicts = gate(region)
    except (BadInput, CheckFailed) as error:
        reason = str(error)
    else:
        reason = "; ".join(verdict.sentence for verdict in outcome.verdicts if not verdict.met)
        if not outcome.verdicts:
            reason = "nothing says whether its objectives are met"
    if reason:
        _back(outcome, release, reason, report)
    else:
        outcome.action = "upgraded"


def _back(outcome: Outcome, release: Releases, reason: str, report: Callable[[str], None]) -> None:
    outcome.reason = reason
    if outcome.before is None:
        outcome.action = "failed"
        outcome.reason += "; it was not there before, so there is nothing to go back to"
        return
    report(f"{outcome.region.name}: back to revision {outcome.before}")
    try:
        release.rollback(outcome.before)
        outcome.action = "rolled back"
    except HelmFailed as error:
        outcome.action = "failed"
        outcome.reason += f"; and revision {outcome.before} did not come back: {error}"
