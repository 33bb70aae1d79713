"""Makes what is missing, removes what is there, or says as a shell script what would be done."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Iterator

from gke.steps import Answer, Command, Thing, shell
from model_tools.console import BadInput, CheckFailed

# What gcloud, kubectl and helm say of something that is not there. All else is an error.
MISSING = re.compile(
    r"NOT_FOUND|code=404|\(NotFound\)|was not found|could not be found|is not enabled|release: not found"
    r"|context \S+ (not found|does not exist)"
)


def script(lines: Iterable[str]) -> str:
    return "\n".join(["#!/usr/bin/env bash", "set -euo pipefail", *lines, ""])


def setup_lines(things: Iterable[Thing]) -> Iterator[str]:
    """Shell that makes each thing which is not there."""
    for thing in things:
        check = f"{shell(thing.there)} >/dev/null 2>&1 ||\n    " if thing.there else ""
        yield f"\n# {thing.name}\n{check}{shell(thing.make)}"


def teardown_lines(things: Iterable[Thing]) -> Iterator[str]:
    """Shell that removes each thing which is there."""
    for thing in things:
        if thing.remove:
            check = f"! {shell(thing.there)} >/dev/null 2>&1 ||\n    " if thing.there else ""
            yield f"\n# {thing.name}\n{check}{shell(thing.remove)}"


def set_up(things: Iterable[Thing]) -> None:
    """Raises CheckFailed with the tool's own words for the first thing that can't be looked for, or made."""
    for thing in things:
        if thing.there and _is_there(thing.there):
            print(f"there     {thing.name}", flush=True)
            continue
        _run(thing.make, "made     " if thing.there else "seen to  ", thing.name)


def tear_down(things: Iterable[Thing]) -> None:
    """Raises CheckFailed with the tool's own words for the first that can't be looked for, or removed."""
    for thing in things:
        if not thing.remove:
            continue
        if thing.there and not _is_there(thing.there):
            print(f"not there {thing.name}", flush=True)
            continue
        _run(thing.remove, "removed  ", thing.name)


def _is_there(command: Command) -> bool:
    done = _call(command)
    if done.returncode == 0:
        return True
    if MISSING.search(done.stderr):
        return False
    raise CheckFailed(f"{shell(command)}: {_reason(done)}")


def _run(command: Command, verb: str, name: str) -> None:
    from rich.console import Console

    began = time.monotonic()
    with Console(stderr=True).status(name):
        done = _call(command)
    if done.returncode:
        raise CheckFailed(f"{name}: {_reason(done)}")
    print(f"{verb} {name} ({time.monotonic() - began:.0f} s)", flush=True)


def _call(command: Command) -> subprocess.CompletedProcess[str]:
    words = [_answer(word) if isinstance(word, Answer) else word for word in command]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise BadInput(f"{words[0]} is not on PATH") from None


def _answer(answer: Answer) -> str:
    done = _call(answer.command)
    text = ",".join(done.stdout.split())
    if done.returncode or not text:
        raise CheckFailed(f"{shell(answer.command)}: {_reason(done)}")
    return f"{answer.before}{text}{answer.after}"


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())[-500:] or f"exit status {done.returncode}, and nothing was said"
