"""The recorded measurements of `docs/measurements`, as tables and as a chart.

`python -m bench optim`, `losses`, `composed` and `options` record them with `--json docs/measurements/steps.json`
(`rules.json` for the rules that are compared with a reference implementation), `losses.json`, `composed.json` and
`options.json`; `python -m tools.docs.speed` then writes the summaries into `docs/performance.md`, its translation and
the READMEs.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench import composed as composed_bench
from bench import losses as losses_bench
from bench import optim as steps_bench

from .blocks import FIGURE_STYLE, svg_of
from .options_speed import options_in_full, options_tables

__all__ = [
    *(
        "README_TENSORS",
        "composed_in_full",
        "composed_rows",
        "draw_steps",
        "loss_rows",
        "losses_in_full",
        "losses_table",
        "main",
        "optimizer_rows",
    ),
    *("rules_in_full", "shared_options_in_full", "step_ratios", "steps_in_full", "steps_table"),
]

ROOT = Path(__file__).parents[2]
MEASUREMENTS = ROOT / "docs" / "measurements"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.zh.md")
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
README_TENSORS = ("1 x 25M", "ResNet-18", "GPT-2 small", "2000 x 32")
"""The columns of the table of the READMEs."""


def _read(name: str) -> dict[str, Any]:
    """Return what a bench recorded: of "steps", "rules", "losses", "composed" or "options"."""
    return _parsed(MEASUREMENTS / f"{name}.json")


@cache
def _parsed(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


# --- summaries ----------------------------------------------------------------------------------------------------


def step_ratios(record: str = "steps") -> dict[str, dict[str, float]]:
    """Return the time of the best other over that of Piste, by optimizer and workload: two threads, a step alone."""
    found: dict[str, dict[str, float]] = {}
    for row in _read(record)["rows"]:
        name, theirs = steps_bench.best(row["seconds"])
        if (row["threads"], row["setting"]) == (2, "alone") and name:  # the other libraries lack Lion
            ratio = theirs / row["seconds"]["piste"]
            found.setdefault(row["optimizer"], {})[row["workload"]] = round(ratio, 2)
    return found


def steps_table(*workloads: str, record: str = "steps") -> str:
    """Return a Markdown table of `step_ratios`, of all workloads unless some are named."""
    ratios = step_ratios(record)
    workloads = workloads or tuple(dict.fromkeys(name for row in ratios.values() for name in row))
    lines = [f"| | {' | '.join(workloads)} |", f"|---|{'---|' * len(workloads)}"]
    for name, row in ratios.items():
        lines.append(f"| {name} | {' | '.join(f'{row[w]:.3g}' if w in row else '' for w in workloads)} |")
    return "\n".join(lines)


def losses_table(*head: str) -> str:
    """Return a Markdown table: for each loss the least, the median and the largest ratio over sizes and threads."""
    found: dict[str, list[float]] = {}
    for row in _read("losses")["rows"]:
        found.setdefault(row["loss"], []).append(row["seconds"]["torch"] / row["seconds"]["piste"])
    lines = [f"| {' | '.join(head or ('loss', 'least', 'median', 'largest'))} |", "|---|---|---|---|"]
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
        ticks = ["0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500"]
        axes.set_xticks(list(map(float, ticks)), ticks)
        axes.set(xlabel="time of the best other / time of Piste", title="a step on a CPU, two threads")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg_of(figure)


# --- all measurements ---------------------------------------------------------------------------------------------


def steps_in_full() -> str:
    """Return the table of every measured step, in a part that opens for each workload, and that of training steps."""
    training = steps_bench.training_table(_read("steps")["training"])
    return "\n".join([*_parts_by_workload("steps"), *training])


def rules_in_full() -> str:
    """Return the table of every measured step that has a reference implementation, in parts that open."""
    return "\n".join(_parts_by_workload("rules"))


def _parts_by_workload(record: str) -> list[str]:
    rows = _read(record)["rows"]
    workloads = dict.fromkeys(row["workload"] for row in rows)
    return [_part(name, steps_bench.table([row for row in rows if row["workload"] == name])) for name in workloads]


def losses_in_full() -> str:
    """Return the table of every measured loss, in a part that opens for each loss."""
    rows = _read("losses")["rows"]
    names = dict.fromkeys(row["loss"] for row in rows)
    return "\n".join(_part(name, losses_bench.table([row for row in rows if row["loss"] == name])) for name in names)


def composed_in_full() -> str:
    """Return the table of the losses that are measured against the torch operations that compose them."""
    run = _read("composed")
    return "\n".join([run["machine"], "", *(line.rpartition("|")[0].rpartition("|")[0] + "|" for line in _composed())])


def composed_rows(name: str) -> list[str]:
    """Return the measurements of a loss that torch lacks: shape, threads, Piste, torch operations, ratio."""
    shown = []
    for line in list(_composed())[2:]:
        label, shape, *cells = (cell.strip() for cell in line.split("|")[1:-2])
        of, _, activation = label.partition(", ")
        if of == name:
            shown.append(f"| {' | '.join((f'{shape}, {activation}' if activation else shape, *cells))} |")
    return shown


def _composed() -> Any:
    return composed_bench.table(_read("composed")["rows"])


def shared_options_in_full() -> str:
    """Return the tables of every measured step with clipping or in a precision, in parts that open."""
    return "\n".join(_part(title, lines) for title, lines in options_in_full(_read("options")))


def _part(title: str, lines: Any) -> str:
    indented = "\n".join(f"    {line}" for line in lines)
    return f'??? note "{title}"\n\n{indented}\n'


def optimizer_rows(name: str) -> list[str]:
    """Return the measured steps of an optimizer as rows of a table: tensors, threads, Piste, the best other, ratio."""
    rows = [*_read("steps")["rows"], *_read("rules")["rows"]]
    measured = [row for row in rows if (row["optimizer"], row["setting"]) == (name, "alone")]
    shown = []
    for line in list(steps_bench.table(measured))[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        shown.append(f"| {' | '.join((cells[0], cells[2], *cells[4:7]))} |")
    return shown


def loss_rows(name: str) -> list[str]:
    """Return the measurements of a loss, by its name in the bench: shape, threads, Piste, torch, ratio."""
    measured = [row for row in _read("losses")["rows"] if row["loss"] == name]
    lines = list(losses_bench.table(measured))[2:]
    return [f"| {' | '.join(cell.strip() for cell in line.split('|')[2:7])} |" for line in lines]


# --- pages --------------------------------------------------------------------------------------------------------


def summaries(language: str = "") -> dict[str, str]:
    """Return the text of each marked part of the performance page: the machine, and its tables.

    Args:
        language: "" or ".zh".
    """
    words = ("损失", "最小", "中位数", "最大") if language else ()
    tables = {
        "steps": steps_table(),
        "rules": steps_table(record="rules"),
        "losses": losses_table(*words),
        "options": options_tables(_read("options"), language),
    }
    return {name: f"{_machine(_read(name)['machine'], language)}\n\n{table}" for name, table in tables.items()}


def _machine(line: str, language: str) -> str:
    if not language:
        return line
    day, machine = line.removeprefix("Measured on ").removesuffix(".").split(": ", 1)
    return f"测量于 {day}：{machine.replace(', ', '，').replace('threads', '个线程')}。"


def main() -> None:
    """Write the summaries into the pages."""
    for page, language in zip(PAGES, ("", ".zh"), strict=True):
        text = page.read_text(encoding="utf-8")
        for name, summary in summaries(language).items():
            text = _with_part(text, name, summary)
        page.write_text(text, encoding="utf-8")
    for file in READMES:
        file.write_text(_with_table(file.read_text(encoding="utf-8"), steps_table(*README_TENSORS)), encoding="utf-8")


def _with_part(text: str, name: str, part: str) -> str:
    """Return a page with another text between `<!-- NAME -->` and `<!-- end -->`."""
    pattern = rf"^(<!-- {name} -->\n).*?^(<!-- end -->)"
    changed, count = re.subn(pattern, lambda m: f"{m[1]}{part}\n{m[2]}", text, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} parts <!-- {name} --> ... <!-- end -->; it needs one")
    return changed


def _with_table(text: str, table: str) -> str:
    """Return a text with a table in place of its first one with the same head."""
    head = re.escape(table.partition("\n")[0])
    changed, count = re.subn(rf"^{head}(\n\|.*)*", lambda _: table, text, count=1, flags=re.MULTILINE)
    if not count:
        raise ValueError(f"no table begins with {table.partition(chr(10))[0]!r}")
    return changed


if __name__ == "__main__":
    main()
