"""What is known of TensorRT without it: its generations, and what its messages mean."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_tools.console import BadInput
from model_tools.engine.trt import (
    GENERATIONS,
    Log,
    cause,
    context,
    create,
    deserialize,
    generation,
    incompatibility,
)  # fmt: skip


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
        (  # 10.6 of a plan of 8.6
            "IRuntime::deserializeCudaEngine: Error Code 1: Internal Error (Using old deserialization call on"
            " a weight-separated plan file.)",
            "is of another TensorRT",
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


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class Collected:
    """A TensorRT that notes whether garbage could be collected while it logs."""

    ILogger = ILogger
    __version__ = "10.6.0"

    def __init__(self, *errors: str) -> None:
        self.errors, self.seen = errors, list[bool]()

    def Runtime(self, logger: ILogger) -> Any:  # noqa: N802
        self.seen.append(gc.isenabled())
        for error in self.errors:
            logger.log(ILogger.ERROR, error)
        if self.errors:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self

    Builder = Runtime

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        self.seen.append(gc.isenabled())
        return self

    def create_execution_context(self) -> str:
        self.seen.append(gc.isenabled())
        return "context"


def test_nothing_is_collected_while_tensorrt_logs(tmp_path: Path) -> None:
    """An engine that is freed just then waits for the lock that its own thread holds."""
    trt = Collected()
    (tmp_path / "model.plan").write_bytes(b"plan")
    engine = deserialize(trt, tmp_path / "model.plan")
    assert context(engine) == "context"
    assert trt.seen == [False, False, False]
    assert gc.isenabled()


def test_a_tensorrt_that_does_not_start_says_why_in_a_line() -> None:
    """As 11.2 did on a GPU whose resources its package lacks, and without a driver."""
    missing = (
        "createInferBuilder: Error Code 6: API Usage Error (Unable to load library:"
        " libnvinfer_builder_resource_sm90.so.11.2.1: cannot open shared object file In load at"
        " /_src/common/library.cpp:88)"
    )
    after = "[checkMacros.cpp::catchCudaError::247] Error Code 1: Cuda Runtime (out of luck)"
    trt = Collected(missing, after)
    with pytest.raises(BadInput) as refused:
        create(trt, "Builder", Log(trt))
    assert str(refused.value) == (
        "--runtime: TensorRT 10.6.0 does not start here: createInferBuilder: API Usage Error (Unable to load"
        " library: libnvinfer_builder_resource_sm90.so.11.2.1: cannot open shared object file)"
    )
    assert gc.isenabled()


def test_8_is_told_what_its_successors_do_of_themselves() -> None:
    """Contexts share a profile, and kernels are TensorRT's own: cuDNN and cuBLAS need not be there."""
    told: dict[str, Any] = {}
    config = SimpleNamespace(
        set_preview_feature=lambda feature, on: told.update({feature: on}),
        get_tactic_sources=lambda: 0b11111,
        set_tactic_sources=lambda sources: told.update(sources=sources),
    )
    trt = SimpleNamespace(
        PreviewFeature=SimpleNamespace(PROFILE_SHARING_0806="sharing"),
        TacticSource=SimpleNamespace(CUBLAS=0, CUBLAS_LT=1, CUDNN=2),
    )
    GENERATIONS[10].configure(trt, config)
    assert told == {}
    GENERATIONS[8].configure(trt, config)
    assert told == {"sharing": True, "sources": 0b11000}
