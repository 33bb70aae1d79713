"""All dashboards, in the order in which they link to each other."""

from __future__ import annotations

from grafana import capacity, gpu, loadtest, overview, regions, triton
from grafana.parts import Board

BOARDS: tuple[Board, ...] = (
    overview.BOARD,
    triton.BOARD,
    gpu.BOARD,
    capacity.BOARD,
    loadtest.BOARD,
    regions.BOARD,
)
