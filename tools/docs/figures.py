"""Figures of the pages: placeholders in the text, replaced when a page is complete, so that search leaves them out.

A translated page names the words of its figures in a comment, a line for each: `<!-- labels`, `loss = 损失`, `-->`.
"""

from __future__ import annotations

import html
import re

__all__ = ["labels_of", "placeholder", "with_figures", "with_labels"]

_LABELS = re.compile(r"^<!-- labels\n(.*?)^-->", re.MULTILINE | re.DOTALL)
_figures: dict[str, str] = {}


def labels_of(page: str) -> dict[str, str]:
    """Return the words of a page's figures, with their translations."""
    pairs = [line.split(" = ", 1) for text in _LABELS.findall(page) for line in text.splitlines()]
    return dict(pairs)


def with_labels(svg: str, labels: dict[str, str]) -> str:
    """Return a figure whose texts are translated; a text without a translation stays as it is."""

    def translated(match: re.Match[str]) -> str:
        text = html.unescape(match[2])
        return f"{match[1]}{html.escape(labels.get(text, text), quote=False)}{match[3]}"

    def translated_titles(match: re.Match[str]) -> str:
        titles = html.unescape(match[1]).split("; ")
        return f'aria-label="{html.escape("; ".join(labels.get(title, title) for title in titles))}"'

    svg = re.sub(r'(?<=<svg role="img" )aria-label="([^"]*)"', translated_titles, svg)
    return re.sub(r"(<text[^>]*>)([^<]*)(</text>)", translated, svg)


def placeholder(svg: str) -> str:
    """Return an element that stands for a figure."""
    name = f"figure-{len(_figures)}"
    _figures[name] = svg
    return f'<figure data-figure="{name}"></figure>'


def with_figures(page: str) -> str:
    """Return the HTML of a page with its figures in place."""
    return re.sub(r'<figure data-figure="([^"]+)"></figure>', lambda m: f"<figure>{_figures[m[1]]}</figure>", page)
