"""The project's commands: as processes, or called from the tests, where starting one is not the claim."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

Done = subprocess.CompletedProcess[str]


def process(module: str, *arguments: object) -> Done:
    """A Python module's command as a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def called(command: click.Command, name: str, *arguments: object) -> Done:
    """What a process of the command would say and exit with, from this one: a start costs 0.3 s and more.

    Output and status are those of `console.run`; an exception that it does not know is raised here.
    """
    from model_tools import console

    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            console.run(command, name, [*map(str, arguments)])
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    return Done([name, *map(str, arguments)], status, out.getvalue(), err.getvalue())


def model_tools(*arguments: object) -> Done:
    """`model-tools` in this process."""
    from model_tools.cli import cli

    return called(cli, "model-tools", *arguments)


def refused(done: Done) -> str:
    """The one line of a command that failed with status 2, without the command's name."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.partition(": ")[2]
