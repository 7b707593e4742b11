"""The column to predict: classes or numbers, in which rows, and the loss and metric that follow."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...errors import InvalidType, InvalidValue, did_you_mean
from ...losses import CrossEntropyLoss
from ...wording import listed, plural
from ..metrics import METRICS, POSITIVE, Metric, absolute_error, scaled, squared_error
from .columns import find_sentinels, sentinel_note
from .dates import find_date_formats
from .number_cells import PLAIN_NUMBER
from .reader import Table

KINDS = ("classes", "number")
MIN_ROWS = 20
"""The least number of rows with a target."""
MAX_INTEGER_CLASSES = 10
"""Whole numbers with at most this number of different values are classes, where each has ten rows on average."""
MIN_CLASS_ROWS = 4
"""A class with fewer rows can't be in both parts."""


@dataclass
class Target:
    """The values to predict.

    Attributes:
        rows: The rows of the table that have a value.
        y: The numbers, or the index into `labels`, for each of these rows.
        labels: The classes; empty for numbers.
        mean, deviation: The scale of the numbers, from the training rows.
        said: Sentences about the column.
    """

    name: str
    rows: np.ndarray
    y: np.ndarray
    labels: list[str] = field(default_factory=list)
    mean: float = 0.0
    deviation: float = 1.0
    said: list[str] = field(default_factory=list)


@dataclass
class Objective:
    """The targets as the loss takes them, the loss, the metrics by name, and the result of a guess without inputs.

    The first metric decides; names that a caller gives mean these metrics before all others.
    """

    y: torch.Tensor
    outputs: int
    loss: Any
    metrics: dict[str, Metric]
    kind: str
    guess: str


def find_column(table: Table, column: str | None, argument: str = "column") -> int:
    """Return the index of a column, by its name."""
    if column is None:
        known = ", ".join(f"`{name}`" for name in table.names)
        raise InvalidValue(f"which column of {table.path} is to be predicted? Give --target, one of {known}.")
    if not isinstance(column, str):
        raise InvalidType(f"`{argument}` must be the name of a column of {table.path}; received {column!r}.")
    if column.strip() in table.names:
        return table.names.index(column.strip())
    numeric = [name for name in table.names if PLAIN_NUMBER.fullmatch(name)]
    if numeric:
        raise InvalidValue(
            f"{table.path} has no column `{column}`, and seems to have no names: its first line holds {numeric[0]}. "
            f"Help: name the columns in the first line."
        )
    alone = " Columns are separated by commas, semicolons, tabs or vertical bars." if len(table.names) == 1 else ""
    raise InvalidValue(f"{table.path} has no column `{column}`. {did_you_mean(column, table.names)}{alone}")


def read_target(table: Table, at: int, kind: str | None = None) -> Target:
    """Decide which rows have a target and whether it is a class or a number.

    Args:
        table: The table.
        at: The index of the column.
        kind: "classes" or "number"; None decides by the cells.

    Raises:
        InvalidValue: Nothing can be learned from the column; with the line.
    """
    if kind not in (None, *KINDS):
        raise InvalidValue(f"`kind` must be 'classes' or 'number'; received {kind!r}.")
    name, cells, numbers = table.names[at], table.columns[at], table.number_columns[at]
    said: list[str] = []
    rows = np.flatnonzero(~cells.missing)
    if kind != "classes":
        sentinels = find_sentinels(numbers.values[rows])
        if sentinels and not np.isnan(numbers.values[rows]).any():
            said.append(sentinel_note(name, numbers.values[rows], sentinels))
            rows = rows[~np.isin(numbers.values[rows], sentinels)]
    without = len(table) - len(rows)
    if without:
        said.append(f"{plural(without, 'row')} without a `{name}` {'is' if without == 1 else 'are'} left out.")
    _check_count(table, name, rows)
    values = numbers.values[rows]
    every = not np.isnan(values).any()
    if every:
        table.check_finite(at, rows)
    known = np.unique(values[~np.isnan(values)])
    texts = {cells.texts[code] for code in np.unique(cells.codes[rows[np.isnan(values)]])}
    different = len(known) + len(texts)
    if different == 1:
        raise InvalidValue(f"`{name}` is {cells[rows[0]]} in every row of {table.path}: there is nothing to learn.")
    whole = every and bool((known == np.floor(known)).all())
    few = different <= MAX_INTEGER_CLASSES and different * 10 <= len(rows)
    if kind == "number" and not every:
        stray = rows[int(np.argmax(np.isnan(values)))]
        raise InvalidValue(
            f"`{name}` must be a number in every row with kind='number'; received {cells[stray]!r} in "
            f"{table.place(stray)}. Help: leave the cell empty where there is none, or omit --kind."
        )
    if kind == "number" or (kind is None and every and not (few and whole)):
        return Target(name, rows, values, said=said)
    if every and kind is None:
        said.append(
            f"The {different} different whole numbers in `{name}` are taken as classes (--kind number: as a number)."
        )
    if kind is None and not every:
        _check_classes(table, at, rows, values, different)
    labels = [f"{value:.15g}" for value in values] if every else [cells[row] for row in rows]
    return _classes(table, name, rows, labels, said, float if every else None)


