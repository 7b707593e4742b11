"""The function `diff`: two saved comparisons side by side, with the change of every candidate and its interval."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidType, InvalidValue
from ..options import Number
from ..translation import translate
from .analysis.changed_settings import HASHED, differing_settings
from .analysis.changes import Change, Side, find_changes
from .formats import format_bytes, format_change, format_number, format_seconds
from .metrics import METRICS
from .records import result_of
from .report.files import RESULTS_FILE, to_json_data
from .report.tables import markdown_lines
from .results import LEVEL, Result, Summary

SENTENCES = {
    "better": ("Better in {0}: {1}.", "Better: {1}."),
    "worse": ("Worse in {0}: {1}.", "Worse: {1}."),
    "equal": ("Practically equal in {0}: {1}.", "Practically equal: {1}."),
    "undecided": ("Undecided in {0}: {1}.", "Undecided: {1}."),
    "identical": ("Identical in {0}: {1}.", "Identical: {1}."),
}
"""The outcomes in order, each with the sentence that names the candidates first, and the one for a further list."""
NAMES = {"equal": "practically equal"}


@dataclass
class Diff:
    """Two comparisons side by side. It prints as text that is also Markdown.

    Attributes:
        before: The folder and the name of the first comparison.
        after: Those of the second one.
        metric: The metric of both.
        changes: The change of every candidate, in the order of the first one's table.
        settings: The settings, versions and the command that differ, as (name, before, after).
        sentence: The outcomes in a sentence.
        test: What the intervals cover.
        recommendations: The recommendation of each comparison.
    """

    before: str
    after: str
    metric: str
    changes: list[Change]
    settings: list[tuple[str, str, str]]
    sentence: str
    test: str
    recommendations: tuple[str, str]
    costs: dict[str, tuple[str, str, str]] = field(default_factory=dict, repr=False)

    def table(self) -> str:
        """Return the table as Markdown."""
        titles = ["candidate", "lr", f"{self.metric} before", "after", "change", "outcome"]
        titles += ["time per step", "memory per step"]
        rows = [
            [
                change.name, lr, format_number(change.before), format_number(change.after), _interval(change),
                NAMES.get(change.outcome, change.outcome) or "–", seconds, memory,
            ]
            for change in self.changes
            for lr, seconds, memory in [self.costs[change.name]]
        ]  # fmt: skip
        return markdown_lines([titles, *rows])

    def __str__(self) -> str:
        differing = "".join(
            f"- {name} differ\n" if (old, new) == HASHED else f"- {name}: {old} → {new}\n"
            for name, old, new in self.settings
        )
        parts = [
            f"{self.before} → {self.after}",
            differing.rstrip() or "The settings and versions are the same.",
            self.table().rstrip(),
            f"{self.sentence} {self.test}".strip(),
            f"Before: {self.recommendations[0]}\n\nAfter: {self.recommendations[1]}",
        ]
        return translate("\n\n".join(parts))

    def _repr_markdown_(self) -> str:
        return str(self)


def diff(before: Any, after: Any, *, practical: float | None = None) -> Diff:
    """Set two comparisons side by side: what changed in the settings, and in the result of every candidate.

    Results are paired by seed and validation example where both comparisons judge by the same examples and share two
    seeds or more; otherwise both are independent samples. The interval of every change covers new seeds and new
    examples, and is corrected for the number of candidates (Holm 1979). docs/compare.md defines the outcomes.

    Args:
        before: The first comparison: its output folder, or a `Comparison`.
        after: The second one.
        practical: The largest difference of the metric that is too small to matter; None takes that of the first.

    Returns:
        A `Diff`, which prints as a table with a sentence.

    Raises:
        InvalidValue: If a folder holds no comparison, or if the metrics differ.
        InvalidType: If an argument is neither a folder nor a comparison.

    Example:
        >>> import piste, torch
        >>> from piste.compare import diff
        >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
        >>> def run(lr):
        ...     data = ((x, 3 * x), (x, 3 * x))
        ...     return piste.compare(torch.nn.Linear(1, 1), data, optimizers="SGD", lr=lr, epochs=5, seeds=3)
        >>> diff(run(0.01), run(0.2)).sentence
        'Better in rmse: SGD.'
    """
    old, new = _read(before), _read(after)
    if (old["metric"], old["higher_is_better"]) != (new["metric"], new["higher_is_better"]):
        raise InvalidValue(
            f"both comparisons must have the same metric; received {old['metric']} and {new['metric']}. "
            f"Help: run one of them again with --metric."
        )
    if practical is not None:
        Number(0.0).check("practical", practical)
    margin = old["verdict"].get("practical") if practical is None else practical
    margin = math.nan if margin is None else margin
    sides = _side(old), _side(new)
    scored = all(run.scores for side in sides for runs in side.runs.values() for run in runs)
    changes, paired = find_changes(*sides, old["higher_is_better"], margin)
    return Diff(
        _label(before, old), _label(after, new), old["metric"], changes, differing_settings(old, new),
        _sentence(old["metric"], changes),
        _test(changes, paired, scored, margin), (_advice(old), _advice(new)),
        {change.name: _costs(change.name, old, new) for change in changes},
    )  # fmt: skip


def _read(source: Any) -> dict[str, Any]:
    """Return the content of results.json, of a folder or of a comparison."""
    if isinstance(source, Summary):
        return to_json_data(source)
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidType(
            f"`diff` takes output folders of comparisons, or comparisons; received {type(source).__name__}."
        )
    path = Path(source)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"results", "rows", "verdict", "settings"} <= found.keys():
            return found
        reason = "it has no results of a comparison"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError:
        reason = "it is not JSON"
    raise InvalidValue(
        f"{path} can't be read: {reason}. Help: give the output folder of a finished `piste compare`, its --out."
    )


def _label(source: Any, numbers: Mapping[str, Any]) -> str:
    name = str(numbers["name"])
    return name if isinstance(source, Summary) else f"{source} ({name})"


def _side(numbers: Mapping[str, Any]) -> Side:
    runs: dict[str, list[Result]] = {row["name"]: [] for row in numbers["rows"]}
    for record in numbers["results"]:
        runs.setdefault(record["candidate"], []).append(result_of(record))
    known = METRICS.get(numbers["metric"])
    validation = numbers.get("validation", {})
    low, high = numbers.get("bounds") or (None, None)
    return Side(
        runs, validation.get("targets", ""), validation.get("examples", 0), float if known is None else known.finish,
        (-math.inf if low is None else low, math.inf if high is None else high),
    )  # fmt: skip


def _costs(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the learning rate, time and memory of a candidate before and after."""
    rows = [next((row for row in numbers["rows"] if row["name"] == name), None) for numbers in (old, new)]

    def both(key: str, form: Any) -> str:
        texts = ["–" if row is None or row[key] is None else form(row[key]) for row in rows]
        return texts[0] if texts[0] == texts[1] else " → ".join(texts)

    return both("lr", lambda lr: f"{lr:.3g}"), both("step_seconds", format_seconds), both("peak_bytes", format_bytes)


