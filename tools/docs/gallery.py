"""Write the gallery: recorded comparisons of built-in tasks, each made by one command.

`python -m tools.docs.gallery FOLDER` runs each command in FOLDER, where its results are not there yet, and writes
`docs/gallery.md`, its translation, the pictures, and the reports without plotly.js, which the build of the site adds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from piste.compare.report.html import packed_plotly

__all__ = ["COMMANDS", "add_plotly", "gallery"]

DOCS = Path(__file__).parents[2] / "docs"
_OPTIONS = {
    "breast-cancer": "--seeds 5 --trials 4",
    "characters": "--optimizers sgd,rmsprop,adam --seeds 3 --trials 6",
    "diabetes": "--optimizers sgd,adam --seeds 5 --trials 4",
    "digits": "--seeds 5 --trials 4",
    "digits-cnn": "--optimizers sgd,rmsprop,adam --seeds 3 --trials 3",
    "digits-deep": "--optimizers sgd,adagrad,adam --seeds 3 --trials 3",
    "digits-rnn": "--optimizers sgd,rmsprop,adam --seeds 3 --trials 3",
    "distilled": "--optimizers adam --seeds 3 --trials 3",
    "gan": "--optimizers rmsprop,adam --losses logistic,hinge --seeds 3 --trials 2",
    "line": "--seeds 5 --trials 4",
    "physics": "--optimizers sgd,rmsprop,adam --seeds 3 --trials 3",
    "redundant": "--seeds 5 --trials 4",
    "spiral": "--optimizers sgd,rmsprop,adam --seeds 3 --trials 2",
}
"""The options of the comparison of each built-in task; slow tasks have fewer candidates and seeds."""
COMMANDS = {name: f"piste compare {name} {options} --out {name}" for name, options in _OPTIONS.items()}
_FILES = ("report.md", "report.html", "curves.svg")
_PLOTLY = re.compile(r'(<script type="text/plain" id="plotly">)[^<]*(</script>)')
_TEXT = {
    "": {
        "title": "# Gallery",
        "intro": "Recorded comparisons of the built-in tasks. The learning rate of every candidate is searched; the "
        "command has the number of seeds, and of trials of each. The command repeats a comparison, and writes the "
        "report, which has curves to point at; its times are those of a busy machine. [Comparing](compare.md) defines "
        "the numbers, and [tasks](tasks.md) describes the data.",
        "alt": "Training loss and metric of each candidate over the steps",
        "report": "The report",
    },
    ".zh": {
        "title": "# 图库",
        "intro": "内置任务的比较记录。每个候选的学习率都经过搜索；命令中写明了随机种子的个数，以及每个种子的试验次数。"
        "用这条命令可以重复比较，并得到一份可交互的报告；报告中的时间是在繁忙的机器上测得的。"
        "[比较](compare.md)一页定义了各个数字，[任务](tasks.md)一页介绍了数据。",
        "alt": "各候选的训练损失和指标随步数的变化",
        "report": "完整报告",
    },
}
_LEFT_OUT = ("training loss", "steps to", "time per step", "memory per step", "descent share", "evenness")
"""The columns that the page leaves out, such as times, which another machine does not repeat."""


def gallery(results: Path, language: str = "") -> str:
    """Return the Markdown of the gallery.

    Args:
        results: The folder with an output folder for each comparison, and one of its reports in Chinese.
        language: "" or ".zh".
    """
    text = _TEXT[language]
    lines = [text["title"], "", text["intro"], ""]
    for name, command in COMMANDS.items():
        english, shown = (_report(results / f"{name}{suffix}") for suffix in ("", language))
        table, verdict = _result(shown, _columns(english))
        lines += [f"## {name}", "", f"```console\n{command}\n```", ""]
        lines += [f"![{text['alt']}](assets/gallery/{name}{language}.svg)", "", *table, "", f"> {verdict}", ""]
        lines += [f"[{text['report']}](assets/gallery/{name}{language}.html)", ""]
    return "\n".join(lines).rstrip() + "\n"


def _report(folder: Path) -> list[str]:
    return (folder / "report.md").read_text(encoding="utf-8").splitlines()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _columns(report: list[str]) -> list[int]:
    """Return the columns of an English report that the page shows."""
    head = next(line for line in report if line.startswith("| "))
    return [i for i, name in enumerate(_cells(head)) if not name.startswith(_LEFT_OUT)]


def _result(report: list[str], columns: list[int]) -> tuple[list[str], str]:
    """Return some columns of the table of a report, and its verdict in a sentence."""
    rows = [_cells(line) for line in report if line.startswith("| ")]
    table = [f"| {' | '.join(row[i] for i in columns)} |" for row in rows]
    verdict = next(line for line in report if line.startswith("**"))
    return table, verdict.split("**")[1]


def add_plotly(report: str) -> str:
    """Return a report of the gallery as a page of its own, with plotly.js in it."""
    return _PLOTLY.sub(lambda m: f"{m[1]}{packed_plotly()}{m[2]}", report)


def _run(results: Path, name: str, suffix: str) -> Path:
    """Run a comparison or, where its runs are complete, write its report in a language; return a folder with it."""
    folder = results / f"{name}{suffix}"
    if all((folder / file).exists() for file in _FILES):
        return folder
    environment = {**os.environ, "PISTE_LANG": suffix.removeprefix(".") or "en"}
    command = [sys.executable, "-m", *shlex.split(COMMANDS[name])]
    subprocess.run(command, cwd=results, env=environment, check=True)
    if suffix:
        folder.mkdir(exist_ok=True)
        for file in _FILES:
            shutil.move(results / name / file, folder / file)
    return folder


def main(folder: str) -> None:
    """Run the comparisons that are missing, and write the pages."""
    results = Path(folder)
    results.mkdir(parents=True, exist_ok=True)
    assets = DOCS / "assets" / "gallery"
    assets.mkdir(exist_ok=True)
    for name in COMMANDS:
        for suffix in reversed(_TEXT):  # the English report stays in the output folder
            found = _run(results, name, suffix)
            shutil.copy(found / "curves.svg", assets / f"{name}{suffix}.svg")
            report = (found / "report.html").read_text(encoding="utf-8")
            (assets / f"{name}{suffix}.html").write_text(_PLOTLY.sub(r"\1\2", report), encoding="utf-8")
    for language in _TEXT:
        (DOCS / f"gallery{language}.md").write_text(gallery(results, language), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
