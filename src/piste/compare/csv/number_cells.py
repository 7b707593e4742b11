"""The grammar of a number in a cell: signs, currencies, units, exponents and the separators between digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

_CURRENCY = r"(?:[A-Z]{0,3}[$¢£¤¥฿₠-⃏]|Rs\.?|Fr\.?|kr\.?|AED|ARS|AUD|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|MYR|NGN|NOK|NZD|PHP|PKR|PLN|RMB|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR)"  # fmt: skip # noqa: E501
_UNIT_WORD = r"(?![x×]\d)(?:[^\W\d_]|[%‰°$¢£¤¥฿₠-⃏])(?:[^\W\d_]|(?<=[A-Za-z])\^?[23²³](?!\w)|[%°/·*.$₠-⃏]){0,14}"
_CELL = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<before>{_CURRENCY}?)\s?(?P<open>\(?)\s?(?P<before_inner>{_CURRENCY}?)\s?(?P<sign_inner>[+-]?)"
    r"(?P<body>[.,٫]?\d(?:[.,٫٬' ]?\d)*[.,]?)"
    r"(?:(?:[eE]|[dD](?=[+-])|\s?[x×*]\s?10\^)(?P<exponent>[+-]?\d+))?"
    rf"\s?(?P<after>(?:{_UNIT_WORD}(?: {_UNIT_WORD})?)?)\s?(?P<trailing>-?)\s?(?P<close>\)?)"
)
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
PLAIN_NUMBER = re.compile(_PLAIN, re.ASCII)
"""A number such as 1200.5, as programs write it."""
PLAIN_LINES = re.compile(rf"(?:{_PLAIN}\n)*", re.ASCII)
"""Plain numbers, each with a line break after it."""
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
        """The regular expression of the digits of a number."""
        group, decimal = re.escape(self.group), re.escape(self.decimal)
        integer = rf"\d+|[1-9]\d{{0,2}}(?:{group}\d{{3}})+"
        if self.group == ",":
            integer += r"|[1-9]\d?(?:,\d\d)+,\d{3}"  # Indian grouping, such as 12,34,567
        return re.compile(rf"(?:{integer})(?:{decimal}\d*)?|{decimal}\d+")

    def plain(self, body: str) -> str:
        """Return digits without group separators and with a decimal point."""
        return body.replace(self.group, "").replace(self.decimal, ".")

    def fits(self, body: str) -> bool:
        """Return whether digits are written in this convention."""
        return _PATTERNS[self].fullmatch(body) is not None


CONVENTIONS = tuple(Convention(*pair) for pair in (".,", ". ", ".'", ",.", ", ", ",'", "٫٬"))
_PATTERNS = {convention: convention.pattern for convention in CONVENTIONS}


class NumberCell(NamedTuple):
    """The parts of a cell that holds a number, before its separators are interpreted."""

    negative: bool
    body: str
    exponent: str
    unit: str

    def fits(self, convention: Convention) -> bool:
        """Return whether the number is written in a convention; scientific notation has no separator of thousands."""
        group, body = convention.group, self.body
        is_grouped_once = group in ".," and body.count(group) == 1 and convention.decimal not in body
        return convention.fits(body) and not (self.exponent and is_grouped_once)

    def value(self, convention: Convention) -> float:
        """Return the number, read in a convention."""
        return float(f"{'-' if self.negative else ''}{convention.plain(self.body)}e{self.exponent or 0}")


def parse_number_cell(text: str) -> NumberCell | None:
    """Return the parts of a number in a cell; None if the cell holds none."""
    if not text.isascii():
        text = text.translate(_PLAIN_CHARACTERS)
        text = "".join(str(int(c)) if c.isdecimal() else c for c in text)
    match = _CELL.fullmatch(text)
    if match is None:  # infinity is written here as a number beyond the largest float
        return NumberCell(text.startswith("-"), "1", "999", "") if _INFINITE.fullmatch(text) else None
    part = match.groupdict()
    if bool(part["open"]) != bool(part["close"]) or (part["before"] and part["before_inner"]):
        return None
    signs = part["sign"] + part["sign_inner"] + part["trailing"] + part["open"]
    if len(signs) > 1:
        return None
    body = part["body"]
    if not any(convention.fits(body) for convention in CONVENTIONS):
        return None
    unit = " ".join(filter(None, [part["before"] or part["before_inner"], part["after"]]))
    if len(unit) > 2 and unit.isalpha():
        unit = unit.removesuffix("s")  # 1 year, 2 years
    return NumberCell(bool(signs) and signs != "+", body, part["exponent"] or "", unit)
