"""What a comparison leaves in its output folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue

if TYPE_CHECKING:
    from ..comparison import Comparison


def writable(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be; refused if nothing can be written there."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InvalidValue(
            f"the output folder {path} can't be written: {error.strerror or error}. Give another with --out (out=)."
        ) from error
    return path


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the figures, the numbers and the table, and say which files."""
    from . import figures
    from .html import page
    from .tables import as_csv

    folder = writable(folder)
    written = []

    def text(name: str, content: str) -> None:
        (folder / name).write_text(content, encoding="utf-8")
        written.append(folder / name)

    if comparison.rows:
        text("results.csv", as_csv(comparison))
    numbers = as_numbers(comparison)
    text("results.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    if comparison.rows:
        text("report.html", page(comparison, numbers))
        text("report.md", as_markdown(comparison, numbers))
        written += figures.write(figures.curves(comparison), folder, "curves")
        if comparison.tries:
            written += figures.write(figures.rates(comparison), folder, "learning_rates")
        if comparison.picture:
            written += figures.write(comparison.picture(comparison), folder, "picture")
    return written


def as_markdown(comparison: Comparison, numbers: dict[str, Any]) -> str:
    """The report to read in an editor or to paste: verdict and table, the curves beside it, settings and versions."""
    from .tables import escaped

    pictures = ["curves", *["learning_rates"] * bool(comparison.tries), *["picture"] * bool(comparison.picture)]
    settings = json.dumps({key: numbers[key] for key in ("settings", "versions")}, indent=1, ensure_ascii=False)
    parts = [
        f"# piste compare {escaped(comparison.name)}",
        comparison.interrupted,
        comparison.left_out,
        comparison._repr_markdown_(),
        *(f"![{name}]({name}.svg)" for name in pictures),
        "## Settings and versions",
        f"```json\n{settings}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_numbers(comparison: Comparison) -> dict[str, Any]:
    """Everything but the pictures, as JSON takes it; what isn't a number (NaN, infinity) is null."""
    kept = (
        "name",
        "about",
        "metric",
        "higher_is_better",
        "target",
        "target_meaning",
        "settings",
        "interrupted",
        "left_out",
    )
    return _json(
        {
            **{name: getattr(comparison, name) for name in kept},
            "versions": versions(),
            "verdict": dataclasses.asdict(comparison.verdict),
            "rows": [dataclasses.asdict(row) for row in comparison.rows],
            "results": [vars(result) for result in comparison.results],
            "defaults": [vars(r) for r in comparison.defaults if r.role == "default"],
            "tries": [vars(result) for result in comparison.tries],
        }
    )


def versions() -> dict[str, Any]:
    """What ran, and on what."""
    import numpy
    import torch

    from ... import __version__

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
