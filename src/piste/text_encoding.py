"""Text for streams whose encoding lacks some of its characters: the nearest ASCII in their place."""

from __future__ import annotations

import codecs
from typing import TextIO

ASCII_FALLBACK = "piste.ascii"
"""The name of the error handler, as `open` and `reconfigure` take it."""
_NEAREST = {
    "·": "-", "★": "*", "±": "+/-", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "→": "->",
    "●": "o", "◐": ".", "✗": "x", "’": "'", "“": '"', "”": '"', "²": "2", "▁": "_", "█": "#",
}  # fmt: skip


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAREST.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(ASCII_FALLBACK, _replace)


def encodable(text: str, stream: TextIO) -> str:
    """Return the text with the characters that the stream can't encode replaced.

    >>> import io
    >>> encodable("SGD · mse ★", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    'SGD · mse *'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, ASCII_FALLBACK).decode(encoding)
