"""Engine curves: how long a batch of b takes on k instances of a model that share one GPU.

A file is JSON:

    {"gpu": "NVIDIA T4", "kind": "published", "sources": ["..."], "notes": ["..."], "overhead_ms": 0,
     "curves": {"int8": [{"batch": 16, "instances": 1, "p50_ms": 5.23, "p99_ms": 5.9, "basis": "..."}, ...]}}

`kind` is measured or published, `curves` has a list of points by precision (`any` for all). A point is the
time of a batch while all of its `instances` are busy; p50_ms is the typical one, further p<number>_ms are how
it spreads. `basis` says where a point comes from when it is not measured. Between points times are
interpolated, in the batch and in the instances; smaller batches than the smallest take as long as that,
larger ones than the largest are not known.

What `model-tools engine bench --json` prints is taken as it is: a JSON object a line, without gpu and
precision.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from model_tools.console import BadInput
from model_tools.plan.queueing import Service

SHIPPED = Path(__file__).parent / "gpus"
KINDS = ("measured", "published")
ANY = "any"
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)_ms")


@dataclass(frozen=True)
class Point:
    """A measured or published time: quantiles of a batch's milliseconds by share, with 0.5 among them."""

    batch: int
    instances: int
    quantiles: tuple[tuple[float, float], ...]
    basis: str = ""

    @property
    def typical(self) -> float:
        return dict(self.quantiles)[0.5]


@dataclass(frozen=True)
class Curve:
    """All that is known of one precision on one GPU."""

    name: str
    gpu: str
    precision: str
    kind: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    points: tuple[Point, ...]
    overhead: float = 0.0

    @property
    def instances(self) -> list[int]:
        return sorted({point.instances for point in self.points})

    def batches(self, instances: int) -> list[int]:
        """The batch sizes with a point of their own, up to the largest known with so many instances."""
        largest = max(point.batch for point in self.points if point.instances == instances)
        return sorted({point.batch for point in self.points if point.batch <= largest})

    def seconds(self, batch: int, instances: int) -> float:
        """Of a batch while so many instances are busy; fewer than any point has take as long as the fewest.

        Raises BadInput for more than there are points of.
        """
        counts = self.instances
        if instances > counts[-1]:
            raise BadInput(f"{self.name}: {instances} instances, and times are known up to {counts[-1]}")
        place = bisect_left(counts, instances)
        upper = self._of(batch, counts[place])
        if counts[place] == instances or place == 0:
            return upper
        lower, below = counts[place - 1], self._of(batch, counts[place - 1])
        return below + (upper - below) * (instances - lower) / (counts[place] - lower)

    def service(self, instances: int, largest: int) -> Service:
        """The times of batches up to `largest` on up to so many instances, for the simulation.

        Raises BadInput for what there are no points of.
        """
        self.seconds(largest, instances)  # refuses the largest, and not the first that is too large
        return Service(
            [
                [0.0, *(self.seconds(batch, busy) for batch in range(1, largest + 1))]
                for busy in range(1, instances + 1)
            ],
            self.spread,
            self.overhead,
        )

    @property
    def spread(self) -> tuple[tuple[float, float], ...]:
        """Quantiles of a batch's time as multiples of the typical one: means over the points with them."""
        ratios: dict[float, list[float]] = {}
        for point in self.points:
            for share, value in point.quantiles if len(point.quantiles) > 1 else ():
                ratios.setdefault(share, []).append(value / point.typical)
        found: list[tuple[float, float]] = []
        for share, values in sorted(ratios.items()):
            # A p99 of few samples may lie below its p95.
            found.append((share, max([fmean(values), *(factor for _, factor in found)])))
        return tuple(found)

    def _of(self, batch: int, instances: int) -> float:
        points = sorted(
            (point.batch, point.typical / 1000) for point in self.points if point.instances == instances
        )
        sizes = [size for size, _ in points]
        if batch > sizes[-1]:
            raise BadInput(f"{self.name}: a batch of {batch}, and times are known up to {sizes[-1]}")
        place = bisect_left(sizes, batch)
        if place == 0:
            return points[0][1]
        (low, first), (high, last) = points[place - 1], points[place]
        return first + (last - first) * (batch - low) / (high - low)


def shipped() -> list[str]:
    """The names that `load` knows."""
    return sorted(file.stem for file in SHIPPED.glob("*.json"))


