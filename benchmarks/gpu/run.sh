#!/usr/bin/env bash
# On any host with an NVIDIA GPU: the tests that need one, and the throughput of every engine.
#
#   benchmarks/gpu/run.sh LIBRARIES MODEL RESULTS
#
# LIBRARIES  folder with TensorRT's shared libraries (libnvinfer.so.10, libnvonnxparser.so.10, ...)
# MODEL      folder that `model-tools export` wrote
# RESULTS    folder for engines.json, written as measurements come in, and the log of the tests
#
# python3 needs the packages of pyproject.toml's core, onnxruntime, pytest, cuda-bindings, and TensorRT's Python
# bindings of the same release (tensorrt, or tensorrt-cu12-bindings, which take the libraries from LIBRARIES).
set -euo pipefail
[ $# -eq 3 ] || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n 3,11p >&2; exit 2; }
libraries=$(realpath "$1") model=$(realpath "$2") results=$(realpath -m "$3")
cd "$(dirname "$0")/../.."
mkdir -p "$results"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

MODEL=$model python3 -m pytest -p no:cacheprovider --override-ini "addopts=-ra" -m gpu tests/gpu \
    2>&1 | tee "$results/tests.log"
python3 benchmarks/gpu/engines.py --model "$model" --output "$results/engines.json"
