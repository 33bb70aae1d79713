"""What an interrupted helm left of a release is made good before the next upgrade."""

from __future__ import annotations

from typing import Any

import pytest

from charts.install import remedy


def revisions(*statuses: str) -> list[dict[str, Any]]:
    return [{"revision": number, "status": status} for number, status in enumerate(statuses, start=1)]


@pytest.mark.parametrize(
    "statuses", [(), ("deployed",), ("superseded", "deployed"), ("failed",), ("deployed", "failed")]
)
def test_what_helm_upgrades_by_itself_is_left_to_it(statuses: tuple[str, ...]) -> None:
    assert remedy(revisions(*statuses)) == []


@pytest.mark.parametrize(
    "statuses", [("pending-install",), ("failed", "pending-upgrade"), ("deployed", "uninstalling")]
)
def test_what_never_worked_is_removed(statuses: tuple[str, ...]) -> None:
    assert remedy(revisions(*statuses)) == ["uninstall", "--wait", "--ignore-not-found"]


@pytest.mark.parametrize("pending", ["pending-upgrade", "pending-rollback"])
def test_an_upgrade_goes_back_to_what_worked(pending: str) -> None:
    assert remedy(revisions("superseded", "deployed", pending)) == ["rollback", "2"]
