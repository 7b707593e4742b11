"""The layout of a table in a text: directives and comments above it, the delimiter, the names and the rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InvalidValue
from ...wording import plural
from .cells import clean_cell, is_missing
from .number_cells import PLAIN_NUMBER, parse_number_cell

COMMENTS = ("#", "%", "//")
"""The beginnings of comment lines above the names."""
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar", " ": "a space"}
_MAX_PREAMBLE = 60
"""The number of lines of another shape that may stand above the names."""
_MAX_UNIT = 16
"""The number of characters of a unit in a row of units."""
_UNIT_SAMPLE = 200
"""The number of rows that a row of units is compared with."""


@dataclass
class Layout:
    """The cells of a text, and where they stand.

    Attributes:
        rows: The cells of each row, as many as names.
        lines: The line on which each row ends.
        said: Sentences about lines that are no rows.
    """

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    delimiter: str
    said: list[str] = field(default_factory=list)


def read_layout(text: str, path: Path) -> Layout:
    """Find the names and rows of a table.

    Args:
        text: The text of the file.
        path: The file, for its suffix and for messages.

    Raises:
        InvalidValue: The text is no table; with the line.
    """
    directive = re.match(r'"?sep=([^\r\n"]|\t)"?\r?\n', text, re.IGNORECASE)
    above = text[: directive.end()] if directive else ""
    body = text[len(above) :]
    marks = "|".join(COMMENTS)
    comments = re.match(rf"(?:[ \t]*(?:{marks})[^\r\n]*(?:\r\n?|\n)|[ \t]*(?:\r\n?|\n))*", body)
    above += comments[0] if comments else ""
    body = text[len(above) :]
    usual = "\t" if path.suffix.lower() == ".tsv" else find_delimiter(body)
    delimiter = directive[1] if directive else usual
    if delimiter == " ":
        body = re.sub(r"(?m)^ +| +$|(?<= ) +", "", body)
    first = len(io.StringIO(above, newline="").readlines())
    rows, lines = _read_rows(body, delimiter, first, path)
    if not rows:
        raise InvalidValue(
            f"{path} is empty; a table is a line of names and a line for each example. Help: export it again."
        )
    said: list[str] = []
    names = _names_in_comment(comments[0] if comments else "", rows[0], delimiter)
    if names is not None:
        name_line = len(above.rstrip().splitlines())
        said.append(f"The names stand in line {name_line}, which begins as a comment.")
    else:
        at = _find_names(rows)
        if at:
            said.append(f"Lines above the names in line {lines[at]} are skipped.")
        names, name_line = rows[at], lines[at]
        rows, lines = rows[at + 1 :], lines[at + 1 :]
        if _has_row_names(names, rows):
            said.append("The first column has no name, as R writes row names.")
            names = ["", *names]
    names = [clean_cell(name) or f"column {i}" for i, name in enumerate(names, 1)]
    _check_widths(names, name_line, rows, lines, delimiter, path)
    _check_names(names, name_line, path)
    layout = Layout(names, rows, lines, delimiter, said)
    _drop_repeated_names(layout)
    _drop_units(layout)
    return layout


def find_delimiter(text: str) -> str:
    """Return the first delimiter with the same count in consecutive lines, or the most frequent one in the first line.

    Spaces separate cells only where no other delimiter occurs.
    """
    head = re.sub(r'"[^"]*"', "", text[:100_000]).splitlines()
    head = [re.sub(" +", " ", line.strip(" ")) for line in head if line.strip()][: _MAX_PREAMBLE + 6]
    best: tuple[int, int, str] | None = None
    for delimiter in DELIMITERS:
        if delimiter == " " and any(other in line for line in head for other in ",;\t|"):
            continue
        counts = [line.count(delimiter) for line in head]
        for i, count in enumerate(counts[:_MAX_PREAMBLE]):
            following = counts[i + 1 : i + 6]
            if count and following and all(other == count for other in following):
                if best is None or (i, -count) < best[:2]:
                    best = (i, -count, delimiter)
                break
    return best[2] if best else max(",;\t|", key=(head or [""])[0].count)


def _read_rows(body: str, delimiter: str, first: int, path: Path) -> tuple[list[list[str]], list[int]]:
    """Return the cells of each row that isn't blank, and the line on which it ends."""
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                rows.append(row)
                lines.append(first + reader.line_num)
    except csv.Error as error:
        reason = str(error).replace("'\t'", "a tab")
        raise InvalidValue(
            f"{path} can't be read at line {first + reader.line_num}: {reason}. Help: write a quotation mark in a cell "
            f'twice, as in "5"" disk", and end each quoted cell with one.'
        ) from error
    return rows, lines


