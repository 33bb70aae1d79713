"""The JSON file beside an engine: what it was made of, for what, and what is inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.engine.key import DESCRIPTION, Key


def write(engine: Path, key: Key, record: Mapping[str, Any]) -> None:
    """Writes it beside `engine`, whole or not at all. Raises OSError."""
    content = {"file": engine.name, "name": key.name, **record}
    file = engine.with_name(engine.name + DESCRIPTION)
    aside = file.with_name(f".{file.name}")
    try:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)


def read(engine: Path) -> dict[str, Any] | None:
    """What is written beside `engine`, or None. Raises BadInput where it is not of that engine."""
    from model_tools.bundle import digest

    file = engine.with_name(engine.name + DESCRIPTION)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        stated = content["sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: describes no engine; build it again, or remove the file") from error
    if digest(engine) != stated:
        raise BadInput(f"{file}: is of another engine than {engine} (the SHA-256 differs); build it again")
    return dict(content)
