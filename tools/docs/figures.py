"""Figures of the pages: placeholders in the text, replaced when a page is complete, so that search leaves them out."""

from __future__ import annotations

import re

__all__ = ["placeholder", "with_figures"]

_figures: dict[str, str] = {}


def placeholder(svg: str) -> str:
    """Return an element that stands for a figure."""
    name = f"figure-{len(_figures)}"
    _figures[name] = svg
    return f'<figure data-figure="{name}"></figure>'


def with_figures(page: str) -> str:
    """Return the HTML of a page with its figures in place."""
    return re.sub(r'<figure data-figure="([^"]+)"></figure>', lambda m: f"<figure>{_figures[m[1]]}</figure>", page)
