"""Corrected biases give every layer the mean that it has in FP32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import SIDE, residual

from model_tools.quantize import bias
from model_tools.quantize.calibrate import _session
from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.placement import place
from model_tools.quantize.qdq import insert

PIXELS = np.random.default_rng(2).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)


def simplified() -> Graph:
    graph = Graph(residual())
    simplify(graph)
    return graph


def whole(graph: Graph) -> list[Any]:
    """Channel means as one run of the whole model has them."""
    tensors = tuple(node.output[0] for node in bias.biased(graph))
    values = _session(graph.finished().SerializeToString(), tensors)(PIXELS)
    return [bias.channel_means(one) for one in values]


@pytest.fixture
def coarse() -> Graph:
    """Quantized so that much is cut."""
    graph = simplified()
    placement = place(graph)
    insert(graph, placement, dict.fromkeys(placement.tensors, 60.0), half=False)
    return graph


def test_layer_by_layer_is_the_whole_model() -> None:
    graph = simplified()
    for part, one in zip(bias.means(graph, PIXELS, "uint8"), whole(graph), strict=True):
        assert np.allclose(part, one, rtol=1e-3, atol=1e-3)


def test_every_layer_has_its_mean_again(coarse: Graph) -> None:
    expected = whole(simplified())

    def off() -> float:
        return max(
            float(np.abs(found - wanted).max()) for found, wanted in zip(whole(coarse), expected, strict=True)
        )

    before = off()
    done: list[int] = []
    bias.correct(coarse, expected, PIXELS, "uint8", done.append)
    assert done == list(range(1, 17))
    assert off() < before / 20


def test_a_bias_that_layers_share_moves_for_each_alone() -> None:
    graph = simplified()
    first, second, *_ = (node for node in bias.biased(graph) if len(graph.constants[node.input[2]]) == 32)
    second.input[2] = first.input[2]
    expected = [mean + 1 for mean in bias.means(graph, PIXELS, "uint8")]
    bias.correct(graph, expected, PIXELS, "uint8")
    assert first.input[2] != second.input[2]
