"""Straight lines through measured points. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """`base + slope * x`, neither of them negative where it was fitted as a cost."""

    base: float
    slope: float

    def at(self, x: float) -> float:
        """The value there."""
        return self.base + self.slope * x


def fit_cost(points: Sequence[tuple[float, float]]) -> Line:
    """The line with the least squares of relative errors through `(x, value)`, both parts at least 0.

    Relative, because costs of an idle and of a busy service differ by a factor of ten, and both count. Raises `ValueError`
    if there are no points.
    """
    line = _least_squares(points)
    if line.slope < 0:
        return Line(_proportion([(1.0, y) for _, y in points]), 0.0)
    if line.base < 0:
        return Line(0.0, _proportion(points))
    return line


def fit_slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of a line through the origin, with the least squares of errors; 0 without points or if it would fall."""
    square = sum(x * x for x, _ in points)
    return max(0.0, sum(x * y for x, y in points) / square) if square else 0.0


def _least_squares(points: Sequence[tuple[float, float]]) -> Line:
    if not points:
        raise ValueError("there is nothing to fit a line to")
    weighted = [(1 / (y * y), x, y) for x, y in points if y > 0]
    w, wx, wy = (sum(one) for one in zip(*((w, w * x, w * y) for w, x, y in weighted), strict=True))
    wxx, wxy = sum(w * x * x for w, x, _ in weighted), sum(w * x * y for w, x, y in weighted)
    spread = w * wxx - wx * wx
    if spread <= 1e-12 * w * wxx:
        return Line(wy / w, 0.0)
    slope = (w * wxy - wx * wy) / spread
    return Line((wy - slope * wx) / w, slope)


def _proportion(points: Sequence[tuple[float, float]]) -> float:
    """The factor of `y = factor * x`, with the least squares of relative errors."""
    ratios = [x / y for x, y in points if y > 0]
    return sum(ratios) / sum(one * one for one in ratios)
