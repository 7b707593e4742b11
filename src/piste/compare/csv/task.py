"""A table in a file as a task: a model that fits it, and a word on everything that was decided on the way."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...errors import InvalidType, InvalidValue, did_you_mean
from ..metrics import METRICS, Metric, squared_error
from ..requirements import require
from ..task import Task
from .encoding import encoded
from .reader import OTHERS, TABLES, Table, is_missing, plural, read

MIN_ROWS = 20
"""Rows with a target: fewer can't be trained on and judged by."""
MAX_INTEGER_CLASSES = 10
"""Whole numbers with up to so many different values are classes, where each has ten rows on average."""
MIN_CLASS_ROWS = 4
"""A class with fewer rows can't be in both parts."""
TWO_LAYERS_FROM = 500
"""With so many rows to train on, the model has a second hidden layer."""


PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def is_table(text: str) -> bool:
    """Whether `text` names a file with a table rather than a task."""
    return Path(text).suffix.lower() in TABLES + OTHERS


def table(path: str | Path, column: str | None, *, decimal: str | None = None) -> Task:
    """The task of predicting one column of a .csv or .tsv file from the others, as `piste compare data.csv` does it.

    The first line holds the names. Text, or a few different whole numbers, are classes, judged by accuracy; other
    numbers are predicted by regression, judged by the root mean square error in their own units. A quarter of the
    rows, always the same, is kept for validation; medians, frequent values and scales come from the others alone.
    `about` tells what was made of the table, and what was left out of it.

    Args:
        path: The file.
        column: The name of the column to predict.
        decimal: The decimal sign of all numbers, "." or ","; decided for each column from its cells if not given.

    Returns:
        The task.

    Raises:
        InvalidValue: With the reason, and the line where there is one, if nothing can be learned from the table.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "lines.csv"
    >>> _ = file.write_text("x,y\\n" + "".join(f"{i % 7},{i % 7 + i / 10}\\n" for i in range(40)))
    >>> print(table(file, column="y").about)
    `y` as a number, from `x`: 30 rows to train on, 10 to judge by. The mean of all would have an rmse of 1.68.
    """
    require("`piste.compare.table`")
    found = read(Path(path), decimal)
    at = _position(found, column)
    target = _target(found, at)
    train, validation = _split(target)
    x, used, said = _inputs(found, at, target.rows, train)
    goal = (_classes if target.labels else _numbers)(found.names[at], target, train, validation)
    source = used[0] if len(used) == 1 else f"{len(used)} columns"
    parts = f"{plural(len(train), 'row')} to train on, {len(validation):,} to judge by"
    batch = int(np.clip(2 ** round(math.log2(len(train) / 30)), 8, 256))
    return Task(
        functools.partial(_model, x.shape[1], goal.outputs, len(train)),
        (x[train], goal.y[train]),
        (x[validation], goal.y[validation]),
        loss=goal.loss,
        metric=goal.metric,
        epochs=int(np.clip(1000 // (len(train) // batch), 3, 60)),
        batch_size=batch,
        name=found.path.stem,
        about=" ".join([f"{goal.kind}, from {source}: {parts}. {goal.guess}", *_as_read(found), *target.said, *said]),
    )


def _as_read(found: Table) -> list[str]:
    """A sentence on the columns whose numbers aren't plain: a cell and its value for each."""
    examples = [
        f"`{name}` {column.example[0]!r} is {column.example[1]:.10g}"
        for name, column in zip(found.names, found.number_columns, strict=True)
        if column.example
    ]
    return [f"Numbers as they are read: {'; '.join(examples)}."] if examples else []


def _model(inputs: int, outputs: int, rows: int) -> nn.Module:
    """A perceptron as wide as the root of the number of rows, between 8 and 128."""
    width = int(np.clip(rows**0.5, 8, 128))
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
    if rows >= TWO_LAYERS_FROM:
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _position(found: Table, column: str | None) -> int:
    """Which column is to be predicted."""
    if column is None:
        known = ", ".join(f"`{name}`" for name in found.names)
        raise InvalidValue(f"which column of {found.path} is to be predicted? Give --target, one of {known}.")
    if not isinstance(column, str):
        raise InvalidType(f"`column` must be the name of a column of {found.path}; received {column!r}.")
    if column.strip() in found.names:
        return found.names.index(column.strip())
    numeric = [name for name in found.names if PLAIN_NUMBER.fullmatch(name)]
    if numeric:
        raise InvalidValue(
            f"{found.path} has no column `{column}`, and seems to have no names: its first line holds {numeric[0]}. "
            f"The first line must name the columns."
        )
    alone = " Columns are separated by commas, semicolons, tabs or vertical bars." if len(found.names) == 1 else ""
    raise InvalidValue(f"{found.path} has no column `{column}`. {did_you_mean(column, found.names)}{alone}")


@dataclass
class _TargetColumn:
    """What is to be predicted in which rows: numbers, or the positions of labels among `labels`."""

    rows: list[int]
    y: np.ndarray
    labels: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def _target(found: Table, at: int) -> _TargetColumn:
    name = found.names[at]
    said: list[str] = []
    rows = [i for i, row in enumerate(found.rows) if not is_missing(row[at])]
    without = len(found.rows) - len(rows)
    if without:
        said.append(f"{plural(without, 'row')} without a `{name}` {'is' if without == 1 else 'are'} left out.")
    _enough(found, name, rows)
    cells = [found.rows[row][at] for row in rows]
    values = found.numbers(at, rows)
    numeric = [value for value in values if value is not None]
    every = len(numeric) == len(cells)
    if every:
        found.check_finite(at, rows, values)
    different = len(set(numeric)) + len({cell for cell, value in zip(cells, values, strict=True) if value is None})
    if different == 1:
        raise InvalidValue(f"`{name}` is {cells[0]} in every row of {found.path}: there is nothing to learn.")
    few = different <= MAX_INTEGER_CLASSES and different * 10 <= len(cells)
    if every and not (few and all(value == int(value) for value in numeric)):
        return _TargetColumn(rows, np.array(numeric), said=said)
    if every:
        said.append(f"The {different} different whole numbers in `{name}` are taken as classes.")
        cells = [str(int(value)) for value in numeric]
    elif different * MIN_CLASS_ROWS > len(cells) or (2 * len(numeric) > len(cells) and different > MAX_INTEGER_CLASSES):
        stray = values.index(None)
        raise InvalidValue(
            f"`{name}` is neither a number in every row nor one of a few classes: {found.path} holds {cells[stray]!r} "
            f"in line {found.lines[rows[stray]]}, and {different} different values in {len(cells):,} rows. Numbers are "
            f"written plain, such as 1200.5; leave the cell empty where there is none."
        )
    rare = {label: count for label, count in Counter(cells).items() if count < MIN_CLASS_ROWS}
    if rare:
        listed = _listed([f"{label} ({count})" for label, count in rare.items()])
        said.append(f"Left out as classes with fewer than {MIN_CLASS_ROWS} rows: {listed}.")
        rows = [row for row, cell in zip(rows, cells, strict=True) if cell not in rare]
        cells = [cell for cell in cells if cell not in rare]
        if len(set(cells)) < 2:
            raise InvalidValue(
                f"`{name}` needs two classes of at least {MIN_CLASS_ROWS} rows each; fewer than that in {found.path}: "
                f"{listed}."
            )
        _enough(found, name, rows)
    labels = sorted(set(cells), key=float if every else None)
    return _TargetColumn(rows, np.array([labels.index(cell) for cell in cells]), labels, said)


def _enough(found: Table, name: str, rows: Sequence[int]) -> None:
    if len(rows) < MIN_ROWS:
        raise InvalidValue(
            f"{found.path} has {plural(len(rows), 'row')} with a `{name}` to learn from; at least {MIN_ROWS} are "
            f"needed, some to train on and some to judge by."
        )


def _split(target: _TargetColumn) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are trained on and which judge: always the same, and with as much of each class in both."""
    from sklearn.model_selection import train_test_split

    stratify = target.y if target.labels else None
    train, validation = train_test_split(np.arange(len(target.y)), test_size=0.25, random_state=0, stratify=stratify)
    return train, validation


def _inputs(found: Table, at: int, rows: Sequence[int], train: np.ndarray) -> tuple[torch.Tensor, list[str], list[str]]:
    """All other columns as numbers (rows, inputs), the names of those that are used, and what is to be said."""
    parts, used, text, left_out, said = [], [], [], [], []
    for i, name in enumerate(found.names):
        if i == at:
            continue
        column = encoded(found, i, rows, train)
        if column.values is None:
            left_out.append(f"`{name}` ({column.note})")
        else:
            parts.append(column.values)
            used.append(f"`{name}`")
            text += [f"`{name}`"] if column.text else []
            said += [column.note] if column.note else []
    if not parts:
        others = f": {', '.join(left_out)}" if left_out else ", as it has no other"
        raise InvalidValue(f"{found.path} has no column to predict `{found.names[at]}` from{others}.")
    if text:
        said.append(f"Read as text: {', '.join(text)}.")
    if left_out:
        said.append(f"Left out: {', '.join(left_out)}.")
    return torch.as_tensor(np.concatenate(parts, 1)).float(), used, said


@dataclass
class _Objective:
    """How the target is learned and judged, and what guessing without looking would reach."""

    y: torch.Tensor
    outputs: int
    loss: str
    metric: Metric
    kind: str
    guess: str


def _classes(name: str, target: _TargetColumn, train: np.ndarray, validation: np.ndarray) -> _Objective:
    commonest = np.bincount(target.y[train]).argmax()
    share = float((target.y[validation] == commonest).mean())
    kind = f"`{name}` as one of {len(target.labels)} classes ({_listed(target.labels)})"
    guess = f"The most frequent class for all would have an accuracy of {share:.3g}."
    return _Objective(torch.as_tensor(target.y), len(target.labels), "cross_entropy", METRICS["accuracy"], kind, guess)


def _numbers(name: str, target: _TargetColumn, train: np.ndarray, validation: np.ndarray) -> _Objective:
    if np.ptp(target.y[train]) == 0:
        raise InvalidValue(
            f"`{name}` is {target.y[train][0]:g} in every row that would be trained on: there is nothing to learn."
        )
    mean, deviation = float(target.y[train].mean()), float(target.y[train].std())
    y = torch.as_tensor((target.y - mean) / deviation).float().unsqueeze(1)
    metric = Metric("rmse", squared_error, "min", functools.partial(_in_units, deviation=deviation))
    error = float(np.sqrt(np.square(target.y[validation] - mean).mean()))
    return _Objective(
        y, 1, "mse", metric, f"`{name}` as a number", f"The mean of all would have an rmse of {_short(error)}."
    )


def _in_units(mean: float, deviation: float) -> float:
    return max(mean, 0.0) ** 0.5 * deviation


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"


def _listed(words: Sequence[str], most: int = 5) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
