"""The engine inspector's JSON, as TensorRT 10.6 and its neighbours write it, and what is made of it."""

from __future__ import annotations

import pytest

from model_tools.engine.inspector import is_movement, layers, precisions


def tensor(text: str, key: str = "Format/Datatype") -> dict[str, str]:
    return {"Name": "x", key: text}


LAYERS = [
    {
        "Name": "Reformatting CopyNode for Input Tensor 0 to Conv_0",
        "LayerType": "Reformat",
        "Inputs": [tensor("Row major linear FP32")],
        "Outputs": [tensor("Thirty-two wide channel vectorized row major Int8 format")],
        "ParameterType": "Reformat",
    },
    {
        "Name": "Conv_0 + Relu_1",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("Thirty-two wide channel vectorized row major Int8 format")],
        "Outputs": [tensor("Channel major FP16 format where channel % 8 == 0")],
        "ParameterType": "Convolution",
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
    },
    {
        "Name": "Gemm_2",
        "LayerType": "CaskGemm",
        "Inputs": [tensor("Half", "DataType")],
        "Outputs": [tensor("Float", "DataType")],
    },
]


def test_a_layer_has_its_kind_types_and_tactic() -> None:
    _, convolution, product = layers({"Layers": LAYERS})
    assert convolution == {
        "name": "Conv_0 + Relu_1",
        "kind": "Convolution",
        "inputs": ["INT8"],
        "outputs": ["FP16"],
        "tactic": "sm80_xmma_fprop_implicit_gemm",
    }
    assert (product["kind"], product["inputs"], product["outputs"]) == ("CaskGemm", ["FP16"], ["FP32"])


def test_layers_that_move_data_are_not_counted_by_precision() -> None:
    found = layers({"Layers": LAYERS})
    assert [is_movement(layer) for layer in found] == [True, False, False]
    assert precisions(found) == {"FP16": 1, "INT8": 1}


def test_a_plan_without_details_has_names_alone() -> None:
    assert layers({"Layers": ["conv1"]}) == [
        {"name": "conv1", "kind": "", "inputs": [], "outputs": [], "tactic": ""}
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Row major linear UInt8 format", "UINT8"),
        ("Row major linear Int8 format", "INT8"),
        ("Row major linear BFloat16 format", "BF16"),
        ("Row major linear FP16 format", "FP16"),
        ("Row major linear Int32 format", "INT32"),
        ("Int64", "Int64"),
        ("", "?"),
    ],
)
def test_types_are_found_however_they_are_spelt(text: str, name: str) -> None:
    (layer,) = layers({"Layers": [{"Name": "a", "Inputs": [tensor(text)], "Outputs": []}]})
    assert layer["inputs"] == [name]


def test_where_8_tells_no_type_of_a_tensor_its_layers_weights_have_it() -> None:
    """As 8.6.1 said of an INT8 engine on an H200."""
    unknown = [tensor("N/A due to dynamic shapes")]
    found = layers(
        {
            "Layers": [
                {"Name": "{ForeignNode[Cast]}", "LayerType": "Myelin", "Inputs": unknown, "Outputs": unknown},
                {
                    "Name": "Conv__256",
                    "LayerType": "CaskConvolution",
                    "Inputs": unknown,
                    "Outputs": unknown,
                    "ParameterType": "Convolution",
                    "Weights": {"Type": "Int8", "Count": 36864},
                },
            ]
        }
    )
    assert [(layer["inputs"], layer["outputs"]) for layer in found] == [(["?"], ["?"]), (["INT8"], ["?"])]
    assert precisions(found) == {"INT8": 1}
