"""What FP16 and INT8 cost networks that were trained: top-1 on 1,000 handwritten digits that no training saw.

    python -m benchmarks.accuracy --trained FOLDER --output build/accuracy [--runtime tensorrt]

FOLDER is what benchmarks/gpu/train.py wrote. Each network goes through a user's own commands: export,
quantize (calibrated on 256 of the pictures that it was trained on), evaluate. Prints a table; all of it is in
accuracy.json. --settle takes batch statistics anew, for a network whose training left them behind.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.train import MODELS, digits, load, split

CALIBRATION, SETTLED = 256, 64  # pictures
METHODS = ("percentile", "entropy", "max")


def model_tools(*words: object) -> str:
    """What a verb prints; `evaluate` may judge the model as failed."""
    command = [sys.executable, "-m", "model_tools", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and (words[0], done.returncode) != ("evaluate", 1):
        raise SystemExit(f"model-tools {words[0]} ends with status {done.returncode}")
    return done.stdout


def settle(model: Any, name: str, pixels: Any) -> None:
    """Takes every batch normalization's statistics from the given pictures, all at once."""
    import keras

    module = {"caffe": keras.applications.resnet, "tf": keras.applications.mobilenet_v2}[MODELS[name][1]]
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(module.preprocess_input(pixels.astype(np.float32)), training=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--settle", choices=MODELS, nargs="*", default=[])
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--runtime", default="onnxruntime")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    pixels, labels = digits()
    trained, held_out = split(len(labels))
    np.savez(output / "held-out.npz", images=pixels[held_out], labels=labels[held_out])
    np.savez(output / "calibration.npz", images=pixels[trained[:CALIBRATION]])

    rows = []
    for name in arguments.model:
        fp32 = output / f"{name}-fp32"
        if not fp32.is_dir():  # a GPU host gets those that were exported elsewhere: it has no TensorFlow
            source = output / f"{name}.keras"
            network = load(name, arguments.trained)
            if name in arguments.settle:
                settle(network, name, pixels[trained[:SETTLED]])
            network.save(source)
            model_tools("export", "--model", source, "--preprocessing", MODELS[name][1], "--output", fp32)
        if arguments.export_only:
            continue
        variants = [("fp16", "", [])]
        variants += [
            ("int8", method, ["--calibration", output / "calibration.npz", "--method", method])
            for method in METHODS
        ]
        for precision, method, options in variants:
            folder = output / "-".join(filter(None, (name, precision, method)))
            model_tools("quantize", fp32, folder, "--precision", precision, *options)
            found = json.loads(model_tools(
                "evaluate", folder, "--reference", fp32, "--dataset", output / "held-out.npz",
                "--runtime", arguments.runtime, "--json",
            ))  # fmt: skip
            rows.append({"network": name, "precision": precision, "method": method, **found})
            print(
                f"{name:12} {precision:5} {method:11} FP32 {found['reference_top1']:6.2f} %"
                f"  top-1 {found['top1']:6.2f} %  drop {found['top1_drop']:5.2f} points"
                f"  agreement {found['agreement']:6.2f} %",
                flush=True,
            )
            (output / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
