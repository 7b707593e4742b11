"""Numbers as spreadsheets write them; the convention of a column is decided from all its cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import InvalidValue
from .cells import Cells
from .number_cells import CONVENTIONS, PLAIN_LINES, Convention, NumberCell, parse_number_cell

MIN_NUMBER_SHARE = 0.9
"""A column is numeric if at least this share of its cells without missing values are numbers."""
MAX_UNITS = 3
"""A column with more suffixes than this holds text, such as addresses, rather than numbers in several units."""
_MULTIPLIERS = frozenset(
    ("%", "‰", "k", "K", "M", "m", "B", "b", "mn", "bn", "Mio", "Mio.", "Mrd", "Mrd.", "千", "万", "億", "亿")
)
"""Suffixes that change the value, so a number without one means something else."""
_DECIMALS = re.compile(r"(?:^|\n)[+-]?(?![1-9]\d{0,2}\.\d{3}\n)\d*\.")
"""The decimal point of a plain number that can't be a separator of thousands."""


@dataclass
class NumberColumn:
    """A column read as numbers.

    Attributes:
        values: The value of each row; NaN where the cell holds no number.
        example: The longest cell that is no plain number such as 1200.5, with its value; None if all cells are plain.
        units: The units, if the numbers have several; then no row has a value.
        assumed: A cell that can be read in two ways and both values, if nothing but the delimiter decided.
        convention: The convention of the column.
        unit: The unit of the numbers; "" for none.
    """

    values: np.ndarray
    example: tuple[str, float] | None = None
    units: list[str] = field(default_factory=list)
    assumed: tuple[str, float, float] | None = None
    convention: Convention = CONVENTIONS[0]
    unit: str = ""


def number_values(cells: Cells, convention: Convention, unit: str = "") -> np.ndarray:
    """Return the number in each distinct text, in one convention and unit; NaN where there is none."""
    key = convention, unit
    if key not in cells.memo:
        read = [
            None if none else parse_number_cell(t) for t, none in zip(cells.texts, cells.missing_texts, strict=True)
        ]
        fits = [cell and cell.fits(convention) and _has_unit(cell, unit) for cell in read]
        values = [cell.value(convention) if cell and fit else np.nan for cell, fit in zip(read, fits, strict=True)]
        cells.memo[key] = np.array(values, float)
    return cells.memo[key]


def _has_unit(cell: NumberCell, unit: str) -> bool:
    """Return whether the number means the same as with this unit; zero does in any, and some units may be left out."""
    may_lack = unit not in _MULTIPLIERS and cell.unit == ""
    return cell.unit == unit or may_lack or not cell.body.strip("0.,")


@dataclass
class _Candidate:
    """A column before its convention is decided."""

    name: str
    cells: Cells
    parsed: list[NumberCell | None] = field(default_factory=list)
    """The number in each distinct text; empty if all are plain numbers whose reading is certain."""
    values: np.ndarray | None = None
    """The value of each row, for plain numbers whose reading is certain."""
    numeric: bool = True
    fitting: list[Convention] = field(default_factory=list)
    evidence: set[str] = field(default_factory=set)
    """The decimal sign that this column shows, if it shows one."""

    @property
    def bodies(self) -> list[str]:
        return list({cell.body for cell in self.parsed if cell})


def read_number_columns(
    columns: Sequence[Cells],
    names: Sequence[str],
    place: Callable[[int], str],
    *,
    delimiter: str,
    decimal: str | None,
) -> list[NumberColumn]:
    """Read each column in the one convention that fits all its numbers.

    Where a decimal point and a decimal comma both fit (1.014 is 1014 or 1.014), the other columns decide; a decimal
    point is assumed where commas separate the cells, as spreadsheets use semicolons next to decimal commas.

    Args:
        columns: The cells of each column.
        names: The name of each column.
        place: The line of a row, for messages, such as `place(0)` = "line 2 of data.csv".
        delimiter: The character between cells.
        decimal: The decimal sign, if it is known.

    Returns:
        The numbers of each column.

    Raises:
        InvalidValue: If the numbers of a column follow two conventions, or can be read in two ways.
    """
    candidates = [_parse(name, cells, decimal) for name, cells in zip(names, columns, strict=True)]
    evidence = set().union(*(candidate.evidence for candidate in candidates))
    return [_decide(candidate, evidence, place, delimiter, decimal) for candidate in candidates]


def _parse(name: str, cells: Cells, decimal: str | None) -> _Candidate:
    missing = cells.missing_texts
    present = [text for text, none in zip(cells.texts, missing, strict=True) if not none]
    lines = "\n".join([*present, ""])
    certain = "." not in lines or (decimal != "," and _DECIMALS.search(lines) is not None)
    if certain and PLAIN_LINES.fullmatch(lines):
        values = cells.memo[CONVENTIONS[0], ""] = np.full(len(cells.texts), np.nan)
        values[~missing] = np.fromiter(map(float, present), float, len(present))
        evidence = {"."} if "." in lines else set()
        return _Candidate(name, cells, values=values[cells.codes], evidence=evidence)
    candidate = _Candidate(name, cells, [parse_number_cell(text) for text in cells.texts])
    numbers = np.array([cell is not None for cell in candidate.parsed], bool) & ~missing
    n_present, n_numbers = cells.counts[~missing].sum(), cells.counts[numbers].sum()
    candidate.numeric = bool(n_numbers > 0 and n_present - n_numbers <= (1 - MIN_NUMBER_SHARE) * n_present)
    bodies = candidate.bodies
    cells_with_numbers = [cell for cell in candidate.parsed if cell]
    candidate.fitting = [
        c for c in CONVENTIONS if decimal in (None, c.decimal) and all(cell.fits(c) for cell in cells_with_numbers)
    ]
    if _shows_separator(bodies):
        candidate.fitting = _consistent(candidate.fitting, bodies)
        signs = {c.decimal for c in candidate.fitting}
        if candidate.numeric and len(signs) == 1:
            candidate.evidence = signs
    return candidate


