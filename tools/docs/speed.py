"""The summary of `docs/performance.md`: tables and a chart, made from the measured rows of that page."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .blocks import FIGURE_STYLE, svg_of

__all__ = ["draw_steps", "losses_table", "step_ratios", "steps_table"]

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


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
