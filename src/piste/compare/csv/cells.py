"""The cells of a column as text, each distinct text once; and the texts that mean a missing value."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

MISSING = {"", "?", "-", "--", "–", "—", ".", "na", "n/a", "n.a.", "<na>", "#n/a", "nan", "none", "null"}
"""The texts of a missing value, in lower case."""


def is_missing(cell: str) -> bool:
    """Return whether a cell stands for a missing value."""
    return cell.lower() in MISSING


def clean_cell(cell: str) -> str:
    """Return the cell in one line, without spaces around it."""
    return (" ".join(cell.splitlines()) if "\n" in cell or "\r" in cell else cell).strip()


class Cells:
    """A column of text.

    Attributes:
        texts: The distinct texts, in the order of their first rows.
        codes: The index into `texts` for each row.
        memo: Values of the distinct texts that were computed before, by the way in which they were read.
    """

    def __init__(self, cells: Sequence[str]) -> None:
        index = {text: i for i, text in enumerate(dict.fromkeys(cells))}
        codes = np.fromiter(map(index.__getitem__, cells), np.intp, len(cells))
        self.texts, clean = list(index), [clean_cell(text) for text in index]
        if clean != self.texts:
            index = {text: i for i, text in enumerate(dict.fromkeys(clean))}
            self.texts = list(index)
            codes = np.fromiter(map(index.__getitem__, clean), np.intp, len(clean))[codes]
        self.codes = codes
        self.memo: dict[Any, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int | np.integer) -> str:
        return self.texts[self.codes[row]]

    def __iter__(self) -> Iterator[str]:
        return map(self.texts.__getitem__, self.codes)

    @functools.cached_property
    def missing_texts(self) -> np.ndarray:
        """Whether each distinct text means a missing value."""
        return np.array([is_missing(text) for text in self.texts], bool)

    @property
    def missing(self) -> np.ndarray:
        """Whether the value of each row is missing."""
        return self.missing_texts[self.codes]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """The number of rows of each distinct text."""
        return np.bincount(self.codes, minlength=len(self.texts))

    def first_row(self, code: int) -> int:
        """Return the first row that holds the distinct text with this index."""
        return int(np.argmax(self.codes == code))
