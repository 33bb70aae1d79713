"""What an upgrade would change, object by object."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Change:
    """One object. diff: its lines, as `diff -u` has them without the head."""

    kind: str
    name: str
    action: Literal["added", "removed", "changed"]
    diff: str


def changes(before: str, after: str) -> list[Change]:
    """What makes the second manifest, YAML of several objects, of the first. Their order does not count."""
    old, new = _objects(before), _objects(after)
    found = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        action: Any = "added" if key not in old else "removed" if key not in new else "changed"
        found.append(Change(*key, action, "\n".join(_diff(old.get(key), new.get(key)))))
    return found


def _objects(manifest: str) -> dict[tuple[str, str], dict[str, Any]]:
    import yaml

    loaded = (each for each in yaml.safe_load_all(manifest) if each)
    return {(each["kind"], each["metadata"]["name"]): each for each in loaded}


def _diff(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[str]:
    yield from list(difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=2))[2:]


def _lines(manifest: dict[str, Any] | None) -> list[str]:
    import yaml

    # Long strings are rules and configuration: their own lines are what is compared.
    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(manifest, Dumper=Dumper, width=1000).splitlines() if manifest else []
