"""Numbers as spreadsheets write them; the convention of a column is decided from all its cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import InvalidValue

MIN_NUMBER_SHARE = 0.9
"""A column is numeric if at least this share of its cells without missing values are numbers."""
MAX_UNITS = 3
"""A column with more suffixes than this holds text, such as addresses, rather than numbers in several units."""

_CURRENCY = r"(?:[A-Z]{0,3}[$¢£¤¥฿₠-⃏]|Rs\.?|Fr\.?|kr\.?|AED|ARS|AUD|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|MYR|NGN|NOK|NZD|PHP|PKR|PLN|RMB|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR)"  # fmt: skip # noqa: E501
_UNIT_WORD = r"(?![x×]\d)(?:[^\W\d_]|[%‰°$¢£¤¥฿₠-⃏])(?:[^\W\d_]|(?<=[A-Za-z])\^?[23²³](?!\w)|[%°/·*.$₠-⃏]){0,14}"
_CELL = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<before>{_CURRENCY}?)\s?(?P<open>\(?)\s?(?P<before_inner>{_CURRENCY}?)\s?(?P<sign_inner>[+-]?)"
    r"(?P<body>[.,٫]?\d(?:[.,٫٬' ]?\d)*[.,]?)"
    r"(?:(?:[eE]|[dD](?=[+-])|\s?[x×*]\s?10\^)(?P<exponent>[+-]?\d+))?"
    rf"\s?(?P<after>(?:{_UNIT_WORD}(?: {_UNIT_WORD})?)?)\s?(?P<trailing>-?)\s?(?P<close>\)?)"
)
_PLAIN = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+))?", re.ASCII)
"""The usual number, which needs no other pattern."""
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_MULTIPLIERS = {
    "%",
    "‰",
    "k",
    "K",
    "M",
    "m",
    "B",
    "b",
    "mn",
    "bn",
    "Mio",
    "Mio.",
    "Mrd",
    "Mrd.",
    "千",
    "万",
    "億",
    "亿",
}
"""Suffixes that change the value, so a number without one means something else."""
_PLAIN_CHARACTERS = str.maketrans(
    dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u202f", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-")
    | dict.fromkeys("\u2019\u02bc", "'")
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"￥": "¥", "￡": "£", "￠": "¢"}
)


@dataclass(frozen=True)
class Convention:
    """A decimal sign and the separator between groups of digits."""

    decimal: str
    group: str

    @property
    def pattern(self) -> re.Pattern[str]:
        group, decimal = re.escape(self.group), re.escape(self.decimal)
        integer = rf"\d+|[1-9]\d{{0,2}}(?:{group}\d{{3}})+"
        if self.group == ",":
            integer += r"|[1-9]\d?(?:,\d\d)+,\d{3}"  # Indian grouping, such as 12,34,567
        return re.compile(rf"(?:{integer})(?:{decimal}\d*)?|{decimal}\d+")

    def plain(self, body: str) -> str:
        return body.replace(self.group, "").replace(self.decimal, ".")


CONVENTIONS = tuple(Convention(*pair) for pair in (".,", ". ", ".'", ",.", ", ", ",'", "٫٬"))
_PATTERNS = {convention: convention.pattern for convention in CONVENTIONS}


class _Cell(NamedTuple):
    """The parts of a cell that holds a number, before its separators are understood."""

    negative: bool
    body: str
    exponent: str
    unit: str

    def value(self, convention: Convention) -> float:
        return float(f"{'-' if self.negative else ''}{convention.plain(self.body)}e{self.exponent or 0}")


@dataclass
class NumberColumn:
    """A column read as numbers: a value for each cell, None where the cell holds no number."""

    values: list[float | None]
    example: tuple[str, float] | None = None
    """The longest cell that is no plain number such as 1200.5, with its value; None if all cells are plain."""
    units: list[str] = field(default_factory=list)
    """The units, if the numbers have several; then no cell has a value."""


def read_number_columns(
    columns: Sequence[Sequence[str]],
    names: Sequence[str],
    lines: Sequence[int],
    *,
    missing: Sequence[Sequence[bool]],
    delimiter: str,
    decimal: str | None,
    path: object,
) -> list[NumberColumn]:
    """Reads each column in the one convention that fits all its numbers.

    Where a decimal point and a decimal comma both fit (1.014 is 1014 or 1.014), the other columns decide; a decimal
    point is assumed where commas separate the cells, as spreadsheets use semicolons next to decimal commas.

    Args:
        columns: The cells of each column.
        names: The name of each column.
        lines: The line of each row in the file.
        missing: Whether a cell holds no value, for each column and row.
        delimiter: The character between cells.
        decimal: The decimal sign, if it is known.
        path: The file, for messages.

    Returns:
        The numbers of each column.

    Raises:
        InvalidValue: If the numbers of a column follow two conventions, or can be read in two ways.
    """
    parsed = [[_parse(cell) for cell in column] for column in columns]
    allowed: list[list[Convention]] = []
    evidence = set()
    for cells, absent in zip(parsed, missing, strict=True):
        numeric = _is_numeric(cells, absent)
        bodies = list({cell.body for cell in cells if cell})
        fitting = [c for c in CONVENTIONS if decimal in (None, c.decimal) and all(map(_PATTERNS[c].fullmatch, bodies))]
        if _shows_separator(bodies):
            fitting = _consistent(fitting, bodies)
            if numeric and len(signs := {c.decimal for c in fitting}) == 1:
                evidence |= signs
        allowed.append(fitting)
    found = []
    for i, (cells, fitting) in enumerate(zip(parsed, allowed, strict=True)):
        numeric = _is_numeric(cells, missing[i])
        bodies = [cell.body for cell in cells if cell]
        if numeric and not fitting:
            raise _two_conventions(names[i], columns[i], cells, lines, decimal, path)
        if numeric and _shows_separator(bodies) and len({c.decimal for c in fitting}) > 1:
            known = evidence if len(evidence) == 1 else {"."} if delimiter == "," and not evidence else set()
            fitting = [c for c in fitting if c.decimal in known]
            if not fitting:
                raise _two_readings(names[i], columns[i], cells, lines, path)
        convention = fitting[0] if fitting else next(c for c in CONVENTIONS if decimal in (None, c.decimal))
        found.append(_column(columns[i], cells, convention))
    return found


def _parse(cell: str) -> _Cell | None:
    if plain := _PLAIN.fullmatch(cell):
        sign, body, exponent = plain.groups()
        return _Cell(sign == "-", body, exponent or "", "")
    text = cell
    if not text.isascii():
        text = text.translate(_PLAIN_CHARACTERS)
        text = "".join(str(int(c)) if c.isdecimal() else c for c in text)
    match = _CELL.fullmatch(text)
    if match is None:  # infinity is written here as a number beyond the largest float
        return _Cell(text.startswith("-"), "1", "999", "") if _INFINITE.fullmatch(text) else None
    part = match.groupdict()
    if bool(part["open"]) != bool(part["close"]) or (part["before"] and part["before_inner"]):
        return None
    signs = part["sign"] + part["sign_inner"] + part["trailing"] + part["open"]
    if len(signs) > 1:
        return None
    body = part["body"]
    if not any(pattern.fullmatch(body) for pattern in _PATTERNS.values()):
        return None
    unit = " ".join(filter(None, [part["before"] or part["before_inner"], part["after"]]))
    if len(unit) > 2 and unit.isalpha():
        unit = unit.removesuffix("s")  # 1 year, 2 years
    return _Cell(bool(signs) and signs != "+", body, part["exponent"] or "", unit)


def _is_numeric(cells: Sequence[_Cell | None], absent: Sequence[bool]) -> bool:
    present = sum(not none for none in absent)
    numbers = sum(cell is not None and not none for cell, none in zip(cells, absent, strict=True))
    return numbers > 0 and present - numbers <= (1 - MIN_NUMBER_SHARE) * present


def _shows_separator(bodies: Sequence[str]) -> bool:
    return any("." in body or "," in body for body in bodies)


def _consistent(fitting: list[Convention], bodies: Sequence[str]) -> list[Convention]:
    """The conventions that one formatter could have written; all of them if none could.

    Both signs fit only if each separator stands once, before exactly three digits. A formatter that groups digits
    groups all long numbers. One with decimals either writes the same number of them everywhere or drops zeros.
    """
    if len({c.decimal for c in fitting}) < 2:
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


def _column(texts: Sequence[str], cells: Sequence[_Cell | None], convention: Convention) -> NumberColumn:
    pattern = _PATTERNS[convention]
    read = [cell if cell and pattern.fullmatch(cell.body) else None for cell in cells]
    units = list(dict.fromkeys(cell.unit for cell in read if cell and (cell.unit or cell.body.strip("0.,"))))
    if len(units) == 2 and "" in units and not _MULTIPLIERS & set(units):
        units.remove("")  # a unit that is not repeated in each cell
    if len(units) > 1:
        return NumberColumn([None] * len(cells), units=units if len(units) <= MAX_UNITS else [])
    values = [cell.value(convention) if cell else None for cell in read]
    special = [i for i, cell in enumerate(read) if cell and not _is_plain(texts[i], values[i])]
    at = max(special, key=lambda i: len(texts[i]), default=None)
    return NumberColumn(values, None if at is None else (texts[at], values[at] or 0.0))


def _is_plain(text: str, value: float | None) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _two_conventions(
    name: str,
    texts: Sequence[str],
    cells: Sequence[_Cell | None],
    lines: Sequence[int],
    decimal: str | None,
    path: object,
) -> InvalidValue:
    numbers = [i for i, cell in enumerate(cells) if cell]
    conventions = [c for c in CONVENTIONS if decimal in (None, c.decimal)]
    counts = [sum(bool(_PATTERNS[c].fullmatch(cell.body)) for cell in cells if cell) for c in conventions]
    best = _PATTERNS[conventions[counts.index(max(counts))]]
    odd = next(i for i in numbers if not best.fullmatch(cells[i].body))  # type: ignore[union-attr]
    if decimal is not None:
        return InvalidValue(
            f"`{name}` must hold numbers with the decimal sign {decimal!r}; received {texts[odd]!r} in line "
            f"{lines[odd]} of {path}. Help: leave `decimal` out, or write all numbers of the column alike."
        )
    usual = [i for i in numbers if best.fullmatch(cells[i].body)]  # type: ignore[union-attr]
    usual = [i for i in usual if not texts[i].isdigit()] or usual
    return InvalidValue(
        f"`{name}` must hold numbers written in one way; received {texts[usual[0]]!r} in line {lines[usual[0]]} and "
        f"{texts[odd]!r} in line {lines[odd]} of {path}. Help: write all numbers of the column alike, such as 1200.5."
    )


def _two_readings(
    name: str, texts: Sequence[str], cells: Sequence[_Cell | None], lines: Sequence[int], path: object
) -> InvalidValue:
    at = next(i for i, cell in enumerate(cells) if cell and _shows_separator([cell.body]))
    cell = cells[at]
    assert cell is not None
    point, comma = (cell.value(next(c for c in CONVENTIONS if c.decimal == sign)) for sign in ".,")
    return InvalidValue(
        f"`{name}` can be read in two ways: {texts[at]!r} in line {lines[at]} of {path} is {point:.10g} with a decimal "
        f"point and {comma:.10g} with a decimal comma, and no other cell decides. Help: give the decimal sign "
        f"(--decimal . or --decimal , in the command, decimal= in Python), or save the file with plain numbers."
    )
