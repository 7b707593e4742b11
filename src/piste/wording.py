"""Numbers with their nouns, and lists, for sentences."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, word: str) -> str:
    """Return the number and the noun, such as "2 rows"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def listed(words: Sequence[str], most: int = 5) -> str:
    """Return the words with commas between, and the number of those that are not shown."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
