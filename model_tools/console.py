"""What every command line of the project shares: one-line errors and exit statuses.

0: done; 1: a check failed (an SLO, a tolerance); 2: bad input, named in one line.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click


class BadInput(Exception):
    """What the user gave can't be used; the message is one line that names the thing."""


class CheckFailed(Exception):
    """A check that the command exists for did not pass; the message is one line that says which."""


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a click command, with this process's arguments or others; exits with the project's statuses."""
    try:
        status = command.main(arguments, prog_name=name, standalone_mode=False)
    except CheckFailed as failure:
        _fail(name, str(failure), 1)
    except click.ClickException as error:
        _fail(name, error.format_message(), 2)
    except BadInput as error:
        _fail(name, str(error), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail(name, "interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Turns signals into the KeyboardInterrupt that Ctrl-C is; a SIGHUP that nohup has ignored stays so."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signals = tuple(number for number in signals if number != signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
