"""The measurements of `docs/performance.md`, and their summary: tables and a chart.

`python -m tools.docs.speed build/steps.json` puts the JSON of a bench into the page and the READMEs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .blocks import FIGURE_STYLE, svg_of

__all__ = ["README_TENSORS", "draw_steps", "losses_table", "record", "step_ratios", "steps_table"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
README_TENSORS = ("1 x 25M", "ResNet-18", "GPT-2 small", "2000 x 32")
"""The columns of the table of the READMEs."""


def _rows(title: str) -> list[list[str]]:
    """Return the cells of every table row below a title of the page, up to the next heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n#")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def step_ratios() -> dict[str, dict[str, float]]:
    """Return the time of the best other over that of Piste, by optimizer and workload: two threads, a step alone."""
    found: dict[str, dict[str, float]] = {}
    for cells in _rows("The speed of a step"):
        if len(cells) == 14 and cells[2:4] == ["2", "alone"] and cells[6] != "nan":  # nobody else has Lion
            found.setdefault(cells[1], {})[cells[0]] = float(cells[6])
    return found


def steps_table(*workloads: str) -> str:
    """Return a Markdown table of `step_ratios`, of all workloads unless some are named."""
    ratios = step_ratios()
    workloads = workloads or tuple(dict.fromkeys(name for row in ratios.values() for name in row))
    lines = [f"| | {' | '.join(workloads)} |", f"|---|{'---|' * len(workloads)}"]
    for name, row in ratios.items():
        lines.append(f"| {name} | {' | '.join(f'{row[w]:.3g}' if w in row else '' for w in workloads)} |")
    return "\n".join(lines)


def losses_table() -> str:
    """Return a Markdown table: for each loss the least, the median and the largest ratio over sizes and threads."""
    found: dict[str, list[float]] = {}
    for cells in _rows("The speed of a loss"):
        if len(cells) == 9 and cells[2].isdigit():
            found.setdefault(cells[0], []).append(float(cells[5]))
    lines = ["| loss | least | median | largest |", "|---|---|---|---|"]
    for name, values in found.items():
        ordered = sorted(values)
        lines.append(f"| {name} | {ordered[0]:.2f} | {ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f} |")
    return "\n".join(lines)


def draw_steps() -> str:
    """Return the SVG of `step_ratios`: a line for each optimizer, a mark for each workload."""
    ratios = step_ratios()
    workloads = list(dict.fromkeys(name for row in ratios.values() for name in row))
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 0.36 * len(ratios) + 1.4), layout="constrained")
        axes = figure.subplots()
        names = list(ratios)[::-1]
        for workload, marker in zip(workloads, "os^Dv<>", strict=False):
            shown = [(ratios[name][workload], i) for i, name in enumerate(names) if workload in ratios[name]]
            axes.plot(*zip(*shown, strict=True), marker=marker, linestyle="none", markersize=5, label=workload)
        axes.axvline(1, color="gray", linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
        axes.set(xlabel="time of the best other / time of Piste", title="a step on a CPU, two threads")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg_of(figure)


def record(measured: dict[str, Any]) -> None:
    """Put the JSON of `python -m bench optim` or `python -m bench losses` into the page and the READMEs."""
    from bench import losses, optim

    text = PAGE.read_text(encoding="utf-8")
    if "training" in measured:
        tables = [optim.table(measured["rows"])]
        if measured["training"]:
            tables.append(optim.training_table(measured["training"]))
        text = _with_tables(text, "The speed of a step", tables, measured["machine"])
    else:
        text = _with_tables(text, "The speed of a loss", [losses.table(measured["rows"])], measured["machine"])
    PAGE.write_text(text, encoding="utf-8")
    for file in READMES:
        file.write_text(_with_table(file.read_text(encoding="utf-8"), steps_table(*README_TENSORS)), encoding="utf-8")


def _with_tables(page: str, title: str, tables: Iterable[Iterable[str]], machine: str) -> str:
    """Return a page with other tables, and the line of the machine, in the section of a title."""
    before, heading, after = page.partition(f"\n## {title}\n")
    section, next_heading, rest = after.partition("\n## ")
    for table in tables:
        section = _with_table(section, "\n".join(table))
    section = re.sub("^Measured on .*$", lambda _: machine, section, count=1, flags=re.MULTILINE)
    return before + heading + section + next_heading + rest


def _with_table(text: str, table: str) -> str:
    """Return a text with a table in place of its first one with the same head."""
    head = re.escape(table.partition("\n")[0])
    changed, count = re.subn(rf"^{head}(\n\|.*)*", lambda _: table, text, count=1, flags=re.MULTILINE)
    if not count:
        raise ValueError(f"no table begins with {table.partition(chr(10))[0]!r}")
    return changed


def main(argv: list[str] | None = None) -> None:
    """Record the files that the command names."""
    parser = argparse.ArgumentParser("python -m tools.docs.speed", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="files that `--json` of a bench wrote")
    for file in parser.parse_args(argv).files:
        record(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
