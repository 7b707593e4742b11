"""A column of a table as numbers that a model can take; everything that is learned of it is of the training part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .numbers import MIN_NUMBER_SHARE
from .reader import Table, is_missing, plural

MAX_TEXT_VALUES = 20
"""The number of values of a text column, the most frequent, that get their own input; the others share one."""
MAX_DISTINCT_SHARE = 0.9
"""A text column with a larger share of distinct values is left out."""


@dataclass
class Column:
    """The inputs made of a column (rows, inputs), or None where it is left out; and what is to be said about it."""

    values: np.ndarray | None
    note: str = ""
    text: bool = False


def encoded(table: Table, at: int, rows: Sequence[int], train: np.ndarray) -> Column:
    """The inputs that column `at` gives for these rows; `train` says which of them may be learned from."""
    cells = [table.rows[row][at] for row in rows]
    missing = np.array([is_missing(cell) for cell in cells])
    values = table.numbers(at, rows)
    strays = [cell for cell, value, none in zip(cells, values, missing, strict=True) if value is None and not none]
    units = table.number_columns[at].units
    in_units = f"numbers in several units: {', '.join(unit or 'none' for unit in units)}"
    note, text = "", len(strays) > (1 - MIN_NUMBER_SHARE) * (~missing).sum()
    if not text:
        table.check_finite(at, rows, values)
        column = np.array([np.nan if value is None else value for value in values])
        if np.isnan(column[train]).all():
            return Column(None, "empty")
        if len(table.names) > 2 and (np.diff(column) == np.diff(rows)).all():
            return Column(None, "counts the rows")
        if strays:
            found = f"{plural(len(strays), 'cell')} of `{table.names[at]}` without a number, such as {strays[0]!r}"
            note = f"{found}, {'counts' if len(strays) == 1 else 'count'} as missing."
        inputs = _of_numbers(column, train)
    else:
        counts = Counter(cells[i] for i in train if not missing[i])
        if len(counts) > MAX_DISTINCT_SHARE * counts.total():
            if units:
                return Column(None, f"{in_units}; write all in one")
            return Column(None, f"different in nearly every row, such as {strays[0]!r}")
        if units:
            note = f"`{table.names[at]}` holds {in_units}; write all in one to use the numbers."
        inputs = _of_text(cells, missing, counts)
    inputs = inputs[:, np.ptp(inputs[train], 0) > 0]
    return Column(inputs, note, text) if inputs.size else Column(None, "the same in every row")


def _of_numbers(column: np.ndarray, train: np.ndarray) -> np.ndarray:
    """In deviations from the mean, the median where there is none; and beside it whether there is none."""
    missing = np.isnan(column)
    filled = np.where(missing, np.nanmedian(column[train]), column)
    mean, deviation = filled[train].mean(), filled[train].std()
    return np.stack([(filled - mean) / (deviation or 1.0), missing], 1)


def _of_text(cells: Sequence[str], missing: np.ndarray, counts: Counter[str]) -> np.ndarray:
    """One input for each frequent value, one for all others, one for none: 1 where it is so, else 0."""
    frequent = [value for value, count in counts.most_common(MAX_TEXT_VALUES) if count > 1]
    text = np.array(cells)
    own = [text == value for value in frequent]
    others = ~missing & ~np.logical_or.reduce(own)
    return np.stack([*own, others, missing], 1).astype(float)
