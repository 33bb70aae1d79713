"""From a distribution of absolute values to the largest that INT8 keeps; what is beyond is cut to it.

max         nothing is cut.
percentile  the given share of values is kept, so that a few outliers do not coarsen all other values.
entropy     the cut whose 128 levels are closest to the distribution by Kullback-Leibler divergence:
            S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
"""

from __future__ import annotations

from typing import Any

from model_tools.quantize.histogram import Histograms

METHODS = ("max", "percentile", "entropy")
LEVELS = 128  # of absolute values: INT8 without its sign
PERCENTILE = 99.99


def ranges(histograms: Histograms, method: str, percentile: float = PERCENTILE) -> dict[str, float]:
    """Largest absolute value that each tensor keeps; 0 for a tensor that is always zero."""
    found = {}
    for index, tensor in enumerate(histograms.tensors):
        largest = float(histograms.largest[index])
        counts, width = histograms.bins(index)
        if method == "percentile":
            cut = percentile_bins(counts, percentile) * width
        elif method == "entropy":
            cut = entropy_bins(counts) * width
        else:
            cut = largest
        found[tensor] = min(cut, largest)
    return found


def percentile_bins(counts: Any, percentile: float) -> int:
    """How many of the bins hold at least `percentile` per cent of all values."""
    import numpy as np

    total = np.cumsum(counts)
    return int(np.searchsorted(total, total[-1] * (percentile / 100)) + 1)


def entropy_bins(counts: Any) -> int:
    """How many of the bins to keep, so that 128 levels over them lose least information.

    For each number of bins i: P is the kept distribution with all that is cut in its last bin; Q is the kept
    distribution without it, averaged over the occupied bins of each level; the divergence of P from Q says
    what is lost. counts: [bins]. Every i is judged at once: within a level Q is constant, so that
    sum p log(p/q) = sum p log p - sum over levels of P(level) log q(level), and both come from running sums.

    The first bin gets the second's count, as in NVIDIA's tools: zero is exact whatever the cut, and the zeros
    after a Relu would outweigh all that the cut is about.
    """
    import numpy as np

    counts = np.asarray(counts, np.float64).copy()
    bins = len(counts)
    if bins <= LEVELS:
        return bins
    counts[0] = counts[1]
    total = counts.sum()
    if total == 0:
        return bins

    def running(values: Any) -> Any:
        return np.concatenate([[0.0], np.cumsum(values)])

    def entropy(values: Any) -> Any:
        return np.where(values > 0, values * np.log(np.where(values > 0, values, 1)), 0)

    mass, occupied, own = running(counts), running(counts > 0), running(entropy(counts))
    kept = np.arange(LEVELS, bins + 1)
    # [candidates, levels + 1]: the bins where levels begin
    edges = np.arange(LEVELS + 1) * kept[:, None] // LEVELS
    level_mass = np.diff(mass[edges], axis=1)
    level_occupied = np.diff(occupied[edges], axis=1)
    inside = mass[kept]
    beyond = total - inside
    last = counts[kept - 1]
    # What is cut joins the last bin of P, which is in the last level.
    p_entropy = own[kept] - entropy(last) + entropy(last + beyond)
    level_p = level_mass.copy()
    level_p[:, -1] += beyond
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.where(level_mass > 0, np.log(level_mass / level_occupied), 0)
        # P sums to `total` and Q to `inside`; both are made distributions.
        divergence = (p_entropy - (level_p * log_q).sum(axis=1)) / total - np.log(total / inside)
    # P has something where Q has nothing.
    divergence[(last == 0) & (beyond > 0)] = np.inf
    divergence[inside == 0] = np.inf
    # Of equal ones the widest, which cuts least.
    return int(kept[len(kept) - 1 - np.argmin(divergence[::-1])])
