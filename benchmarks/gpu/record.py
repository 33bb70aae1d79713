"""A record of measurements that is written as they come in: whoever is cut off goes on where it stopped."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Record:
    """A JSON file {**about, cases: [...]}, each case known by its `key` fields.

    A file that is there already is continued: what it holds is not measured again, errors are.
    """

    def __init__(self, file: Path, about: dict[str, Any], key: tuple[str, ...]) -> None:
        self._file, self._key = file, key
        self.content: dict[str, Any] = {**about, "cases": []}
        if file.is_file():
            before = json.loads(file.read_text())
            self.content |= {
                **before,
                **about,
                "cases": [case for case in before["cases"] if "error" not in case],
            }

    @property
    def cases(self) -> list[dict[str, Any]]:
        return list(self.content["cases"])

    def has(self, **key: Any) -> bool:
        return any(self._is(case, key) for case in self.content["cases"])

    def _is(self, case: dict[str, Any], key: dict[str, Any]) -> bool:
        return all(case.get(name) == key.get(name) for name in self._key)

    def add(self, measure: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any] | None:
        """What `measure` gives, kept under `key`, or None where it failed: the error is kept in its place."""
        if self.has(**key):
            return next(case for case in self.content["cases"] if self._is(case, key))
        try:
            case = {**key, **measure()}
        except Exception as error:
            traceback.print_exc()
            case = {**key, "error": f"{type(error).__name__}: {error}"}
        self.content["cases"].append(case)
        self.write()
        print({name: value for name, value in case.items() if name != "layers"}, flush=True)
        return None if "error" in case else case

    def write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_name(f".{self._file.name}")
        aside.write_text(json.dumps(self.content, indent=1) + "\n")
        aside.rename(self._file)
