"""The application of the command `piste`: its options, its output and its exit status."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ..errors import PisteError, english
from ..text_encoding import ASCII_FALLBACK, language_of
from ..translation import translate
from ..version import __version__

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""
FAILED = 1
"""The exit status if a run failed, or none finished."""

app = typer.Typer(
    help="Losses and optimizers for PyTorch, and a way to choose among them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a log under cp1252 or GBK lacks some characters of a table
            stream.reconfigure(errors=ASCII_FALLBACK)
    command = typer.main.get_command(app)
    with language_of(sys.stdout):
        _translate_help(command)
    command(prog_name="piste")


def _translate_help(command: Any) -> None:
    """Put the help of a command, of its options and of its subcommands into the language of the user."""
    for described in (command, *command.params):
        if getattr(described, "help", None):
            described.help = "\n\n".join(translate(" ".join(p.split())) for p in described.help.split("\n\n"))
    for subcommand in getattr(command, "commands", {}).values():
        _translate_help(subcommand)


def say(text: str, err: bool = False) -> None:
    """Print a text of Piste in the language of the user."""
    with language_of(sys.stderr if err else sys.stdout):
        typer.echo(translate(text), err=err)


@contextlib.contextmanager
def in_a_sentence(debug: bool) -> Iterator[None]:
    """Report an error of Piste as a sentence on stderr with exit status 2; with `--debug`, raise it."""
    try:
        yield
    except PisteError as error:
        if debug:
            raise
        say(f"piste: {english(error)}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say("piste: interrupted.", err=True)
        raise typer.Exit(INTERRUPTED) from None


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        say(f"piste {__version__}")
        raise typer.Exit
