"""`piste diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..text_encoding import language_of
from .app import Debug, app, in_a_sentence


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="The output folder of a comparison.")],
    after: Annotated[Path, typer.Argument(help="The output folder of another one with the same metric.")],
    practical: Annotated[
        float | None,
        typer.Option(help="The largest difference too small to matter; that of the first comparison if not given."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what changed between two comparisons: settings, versions, and the result of every candidate."""
    with in_a_sentence(debug):
        from ..compare import diff as set_side_by_side

        with language_of(sys.stdout):
            typer.echo(str(set_side_by_side(before, after, practical=practical)))
