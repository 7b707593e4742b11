"""A comparison on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from ..text_encoding import language_of
from .app import say

if TYPE_CHECKING:
    from ..compare.comparison import Comparison


def show(comparison: Comparison) -> None:
    """Print the tables, the verdict and the recommended lines."""
    with language_of(sys.stdout):
        _show(comparison)


def _show(comparison: Comparison) -> None:
    from rich.console import Console

    from ..compare.report.tables import rich_tables

    if not comparison.rows:
        say(comparison.interrupted)
        return
    if sys.stdout.isatty():
        verdict, console = comparison.verdict, Console(highlight=False)
        for table in rich_tables(comparison, console.width):
            console.print(table, "")
        words, _, code = str(verdict).partition("\n\n")
        sentence, *explained = words.split("\n")
        console.print(sentence, style="bold", markup=False)
        console.print("\n".join(explained), markup=False)
        if code:
            typer.echo(f"\n{code}")
    else:
        typer.echo(f"\n{comparison}")
    for said in (comparison.interrupted, comparison.left_out):
        if said:
            say(said)
