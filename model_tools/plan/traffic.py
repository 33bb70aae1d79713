"""The traffic to plan for: regions, their peaks and days, and where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.plan.places import PLACES
from model_tools.values import load_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DAY = 86400
HOURS = 24
# A service that people use, by the hour of their day from midnight, as shares of the peak.
USUAL_DAY = (
    0.45, 0.37, 0.31, 0.28, 0.28, 0.31, 0.38, 0.48, 0.59, 0.68, 0.74, 0.78,
    0.81, 0.82, 0.82, 0.83, 0.85, 0.88, 0.93, 0.98, 1.00, 0.95, 0.80, 0.62,
)  # fmt: skip
_EARTH = 6371.0  # km, its mean radius
_FIBRE = 200_000.0  # km/s that light is fast in glass
_DETOUR = 1.5  # of cables, to the great circle
_KEYS = {"regions", "day", "growth", "months", "total", "price"}
_REGION_KEYS = {"peak", "day", "place", "hours", "price", "maxNodes"}


@dataclass(frozen=True)
class Region:
    """A region's own clients. peak: requests a second in their busiest hour, at the time that is planned for.

    hours: of the local day before UTC's. price: of a node, a dollar's worth an hour. most_nodes: that it may
    have.
    """

    name: str
    peak: float
    day: tuple[float, ...]
    latitude: float
    longitude: float
    hours: float
    price: float
    most_nodes: int


@dataclass(frozen=True)
class Traffic:
    regions: tuple[Region, ...]

    @property
    def names(self) -> list[str]:
        return [region.name for region in self.regions]

    def demand(self, seconds: Floats) -> Floats:
        """Requests a second by [region, time]; seconds: of a day in UTC. Between hours it goes on lines."""
        import numpy as np

        rows = []
        for region in self.regions:
            hour = (seconds / 3600 + region.hours) % HOURS
            rows.append(region.peak * np.interp(hour, range(HOURS + 1), [*region.day, region.day[0]]))
        return np.array(rows)

    def kilometres(self) -> Floats:
        """Along the great circle between [region, region]."""
        import numpy as np

        latitude = np.radians([region.latitude for region in self.regions])
        longitude = np.radians([region.longitude for region in self.regions])
        half = (
            np.sin((latitude[:, None] - latitude) / 2) ** 2
            + np.cos(latitude)[:, None] * np.cos(latitude) * np.sin((longitude[:, None] - longitude) / 2) ** 2
        )
        distance: Floats = 2 * _EARTH * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
        return distance

    def round_trip(self) -> Floats:
        """Seconds there and back between [region, region]: light in glass, on cables half as long again."""
        return 2 * _DETOUR * self.kilometres() / _FIBRE


def load(file: Path, price: float | None = None, growth: float | None = None) -> Traffic:
    """The traffic of a file, at the time that it is planned for.

    price, growth: in place of the file's. Raises BadInput, with file and key, for what can't be planned.
    """
    content = load_values([file], defaults=None)
    _known(file, "", content, _KEYS)
    regions = content.get("regions")
    if not isinstance(regions, Mapping) or not regions:
        raise BadInput(f"{file}: regions: has none")
    day = _day(file, "day", content.get("day"), USUAL_DAY)
    yearly = growth if growth is not None else _number(file, "growth", content.get("growth", 0), -0.99)
    months = _number(file, "months", content.get("months", 12), 0)
    factor = (1 + yearly) ** (months / 12)
    common = content.get("price")
    found = [
        _region(file, str(name), given, day, factor, price if price is not None else common)
        for name, given in regions.items()
    ]
    traffic = Traffic(tuple(found))
    if "total" in content:
        import numpy as np

        total = _number(file, "total", content["total"], 0, open_below=True)
        now = float(traffic.demand(np.arange(0, DAY, 300.0)).sum(axis=0).max())
        scale = total * factor / now
        traffic = Traffic(tuple(replace(region, peak=region.peak * scale) for region in traffic.regions))
    return traffic


def _region(file: Path, name: str, given: Any, day: tuple[float, ...], factor: float, price: Any) -> Region:
    path = f"regions.{name}"
    if not isinstance(given, Mapping):
        raise BadInput(f"{file}: {path}: is {given!r}, and has to be a mapping with a peak")
    _known(file, f"{path}.", given, _REGION_KEYS)
    if "peak" not in given:
        raise BadInput(f"{file}: {path}.peak: is missing")
    place, hours = given.get("place"), given.get("hours")
    if place is None and hours is None:
        if name not in PLACES:
            raise BadInput(
                f"{file}: {path}: is no region that is known; give place: [latitude, longitude] and hours"
            )
        latitude, longitude, hours = PLACES[name]
    else:
        if not isinstance(place, Sequence) or len(place) != 2:
            raise BadInput(f"{file}: {path}.place: is {place!r}, and has to be [latitude, longitude]")
        latitude = _number(file, f"{path}.place", place[0], -90, 90)
        longitude = _number(file, f"{path}.place", place[1], -180, 180)
        hours = _number(file, f"{path}.hours", 0 if hours is None else hours, -14, 14)
    price = given.get("price", price)
    if price is None:
        raise BadInput(
            f"{file}: {path}.price: give what a node costs an hour, there, as price for all, or by --price"
        )
    most = given.get("maxNodes", 10_000)
    return Region(
        name=name,
        peak=_number(file, f"{path}.peak", given["peak"], 0, open_below=True) * factor,
        day=_day(file, f"{path}.day", given.get("day"), day),
        latitude=latitude,
        longitude=longitude,
        hours=float(hours),
        price=_number(file, f"{path}.price", price, 0),
        most_nodes=int(_number(file, f"{path}.maxNodes", most, 1, 10_000)),
    )


def _day(file: Path, path: str, given: Any, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    """Shares of the peak by hour, the largest made 1."""
    if given is None:
        return otherwise
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != HOURS:
        raise BadInput(f"{file}: {path}: has to be a list of {HOURS} numbers, one an hour of the local day")
    shares = [_number(file, f"{path}[{hour}]", value, 0) for hour, value in enumerate(given)]
    if not max(shares):
        raise BadInput(f"{file}: {path}: has no request all day")
    return tuple(share / max(shares) for share in shares)


def _number(
    file: Path, path: str, value: Any, least: float, most: float = math.inf, open_below: bool = False
) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise BadInput(f"{file}: {path}: is {value!r}, and has to be a number")
    if value < least or value > most or (open_below and value == least):
        low = f"above {least:g}" if open_below else f"at least {least:g}"
        limit = low if value <= least else f"at most {most:g}"
        raise BadInput(f"{file}: {path}: is {value:g}, and has to be {limit}")
    return float(value)


def _known(file: Path, path: str, given: Mapping[str, Any], keys: set[str]) -> None:
    for key in given:
        if key not in keys:
            raise BadInput(f"{file}: {path}{key}: is none of {', '.join(sorted(keys))}")
