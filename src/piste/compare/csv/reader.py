"""A .csv or .tsv file as names and rows of text, or the reason why it isn't one."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidValue, did_you_mean

TABLES = (".csv", ".tsv")
OTHERS = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl", ".txt", ".dat", ".gz", ".zip")
"""Other ways of keeping a table, which are recognised to be refused with a word of help."""
MISSING = {"", "?", "-", "na", "n/a", "#n/a", "nan", "null"}
"""What a cell without a value may hold, in any case of letters."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
LARGEST = 1e30
"""Numbers beyond it would overflow on the way."""
SPOKEN = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


@dataclass
class Table:
    """The cells of a file, as text; `lines` says where each row ends."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal_comma: bool

    def numbers(self, cells: Sequence[str]) -> list[float | None]:
        """The number that each cell holds, None where it holds none."""
        plain = (cell.replace(",", ".") for cell in cells) if self.decimal_comma else cells
        return [float(cell) if NUMBER.fullmatch(cell) else None for cell in plain]

    def check_finite(self, at: int, rows: Sequence[int], values: Sequence[float | None]) -> None:
        """Refuses infinite and monstrous numbers, which would drown all others."""
        for value, row in zip(values, rows, strict=True):
            if value is not None and not abs(value) <= LARGEST:
                raise InvalidValue(
                    f"`{self.names[at]}` must hold numbers between -{LARGEST:g} and {LARGEST:g}; received {value:g} in "
                    f"line {self.lines[row]} of {self.path}. Leave the cell empty if it isn't known."
                )


def read(path: Path) -> Table:
    """The table in a file whose first line holds names that differ, and every other as many cells."""
    text = _text(path)
    head = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):  # not a blank line
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InvalidValue(f"{path} can't be read at line {reader.line_num}: {error}.") from error
    if not rows:
        raise InvalidValue(f"{path} is empty; a table is a line of names and a line for each example.")
    names = [name or f"column {i}" for i, name in enumerate(rows[0], 1)]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise InvalidValue(
                f"{path} has {plural(len(row), 'cell')} in line {line}, and {plural(len(names), 'name')} above; every "
                f"line needs as many, and a cell that holds {SPOKEN[delimiter]} stands in quotes."
            )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        places = " and ".join(str(i) for i, it in enumerate(names, 1) if it == name)
        raise InvalidValue(f"{path} has the name `{name}` over columns {places}; names must differ.")
    return Table(path, names, rows[1:], lines[1:], decimal_comma=delimiter == ";")


def is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _text(path: Path) -> str:
    if path.suffix.lower() not in TABLES:
        raise InvalidValue(f"a table is a .csv or .tsv file; received {path}. Save or export it as CSV.")
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob("*") if p.suffix.lower() in TABLES]
        hint = f" {did_you_mean(path.name, beside)}" if beside else ""
        raise InvalidValue(f"there is no file {path}.{hint}") from None
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidValue(f"{path} isn't UTF-8 text at line {line}: {error.reason}. Save it as UTF-8.") from error
