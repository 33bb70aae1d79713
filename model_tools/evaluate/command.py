"""`model-tools evaluate`: accuracy on labelled pictures, against the FP32 model, as a gate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools.bundle import Bundle
from model_tools.console import BadInput, CheckFailed
from model_tools.evaluate import verdict
from model_tools.evaluate.runtimes import BATCH, RUNTIMES

if TYPE_CHECKING:
    from model_tools.progress import Steps

DROP = 0.5  # points of top-1
TYPES = {"UINT8": "uint8", "FP32": "float32"}


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model in one runtime. precision: what the runtime computes FP32 graphs in."""

    bundle: Bundle
    runtime: str
    precision: str


@dataclass(frozen=True)
class Answers:
    """Of one model to all pictures: scores float32 [n, classes], or features where a head is to be fitted."""

    values: Any
    labels: Any
    version: str
    note: str


@click.command("evaluate", short_help="Top-1, top-5 and agreement with FP32; fails above a drop.")
@click.argument("folder", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.option("--dataset", default="digits", show_default=True, metavar="PATH|digits",
              help="Labelled pictures: folders of classes, .npz or TFRecord.  digits: scikit-learn's, by a "
              "layer fitted on the FP32 model's features in place of the last.")  # fmt: skip
@click.option("--reference", metavar="MODEL_DIR", type=click.Path(path_type=Path),
              help="The FP32 model it was quantized from.  [default: an FP32 MODEL_DIR itself]")  # fmt: skip
@click.option("--runtime", default="onnxruntime", show_default=True,
              type=click.Choice(RUNTIMES), help="What runs both; tensorrt by engines.")  # fmt: skip
@click.option("--compute", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]),
              help="What OpenVINO computes FP32 tensors of MODEL_DIR in.")  # fmt: skip
@click.option("--max-top1-drop", default=DROP, show_default=True, metavar="POINTS",
              type=click.FloatRange(0, 100), help="Largest loss of top-1 that passes.")  # fmt: skip
