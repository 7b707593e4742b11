"""Run the Python blocks of a page from top to bottom, and keep what each prints and draws.

A block that begins with `# NAME.py` is a file: it is written to the folder that the page runs in, and not run.
A block that imports one of the OPTIONAL packages runs where the package is installed.
A comment `<!-- setup ... -->` of a page holds code that runs first and is not shown, such as code that writes a table.
"""

from __future__ import annotations

import html
import io
import os
import re
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import matplotlib
import torch

from piste.losses import LOSSES

__all__ = [
    "OPTIONAL",
    "Block",
    "BlockError",
    "commands_of",
    "python_blocks",
    "run_blocks",
    "run_page",
    "setup_of",
    "svg_of",
]

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_SETUP = re.compile(r"^<!-- setup\n(.*?)^-->", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.py)\n")
OPTIONAL = ("lightning", "transformers")
"""Packages that Piste works with and that the documentation does not install."""
_TEXT = "#010203"  # the color of text and axes, replaced by that of the page

FIGURE_STYLE: dict[str, Any] = {
    "axes.edgecolor": _TEXT,
    "axes.grid": True,
    "axes.labelcolor": _TEXT,
    "axes.prop_cycle": matplotlib.cycler(
        color=["#2f7ed8", "#d9662b", "#2a9d6f", "#b052c0", "#c9a227", "#d6467f", "#6b7f8f"]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.alpha": 0.25,
    "grid.color": "#808080",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "piste",
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}
"""Matplotlib's settings for pictures that are readable on a light and on a dark page."""


class BlockError(Exception):
    """A block of a page raised an exception."""


@dataclass(frozen=True)
class Block:
    """What a block of Python printed, and the pictures that it drew, as SVG."""

    code: str
    output: str
    figures: tuple[str, ...]


def python_blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return [text for kind, text in _FENCE.findall(page) if kind == "python"]


def commands_of(page: str) -> list[str]:
    """Return the commands of the console blocks of a page, without comments."""
    texts = [text for kind, text in _FENCE.findall(page) if kind == "console"]
    lines = (re.sub(r"\s{2,}#.*", "", line).strip() for text in texts for line in text.splitlines())
    return [line for line in lines if line]


def setup_of(page: str) -> str:
    """Return the code of a page that is not shown."""
    return "".join(_SETUP.findall(page))


def run_blocks(blocks: Iterable[str], name: str, setup: str = "", language: str = "en") -> list[Block]:
    """Run the Python blocks of a page in one namespace, in an empty folder.

    Args:
        blocks: The blocks, as `python_blocks` returns them.
        name: The name of the page, for error messages.
        setup: Code that runs first.
        language: The language of what Piste prints, as in `PISTE_LANG`.

    Returns:
        One result for each block, in order.

    Raises:
        BlockError: A block raised an exception; the message has its traceback.
    """
    namespace: dict[str, Any] = {"__name__": "page"}
    done = []
    with _fresh_state():
        os.environ["PISTE_LANG"] = language
        exec(compile(setup, name, "exec"), namespace)
        for code in blocks:
            if file := _FILE.match(code):
                with open(file[1], "w", encoding="utf-8") as stream:
                    stream.write(code)
                done.append(Block(code, "", ()))
                continue
            if any(
                re.search(rf"^(import|from) {name}\b", code, re.MULTILINE) and not find_spec(name) for name in OPTIONAL
            ):
                done.append(Block(code, "", ()))
                continue
            printed = io.StringIO()
            try:
                with redirect_stdout(printed):
                    exec(compile(code, name, "exec"), namespace)
            except Exception:
                raise BlockError(f"{name}: this block fails:\n\n{code}\n{traceback.format_exc()}") from None
            done.append(Block(code, printed.getvalue(), tuple(_take_figures())))
    return done


def run_page(page: str, name: str) -> list[Block]:
    """Run the blocks of a page, whose name ends with the language if it is a translation: `NAME.zh.md`."""
    language = name.removesuffix(".md").rpartition(".")[2] if name.count(".") > 1 else "en"
    return run_blocks(python_blocks(page), name, setup_of(page), language)


@contextmanager
def _fresh_state() -> Iterator[None]:
    """Run in an empty folder from a fixed seed; restore the folder, the environment and the registered losses."""
    matplotlib.use("Agg")
    losses = dict(LOSSES)
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, chdir(folder), matplotlib.rc_context(FIGURE_STYLE):
        torch.manual_seed(0)
        try:
            yield
        finally:
            LOSSES.clear()
            LOSSES.update(losses)
            os.environ.clear()
            os.environ.update(environment)


def _take_figures() -> Iterator[str]:
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        yield svg_of(plt.figure(number))
        plt.close(number)


def svg_of(figure: Any) -> str:
    """Return a figure as an SVG element that takes the color of text from the page; its titles are its label."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    titles = dict.fromkeys(filter(None, (axes.get_title() for axes in figure.axes)))
    label = f' role="img" aria-label="{html.escape("; ".join(titles))}"' if titles else ""
    return re.sub(r"<metadata>.*?</metadata>", "", svg.replace("<svg", f"<svg{label}", 1), flags=re.DOTALL)
