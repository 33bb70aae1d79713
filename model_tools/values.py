"""The chart's values, merged as `helm --values A --values B` does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model_tools.console import BadInput

_HERE = Path(__file__).parent
# A wheel carries a copy; a checkout has the chart.
_PACKAGED = _HERE / "chart-values.yaml"
CHART_VALUES = (
    _PACKAGED if _PACKAGED.exists() else _HERE.parent / "charts" / "inference-system" / "values.yaml"
)

Values = dict[str, Any]


def load_values(files: Iterable[Path], defaults: Path | None = CHART_VALUES) -> Values:
    """The chart's default values under those of `files`, the last of which wins.

    Raises BadInput for a file that is missing, is not YAML or holds something other than a mapping.
    """
    merged: Values = {}
    for file in [*([defaults] if defaults else []), *files]:
        merged = merge(merged, _read(Path(file)))
    return merged


def models(values: Values) -> dict[str, Values]:
    """All models of a release by where their values stand: model, and each of extraModels laid over it.

    Raises BadInput for an extra model with a name of its own, or with that of `model`.
    """
    primary, extra = values.get("model", {}), values.get("extraModels", {})
    for key, value in (("model", primary), ("extraModels", extra)):
        if not isinstance(value, dict):
            raise BadInput(f"{key}: is {value!r}, and has to be a mapping")
    found = {"model": primary}
    for name, changes in extra.items():
        path = f"extraModels.{name}"
        if not isinstance(changes, dict):
            raise BadInput(f"{path}: is {changes!r}, and has to be a mapping")
        if "name" in changes:
            raise BadInput(f"{path}.name: the key is the model's name, leave it out")
        if name == primary.get("name"):
            raise BadInput(f"{path}: is the name of model already")
        found[path] = merge(primary, {**changes, "name": name})
    return found


def merge(under: Values, over: Values) -> Values:
    """Mappings merge key by key; anything else, lists too, is replaced; null takes a key away, as in Helm."""
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _read(file: Path) -> Values:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not a text file") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{file}: not YAML{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadInput(f"{file}: holds a {type(values).__name__}, not a mapping of values")
    return values
