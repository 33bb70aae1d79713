"""What a query counts: seconds, bytes, requests a second, derived from the metrics that it reads.

A unit is a mapping from base to power: requests a second are {"request": 1, "s": -1}. None is "anything", as
a zero is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import promql_parser

from grafana.metrics import by_series

Dimension = dict[str, int] | None

UNITS: dict[str, dict[str, int]] = {
    "ratio": {},
    "W": {"J": 1, "s": -1},
    "request/s": {"request": 1, "s": -1},
    "request/batch": {"request": 1, "batch": -1},
}
OBJECTIVES = {
    "availability": "ratio", "latency.server.percentile": "ratio", "latency.server.threshold": "s",
    "queueTime": "s", "throughput": "request/s", "batchSize": "request/batch",
}  # fmt: skip
RESOURCES = {"cpu": "ratio", "memory": "B", "nvidia_com_gpu": "gpu"}
COMPARISONS = {"==", "!=", ">", ">=", "<", "<="}
UNCHANGED = {"label_replace", "increase", "floor", "ceil", "abs", "max_over_time", "last_over_time"}


class Nonsense(Exception):
    """The query adds or compares what can't be added or compared."""


def dimension(expr: str) -> Dimension:
    """Raises Nonsense, and ValueError for a query that does not parse."""
    return _of(promql_parser.parse(expr))


def selectors(expr: str) -> list[Any]:
    """Every selector of the query."""
    found: list[Any] = []
    _walk(promql_parser.parse(expr), lambda node: found.append(node) if _is_selector(node) else None)
    return [node.vector_selector if hasattr(node, "vector_selector") else node for node in found]


def calls(expr: str, function: str) -> list[Any]:
    """Every call of that function."""
    found: list[Any] = []
    _walk(
        promql_parser.parse(expr),
        lambda node: (
            found.append(node)
            if isinstance(node, promql_parser.Call) and node.func.name == function
            else None
        ),
    )
    return found


def _is_selector(node: Any) -> bool:
    return isinstance(node, promql_parser.VectorSelector | promql_parser.MatrixSelector)


def _walk(node: Any, visit: Callable[[Any], None]) -> None:
    visit(node)
    for below in _below(node):
        _walk(below, visit)


def _below(node: Any) -> list[Any]:
    if isinstance(node, promql_parser.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql_parser.Call):
        return list(node.args)
    if isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
        return [node.expr]
    return []


def _of(node: Any) -> Dimension:
    if isinstance(node, promql_parser.MatrixSelector):
        return _of(node.vector_selector)
    if isinstance(node, promql_parser.VectorSelector):
        return _of_selector(node)
    if isinstance(node, promql_parser.NumberLiteral):
        return {}
    if isinstance(node, promql_parser.AggregateExpr):
        return {} if str(node.op) in ("count", "group") else _of(node.expr)
    if isinstance(node, promql_parser.Call):
        return _of_call(node)
    if isinstance(node, promql_parser.BinaryExpr):
        return _of_binary(node)
    (below,) = _below(node)
    return _of(below)


def _of_selector(node: Any) -> Dimension:
    metric = by_series()[node.name]
    unit = metric.unit
    matched = {matcher.name: matcher.value for matcher in node.matchers.matchers}
    if unit == "objective":
        units = {
            "s" if name.startswith("latency.client.") else OBJECTIVES[name]
            for name in matched["objective"].split("|")
        }
        if len(units) > 1:
            raise Nonsense(f"objectives of several units: {units}")
        (unit,) = units
    elif unit == "resource":
        unit = RESOURCES[matched["resource"]]
    elif node.name.endswith(("_count", "_bucket")) and metric.kind == "histogram":
        unit = "request"
    return UNITS.get(unit, {unit: 1})


def _of_call(node: Any) -> Dimension:
    name = node.func.name
    if name in ("rate", "irate", "deriv"):
        return _times(_of(node.args[0]), {"s": 1}, -1)
    if name == "histogram_quantile":
        return {"s": 1}  # of every histogram there is
    if name in UNCHANGED:
        return _of(node.args[0])
    raise Nonsense(f"no rule for {name}()")


def _of_binary(node: Any) -> Dimension:
    left, right, op = _of(node.lhs), _of(node.rhs), str(node.op)
    number = node.lhs if isinstance(node.lhs, promql_parser.NumberLiteral) else node.rhs
    value = number.val if isinstance(number, promql_parser.NumberLiteral) else None
    if op == "*":
        if value == 0:
            return None
        return {"s": -1} if (left, value) == ({"MHz": 1}, 1e6) else _times(left, right, 1)
    if op == "/":
        if value == 1e6 and left is not None and "us" in left:
            return _times(_times(left, {"us": 1}, -1), {"s": 1}, 1)
        return _times(left, right, -1)
    if op == "%":
        return left
    if op in ("and", "unless"):
        return left
    if op in COMPARISONS and value is not None:
        return {} if node.modifier is not None and node.modifier.return_bool else left
    if left is not None and right is not None and left != right:
        raise Nonsense(f"{left} {op} {right}")
    if node.modifier is not None and node.modifier.return_bool:
        return {}
    return right if left is None else left


def _times(left: Dimension, right: Dimension, power: int) -> Dimension:
    if left is None or right is None:
        return None
    found = dict(left)
    for base, exponent in right.items():
        found[base] = found.get(base, 0) + power * exponent
    return {base: exponent for base, exponent in found.items() if exponent}
