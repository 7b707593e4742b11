"""The parts of which the plots of the page are made: a plot with its title and note, lines, and styles."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from ..results import Summary
from .figures import COLOURS, style_numbers

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up")
LOG_AXIS = {"type": "log", "exponentformat": "power"}
"""A logarithmic axis; Plotly would write a ten-thousandth as 100 micro."""


def make_plot(
    title: str,
    note: str,
    data: list[dict[str, Any]],
    x: dict[str, Any],
    y: dict[str, Any],
    *,
    margin: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Return a plot of the page with the axes `x` and `y`; with margins it is scrolled where the page is narrow."""
    layout = {"xaxis": x, "yaxis": y} if margin is None else {"margin": margin}
    return {"title": title, "note": note, "wide": margin is not None, "figure": {"data": data, "layout": layout}}


def make_line(name: str, x: Sequence[Any], y: Sequence[Any], style: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return a trace in the style of its curve; a click on its name in the legend hides all traces of the name."""
    line = {"color": style["color"], "dash": style["dash"], "width": 2}
    label = html.escape(name)
    return {"x": list(x), "y": list(y), "name": label, "legendgroup": label, "mode": "lines", "line": line, **more}


def style_of(comparison: Summary, curve: str) -> dict[str, str]:
    """Return the colour, dash and symbol of a curve, the same in all plots."""
    colour, dash = style_numbers(comparison)[curve]
    return {"color": COLOURS[colour], "dash": DASHES[dash], "symbol": SYMBOLS[dash]}