@click.option("--pictures", type=click.IntRange(1), metavar="N", help="Use so many.  [default: all]")
@click.option("--first-label", default=0, show_default=True, type=click.IntRange(0),
              help="Number of the data set's first class; 1 in ImageNet's TFRecords.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
def command(
    folder: Path, dataset: str, reference: Path | None, runtime: str, compute: str, max_top1_drop: float,
    pictures: int | None, first_label: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure the accuracy of the model in MODEL_DIR, and leave evaluation.json there.

    Exit status 1 where top-1 is more than --max-top1-drop below the FP32 model's. `model-tools repository`
    takes a quantized model only with an evaluation that passed.
    """
    found = evaluate(
        folder, dataset=dataset, reference=reference, runtime=runtime, precision=compute,
        max_top1_drop=max_top1_drop, pictures=pictures, first_label=first_label,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(
            f"{folder}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %;"
            f" FP32 {found['reference_top1']:.2f} %: drop {found['top1_drop']:.2f} points; agreement"
            f" {found['agreement']:.2f} % ({found['pictures']} pictures of {dataset}, {runtime}"
            f" {found['runtime_version']})"
        )
    if not found["passed"]:
        raise CheckFailed(
            f"{folder}: top-1 drops by {found['top1_drop']:.2f} points, more than --max-top1-drop"
            f" {max_top1_drop:g}"
        )


def evaluate(
    folder: Path,
    *,
    dataset: str = "digits",
    reference: Path | None = None,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    max_top1_drop: float = DROP,
    pictures: int | None = None,
    first_label: int = 0,
) -> dict[str, Any]:
    """Writes evaluation.json into `folder` and returns what is in it; percentages, and points between them.

    Raises BadInput for a model, a reference or a data set that can't be used.
    """
    from model_tools.evaluate.head import cross_fitted
    from model_tools.progress import steps

    bundle = Bundle.load(folder)
    origin = _reference(bundle, reference)
    if bundle.input.data_type not in TYPES:
        raise BadInput(f"{folder}: takes {bundle.input.data_type}, and pictures are {' or '.join(TYPES)}")
    with steps() as step:
        step("running the FP32 model")
        expected = _reference_answers(Subject(origin, runtime, "fp32"), dataset, pictures, first_label, step)
        if origin == bundle and precision == "fp32":
            given = expected
        else:
            step(f"running the {bundle.metadata.get('precision', 'fp32')} model")
            given = _answers(Subject(bundle, runtime, precision), dataset, pictures, first_label, step)
        if given.note:
            click.echo(given.note, err=True)
        right, known = given.values, expected.values
        if dataset == "digits":
            step("fitting the classifier of digits")
            right = cross_fitted(expected.values, given.values, given.labels)
            known = cross_fitted(expected.values, expected.values, given.labels)
    top1, reference_top1 = top(right, given.labels, 1), top(known, given.labels, 1)
    drop = reference_top1 - top1
    found = {
        "model": bundle.metadata["digest"],
        "reference": origin.metadata["digest"],
        "passed": bool(round(drop, 6) <= max_top1_drop),  # both are multiples of a picture's share
        "max_top1_drop": max_top1_drop,
        "top1": top1,
        "top5": top(right, given.labels, 5),
        "reference_top1": reference_top1,
        "top1_drop": drop,
        "agreement": float((right.argmax(axis=1) == known.argmax(axis=1)).mean() * 100),
        "dataset": dataset,
        "pictures": len(given.labels),
        "runtime": runtime,
        "runtime_version": given.version,
        "precision": bundle.metadata.get("precision", "fp32"),
        "compute": "fp32" if given.note else precision,
    }
    verdict.write(folder, found)
    return found


def top(scores: Any, labels: Any, count: int) -> float:
    """Percentage of pictures whose label is among the `count` highest scores. scores: [n, classes].

    Of equal scores the lower class counts as the higher, as argmax has it.
    """
    import numpy as np

    own = scores[np.arange(len(labels)), labels][:, None]
    classes = np.arange(scores.shape[1])
    before = (scores > own) | ((scores == own) & (classes < np.asarray(labels)[:, None]))
    return float((before.sum(axis=1) < count).mean() * 100)


def _reference(bundle: Bundle, folder: Path | None) -> Bundle:
    precision = bundle.metadata.get("precision", "fp32")
    if folder is None:
        if precision != "fp32":
            raise BadInput(
                f"--reference: {bundle.folder} is {precision}; give the FP32 model directory that it was"
                " quantized from"
            )
        return bundle
    origin = Bundle.load(folder)
    source = bundle.metadata.get("quantization", {}).get("source")
    if source is not None and source != origin.metadata.get("digest"):
        raise BadInput(f"--reference: {folder} is not the model that {bundle.folder} was quantized from")
    if origin.metadata.get("precision", "fp32") != "fp32":
        raise BadInput(f"--reference: {folder} is {origin.metadata['precision']}, and has to be FP32")
    return origin


def _reference_answers(
    subject: Subject, dataset: str, pictures: int | None, first_label: int, step: Steps
) -> Answers:
    """As `_answers`; those to what dependencies carry are kept in the cache."""
    import numpy as np

    from model_tools.evaluate import runtimes
    from model_tools.files import cached

    if dataset != "digits":
        return _answers(subject, dataset, pictures, first_label, step)
    version = runtimes.version(subject.runtime)
    parts = [subject.bundle.metadata["digest"], subject.runtime, version, str(pictures)]
    for module in ("evaluate/command", "evaluate/head", "datasets", "pictures"):
        parts.append((Path(__file__).parents[1] / f"{module}.py").read_text(encoding="utf-8"))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def build(entry: Path) -> None:
        made = _answers(subject, dataset, pictures, first_label, step)
        np.savez(entry / "answers.npz", values=made.values, labels=made.labels, version=made.version)

    with np.load(cached("evaluations", key, build) / "answers.npz") as kept:
        return Answers(kept["values"], kept["labels"], str(kept["version"]), "")


def _answers(subject: Subject, dataset: str, pictures: int | None, first_label: int, step: Steps) -> Answers:
    """Runs a model on the data set. Raises BadInput for pictures without labels, or labels without a
    class."""
    import numpy as np
    import onnx

    from model_tools.datasets import batches
    from model_tools.evaluate import head, runtimes

    bundle = subject.bundle
    model = onnx.load(str(bundle.model))
    asked = head.tap(model) if dataset == "digits" else bundle.output.name
    graph = bundle.metadata.get("precision", "fp32")
    loaded = runtimes.load(model.SerializeToString(), [asked], subject.runtime, subject.precision, graph)
    values, labels = [], []
    done = 0
    for batch in batches(dataset, bundle.input.shape, BATCH, pictures, "--dataset", first_label):
        if batch.labels is None:
            raise BadInput(
                f"--dataset: {dataset}: has no labels, so there is no accuracy; give folders of classes, or"
                " labels in the .npz or TFRecord file"
            )
        (answer,) = loaded.run(batch.pixels.astype(TYPES[bundle.input.data_type]))
        values.append(head.flat(answer) if dataset == "digits" else np.array(answer, np.float32))
        labels.append(batch.labels)
        done += len(batch.labels)
        step.update(f"{bundle.metadata.get('precision', 'fp32')}: {done} pictures")
    if not values:
        raise BadInput(f"--dataset: {dataset}: holds no pictures")
    scores, known = np.concatenate(values), np.concatenate(labels)
    if not np.isfinite(scores).all():
        raise CheckFailed(f"{bundle.folder}: its answers are not finite; it can't be right")
    if dataset != "digits":
        _check_labels(scores, known, dataset)
    return Answers(scores, known, loaded.version, loaded.note)


def _check_labels(scores: Any, labels: Any, dataset: str) -> None:
    if scores.ndim != 2:
        raise BadInput(
            f"the model gives {list(scores.shape[1:])} a picture, and a classifier gives one score a class"
        )
    classes = scores.shape[1]
    for label in (labels.min(), labels.max()):
        if not 0 <= label < classes:
            raise BadInput(
                f"--dataset: {dataset}: has the label {label}, and the model the classes 0 to {classes - 1};"
                " --first-label says where labels begin"
            )
