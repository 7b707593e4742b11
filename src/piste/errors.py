"""What Piste says when it refuses: what, the allowed range, what was received, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .translation import translate


class PisteError(Exception):
    """Any refusal of Piste's own; its text is written for the user, and no traceback is needed to read it.

    Its arguments hold the English text; it is shown in the language of the user.
    """

    def __str__(self) -> str:
        return translate(super().__str__())


class InvalidValue(PisteError, ValueError):
    """A value outside its allowed range."""


class InvalidType(PisteError, TypeError):
    """A value of the wrong kind."""


class Unsupported(PisteError, RuntimeError):
    """A combination that does not exist."""


class MissingPackage(PisteError, ImportError):
    """A package that this feature needs is not installed."""


def english(error: BaseException) -> str:
    """Return the text of an error as the sources have it, for another message that is translated as a whole."""
    return str(error.args[0]) if isinstance(error, PisteError) and error.args else str(error)


def nearest(word: str, words: Iterable[str], count: int = 3, cutoff: float | None = None) -> list[str]:
    """Return the known words most like `word`, best first; empty when none is alike."""
    if cutoff is None:
        cutoff = 0.5 if len(word) < 4 else 0.6  # one of two letters
    by_folded = {w.lower(): w for w in words}
    return [by_folded[w] for w in difflib.get_close_matches(word.lower(), by_folded, n=count, cutoff=cutoff)]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a closing sentence that names the nearest of `words`, or all of them when none is near."""
    words = list(words)
    near = nearest(word, words)
    if near:
        return "Did you mean " + " or ".join(f"`{w}`" for w in near) + "?"
    return "Known: " + ", ".join(f"`{w}`" for w in words) + "."
