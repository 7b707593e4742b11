"""Logarithmic axes whose ticks are plain numbers: formulas take longer to lay out than the rest of a figure."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import LogFormatter


class PlainLogFormatter(LogFormatter):
    """Formats the ticks that matplotlib labels as 0.01 and 1e-05 in place of powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def set_log_scale(axes: Any, name: str) -> None:
    """Make the axis x or y of a panel logarithmic."""
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    axis.set_major_formatter(PlainLogFormatter())
    axis.set_minor_formatter(PlainLogFormatter())
