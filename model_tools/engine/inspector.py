"""What is inside a plan: inputs and outputs, profiles, and each layer with the types it computes in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

# As the engine inspector spells types, in its releases' various ways; the first that is found counts.
_TYPES = (
    ("INT8", re.compile(r"\bint8\b|\bI8\b", re.IGNORECASE)),
    ("FP8", re.compile(r"\bfp8\b|\bfloat8\w*", re.IGNORECASE)),
    ("BF16", re.compile(r"\bbf16\b|\bbfloat16\b", re.IGNORECASE)),
    ("FP16", re.compile(r"\bfp16\b|\bhalf\b|\bfloat16\b", re.IGNORECASE)),
    ("FP32", re.compile(r"\bfp32\b|\bfloat32\b|\bfloat\b", re.IGNORECASE)),
    ("UINT8", re.compile(r"\buint8\b", re.IGNORECASE)),
    ("INT32", re.compile(r"\bint32\b", re.IGNORECASE)),
)


UNKNOWN = "?"


def describe(trt: Any, engine: Any) -> dict[str, Any]:
    """Plain data about an ICudaEngine.

    `inputs` and `outputs`: data type and shape by name, -1 for the batch; `profiles`: for each, the smallest,
    preferred and largest shape of every input; `layers`: name, kind, types of inputs and outputs, tactic;
    `precisions`: how many layers compute in each type, data movement left out.
    """
    tensors: dict[str, dict[str, Any]] = {"inputs": {}, "outputs": {}}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        tensors["inputs" if given else "outputs"][name] = {
            "data_type": str(engine.get_tensor_dtype(name)).rpartition(".")[2],
            "shape": [int(size) for size in engine.get_tensor_shape(name)],
        }
    profiles = [
        {
            name: dict(zip(("min", "opt", "max"), _profile(engine, name, index), strict=True))
            for name in tensors["inputs"]
        }
        for index in range(engine.num_optimization_profiles)
    ]
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    found = layers(json.loads(text))
    return {**tensors, "profiles": profiles, "precisions": precisions(found), "layers": found}


def _profile(engine: Any, name: str, index: int) -> list[list[int]]:
    return [[int(size) for size in shape] for shape in engine.get_tensor_profile_shape(name, index)]


def layers(information: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the inspector's JSON. A plan without details (built by others) has names only."""
    found = []
    for layer in information.get("Layers", []):
        if isinstance(layer, str):
            found.append({"name": layer, "kind": "", "inputs": [], "outputs": [], "tactic": ""})
            continue
        found.append(
            {
                "name": layer.get("Name", ""),
                "kind": layer.get("ParameterType") or layer.get("LayerType", ""),
                "inputs": [_type(tensor, layer) for tensor in layer.get("Inputs", [])],
                "outputs": [_type(tensor, {}) for tensor in layer.get("Outputs", [])],
                "tactic": str(layer.get("TacticName", "")),
            }
        )
    return found


def precisions(found: list[dict[str, Any]]) -> dict[str, int]:
    """How many layers read each type, those left out that only move data, or whose types nobody tells."""
    counts = Counter(layer["inputs"][0] for layer in found if layer["inputs"] and not is_movement(layer))
    return dict(sorted((name, count) for name, count in counts.items() if name != UNKNOWN))


def is_movement(layer: Mapping[str, Any]) -> bool:
    """Whether a layer only changes the format of a tensor, which a good placement of types avoids."""
    return layer["kind"] in ("Reformat", "NoOp", "Shuffle", "Constant") or "Reformat" in layer["name"]


def _type(tensor: Mapping[str, Any], layer: Mapping[str, Any]) -> str:
    """Where the batch size varies 8.6 tells the type of no tensor; a layer's weights have its input's."""
    text = " ".join(
        str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "DataType", "Format", "Type")
    )
    if "dynamic shapes" in text:
        text = str(layer.get("Weights", {}).get("Type", ""))
    # UINT8 before INT8: a word boundary does not part them, but "uint8" holds "int8" for nobody.
    for name, pattern in _TYPES:
        if pattern.search(text):
            return name
    return text.strip() or UNKNOWN
