"""The verdict of `model-tools evaluate` in a model directory, and whether a model may be served with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_tools.bundle import Bundle
from model_tools.console import BadInput

VERDICT = "evaluation.json"


def write(folder: Path, verdict: dict[str, Any]) -> None:
    """Puts the verdict beside the model, whole or not at all. Not in SHA256SUMS: it names the model's
    digest."""
    aside = folder / f".{VERDICT}.writing"
    try:
        aside.write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
        aside.rename(folder / VERDICT)
    except OSError as error:
        raise BadInput(f"{folder / VERDICT}: can't be written ({error.strerror})") from error


def demand(bundle: Bundle) -> None:
    """Raises BadInput for a quantized model whose evaluation is missing, failed or of another model.onnx."""
    if bundle.metadata.get("precision", "fp32") == "fp32":
        return
    file = bundle.folder / VERDICT
    do = "run `model-tools evaluate` on it, or give --allow-unevaluated"
    try:
        verdict = json.loads(file.read_text(encoding="utf-8"))
        model, passed = verdict["model"], verdict["passed"]
    except FileNotFoundError as error:
        raise BadInput(
            f"{bundle.folder}: is {bundle.metadata['precision']}, and what that costs in accuracy is not"
            f" known; {do}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: is no evaluation; {do}") from error
    if model != bundle.metadata.get("digest"):
        raise BadInput(f"{file}: is of another model.onnx; {do}")
    if passed is not True:
        raise BadInput(
            f"{file}: the model failed, with a top-1 drop of {verdict.get('top1_drop', '?')} points; quantize"
            " it with another --method or --exclude, or give --allow-unevaluated"
        )