def _decide(
    candidate: _Candidate, evidence: set[str], place: Callable[[int], str], delimiter: str, decimal: str | None
) -> NumberColumn:
    if candidate.values is not None:
        return NumberColumn(candidate.values)
    fitting, assumed = candidate.fitting, None
    if candidate.numeric and not fitting:
        raise _two_conventions(candidate, place, decimal)
    if candidate.numeric and _shows_separator(candidate.bodies) and len({c.decimal for c in fitting}) > 1:
        known = evidence if len(evidence) == 1 else {"."} if delimiter == "," and not evidence else set()
        code = _first_ambiguous(candidate)
        text, cell = candidate.cells.texts[code], candidate.parsed[code]
        assert cell is not None
        point, comma = (cell.value(next(c for c in fitting if c.decimal == sign)) for sign in ".,")
        if not known:
            raise _two_readings(candidate.name, place(candidate.cells.first_row(code)), text, point, comma)
        fitting = [c for c in fitting if c.decimal in known]
        assumed = None if evidence else (text, point, comma)
    convention = fitting[0] if fitting else next(c for c in CONVENTIONS if decimal in (None, c.decimal))
    column = _column(candidate, convention)
    column.assumed = assumed
    return column


def _shows_separator(bodies: Sequence[str]) -> bool:
    return any("." in body or "," in body for body in bodies)


def _consistent(fitting: list[Convention], bodies: Sequence[str]) -> list[Convention]:
    """Return the conventions that one formatter could have written; all of them if none could.

    Both signs fit only if each separator stands once, before exactly three digits. A formatter that groups digits
    groups all long numbers. One with decimals either writes the same number of them everywhere or drops zeros. None
    writes both signs.
    """
    if len({c.decimal for c in fitting}) < 2 or all(any(sign in body for body in bodies) for sign in ".,"):
        return fitting
    separated = [body for body in bodies if not body.isdigit()]
    whole = [body for body in bodies if body.isdigit() and body.strip("0")]
    sign = next(char for char in separated[0] if not char.isdigit())
    shortest = min(len(body) - 1 for body in separated)
    grouped = all(len(body) < 4 or len(body) == 4 < shortest for body in whole)
    decimals = not whole or not any(body.endswith("0") for body in separated)
    if grouped == decimals:
        return fitting
    return [c for c in fitting if (c.decimal == sign) == decimals]


def _column(candidate: _Candidate, convention: Convention) -> NumberColumn:
    cells = candidate.cells
    read = [
        cell if cell and not none and cell.fits(convention) else None
        for cell, none in zip(candidate.parsed, cells.missing_texts, strict=True)
    ]
    units = list(dict.fromkeys(cell.unit for cell in read if cell and (cell.unit or cell.body.strip("0.,"))))
    if len(units) == 2 and "" in units and not _MULTIPLIERS & set(units):
        units.remove("")  # a unit that is not repeated in each cell
    if len(units) > 1:
        return NumberColumn(np.full(len(cells), np.nan), units=units if len(units) <= MAX_UNITS else [])
    values = [cell.value(convention) if cell else np.nan for cell in read]
    special = [
        (text, value)
        for text, cell, value in zip(cells.texts, read, values, strict=True)
        if cell and not _is_plain(text, value)
    ]
    example = max(special, key=lambda pair: len(pair[0]), default=None)
    return NumberColumn(np.array(values, float)[cells.codes], example, convention=convention, unit="".join(units))


def _is_plain(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _first_ambiguous(candidate: _Candidate) -> int:
    return next(i for i, cell in enumerate(candidate.parsed) if cell and _shows_separator([cell.body]))


def _two_conventions(candidate: _Candidate, place: Callable[[int], str], decimal: str | None) -> InvalidValue:
    texts, name = candidate.cells.texts, candidate.name

    def where(code: int) -> str:
        return place(candidate.cells.first_row(code))

    numbers = {i: cell for i, cell in enumerate(candidate.parsed) if cell}
    conventions = [c for c in CONVENTIONS if decimal in (None, c.decimal)]
    counts = [sum(int(candidate.cells.counts[i]) * cell.fits(c) for i, cell in numbers.items()) for c in conventions]
    best = conventions[counts.index(max(counts))]
    odd = next(i for i, cell in numbers.items() if not cell.fits(best))
    if decimal is not None:
        return InvalidValue(
            f"`{name}` must hold numbers with the decimal sign {decimal!r}; received {texts[odd]!r} in "
            f"{where(odd)}. Help: leave `decimal` out, or write all numbers of the column alike."
        )
    usual = [i for i, cell in numbers.items() if cell.fits(best)]
    usual = [i for i in usual if not texts[i].isdigit()] or usual
    return InvalidValue(
        f"`{name}` must hold numbers written in one way; received {texts[usual[0]]!r} in {where(usual[0])} and "
        f"{texts[odd]!r} in {where(odd)}. Help: write all numbers of the column alike, such as 1200.5."
    )


def _two_readings(name: str, where: str, text: str, point: float, comma: float) -> InvalidValue:
    return InvalidValue(
        f"`{name}` can be read in two ways: {text!r} in {where} is {point:.10g} with a decimal "
        f"point and {comma:.10g} with a decimal comma, and no other cell decides. Help: give the decimal sign "
        f"(--decimal . or --decimal , in the command, decimal= in Python), or save the file with plain numbers."
    )
