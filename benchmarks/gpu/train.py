"""Trains a network of Keras on handwritten digits, so that what quantizing costs is a trained network's loss.

    KERAS_BACKEND=torch python3 -m benchmarks.gpu.train --model resnet50 --output FOLDER

scikit-learn's 1,797 digits at 224x224: 797 to train on, the other 1,000 held out. FOLDER gets
MODEL.json and the weights in MODEL-N.npz, kernels in FP16, 14 MiB a file for hosts that give little back;
benchmarks/accuracy.py makes the model of them again. Needs Keras, PyTorch with a GPU and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE, CLASSES, TRAINED = 224, 10, 797
# Name: (in keras.applications, its preprocessing as `model-tools export` names it)
MODELS = {"resnet50": ("ResNet50", "caffe"), "mobilenetv2": ("MobileNetV2", "tf")}
PIECE = 14 << 20  # bytes of a file


def split(count: int) -> tuple[Any, Any]:
    """Indices of the pictures to train on and of those held out."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[:TRAINED]), np.sort(order[TRAINED:])


def digits() -> tuple[Any, Any]:
    """All pictures, uint8 [n, 224, 224, 3], resized as `model-tools evaluate` does, and their labels."""
    from model_tools.datasets import batches

    found = list(batches("digits", (SIDE, SIDE, 3), 256, None, "--dataset", 0))
    return np.concatenate([each.pixels for each in found]), np.concatenate([each.labels for each in found])


def build(name: str, activation: str | None = "softmax") -> Any:
    """The network, with ten classes and fresh weights."""
    import keras

    application = getattr(keras.applications, MODELS[name][0])
    return application(
        weights=None, classes=CLASSES, input_shape=(SIDE, SIDE, 3), classifier_activation=activation
    )


def preprocess(name: str, pixels: Any) -> Any:
    """Of a float tensor [n, 224, 224, 3] of raw pixels; as keras.applications does it."""
    if MODELS[name][1] == "tf":
        return pixels / 127.5 - 1
    return pixels.flip(-1) - pixels.new_tensor([103.939, 116.779, 123.68])


def train(name: str, epochs: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """The trained network and what is known of it."""
    import keras
    import torch

    keras.utils.set_random_seed(0)
    pixels, labels = digits()
    trained, held_out = split(len(labels))
    model = build(name, activation=None).to("cuda")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # MobileNetV2's 0.999 is for a thousand times as many steps
    inputs = torch.from_numpy(pixels).cuda()
    targets = torch.from_numpy(np.asarray(labels, np.int64)).cuda()
    steps = epochs * (len(trained) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    random = torch.Generator("cpu").manual_seed(0)
    began = time.monotonic()
    for step in range(steps):
        chosen = torch.from_numpy(trained)[torch.randperm(len(trained), generator=random)[:batch]].cuda()
        with torch.autocast("cuda", torch.bfloat16):
            scores = model(preprocess(name, moved(inputs[chosen].float(), random)), training=True)
        loss = torch.nn.functional.cross_entropy(scores.float(), targets[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"{name}: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    seconds = time.monotonic() - began
    right = 0
    with torch.no_grad():
        for rows in np.array_split(held_out, 20):
            scores = model(preprocess(name, inputs[torch.from_numpy(rows).cuda()].float()), training=False)
            right += int((scores.argmax(-1) == targets[torch.from_numpy(rows).cuda()]).sum())
    return model, {
        "model": name, "epochs": epochs, "batch": batch, "seconds": round(seconds, 1),
        "held_out": len(held_out), "top1": round(100 * right / len(held_out), 2),
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "keras": keras.__version__,
    }  # fmt: skip


def moved(pictures: Any, random: Any) -> Any:
    """Each turned, scaled and shifted a little, at random; [n, height, width, 3]."""
    import torch

    count = len(pictures)
    turn, scale, *shift = (torch.rand((4, count), generator=random) * 2 - 1).cuda()
    turn, scale = turn * 0.25, 1 + scale * 0.15
    rows = (scale * turn.cos(), -scale * turn.sin(), shift[0] * 0.15), (
        scale * turn.sin(), scale * turn.cos(), shift[1] * 0.15,
    )  # fmt: skip
    theta = torch.stack([torch.stack(row, -1) for row in rows], 1)
    channels_first = pictures.permute(0, 3, 1, 2)
    grid = torch.nn.functional.affine_grid(theta, list(channels_first.shape), align_corners=False)
    return torch.nn.functional.grid_sample(channels_first, grid, align_corners=False).permute(0, 2, 3, 1)


def save(model: Any, about: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = [np.asarray(weight.detach().cpu() if hasattr(weight, "detach") else weight)
               for weight in model.get_weights()]  # fmt: skip
    kept = [weight.astype(np.float16 if weight.ndim > 1 else np.float32) for weight in weights]
    piece: dict[str, Any] = {}
    pieces = 0
    for number, weight in enumerate(kept):
        if piece and sum(each.nbytes for each in piece.values()) + weight.nbytes > PIECE:
            np.savez(folder / f"{about['model']}-{pieces}.npz", **piece)
            piece, pieces = {}, pieces + 1
        piece[str(number)] = weight
    np.savez(folder / f"{about['model']}-{pieces}.npz", **piece)
    (folder / f"{about['model']}.json").write_text(json.dumps(about, indent=1) + "\n")
    print(about, flush=True)


def load(name: str, folder: Path) -> Any:
    """The trained network again, in whatever backend Keras has here."""
    model = build(name)
    weights: dict[int, Any] = {}
    for file in sorted(folder.glob(f"{name}-*.npz")):
        with np.load(file) as piece:
            weights |= {int(number): piece[number].astype(np.float32) for number in piece.files}
    model.set_weights([weights[number] for number in range(len(weights))])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    for name in arguments.model:
        model, about = train(name, arguments.epochs, arguments.batch)
        save(model, about, arguments.output)


if __name__ == "__main__":
    main()
