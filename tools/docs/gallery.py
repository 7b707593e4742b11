"""Write the gallery: recorded comparisons of built-in tasks, each made by one command.

`python -m tools.docs.gallery FOLDER` runs each command in FOLDER, where its results are not there yet, and writes
`docs/gallery.md`, its translation and the pictures.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["COMMANDS", "gallery"]

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = {name: f"piste compare {name} --seeds 5 --trials 4 --out {name}" for name in (
    "breast-cancer", "digits", "redundant",
)}  # fmt: skip

_TEXT = {
    "": {
        "title": "# Gallery",
        "intro": "Recorded comparisons of built-in tasks. The learning rate of every candidate is searched for each of "
        "five seeds, with four trials. The command repeats a comparison, and writes a report with curves to point at. "
        "[Comparing](compare.md) defines the numbers, and [tasks](tasks.md) describes the data.",
        "alt": "Training loss and metric of each candidate over the steps",
    },
    ".zh": {
        "title": "# 图库",
        "intro": "内置任务的比较记录。每个候选的学习率都在五个随机种子上各搜索四次。用下面的命令可以重复这些比较，"
        "并得到一份可交互的报告。[比较](compare.md)一页定义了各个数字，[任务](tasks.md)一页介绍了数据。",
        "alt": "各候选的训练损失和指标随步数的变化",
    },
}


def gallery(results: Path, language: str = "") -> str:
    """Return the Markdown of the gallery.

    Args:
        results: The folder with an output folder for each comparison.
        language: "" or ".zh".
    """
    text = _TEXT[language]
    lines = [text["title"], "", text["intro"], ""]
    for name, command in COMMANDS.items():
        table, verdict = _result((results / name / "report.md").read_text(encoding="utf-8"))
        lines += [f"## {name}", "", f"```console\n{command}\n```", ""]
        lines += [f"![{text['alt']}](assets/gallery/{name}.svg)", "", *table, "", f"> {verdict}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _result(report: str) -> tuple[list[str], str]:
    """Return the first columns of the table of a report, and its verdict in a sentence."""
    rows = [line.strip("|").split("|") for line in report.splitlines() if line.startswith("| ")]
    columns = [i for i, name in enumerate(rows[0]) if not name.strip().startswith(_LEFT_OUT)]
    table = [f"| {' | '.join(row[i].strip() for i in columns)} |" for row in rows]
    verdict = next(line for line in report.splitlines() if line.startswith("**"))
    return table, verdict.split("**")[1]


_LEFT_OUT = ("training loss", "steps to", "time per step", "memory per step", "descent share", "evenness")
"""The columns that the page leaves out, such as times, which another machine does not repeat."""


def main(folder: str) -> None:
    """Run the comparisons that are missing, and write the pages."""
    results = Path(folder)
    results.mkdir(parents=True, exist_ok=True)
    for name, command in COMMANDS.items():
        if not (results / name / "report.md").exists():
            subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=results, check=True)
        (DOCS / "assets" / "gallery").mkdir(exist_ok=True)
        shutil.copy(results / name / "curves.svg", DOCS / "assets" / "gallery" / f"{name}.svg")
    for language in _TEXT:
        (DOCS / f"gallery{language}.md").write_text(gallery(results, language), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
