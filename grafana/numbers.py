"""Numbers as Grafana shows them, by a panel's unit."""

from __future__ import annotations

from math import floor, log10

from grafana.parts import Unit
from model_tools.slo.objectives import human

SUFFIXES: dict[str, str] = {"watt": "W", "joule": "J", "hertz": "Hz", "short": "", "none": ""}
LARGE = ("", "k", "M", "G", "T")
BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(value: float, unit: Unit, decimals: int | None = None) -> str:
    """A value with its unit, about three digits long unless decimals says otherwise."""
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        return f"{_digits(value * 100, decimals)} %"
    if unit == "celsius":
        return f"{_digits(value, decimals)} °C"
    if unit == "reqps":
        return f"{_digits(value, decimals)} req/s"
    if unit == "bytes":
        return _scaled(value, 1024, BYTES, " ", decimals)
    if unit == "none":
        return _digits(value, decimals)
    suffix = SUFFIXES[unit]
    return _scaled(value, 1000, tuple(f"{step}{suffix}" for step in LARGE), " " if suffix else "", decimals)


def _seconds(value: float) -> str:
    """As an objective's, but for 0 and for what rounding takes to the next larger unit."""
    if not value:
        return "0 s"
    digits = float(f"{abs(value):.3g}")
    return f"{'-' if value < 0 else ''}{human(digits, 'seconds')}"


def _scaled(value: float, base: int, steps: tuple[str, ...], space: str, decimals: int | None) -> str:
    place = 0
    while abs(value) >= base and place < len(steps) - 1:
        value, place = value / base, place + 1
    return f"{_digits(value, decimals)}{space}{steps[place]}".strip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = max(0, 2 - floor(log10(abs(value)))) if value else 0
        decimals = min(decimals, 6)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
