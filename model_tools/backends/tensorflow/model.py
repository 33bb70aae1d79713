"""Triton backend `tensorflow`: runs 1/model.savedmodel with TensorFlow on the CPU.

A Python-based backend, for servers whose Triton has no TensorFlow backend of its own: what a model costs as
it comes from training is the baseline of every ladder. The model's configuration names it as
`backend: "tensorflow"`, as it names Triton's own, and takes the same parameter:

TF_NUM_INTRA_THREADS   threads an instance computes with; absent or 0: TensorFlow chooses.

The environment's TENSORFLOW_PACKAGES is the folder with TensorFlow and what it needs, numpy < 2 among it:
with 2, every output of Triton's Python backend arrives empty.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model's signature serving_default. Raises TritonModelException, Triton's reason."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config["default_model_filename"] or "model.savedmodel")
        if not (file / "saved_model.pb").is_file():
            raise pb_utils.TritonModelException(f"{file}: is no SavedModel (it has no saved_model.pb)")
        began = time.monotonic()
        tensorflow = _tensorflow()
        threads = _threads(config)
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        self._tensorflow = tensorflow
        self._input = _only(config, "input")
        self._output = _only(config, "output")
        try:
            self._model = tensorflow.saved_model.load(str(file))
            self._call = self._model.signatures["serving_default"]
        except Exception as error:  # TensorFlow raises nearly anything for a file that is broken
            raise pb_utils.TritonModelException(
                f"{file}: TensorFlow can't load it ({_reason(error)})"
            ) from error
        self._check(file)
        # Ready should mean ready: the first call of a batch size is the slow one.
        for size in sorted({1, config["max_batch_size"]}):
            self._call(**{self._input: tensorflow.zeros([size, *_shape(config)], self._call_type())})
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']}: TensorFlow {tensorflow.__version__}, {threads or 'all'} threads,"
            f" loaded in {time.monotonic() - began:.2f} s"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one dynamic batch, each with its own rows."""
        import numpy

        pixels = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        batch = pixels[0] if len(pixels) == 1 else numpy.concatenate(pixels)
        try:
            rows = self._call(**{self._input: self._tensorflow.constant(batch)})[self._output].numpy()
        except self._tensorflow.errors.OpError as error:
            failure = pb_utils.TritonError(f"TensorFlow: {_reason(error)}")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        responses, start = [], 0
        for part in pixels:
            output = pb_utils.Tensor(self._output, rows[start : start + len(part)])
            responses.append(pb_utils.InferenceResponse([output]))
            start += len(part)
        return responses

    def _call_type(self) -> Any:
        return self._call.structured_input_signature[1][self._input].dtype

    def _check(self, file: Path) -> None:
        """Raises where the signature's names are not what config.pbtxt says."""
        for kind, wanted, there in (
            ("input", self._input, self._call.structured_input_signature[1]),
            ("output", self._output, self._call.structured_outputs),
        ):
            if wanted not in there:
                raise pb_utils.TritonModelException(
                    f"{file}: has {kind} {', '.join(sorted(there)) or 'none'}, and config.pbtxt {wanted}"
                )


def _tensorflow() -> Any:
    sys.path.insert(0, os.environ.get("TENSORFLOW_PACKAGES", ""))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        import numpy
        import tensorflow
    except ImportError as error:
        raise pb_utils.TritonModelException(
            f"the tensorflow backend can't import {error.name}: {error}; serve from an image with TensorFlow"
        ) from error
    if int(numpy.__version__.split(".")[0]) > 1:
        raise pb_utils.TritonModelException(
            f"numpy {numpy.__version__}: Triton's Python backend needs numpy below 2"
        )
    return tensorflow


def _threads(config: dict[str, Any]) -> int:
    text = config.get("parameters", {}).get("TF_NUM_INTRA_THREADS", {}).get("string_value", "0")
    if not text.isdecimal():
        raise pb_utils.TritonModelException(f"TF_NUM_INTRA_THREADS: {text!r} is not a whole number")
    return int(text)


def _only(config: dict[str, Any], kind: str) -> str:
    if len(config[kind]) != 1:
        raise pb_utils.TritonModelException(
            f"the tensorflow backend takes one {kind}, not {len(config[kind])}"
        )
    return str(config[kind][0]["name"])


def _shape(config: dict[str, Any]) -> list[int]:
    return [int(size) for size in config["input"][0]["dims"]]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