def _check_classes(table: Table, at: int, rows: np.ndarray, values: np.ndarray, different: int) -> None:
    """Reject text that is neither numbers nor a few classes."""
    n_numbers = int((~np.isnan(values)).sum())
    mostly_numbers = 2 * n_numbers > len(rows) and different > MAX_INTEGER_CLASSES
    if different * MIN_CLASS_ROWS > len(rows) or mostly_numbers:
        stray = rows[int(np.argmax(np.isnan(values)))]
        days = "; write a date as a number of days" if find_date_formats(table.columns[at]) else ""
        raise InvalidValue(
            f"`{table.names[at]}` is neither a number in every row nor one of a few classes: "
            f"{table.columns[at][stray]!r} in {table.place(stray)}, and {different} different values in "
            f"{len(rows):,} rows. Help: write numbers plain, such as 1200.5, and leave the cell empty where there is "
            f"none{days}."
        )


def _classes(table: Table, name: str, rows: np.ndarray, labels: list[str], said: list[str], key: type | None) -> Target:
    counts = Counter(labels)
    rare = {label: count for label, count in counts.items() if count < MIN_CLASS_ROWS}
    if rare:
        names = listed([f"{label} ({count})" for label, count in rare.items()])
        if len(counts) - len(rare) < 2:
            raise InvalidValue(
                f"`{name}` needs two classes of at least {MIN_CLASS_ROWS} rows each; fewer than that in {table.path}: "
                f"{names}."
            )
        said.append(f"Left out as classes with fewer than {MIN_CLASS_ROWS} rows: {names}.")
        common = np.array([label not in rare for label in labels])
        rows, labels = rows[common], [label for label in labels if label not in rare]
        _check_count(table, name, rows)
    order = sorted(set(labels), key=key)
    index = {label: i for i, label in enumerate(order)}
    return Target(name, rows, np.array([index[label] for label in labels]), order, said=said)


def _check_count(table: Table, name: str, rows: Sequence[int] | np.ndarray) -> None:
    if len(rows) < MIN_ROWS:
        raise InvalidValue(
            f"{table.path} has {plural(len(rows), 'row')} with a `{name}`; training and validation need at least "
            f"{MIN_ROWS}."
        )


def make_objective(
    target: Target, train: np.ndarray, validation: np.ndarray, class_weights: str | None = None
) -> Objective:
    """Scale the numbers by the training rows, and choose the loss and the metrics.

    Args:
        target: The column to predict.
        train: The training rows.
        validation: The validation rows.
        class_weights: "balanced" weights each class by the inverse of its share of the training rows.
    """
    if class_weights not in (None, "balanced"):
        raise InvalidValue(f"`class_weights` must be balanced, or not given; received {class_weights!r}.")
    if class_weights and not target.labels:
        raise InvalidValue(f"`class_weights` is for classes; `{target.name}` is a number. Help: omit it.")
    if target.labels:
        most_frequent = np.bincount(target.y[train]).argmax()
        share = float((target.y[validation] == most_frequent).mean())
        kind = f"`{target.name}` as one of {len(target.labels)} classes ({listed(target.labels)})"
        guess = f"Predicting the most frequent class gives an accuracy of {share:.3g}."
        y = torch.as_tensor(target.y)
        loss: Any = "cross_entropy"
        if class_weights:
            counts = np.bincount(target.y[train], minlength=len(target.labels))
            weight = torch.as_tensor(len(train) / (len(counts) * counts)).float()
            loss = {"balanced cross_entropy": CrossEntropyLoss(weight=weight)}
        return Objective(y, len(target.labels), loss, {"accuracy": METRICS["accuracy"]}, kind, guess)
    if np.ptp(target.y[train]) == 0:
        raise InvalidValue(
            f"`{target.name}` is {target.y[train][0]:g} in every training row: there is nothing to learn."
        )
    target.mean, target.deviation = float(target.y[train].mean()), float(target.y[train].std())
    y = torch.as_tensor((target.y - target.mean) / target.deviation).float().unsqueeze(1)
    deviation = target.deviation  # scores are in units that all splits share
    metrics = {
        "rmse": Metric(
            "rmse",
            functools.partial(scaled, error=squared_error, factor=deviation**2),
            "min",
            _root,
            takes_convention=True,
            bounds=POSITIVE,
        ),
        "mae": Metric(
            "mae",
            functools.partial(scaled, error=absolute_error, factor=deviation),
            "min",
            takes_convention=True,
            bounds=POSITIVE,
        ),
    }
    error = float(np.sqrt(np.square(target.y[validation] - target.mean).mean()))
    guess = f"Predicting the mean gives an rmse of {_short(error)}."
    return Objective(y, 1, "mse", metrics, f"`{target.name}` as a number", guess)


def _root(mean: float) -> float:
    return max(mean, 0.0) ** 0.5


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"
