"""When requests are sent: constant and Poisson arrivals over a changing rate, and recorded traces.

All times are seconds from the start of the arrivals. They depend on the clock alone, never on answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.console import BadInput

TIME = "time"  # the column, or the key, of a trace that holds the arrival
MAX_ARRIVALS = 10_000_000  # of a trace: 80 MB at the master


@dataclass(frozen=True)
class Stage:
    """Over so many seconds the load goes in a straight line to the target; in 0 seconds it jumps there."""

    seconds: float
    target: float

    @classmethod
    def read(cls, text: str) -> Stage:
        """SECONDS:TARGET. Raises BadInput."""
        try:
            seconds, target = (float(part) for part in text.split(":"))
        except ValueError:
            raise BadInput(f"stage {text}: not SECONDS:TARGET, such as 30:400") from None
        return cls(seconds, target)

    def __post_init__(self) -> None:
        if not (0 <= self.seconds < math.inf and 0 <= self.target < math.inf):
            raise BadInput(f"stage {self}: seconds and target must be 0 or more")

    def __str__(self) -> str:
        return f"{self.seconds:g}:{self.target:g}"


class Profile:
    """A load over time: `start`, then the stages one after the other, then the last target for ever."""

    def __init__(self, start: float, stages: tuple[Stage, ...] = ()) -> None:
        self.start, self.stages = start, stages
        self.seconds = sum(stage.seconds for stage in stages)
        # Straight pieces: begin, load there, slope, and the integral of the load up to there.
        self._pieces: list[tuple[float, float, float, float]] = []
        begin, level, total = 0.0, start, 0.0
        for stage in stages:
            if stage.seconds:
                slope = (stage.target - level) / stage.seconds
                self._pieces.append((begin, level, slope, total))
                total += (level + stage.target) / 2 * stage.seconds
            begin, level = begin + stage.seconds, stage.target
        self._pieces.append((begin, level, 0.0, total))

    def at(self, seconds: float) -> float:
        """The load at a time; where it jumps, that after the jump."""
        begin, level, slope, _ = next(
            piece for piece in reversed(self._pieces) if piece[0] <= max(0.0, seconds)
        )
        return level + slope * (seconds - begin)

    def total(self, seconds: float) -> float:
        """The integral of the load up to a time: how many arrivals are due by then, if the load is a rate."""
        begin, level, slope, before = next(
            piece for piece in reversed(self._pieces) if piece[0] <= max(0.0, seconds)
        )
        return before + (level + slope * (seconds - begin) / 2) * (seconds - begin)

    def inverted(self, totals: Iterator[float]) -> Iterator[float]:
        """For each of the growing totals, when the integral reaches it. Ends where it never does."""
        index = 0
        for total in totals:
            while index + 1 < len(self._pieces) and self._pieces[index + 1][3] <= total:
                index += 1
            begin, level, slope, before = self._pieces[index]
            missing = total - before
            if missing <= 0:
                yield begin
                continue
            # The root of slope/2 t^2 + level t = missing, in the form that also holds for a slope of 0.
            root = level + math.sqrt(max(0.0, level * level + 2 * slope * missing))
            if root <= 0:
                return  # the last target is 0
            yield begin + 2 * missing / root


def arrivals(kind: str, profile: Profile, index: int = 0, of: int = 1, seed: Any = None) -> Iterator[float]:
    """When worker `index` of `of` sends, for ever: its share of the profile's requests a second.

    constant: workers take turns, so that all of them together keep equal distances. poisson: exponential
    distances; Poisson processes side by side are one of their summed rate. A changing rate stretches the same
    sequence in time (time rescaling: Cinlar, Introduction to Stochastic Processes, 4.7), so that
    constant arrivals follow a ramp evenly and Poisson's are an inhomogeneous Poisson process.
    """
    return profile.inverted(_constant(index, of) if kind == "constant" else _poisson(of, random.Random(seed)))


def _constant(index: int, of: int) -> Iterator[float]:
    count = index % of + 0.5
    while True:
        yield count
        count += of


def _poisson(of: int, rng: random.Random) -> Iterator[float]:
    total = 0.0
    while True:
        total += of * rng.expovariate(1.0)
        yield total


def read_trace(path: Path, speed: float = 1.0) -> list[float]:
    """The arrivals of a recorded trace, sorted, the first one at 0, `speed` times as fast as recorded.

    CSV: a column `time`, or a single column without a heading. JSON lines: an object with `time`, or the time
    alone. A time is a number of seconds since anything, or ISO 8601. Raises BadInput with the line.
    """
    if not speed > 0:
        raise BadInput(f"speed {speed}: must be above 0")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    lines = _json_lines(path, text) if text.lstrip()[:1] in ("{", '"') else _csv_lines(path, text)
    times = []
    for number, value in lines:
        try:
            times.append(_seconds(value))
        except ValueError:
            raise BadInput(f"{path}:{number}: {value!r} is no time in seconds or ISO 8601") from None
    if len(times) < 2 or min(times) == max(times):
        raise BadInput(f"{path}: a trace needs two arrivals at different times")
    if len(times) > MAX_ARRIVALS:
        raise BadInput(f"{path}: {len(times)} arrivals, {MAX_ARRIVALS} are the most")
    times.sort()
    return [(time - times[0]) / speed for time in times]


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    import csv

    rows = csv.reader(text.splitlines())
    column = None
    for row in rows:
        if not row:
            continue
        if column is None:
            named = [name.strip().lower() for name in row]
            if TIME in named:
                column = named.index(TIME)
                continue
            if len(row) > 1:
                raise BadInput(f"{path}: no column is named {TIME}")
            column = 0
        yield rows.line_num, row[column].strip() if column < len(row) else ""


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    import json

    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            raise BadInput(f"{path}:{number}: not JSON") from None
        yield number, value.get(TIME) if isinstance(value, dict) else value


def _seconds(value: Any) -> float:
    from datetime import UTC, datetime

    if isinstance(value, bool) or value is None:
        raise ValueError
    try:
        seconds = float(value)
    except (ValueError, TypeError):
        moment = datetime.fromisoformat(str(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError
    return seconds
