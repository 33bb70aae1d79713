"""Writes the chart's README.md from values.schema.json (types, ranges, meaning) and values.yaml (defaults).

`python -m charts.reference` writes it; `--check` exits with 1 where the file is not current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from model_tools.console import CheckFailed, run

CHART = Path(__file__).parent / "inference-system"
README = CHART / "README.md"

INTRODUCTION = """\
# inference-system

<!-- Made by `python -m charts.reference` from values.schema.json and values.yaml: edit those. -->

{description}.

Triton serves a model, or several, on GPU nodes; config.pbtxt, alerts and load test all follow from the values
below.

    helm dependency build charts/inference-system
    helm upgrade --install inference-system charts/inference-system \\
      --namespace inference --create-namespace \\
      --values values/fleet.yaml --values values/regions/us-central1.yaml

The dependency, kube-prometheus-stack, is for clusters without a Prometheus operator. Where there is one,
leave out the first line and install a copy of the chart that has no dependencies:

    python -m charts.package build/chart

Values that a schema can check are checked before anything is rendered: a misspelt key fails with its name.
Combinations that can't work fail with one sentence that begins with the key to change.

| value | type | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Value:
    """A key that takes a value, or a group of such keys, with its schema."""

    path: str
    schema: dict[str, Any]
    default: Any

    @property
    def is_group(self) -> bool:
        return "properties" in self.schema


def values(chart: Path = CHART) -> Iterator[Value]:
    """All keys that the schema knows, in its order. A default of None says that values.yaml has none."""
    import yaml

    schema = json.loads((chart / "values.schema.json").read_text())
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    yield from _values(schema, schema["definitions"], defaults, "")


def _values(schema: dict[str, Any], definitions: dict[str, Any], default: Any, path: str) -> Iterator[Value]:
    schema = resolve(schema, definitions)
    if path:
        yield Value(path, schema, default)
    for key, child in schema.get("properties", {}).items():
        below = default.get(key) if isinstance(default, dict) else None
        yield from _values(child, definitions, below, f"{path}.{key}" if path else key)


def resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with its reference followed; its own description wins."""
    if "$ref" not in schema:
        return schema
    return {**definitions[schema["$ref"].rpartition("/")[2]], **schema}


def kind(schema: dict[str, Any]) -> str:
    """The type and the range of a value, as a reader wants it."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    text = " or ".join(types)
    if schema["type"] == "array":
        text += f" of {schema['items']['type']}s"
    least, most = schema.get("minimum"), schema.get("maximum", 2**31 - 1)
    if "exclusiveMinimum" in schema:
        text += f", above {schema['exclusiveMinimum']}"
    elif least is not None and "string" not in types:
        text += f", {least} or more" if most >= 2**31 - 1 else f", {least} to {most}"
    if "exclusiveMaximum" in schema:
        text += f" and below {schema['exclusiveMaximum']}"
    return text


def reference() -> str:
    """The text of README.md."""
    import yaml

    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return INTRODUCTION.format(description=metadata["description"]) + "".join(map(row, values()))


def row(value: Value) -> str:
    """A line of the table."""
    meaning = value.schema["description"]
    if value.is_group:
        return f"| **{value.path}** | | | {meaning} |\n"
    default = "" if value.default is None else f"`{json.dumps(value.default)}`"
    return f"| `{value.path}` | {kind(value.schema)} | {default} | {meaning} |\n"


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Write nothing; fail when the file is not current.")
def main(check: bool) -> None:
    text = reference()
    if not check:
        README.write_text(text)
    elif not README.is_file() or README.read_text() != text:
        raise CheckFailed(f"{README.name} of the chart is not current: run `python -m charts.reference`")


if __name__ == "__main__":
    run(main, "charts.reference")
