"""Measures the release once, when the first objective asks, and ends the run with the table and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_tools.console import BadInput
from model_tools.kube import Release
from model_tools.slo.objectives import Objective
from model_tools.slo.release import Outcome, evaluate, promised

from ..conftest import load_release

RELEASE = pytest.StashKey[Release]()
PROMISED = pytest.StashKey[list[Objective]]()
OUTCOME = pytest.StashKey[Outcome]()
PROBLEM = pytest.StashKey[str]()
PAGE = pytest.StashKey[Path]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test an objective: the release's values are read when tests are collected."""
    if "objective" not in metafunc.fixturenames:
        return
    stash = metafunc.config.stash
    if PROMISED not in stash and PROBLEM not in stash:
        try:
            stash[RELEASE] = load_release(metafunc.config)
            stash[PROMISED] = promised(stash[RELEASE], metafunc.config.getoption("set_objective"))
        except BadInput as error:
            # An error while collecting would bury its line under a traceback: the first test ends the run.
            stash[PROBLEM] = str(error)
    names = [objective.name for objective in stash.get(PROMISED, [])] or ["release"]
    metafunc.parametrize("objective", names, ids=names)


@pytest.fixture(scope="session")
def outcome(pytestconfig: pytest.Config) -> Outcome:
    from model_tools.slo.report import write_report

    stash = pytestconfig.stash
    if PROBLEM in stash:
        pytest.exit(stash[PROBLEM], returncode=2)
    try:
        found = evaluate(
            stash[RELEASE], stash[PROMISED], pytestconfig.getoption("load"), pytestconfig.getoption("window")
        )
    except BadInput as error:
        pytest.exit(str(error), returncode=2)
    stash[OUTCOME] = found
    if folder := pytestconfig.getoption("report"):
        stash[PAGE] = write_report(folder, found.verdicts, found.measurement, found.facts, found.title)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if OUTCOME not in config.stash:
        return
    import io

    from rich.console import Console

    from model_tools.slo.verdict import summary, table

    found = config.stash[OUTCOME]
    terminalreporter.section("Service level objectives")
    text = io.StringIO()
    width = terminalreporter._tw.fullwidth
    colour = terminalreporter.hasmarkup
    console = Console(
        file=text, width=max(100, width), force_terminal=colour, color_system="auto" if colour else None
    )
    console.print(table(found.verdicts, f"{found.title}: {summary(found.verdicts)}"))
    terminalreporter.write_line(text.getvalue().rstrip())
    if PAGE in config.stash:
        terminalreporter.write_line(f"Report: {config.stash[PAGE]}")
