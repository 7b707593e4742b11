"""Reads a .csv or .tsv file as named columns of text and numbers."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...errors import InvalidValue, did_you_mean
from .cells import Cells
from .decoding import read_text
from .layout import read_layout
from .numbers import NumberColumn, read_number_columns

LARGEST = 1e30
"""Larger numbers would overflow in training."""


@dataclass
class Table:
    """The cells of a file, and those of a validation file below them.

    Attributes:
        columns: The cells of each column.
        lines: The line on which each row ends.
        decimal: The decimal sign, if it is known.
        said: Sentences about the file: its encoding, and lines that are no rows.
        validation_path: The validation file, if there is one.
        n_train: The number of rows of the first file, if there is a validation file.
    """

    path: Path
    names: list[str]
    columns: list[Cells]
    lines: list[int]
    delimiter: str
    decimal: str | None = None
    said: list[str] = field(default_factory=list)
    validation_path: Path | None = None
    n_train: int | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Return the line of a row, such as "line 2 of data.csv"."""
        below = self.n_train is not None and row >= self.n_train
        return f"line {self.lines[row]} of {self.validation_path if below else self.path}"

    @functools.cached_property
    def number_columns(self) -> list[NumberColumn]:
        """Each column read as numbers."""
        return read_number_columns(self.columns, self.names, self.place, delimiter=self.delimiter, decimal=self.decimal)

    def check_finite(self, at: int, rows: np.ndarray) -> None:
        """Reject infinite numbers and numbers near overflow in column `at`."""
        values = self.number_columns[at].values[rows]
        large = np.flatnonzero(np.abs(values) > LARGEST)
        if large.size:
            raise InvalidValue(
                f"`{self.names[at]}` must hold numbers between -{LARGEST:g} and {LARGEST:g}; received "
                f"{values[large[0]]:g} in {self.place(rows[large[0]])}. Help: leave the cell empty if the number isn't "
                f"known."
            )

    def without(self, names: Collection[str]) -> Table:
        """Return this table without the columns of these names."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return replace(self, names=[self.names[i] for i in kept], columns=[self.columns[i] for i in kept])

    def with_validation(self, other: Table) -> Table:
        """Return this table with the rows of a validation file below its own.

        Raises:
            InvalidValue: A column is missing in the validation file.
        """
        for name in self.names:
            if name not in other.names:
                raise InvalidValue(
                    f"{other.path} has no column `{name}`, which {self.path} has. {did_you_mean(name, other.names)}"
                )
        below = [other.columns[other.names.index(name)] for name in self.names]
        columns = [Cells([*ours, *theirs]) for ours, theirs in zip(self.columns, below, strict=True)]
        unused = [f"`{name}`" for name in other.names if name not in self.names]
        said = [*self.said, *(f"{other.path.name}: {sentence}" for sentence in other.said)]
        if unused:
            said.append(f"Columns of {other.path.name} that {self.path.name} doesn't have: {', '.join(unused)}.")
        return Table(self.path, self.names, columns, self.lines + other.lines, self.delimiter, self.decimal, said,
                     other.path, len(self))  # fmt: skip


def read_table(path: Path, decimal: str | None = None, encoding: str | None = None) -> Table:
    """Read a file with a line of names and a line for each example.

    Args:
        path: A .csv or .tsv file.
        decimal: The decimal sign, "." or ",", if it is known.
        encoding: The encoding of the text, if it is known.

    Raises:
        InvalidValue: The file is no table; with the line.
    """
    if decimal not in (None, ".", ","):
        raise InvalidValue(f"`decimal` must be '.' or ','; received {decimal!r}.")
    text, said = read_text(path, encoding)
    layout = read_layout(text, path)
    columns = [Cells(column) for column in zip(*layout.rows, strict=True)] or [Cells([]) for _ in layout.names]
    return Table(
        path, layout.names, columns, layout.lines, layout.delimiter, decimal, [*[said] * bool(said), *layout.said]
    )
