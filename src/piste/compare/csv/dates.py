"""Dates and times in cells; the order of day and month is decided from all cells of a column."""

from __future__ import annotations

import datetime
import re

import numpy as np

from .cells import Cells

MIN_DATE_SHARE = 0.9
"""A column holds dates if at least this share of its cells without missing values are dates."""
YEARS = 1800, 2200
"""The first and the last year of a date; other numbers are codes such as 1001-3."""
_TIME = (
    r"(?:[T ,]+(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d+)?)?"
    r"\s?(?P<half>[AaPp]\.?[Mm]\.?)?\s?(?P<zone>Z|[+-]\d\d:?\d\d)?)?"
)
_DAY, _MONTH, _YEAR = r"(?P<day>\d{1,2})", r"(?P<month>\d{1,2})", r"(?P<year>\d{4}|\d\d)"
FORMATS = {
    "year-month-day": rf"(?P<year>\d{{4}})([-/.]){_MONTH}\2{_DAY}",
    "year-month": r"(?P<year>\d{4})-(?P<month>\d{1,2})",
    "yearmonthday": r"(?P<year>(?:19|20)\d\d)(?P<month>\d\d)(?P<day>\d\d)",
    "year年month月day日": rf"(?P<year>\d{{4}})年{_MONTH}月{_DAY}日",
    "day.month.year": rf"{_DAY}(\.)\s?{_MONTH}\2\s?{_YEAR}",
    "day/month/year": rf"{_DAY}([-/]){_MONTH}\2{_YEAR}",
    "month/day/year": rf"{_MONTH}([-/]){_DAY}\2{_YEAR}",
    "day name year": rf"{_DAY}\.?[ -](?P<name>[^\W\d_]{{3,9}})\.?,?[ -]{_YEAR}",
    "name day year": rf"(?P<name>[^\W\d_]{{3,9}})\.? {_DAY},? {_YEAR}",
}
_PATTERNS = {name: re.compile(pattern + _TIME, re.ASCII) for name, pattern in FORMATS.items()}
_PATTERNS |= {name: re.compile(FORMATS[name] + _TIME) for name in FORMATS if "name" in name}
_MONTHS = (
    ("jan",), ("feb", "fév", "fev"), ("mar", "mär", "mrz"), ("apr", "avr"), ("may", "mai"), ("jun", "juin"),
    ("jul", "juil"), ("aug", "aoû", "aou"), ("sep",), ("oct", "okt"), ("nov",), ("dec", "dez", "déc"),
)  # fmt: skip
"""The beginnings of the names of months in English, German and French."""
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EPOCH = datetime.datetime(1970, 1, 1)


def read_date(text: str, format: str) -> float | None:
    """Return the days from 1 January 1970 to the date and time in `text`; None if it is no date."""
    match = _PATTERNS[format].fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    year = int(part["year"])
    if len(part["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    if not YEARS[0] <= year <= YEARS[1]:
        return None
    month = _month(part["name"]) if "name" in part else int(part["month"])
    hour, minute, second = (int(part[unit] or 0) for unit in ("hour", "minute", "second"))
    if part["half"]:
        hour = hour % 12 + 12 * (part["half"][0] in "pP")
    try:
        moment = datetime.datetime(year, month, int(part.get("day") or 1), hour, minute, second)
    except ValueError:
        return None
    return (moment - _EPOCH).total_seconds() / 86400 - _zone_days(part["zone"])


def _month(name: str) -> int:
    return next((i for i, starts in enumerate(_MONTHS, 1) if name.lower().startswith(starts)), 0)


def _zone_days(zone: str | None) -> float:
    if zone in (None, "Z"):
        return 0.0
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    return (-1 if zone[0] == "-" else 1) * minutes / 1440


def date_values(cells: Cells, format: str) -> np.ndarray:
    """Return the days since 1970 in each distinct text; NaN where there is no date."""
    if format not in cells.memo:
        found = [
            None if none else read_date(t, format) for t, none in zip(cells.texts, cells.missing_texts, strict=True)
        ]
        cells.memo[format] = np.array([np.nan if days is None else days for days in found], float)
    return cells.memo[format]


def find_date_formats(cells: Cells) -> list[str]:
    """Return the formats in which the cells are dates; two where day and month can't be told apart."""
    present = np.flatnonzero(~cells.missing_texts)
    texts, counts = [cells.texts[i] for i in present], cells.counts[present]
    found: list[str] = []
    sample = texts[:50]
    for format in FORMATS:
        if sum(_PATTERNS[format].fullmatch(text) is not None for text in sample) <= MIN_DATE_SHARE * len(sample) / 2:
            continue
        dates = ~np.isnan(date_values(cells, format)[present])
        share = 1.0 if format == "yearmonthday" else MIN_DATE_SHARE
        if dates.any() and counts[dates].sum() >= share * counts.sum():
            found.append(format)
    both = ["day/month/year", "month/day/year"]
    if found == both:
        numbers = [re.split("[-/]", text, maxsplit=2)[:2] for text in texts if read_date(text, both[0]) is not None]
        first, second = ({int(n[i]) for n in numbers} for i in (0, 1))
        fits = [counts[~np.isnan(date_values(cells, format)[present])].sum() for format in both]
        if fits[0] != fits[1]:
            found = [both[fits[1] > fits[0]]]
        elif (first == {1}) != (second == {1}):  # the first day of each month
            found = [both[second == {1}]]
        elif all(read_date(t, both[0]) == read_date(t, both[1]) for t in texts):
            found = both[:1]
    return found


def describe_date(days: float) -> str:
    """Return the date in words, such as "Tuesday 2024-03-05"."""
    moment = _EPOCH + datetime.timedelta(days=days)
    weekday = _WEEKDAYS[moment.weekday()]
    time = "" if moment.time() == datetime.time(0) else f" {moment:%H:%M}"
    return f"{weekday} {moment:%Y-%m-%d}{time}"


def calendar(days: np.ndarray) -> np.ndarray:
    """Days since 1970 as days, year, and month, day of the week and time of day on circles (rows, 8); NaN stays NaN."""
    known = ~np.isnan(days)
    whole = np.floor(np.where(known, days, 0)).astype("datetime64[D]")
    years = whole.astype("datetime64[Y]").astype(float) + 1970
    months = whole.astype("datetime64[M]").astype(int) % 12
    weekdays = (np.floor(np.where(known, days, 0)).astype(int) + 3) % 7
    hours = np.where(known, days, 0) % 1
    circles = [f(2 * np.pi * part) for part in (months / 12, weekdays / 7, hours) for f in (np.sin, np.cos)]
    parts = np.stack([days, years, *circles], 1)
    parts[~known] = np.nan
    return parts