def _interval(change: Change) -> str:
    if math.isnan(change.size):
        return "–"
    size, low, high = (format_change(v, signed=True) for v in (change.size, change.low, change.high))
    return size if math.isnan(change.low) else f"{size} ({low} to {high})"


def _sentence(metric: str, changes: Sequence[Change]) -> str:
    parts: list[str] = []
    for outcome in SENTENCES:
        named = [change.name for change in changes if change.outcome == outcome]
        if named:
            first, further = SENTENCES[outcome]
            parts.append((further if parts else first).format(metric, ", ".join(named)))
    missing = [c.name for c in changes if not c.outcome]
    if missing:
        parts.append(f"Without a result on both sides: {', '.join(missing)}.")
    return " ".join(parts)


def _test(changes: Sequence[Change], paired: bool, scored: bool, margin: float) -> str:
    if all(math.isnan(change.low) for change in changes):
        if all(change.outcome in ("identical", "") for change in changes):
            return ""
        return "No change has an interval, which takes two seeds on each side."
    form = (
        "paired by seed and validation example"
        if paired
        else "of independent seeds and examples, because the comparisons do not share both"
    )
    several = ", corrected for the number of candidates" * (sum(not math.isnan(c.low) for c in changes) > 1)
    equal = "" if math.isnan(margin) else f" A change of at most {format_change(margin)} is practically equal."
    covered = "new seeds and new validation examples" if scored else "new seeds"
    return f"(Changes over {covered}, {form}, at a level of {LEVEL:.0%}{several}.{equal})"


def _advice(numbers: Mapping[str, Any]) -> str:
    verdict = numbers["verdict"]
    advice = verdict["recommendation"] or verdict["sentence"]
    code = textwrap.indent(verdict["code"], "    ")
    return f"{advice}\n\n{code}" if code else str(advice)
