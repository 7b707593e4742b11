"""The files of a comparison in its output folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
import torch

from ...errors import InvalidValue, PisteError
from ...translation import translate
from ...version import __version__
from ..records import record_of
from ..results import Summary
from .figures import curve_figure, save_figure
from .html import render_html
from .learning_rates import learning_rate_figure
from .runs import runs_csv
from .tables import escape_markdown, markdown_summary, table_csv

RESULTS_FILE = "results.json"
"""The file with all numbers of a comparison, which `piste diff` reads."""


def make_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Create the folder if it does not exist.

    Raises:
        InvalidValue: If the folder is not writable.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InvalidValue(
            f"the output folder {path} can't be written: {error.strerror or error}. "
            f"Help: give another with --out (out=)."
        ) from error
    return path


def save_report(comparison: Summary, folder: Path) -> list[Path]:
    """Write the report, the figures, the table and all numbers; returns the paths of the files.

    The files replace earlier ones when all are written, so that no file is cut off.

    Raises:
        PisteError: If they can't be written, such as on a full disk.
    """
    folder = make_output_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as draft:
            written = _write_files(comparison, Path(draft))
            for path in written:
                path.replace(folder / path.name)
    except OSError as error:
        raise PisteError(
            f"the report can't be written into {folder}: {error.strerror or error}. Finished runs are kept. "
            f"Help: free the disk and repeat the call."
        ) from error
    return [folder / path.name for path in written]


def _write_files(comparison: Summary, folder: Path) -> list[Path]:
    written = []

    def text(name: str, content: str) -> None:
        (folder / name).write_text(content, encoding="utf-8")
        written.append(folder / name)

    if comparison.rows:
        text("results.csv", table_csv(comparison))
        text("runs.csv", runs_csv(comparison))
    numbers = to_json_data(comparison)
    text(RESULTS_FILE, json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    if comparison.rows:
        text("report.html", render_html(comparison, numbers))
        text("report.md", render_markdown(comparison, numbers))
        written += save_figure(curve_figure(comparison), folder, "curves")
        if comparison.tries:
            written += save_figure(learning_rate_figure(comparison), folder, "learning_rates")
        if comparison.picture:
            written += save_figure(comparison.picture(comparison), folder, "picture")
    return written


def render_markdown(comparison: Summary, numbers: dict[str, Any]) -> str:
    """Return the report as Markdown: verdict, table, links to the figures, settings and versions."""
    pictures = ["curves", *["learning_rates"] * bool(comparison.tries), *["picture"] * bool(comparison.picture)]
    settings = json.dumps(
        {key: numbers[key] for key in ("command", "settings", "versions")}, indent=1, ensure_ascii=False
    )
    parts = [
        f"# piste compare {escape_markdown(comparison.name)}",
        translate(comparison.interrupted),
        translate(comparison.left_out),
        markdown_summary(comparison),
        *(f"![{name}]({name}.svg)" for name in pictures),
        f"## {translate('Settings and versions')}",
        f"```json\n{settings}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json_data(comparison: Summary) -> dict[str, Any]:
    """Return everything except the figures, for JSON; NaN and infinity become null."""
    fields = (
        "name",
        "about",
        "metric",
        "higher_is_better",
        "target",
        "target_meaning",
        "settings",
        "validation",
        "bounds",
        "interrupted",
        "left_out",
    )
    return _json(
        {
            **{name: getattr(comparison, name) for name in fields},
            "versions": versions(),
            "command": command_line(),
            "verdict": dataclasses.asdict(comparison.verdict),
            "rows": [dataclasses.asdict(row) for row in comparison.rows],
            "results": [record_of(r) for r in comparison.results],
            "defaults": [record_of(r) for r in comparison.defaults if r.role == "default"],
            "tries": [record_of(r) for r in comparison.tries],
        }
    )


def command_line() -> str:
    """Return the command that makes this comparison; empty for a call from Python."""
    program = Path(sys.argv[0])
    if "piste" not in (program.stem, program.parent.name):  # the script, or a module of the package
        return ""
    return shlex.join(["piste", *sys.argv[1:]])


def versions() -> dict[str, Any]:
    """Return the versions of the software, and the machine."""
    return {
        "piste": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
