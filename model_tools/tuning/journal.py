"""Measurements as they are made, in a file that the next run goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from model_tools.console import BadInput


class Journal:
    """A file of JSON lines: first what is measured (`subject`), then an entry a measurement.

    An entry is on the disk before the next measurement begins; a last line that is cut short is dropped.
    Raises BadInput where the file can't be used, or is of another subject: its entries would be compared
    with numbers that they have nothing to do with. `restart` drops them instead.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        subject = json.loads(json.dumps(subject))  # as it is read back
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [] if restart or not path.exists() else path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: can't be used ({_why(error)})") from error
        if lines:
            found = _json(lines[0])
            if not isinstance(found, dict) or "subject" not in found:
                raise BadInput(f"{path}: is no record of measurements; --restart replaces it")
            if found["subject"] != subject:
                changed = _changed(found["subject"], subject)
                raise BadInput(f"{path}: was measured with another {changed}; --restart begins anew")
            self.entries = [entry for line in lines[1:] if isinstance(entry := _json(line), dict)]
        self._subject = subject
        self._file: TextIO | None = None
        self.keep(self.entries)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def keep(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Drops all entries but these."""
        self.entries = [dict(entry) for entry in entries]
        text = "".join(json.dumps(line) + "\n" for line in ({"subject": self._subject}, *self.entries))
        aside = self.path.with_name(f".{self.path.name}.part")
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(self.path)
            if self._file:
                self._file.close()
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{self.path}: can't be written ({error.strerror})") from error

    def add(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry)
        assert self._file is not None
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries.append(json.loads(line))


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _changed(before: Any, after: Mapping[str, Any]) -> str:
    names = [name for name in after if not isinstance(before, dict) or before.get(name) != after[name]]
    return ", ".join(names) or "version of this program"


def _why(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "not text"
