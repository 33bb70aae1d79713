"""The rungs of a ladder: values files, each with one change against the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.values import Values, load_values

# What is one change together: a runtime takes its own precisions, and each of those its own model.
OPTIMISATION = ("runtime", "precision", "source")


@dataclass(frozen=True)
class Rung:
    """One file: `title` is the comment in its first line, `parts` its values by what is one change."""

    name: str
    title: str
    parts: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What is measured: the changes of the rungs up to this one, without those of rejected rungs."""

    rung: Rung
    values: Values

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16]


def read(folder: Path) -> list[Rung]:
    """The ladder in `folder`, rungs in the order of their names' first numbers.

    Raises BadInput for a folder without two rungs, or a rung that is not exactly one change.
    """
    files = sorted(folder.glob("*.yaml"), key=_place) if folder.is_dir() else []
    if len(files) < 2:
        raise BadInput(
            f"{folder}: holds {len(files)} values files (*.yaml), and a ladder has at least two rungs"
        )
    rungs = [Rung(file.stem, _title(file), parts(load_values([file], defaults=None))) for file in files]
    for before, after in pairwise(rungs):
        if gone := sorted(before.parts.keys() ^ after.parts.keys()):
            raise BadInput(
                f"{folder / after.name}.yaml: {', '.join(gone)} is in one of it and {before.name} only;"
                " each rung states everything that its ladder changes"
            )
        changed = changes(before, after)
        if len(changed) != 1:
            what = "changes " + " and ".join(changed) if changed else "changes nothing"
            raise BadInput(f"{folder / after.name}.yaml: {what} against {before.name}; a rung is one change")
    return rungs


def parts(values: Values) -> dict[str, Any]:
    """A rung's values by what is one change: `optimisation` is OPTIMISATION, other keys are paths."""
    model = dict(values.get("model") or {})
    optimisation = {key: model.pop(key) for key in OPTIMISATION if key in model}
    rest = {key: value for key, value in values.items() if key != "model"}
    return {"optimisation": optimisation, **{f"model.{key}": value for key, value in model.items()}, **rest}


def changes(before: Rung, after: Rung) -> list[str]:
    """The names of the parts that differ."""
    return [name for name in before.parts if before.parts[name] != after.parts.get(name)]


def steps(rungs: Sequence[Rung], rejected: Collection[str]) -> list[Step]:
    """What to measure when the changes of the rungs named in `rejected` are taken out of those after them.

    A rejected rung itself is in it no more.
    """
    found = [Step(rungs[0], values(rungs[0].parts))]
    now = dict(rungs[0].parts)
    for before, after in pairwise(rungs):
        if after.name not in rejected:
            now = {**now, **{name: after.parts[name] for name in changes(before, after)}}
            found.append(Step(after, values(now)))
    return found


def values(parts: dict[str, Any]) -> Values:
    """The other way round from `parts`."""
    model = dict(parts["optimisation"])
    found: Values = {}
    for name, value in parts.items():
        if name.startswith("model."):
            model[name.removeprefix("model.")] = value
        elif name != "optimisation":
            found[name] = value
    return {"model": model, **found}


def _place(file: Path) -> tuple[float, str]:
    number = file.name.partition("-")[0]
    return (int(number) if number.isdecimal() else float("inf"), file.name)


def _title(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else file.stem
