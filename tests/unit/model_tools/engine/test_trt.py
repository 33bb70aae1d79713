"""What is known of TensorRT without it: its generations, and what its messages mean."""

from __future__ import annotations

import pytest

from model_tools.console import BadInput
from model_tools.engine.trt import cause, generation, incompatibility


@pytest.mark.parametrize(
    ("version", "major"), [("8.6.1", 8), ("10.6.0", 10), ("10.15.1.29", 10), ("11.2.0", 11)]
)
def test_the_releases_that_are_known(version: str, major: int) -> None:
    assert generation(version).major == major


@pytest.mark.parametrize("version", ["7.2.3", "8.5.3", "9.3.0", "12.0.0"])
def test_any_other_is_refused_by_name(version: str) -> None:
    with pytest.raises(BadInput, match=f"TensorRT {version} is installed, and 8.6, 10.x or 11.x is needed"):
        generation(version)


def test_out_of_memory_is_what_counts_among_the_errors_of_a_build() -> None:
    said = cause(
        [
            "[defaultAllocator.cpp::allocateAsync::48] Error Code 1: Cuda Runtime (out of memory)",
            "[builder.cpp::buildSerializedNetwork::843] Error Code 4: Internal Error (Could not find any "
            "implementation for node Conv_1.)",
        ]
    )
    assert said.startswith("out of GPU memory (")
    assert "--workspace" in said


def test_a_cause_comes_without_its_place_in_the_source() -> None:
    error = "[optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (no implementation found)"
    assert cause([error]) == "Internal Error (no implementation found)"
    assert cause([]) == "it gives no reason"


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion"
            " safeVersionRead == kSAFE_SERIALIZATION_VERSION failed.Version tag does not match. Note: Current"
            " Version: 239, Serialized Engine Version: 240)",
            "is of another TensorRT (240, and here is 239)",
        ),
        (
            "[stdArchiveReaderInitCommon.cpp] The engine plan file is not compatible with this version of"
            " TensorRT, expecting library version 10.6.0.26 got 10.15.1.29, please rebuild.",
            "is of another TensorRT (10.15.1.29, and here is 10.6.0.26)",
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute"
            " 7.5, please rebuild.",
            "is for GPUs of compute capability 7.5, and this one has 9.0",
        ),
        ("Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match", ""),
    ],
)
def test_what_a_plan_that_is_refused_is_for(error: str, named: str) -> None:
    assert incompatibility([error]) == named
