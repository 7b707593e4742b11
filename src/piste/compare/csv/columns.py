"""Columns as inputs: which encoder a column gets, or the reason why it is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...wording import plural
from .cells import Cells
from .dates import describe_date, find_date_formats
from .encoders import DateEncoder, Encoder, NumberEncoder, TextEncoder
from .numbers import MIN_NUMBER_SHARE, NumberColumn
from .reader import Table

MAX_TEXT_VALUES = 20
"""The number of values of a text column, the most frequent, that get their own input; the others share one."""
MAX_DISTINCT_SHARE = 0.9
"""A text column with a larger share of distinct values is left out."""
SENTINELS = (-99, -999, -9999, -99999, -999999, -999.9, -999.25, -9999.9, 999, 9999, 99999, 999999)
"""Numbers that stand for a missing value where they lie far from all others."""
_IDENTIFIER = re.compile(r"(?:(?:.*[_\s.-])?(?i:id|ids|uuid|guid|key|identifier)|.*[a-z](?:Id|ID|Key))")
_POSTAL = re.compile(
    r"(?:.*[_\s.-])?(?:zip|zip[_\s-]?code|postal[_\s-]?code|post[_\s-]?code|plz|postleitzahl|cap|cep|code[_\s-]postal)",
    re.IGNORECASE,
)
_LEADING_ZERO = re.compile(r"0\d{2,}")


@dataclass
class Column:
    """A column as input.

    Attributes:
        encoder: The encoder, or None where the column is left out.
        reason: The reason why the column is left out.
        note: A sentence about its cells, or "".
        code: "postal codes" or "identifiers", for numbers whose size means nothing.
        date: A cell and its date in words, where the column holds dates.
    """

    encoder: Encoder | None
    reason: str = ""
    note: str = ""
    code: str = ""
    date: tuple[str, str] | None = None


def is_identifier(name: str) -> bool:
    """Return whether a name is that of a key, such as `id`, `patient_id` or `userId`."""
    return _IDENTIFIER.fullmatch(name) is not None


def fit_column(table: Table, at: int, rows: np.ndarray, train: np.ndarray) -> Column:
    """Choose the encoder of column `at` and fit it to the training rows.

    Args:
        table: The table.
        at: The index of the column.
        rows: The rows of the table that are used.
        train: Those of them that may be learned from.
    """
    cells, numbers = table.columns[at], table.number_columns[at]
    present = ~cells.missing[train]
    if not present.any():
        return Column(None, "empty")
    code = code_kind(table.names[at], cells, numbers)
    formats = find_date_formats(cells)
    if len(formats) == 1:
        return _fit_dates(table.names[at], cells, rows, train, formats[0])
    if len(formats) > 1:
        text = next(text for text, none in zip(cells.texts, cells.missing_texts, strict=True) if not none)
        return Column(None, f"dates whose day and month can't be told apart, such as {text!r}; write 2024-03-05")
    if not code and is_numeric(cells, numbers, rows):
        return _fit_numbers(table, at, rows, train)
    return _fit_text(table.names[at], cells, numbers, train, code)


def is_numeric(cells: Cells, numbers: NumberColumn, rows: np.ndarray) -> bool:
    """Return whether at least `MIN_NUMBER_SHARE` of the cells without missing values are numbers."""
    present = ~cells.missing[rows]
    strays = present & np.isnan(numbers.values[rows])
    return bool(strays.sum() <= (1 - MIN_NUMBER_SHARE) * present.sum())


def code_kind(name: str, cells: Cells, numbers: NumberColumn) -> str:
    """Return "postal codes", "identifiers" or "codes" for whole numbers without a meaning of size, or ""."""
    present = [text for text, none in zip(cells.texts, cells.missing_texts, strict=True) if not none]
    if not present or not all(text.isdigit() for text in present):
        return ""
    if _POSTAL.fullmatch(name):
        return "postal codes"
    if len({len(text) for text in present}) == 1 and any(map(_LEADING_ZERO.fullmatch, present)):
        return "codes"
    counts_rows = len(cells) > 1 and bool((np.diff(numbers.values) == 1).all())
    return "identifiers" if is_identifier(name) and not counts_rows else ""


def find_sentinels(values: np.ndarray) -> list[float]:
    """Return the numbers such as -999 that occur twice or more and lie further from all others than these lie apart."""
    known = values[~np.isnan(values)]
    found = []
    for sentinel in SENTINELS:
        same = known == sentinel
        if same.sum() < 2:
            continue
        others = known[~np.isin(known, SENTINELS)]
        if others.size and max(others.min() - sentinel, sentinel - others.max()) > np.ptp(others):
            found.append(float(sentinel))
    return found


def sentinel_note(name: str, values: np.ndarray, sentinels: list[float]) -> str:
    """Return a sentence on the numbers that count as missing."""
    counts = ", ".join(f"{s:g} in {plural(int((values == s).sum()), 'row')}" for s in sentinels)
    rest = values[~np.isnan(values) & ~np.isin(values, sentinels)]
    return f"`{name}` is {counts}, far from all other numbers ({rest.min():g} to {rest.max():g}): counted as missing."


def _fit_dates(name: str, cells: Cells, rows: np.ndarray, train: np.ndarray, format: str) -> Column:
    encoder = DateEncoder(name, format=format)
    days = encoder.days(cells)
    if np.isnan(days[cells.codes[train]]).all():
        return Column(None, "empty")
    encoder.fit(cells, train)
    if not encoder.keep_varying(cells, train):
        return Column(None, "the same in every row")
    code = int(np.flatnonzero(~np.isnan(days))[0])
    strays = [cells.texts[i] for i in cells.codes[rows] if np.isnan(days[i]) and not cells.missing_texts[i]]
    date = (cells.texts[code], describe_date(days[code]))
    return Column(encoder, note=_stray_note(name, strays, "a date"), date=date)


def _fit_numbers(table: Table, at: int, rows: np.ndarray, train: np.ndarray) -> Column:
    name, cells, numbers = table.names[at], table.columns[at], table.number_columns[at]
    table.check_finite(at, rows)
    if np.isnan(numbers.values[train]).all():
        return Column(None, "empty")
    first_file = rows[: np.searchsorted(rows, len(table) if table.n_train is None else table.n_train)]
    if len(table.names) > 2 and (np.diff(numbers.values[first_file]) == np.diff(first_file)).all():
        return Column(None, "counts the rows")
    sentinels = find_sentinels(numbers.values[rows])
    encoder = NumberEncoder(name, convention=numbers.convention, unit=numbers.unit, missing=sentinels)
    if np.isnan(encoder.values(cells)[cells.codes[train]]).all():
        return Column(None, "empty")
    encoder.fit(cells, train)
    if not encoder.keep_varying(cells, train):
        return Column(None, "the same in every row")
    strays = [cells[row] for row in rows[np.isnan(numbers.values[rows]) & ~cells.missing[rows]]]
    notes = [_stray_note(name, strays, "a number")]
    if sentinels:
        notes.append(sentinel_note(name, numbers.values[rows], sentinels))
    return Column(encoder, note=" ".join(filter(None, notes)))


def _stray_note(name: str, strays: list[str], kind: str) -> str:
    if not strays:
        return ""
    found = f"{plural(len(strays), 'cell')} of `{name}` without {kind}, such as {strays[0]!r}"
    return f"{found}, {'counts' if len(strays) == 1 else 'count'} as missing."


def _fit_text(name: str, cells: Cells, numbers: NumberColumn, train: np.ndarray, code: str) -> Column:
    counts = np.bincount(cells.codes[train], minlength=len(cells.texts)) * ~cells.missing_texts
    in_units = f"numbers in several units: {', '.join(unit or 'none' for unit in numbers.units)}"
    if np.count_nonzero(counts) > MAX_DISTINCT_SHARE * counts.sum():
        example = cells.texts[int(np.argmax(counts > 0))]
        if numbers.units:
            return Column(None, f"{in_units}; write all in one")
        return Column(None, f"{code and code + ', '}different in nearly every row, such as {example!r}")
    note = f"`{name}` holds {in_units}; write all in one to use the numbers." if numbers.units else ""
    order = np.argsort(-counts, kind="stable")[:MAX_TEXT_VALUES]
    encoder = TextEncoder(name, values=[cells.texts[i] for i in order if counts[i] > 1])
    if not encoder.keep_varying(cells, train):
        return Column(None, "the same in every row")
    return Column(encoder, note=note, code=code)