def load(gpu: str, precision: str) -> Curve:
    """The shipped curve of a GPU. Raises BadInput for a GPU or precision that there is none of."""
    if gpu not in shipped():
        raise BadInput(f"--gpu {gpu}: there are curves of {', '.join(shipped())}; give your own with --curve")
    return _pick(_parse(SHIPPED / f"{gpu}.json", gpu), precision, f"--gpu {gpu}")


def load_file(file: Path, precision: str) -> Curve:
    """The curve of a precision in a user's file. Raises BadInput, with the file's name, for what it isn't."""
    return _pick(_parse(file, file.stem), precision, str(file))


def all_shipped() -> list[Curve]:
    """Every shipped curve, by GPU and precision."""
    return [curve for name in shipped() for curve in _parse(SHIPPED / f"{name}.json", name).values()]


def _pick(curves: Mapping[str, Curve], precision: str, where: str) -> Curve:
    found = curves.get(precision) or curves.get(ANY)
    if found is None:
        raise BadInput(
            f"{where}: has no curve of model.precision {precision}, only of {', '.join(sorted(curves))}"
        )
    return found


def _parse(file: Path, name: str) -> dict[str, Curve]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise BadInput(f"{file}: {(reason or 'can not be read').lower()}") from error
    content = _json(file, text)
    given = content.get("curves")
    if not isinstance(given, dict) or not given:
        raise BadInput(f"{file}: has no curves by precision")
    kind = content.get("kind", "measured")
    if kind not in KINDS:
        raise BadInput(f"{file}: kind: {kind!r} is not {' or '.join(KINDS)}")
    overhead = content.get("overhead_ms", 0)
    if not _is_number(overhead) or overhead < 0:
        raise BadInput(f"{file}: overhead_ms: {overhead!r} is no time")
    return {
        str(precision): Curve(
            name=f"{name} {precision}",
            gpu=str(content.get("gpu", name)),
            precision=str(precision),
            kind=kind,
            sources=_texts(file, "sources", content),
            notes=_texts(file, "notes", content),
            points=_points(file, str(precision), points),
            overhead=overhead / 1000,
        )
        for precision, points in given.items()
    }


def _json(file: Path, text: str) -> dict[str, Any]:
    """The file's content; lines of `engine bench --json` become a file of one curve."""
    try:
        content = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            content = [json.loads(line) for line in lines]
        except ValueError as error:
            raise BadInput(f"{file}: is not JSON ({error})") from error
    if isinstance(content, dict) and "curves" not in content and "batch" in content:
        content = [content]
    if isinstance(content, list):
        copied = [case for case in content if isinstance(case, dict) and case.get("copies") is True]
        content = {"sources": ["model-tools engine bench"], "curves": {ANY: copied or content}}
    if not isinstance(content, dict):
        raise BadInput(f"{file}: is {type(content).__name__}, and has to be a curve file")
    return content


def _points(file: Path, precision: str, given: Any) -> tuple[Point, ...]:
    if not isinstance(given, list) or not given:
        raise BadInput(f"{file}: curves.{precision}: has no points")
    found: dict[tuple[int, int], Point] = {}
    for index, each in enumerate(given):
        where = f"{file}: curves.{precision}[{index}]"
        if not isinstance(each, dict):
            raise BadInput(f"{where}: is {each!r}, and has to be a point")
        for key in ("batch", "instances"):
            value = each.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{where}.{key}: {value!r} is no whole number above 0")
        quantiles = []
        for key, value in each.items():
            if match := _QUANTILE.fullmatch(key):
                if not _is_number(value) or value <= 0:
                    raise BadInput(f"{where}.{key}: {value!r} is no time")
                quantiles.append((float(match[1]) / 100, float(value)))
        if 0.5 not in dict(quantiles):
            raise BadInput(f"{where}: has no p50_ms")
        point = Point(each["batch"], each["instances"], tuple(sorted(quantiles)), str(each.get("basis", "")))
        if (place := (point.batch, point.instances)) in found:
            raise BadInput(f"{where}: batch {place[0]} on {place[1]} instances is there already")
        found[place] = point
    return tuple(found[place] for place in sorted(found))


def _texts(file: Path, key: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    value: Any = content.get(key, [])
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadInput(f"{file}: {key}: is {value!r}, and has to be a list")
    return tuple(str(each) for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
