"""Text for streams whose encoding lacks some of its characters: English, and the nearest ASCII in their place."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from typing import TextIO

from .translation import in_english, language, translate

ASCII_FALLBACK = "piste.ascii"
"""The name of the error handler, as `open` and `reconfigure` take it."""
_NEAREST = {
    "·": "-", "★": "*", "±": "+/-", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "→": "->",
    "●": "o", "◐": ".", "✗": "x", "’": "'", "“": '"', "”": '"', "²": "2", "µ": "u", "▁": "_", "█": "#",
}  # fmt: skip


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAREST.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(ASCII_FALLBACK, _replace)


@contextlib.contextmanager
def language_of(stream: TextIO) -> Iterator[None]:
    """Keep messages in English in this context if the stream can't encode the language of the user.

    >>> import io, os
    >>> os.environ["PISTE_LANG"] = "zh"
    >>> for encoding in ("gbk", "cp1252"):
    ...     with language_of(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
    ...         print(translate("Result"))
    结果
    Result
    >>> os.environ["PISTE_LANG"] = "en"
    """
    try:
        (translate("Result") if language() else "").encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        with in_english():
            yield
    else:
        yield


def encodable(text: str, stream: TextIO) -> str:
    """Return the text with the characters that the stream can't encode replaced.

    >>> import io
    >>> encodable("SGD · mse ★", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    'SGD · mse *'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, ASCII_FALLBACK).decode(encoding)