def _names_in_comment(comments: str, row: Sequence[str], delimiter: str) -> list[str] | None:
    """Return the names in the last comment line (of numpy.savetxt); None if the first row holds the names."""
    if not any(_is_number(cell) for cell in row):
        return None
    written = [line.strip() for line in comments.splitlines() if line.strip()]
    if not written:
        return None
    for text in (re.sub(rf"^(?:{'|'.join(COMMENTS)})+\s*", "", written[-1]), written[-1]):
        names = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
        if len(names) == len(row) and all(name.strip() for name in names) and not any(map(_is_number, names)):
            return names
    return None


def _find_names(rows: Sequence[Sequence[str]]) -> int:
    """Return the index of the row of names: the first one, or the one below a preamble of narrower lines."""
    width, at = len(rows[-1]), len(rows) - 1
    while at and len(rows[at - 1]) == width:
        at -= 1
    narrower = all(len(row) < width for row in rows[:at])
    named_by_r = at == 1 and len(rows[0]) == width - 1
    if at > _MAX_PREAMBLE or len(rows) - at < 2 or not narrower or named_by_r or any(map(_is_number, rows[at])):
        return 0
    return at


def _has_row_names(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether every row has one cell more than there are names, and begins with a text of its own."""
    wider = len(names) > 1 and len(rows) > 1 and all(len(row) == len(names) + 1 for row in rows)
    return wider and len({row[0] for row in rows}) == len(rows)


def _check_widths(
    names: list[str], name_line: int, rows: list[list[str]], lines: Sequence[int], delimiter: str, path: Path
) -> None:
    width = len(names)
    for row, line in zip(rows, lines, strict=True):
        if len(row) > width and not any(row[width:]):
            del row[width:]  # delimiters at the end of a line
        if len(row) != width:
            raise InvalidValue(
                f"{path} has {plural(len(row), 'cell')} in line {line}, and {plural(width, 'name')} in line "
                f"{name_line}. Help: write as many cells in every line, and put a cell that holds "
                f"{DELIMITERS.get(delimiter, delimiter)} in quotes."
            )


def _check_names(names: Sequence[str], line: int, path: Path) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        places = " and ".join(str(i) for i, it in enumerate(names, 1) if it == name)
        raise InvalidValue(
            f"{path} has the name `{name}` over columns {places} in line {line}. Help: give each column its own name."
        )


def _drop_repeated_names(layout: Layout) -> None:
    """Leave out lines that hold the names again, as in files that were joined."""
    repeated = [i for i, row in enumerate(layout.rows) if row[0].strip() == layout.names[0]]
    repeated = [i for i in repeated if [clean_cell(cell) for cell in layout.rows[i]] == layout.names]
    if repeated:
        where = ", ".join(str(layout.lines[i]) for i in repeated[:5]) + " ..." * (len(repeated) > 5)
        layout.said.append(f"The names stand again in line {where}: left out.")
        for i in reversed(repeated):
            del layout.rows[i], layout.lines[i]


def _drop_units(layout: Layout) -> None:
    """Leave out a row of units below the names: short text in every column that holds numbers below it."""
    if len(layout.rows) < 3:
        return
    units = [clean_cell(cell) for cell in layout.rows[0]]
    below = [[clean_cell(row[i]) for row in layout.rows[1 : 1 + _UNIT_SAMPLE]] for i in range(len(units))]
    numeric = [i for i, cells in enumerate(below) if any(map(_is_number, cells))]
    written = [units[i] for i in numeric if not is_missing(units[i])]
    if not written or 2 * len(written) < len(numeric):
        return
    if any(len(unit) > _MAX_UNIT or PLAIN_NUMBER.match(unit) or _is_number(unit) for unit in written):
        return
    if any(not (_is_number(cell) or is_missing(cell)) for i in numeric for cell in below[i]):
        return
    if any(units[i] in below[i] for i in range(len(units)) if i not in numeric and units[i]):
        return
    listed = ", ".join(unit for unit in written[:5]) + (" ..." if len(written) > 5 else "")
    layout.said.append(f"Line {layout.lines[0]} holds units ({listed}) and is left out.")
    del layout.rows[0], layout.lines[0]


def _is_number(cell: str) -> bool:
    cell = cell.strip()
    return PLAIN_NUMBER.fullmatch(cell) is not None or parse_number_cell(cell) is not None
