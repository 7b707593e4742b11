"""The table of a comparison: as Markdown, for a terminal, and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from ...translation import translate
from ..formats import format_bytes, format_change, format_number, format_seconds, format_with_interval
from ..results import Row, Summary
from ..search_space import format_options

AT_FIRST_RATES = {
    "default learning rates": "at the default lr",
    "given learning rates": "at the given lr",
    "default or given learning rates": "at the default or given lr",
}
"""The title of the column of results without a search, by `Summary.first_rates`."""


def table_titles(comparison: Summary) -> list[str]:
    """Return the titles of the columns, with their units."""
    arrow = "higher is better" if comparison.higher_is_better else "lower is better"
    tuned = [AT_FIRST_RATES[comparison.first_rates], "good lr range (decades)"] if comparison.tries else []
    return [
        "candidate", "lr", f"{comparison.metric} ({arrow})", *tuned, *_also(comparison), "behind the best",
        "training loss", f"steps to {format_number(comparison.target)} (time)", "time per step",
        "memory per step", "descent share", "evenness",
    ]  # fmt: skip


def table_cells(comparison: Summary, row: Row) -> list[str]:
    """Return the cells of one row, as text."""
    star = len(comparison.rows) > 1 and comparison.verdict.outcome(row.name) in ("best", "equal")
    name = f"{row.name} ★" if star else row.name
    if row.diverged:
        metric = "failed" if row.failed else "diverged"
        metric += f" ({row.diverged} of {row.seeds})" * (row.seeds > 1)
    else:
        metric = format_with_interval(row.metric, row.low, row.high)
    tuned = bool(comparison.tries)
    return [
        name,
        _configuration(row),
        metric,
        *(
            [format_number(row.default_metric), "–" if math.isnan(row.lr_width) else f"{row.lr_width:.1f}"]
            if tuned
            else []
        ),
        *(format_number(row.also.get(name, math.nan)) for name in _also(comparison)),
        _behind(comparison, row),
        format_number(row.training_loss),
        _arrival(row),
        format_seconds(row.step_seconds),
        format_bytes(row.peak_bytes),
        _share(row.descent_share),
        _share(row.evenness),
    ]


def _also(comparison: Summary) -> list[str]:
    """Return the names of the metrics that decide nothing."""
    return list(comparison.rows[0].also) if comparison.rows else []


def baseline_cells(comparison: Summary) -> list[str] | None:
    """Return the cells of the last line, a constant prediction; None if its metric is unknown."""
    if math.isnan(comparison.baseline):
        return None
    blank = ["–"] * (len(table_titles(comparison)) - 3)
    return [f"({comparison.baseline_meaning})", "–", format_number(comparison.baseline), *blank]


def table_lines(comparison: Summary) -> list[list[str]]:
    """Return the cells of all rows, and of the baseline if its metric is known."""
    baseline = baseline_cells(comparison)
    return [*(table_cells(comparison, row) for row in comparison.rows), *([baseline] if baseline else [])]


def markdown_table(comparison: Summary) -> str:
    """Return the table as Markdown, best first."""
    return markdown_lines([table_titles(comparison), *table_lines(comparison)])


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Titles and rows of text as a Markdown table."""
    titles, *rows = [[escape_markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def markdown_summary(comparison: Summary) -> str:
    """Return the table, the verdict and the recommendation as Markdown, in the user's language."""
    verdict = comparison.verdict
    sentence, explained, recommendation = (
        escape_markdown(translate(text))
        for text in (verdict.sentence, f"{verdict.test} {verdict.limits}", verdict.recommendation)
    )
    advice = f"\n\n{recommendation}\n\n{textwrap.indent(verdict.code, '    ')}" if verdict.code else ""
    return f"{translate(markdown_table(comparison))}\n**{sentence}** {explained}{advice}"


def rich_tables(comparison: Summary, width: int) -> list[Any]:
    """Return the table for a terminal with `width` columns, split into several tables if it is too wide for one."""
    from rich.console import Console

    titles = list(map(translate, table_titles(comparison)))
    lines = [[name, *map(translate, cells)] for name, *cells in table_lines(comparison)]

    def fits(columns: list[int]) -> bool:
        table = _rich_table(comparison, titles, lines, columns)
        return bool(Console(width=1000).measure(table).maximum <= width)

    if fits(list(range(len(titles)))):
        return [_rich_table(comparison, titles, lines, list(range(len(titles))))]
    if len(lines) > len(comparison.rows):
        lines[-1][0] = translate("(baseline)")
    for i, title in enumerate(titles):  # as narrow as its column
        least = max(map(len, [*title.split(), *(line[i] for line in lines)]))
        titles[i] = "\n".join(textwrap.wrap(title, least))
    parts = [[0]]
    for i in range(1, len(titles)):
        if len(parts[-1]) > 1 and not fits([*parts[-1], i]):
            parts.append([0])
        parts[-1].append(i)
    return [_rich_table(comparison, titles, lines, part) for part in parts]


def _rich_table(comparison: Summary, titles: list[str], lines: list[list[str]], columns: list[int]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for i in columns:
        widest = max((len(line[i]) for line in lines), default=1)
        table.add_column(titles[i], justify="right" if i else "left", vertical="bottom", min_width=widest)
    for row, line in itertools.zip_longest(comparison.rows, lines):
        style = "" if row is None else _style(comparison, row)
        table.add_row(*(Text(line[i], style=style if i in (0, 2) else "", no_wrap=True) for i in columns))
    return table


def _style(comparison: Summary, row: Row) -> str:
    if row.diverged:
        return "red"
    return "green" if comparison.verdict.outcome(row.name) in ("best", "equal") else ""


def table_csv(comparison: Summary) -> str:
    """Return the rows as CSV with unrounded numbers; NaN and None are empty fields."""
    out = io.StringIO()
    records = [{**(fields := dataclasses.asdict(row)), **fields.pop("also")} for row in comparison.rows]
    writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(
            {k: "" if v in (None, {}) or (isinstance(v, float) and math.isnan(v)) else v for k, v in record.items()}
        )
    return out.getvalue()


def _behind(comparison: Summary, row: Row) -> str:
    """Return the outcome for a candidate, with the interval of its difference to the best."""
    if row.name == comparison.verdict.best and len(comparison.rows) > 1:
        return "best"
    found = next((d for d in comparison.verdict.differences if d.name == row.name), None)
    if found is None:
        return "–"
    if math.isnan(found.low):
        return f"undecided, {format_change(found.size)}"
    words = {"worse": "worse", "equal": "practically equal", "undecided": "undecided"}
    return f"{words[found.outcome]}, {format_change(found.low)} to {format_change(found.high)}"


def _configuration(row: Row) -> str:
    lr = [] if row.lr is None else [f"{row.lr:.3g}"]
    return ", ".join([*lr, *[format_options(row.options)] * bool(row.options)]) or "–"


def _arrival(row: Row) -> str:
    """Return the steps and training time to the target, and the number of seeds that reached it unless all did."""
    if not row.reached:
        return "–"
    steps = "–" if row.steps_to_target is None else f"{row.steps_to_target:.0f}"
    seconds = row.seconds_to_target
    time = "" if seconds is None or math.isnan(seconds) else format_seconds(seconds)
    if row.reached == row.seeds:
        return f"{steps} ({time})" if time else steps
    return f"{steps} ({time}, {row.reached} of {row.seeds})" if time else f"{steps} ({row.reached} of {row.seeds})"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows literally, without HTML and line breaks."""
    return re.sub(r"([<&\\`])", r"\\\1", text).replace("\n", " ")
