"""Reads a .csv or .tsv file as names and rows of text."""

from __future__ import annotations

import codecs
import csv
import functools
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidValue, did_you_mean
from .numbers import NumberColumn, read_number_columns

TABLES = (".csv", ".tsv")
OTHERS = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl", ".txt", ".dat", ".gz", ".zip")
"""Other ways of keeping a table, which are recognised to be refused with a word of help."""
MISSING = {"", "?", "-", "--", "–", "—", ".", "na", "n/a", "n.a.", "<na>", "#n/a", "nan", "none", "null"}
"""The texts of a missing value, in lower case."""
LARGEST = 1e30
"""Larger numbers would overflow in training."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
COMMENTS = ("#", "%", "//")
"""The beginnings of comment lines above the names."""
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


@dataclass
class Table:
    """The cells of a file as text."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    """The line on which each row ends."""
    delimiter: str
    decimal: str | None = None
    """The decimal sign, if it is known."""

    @functools.cached_property
    def number_columns(self) -> list[NumberColumn]:
        """Each column read as numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.names))]
        return read_number_columns(
            columns,
            self.names,
            self.lines,
            missing=[[is_missing(cell) for cell in column] for column in columns],
            delimiter=self.delimiter,
            decimal=self.decimal,
            path=self.path,
        )

    def numbers(self, at: int, rows: Sequence[int]) -> list[float | None]:
        """The numbers of column `at` in these rows; None where a cell holds none or a missing value."""
        values = self.number_columns[at].values
        return [None if is_missing(self.rows[row][at]) else values[row] for row in rows]

    def check_finite(self, at: int, rows: Sequence[int], values: Sequence[float | None]) -> None:
        """Rejects infinite numbers and numbers near overflow."""
        for value, row in zip(values, rows, strict=True):
            if value is not None and not abs(value) <= LARGEST:
                raise InvalidValue(
                    f"`{self.names[at]}` must hold numbers between -{LARGEST:g} and {LARGEST:g}; received {value:g} in "
                    f"line {self.lines[row]} of {self.path}. Leave the cell empty if it isn't known."
                )


def read(path: Path, decimal: str | None = None) -> Table:
    """Reads a file whose first line holds the names of the columns and every other line as many cells.

    Args:
        path: A .csv or .tsv file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
        decimal: The decimal sign, "." or ",", if it is known.

    Raises:
        InvalidValue: With the line, if the file is no table.
    """
    if decimal not in (None, ".", ","):
        raise InvalidValue(f"`decimal` must be '.' or ','; received {decimal!r}.")
    text = _text(path)
    directive = re.match(r'"?sep=([^\r\n"]|\t)"?\r?\n', text, re.IGNORECASE)
    skipped = text[: directive.end()] if directive else ""
    body = text[len(skipped) :]
    comments = re.match(rf"(?:[ \t]*(?:{'|'.join(COMMENTS)})[^\r\n]*(?:\r\n?|\n)|[ \t]*(?:\r\n?|\n))*", body)
    skipped += comments[0] if comments else ""
    first = len(io.StringIO(skipped, newline="").readlines())
    body = text[len(skipped) :]
    head = re.sub(r'"[^"]*"', "", body[:100_000]).partition("\n")[0]
    usual = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=head.count)
    delimiter = directive[1] if directive else usual
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):  # not a blank line
                rows.append([_single_line(cell) for cell in row])
                lines.append(first + reader.line_num)
    except csv.Error as error:
        raise InvalidValue(f"{path} can't be read at line {first + reader.line_num}: {error}.") from error
    if not rows:
        raise InvalidValue(f"{path} is empty; a table is a line of names and a line for each example.")
    names = [name or f"column {i}" for i, name in enumerate(rows[0], 1)]
    for row, line in zip(rows, lines, strict=True):
        if len(row) > len(names) and not any(row[len(names) :]):
            del row[len(names) :]  # delimiters at the end of a line
        if len(row) != len(names):
            raise InvalidValue(
                f"{path} has {plural(len(row), 'cell')} in line {line}, and {plural(len(names), 'name')} above; every "
                f"line needs as many, and a cell that holds {DELIMITERS.get(delimiter, delimiter)} stands in quotes."
            )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        places = " and ".join(str(i) for i, it in enumerate(names, 1) if it == name)
        raise InvalidValue(f"{path} has the name `{name}` over columns {places}; names must differ.")
    return Table(path, names, rows[1:], lines[1:], delimiter, decimal)


def _single_line(cell: str) -> str:
    return (" ".join(cell.splitlines()) if "\n" in cell or "\r" in cell else cell).strip()


def is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _text(path: Path) -> str:
    if path.suffix.lower() not in TABLES:
        raise InvalidValue(f"a table is a .csv or .tsv file; received {path}. Save or export it as CSV.")
    try:
        data = path.read_bytes()
        return data.decode(next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8"))
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*") if p.suffix.lower() in TABLES]
        hint = f" {did_you_mean(path.name, beside)}" if beside else ""
        raise InvalidValue(f"there is no file {path}.{hint}") from None
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidValue(
            f"{path} isn't {error.encoding.upper()} text at line {line}: {error.reason}. Save it as UTF-8 (in Excel: "
            f"Save As, CSV UTF-8)."
        ) from error
