"""A table in a file as a task: a model that fits it, and a sentence on every decision."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...errors import InvalidType, InvalidValue
from ...wording import plural
from ..requirements import require
from ..task import Task, check_whole_number
from .checks import check_data
from .columns import Column, fit_column
from .decoding import OTHERS, TABLES
from .encoders import Encoder
from .reader import Table, read_table
from .split import Split, split_rows
from .target import Target, find_column, make_objective, read_target

TWO_LAYERS_FROM = 500
"""The number of training rows from which the model has a second hidden layer."""


@dataclass
class TableTask(Task):
    """The task of a table, with everything that is needed to predict from other rows.

    Attributes:
        encoders: The encoders of the columns that are used.
        table_target: The column to predict: its labels, or its scale.
        validation_lines: The line of each validation row, such as "line 2 of data.csv".
    """

    encoders: Sequence[Encoder] = field(default_factory=tuple)
    table_target: Target | None = None
    validation_lines: Sequence[str] = field(default_factory=tuple)


def is_table(text: str) -> bool:
    """Return whether `text` names a file with a table rather than a task."""
    return Path(text).suffix.lower() in TABLES + OTHERS


def table(
    path: str | Path,
    column: str | None,
    *,
    kind: str | None = None,
    group: str | None = None,
    time: str | None = None,
    validation: str | Path | None = None,
    drop: str | Sequence[str] = (),
    batch_size: int | None = None,
    class_weights: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
) -> TableTask:
    r"""Return the task of predicting one column of a .csv or .tsv file, as `piste compare data.csv` does.

    The first line holds the names. Text, or a few different whole numbers, are classes, judged by accuracy; other
    numbers are predicted by regression, judged by the root mean square error in their own units. A quarter of the
    rows is kept for validation; medians, frequent values and scales come from the others alone. In a comparison every
    seed draws its own quarter, unless `time` or `validation` gives it; the split here is that of seed 0.
    `about` states every decision about the table, and what was left out of it.

    Args:
        path: The file.
        column: The name of the column to predict.
        kind: "classes" or "number"; decided by the cells if not given.
        group: A column, such as a patient's number; rows with the same value stay in the same part.
        time: A column of dates or numbers; the latest quarter of the rows is kept for validation.
        validation: A file with the same columns whose rows are used for validation, all others for training.
        drop: Names of columns to leave out.
        batch_size: The number of rows in a batch; chosen by the size of the table if not given.
        class_weights: "balanced" weights each class by the inverse of its share of the training rows, in the loss of
            the task, `balanced cross_entropy`.
        decimal: The decimal sign of all numbers, "." or ","; decided for each column from its cells if not given.
        encoding: The encoding of the text, such as "cp1252"; recognised if not given.

    Returns:
        The task.

    Raises:
        InvalidValue: Nothing can be learned from the table, or an argument is out of range; with the line where there
            is one.
        InvalidType: The name of a column is no string.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "lines.csv"
        >>> _ = file.write_text("x,y\n" + "".join(f"{i % 7},{i % 7 + i / 10}\n" for i in range(40)))
        >>> print(table(file, column="y").about)
        `y` as a number, from `x`: 30 training rows, 10 validation rows. Predicting the mean gives an rmse of 1.68.
    """
    require("`table`")
    if batch_size is not None:
        check_whole_number("batch_size", batch_size, least=1)
    found = read_table(Path(path), decimal, encoding)
    at = find_column(found, column)
    dropped = [found.names[find_column(found, name, "drop")] for name in _names(drop)]
    if found.names[at] in dropped:
        raise InvalidValue(f"`drop` names `{found.names[at]}`, the column to predict. Help: omit it.")
    found = found.without(dropped)
    if validation is not None:
        found = found.with_validation(read_table(Path(validation), decimal, encoding))
    at = find_column(found, column)
    target = read_target(found, at, kind)
    left_out = {name: "as asked" for name in dropped}
    if group is not None:
        left_out[group.strip()] = "groups the rows"
    source = _Source(found, target, left_out, group, time, batch_size, class_weights)
    task, split = source.fit(0)
    task.about = " ".join([task.about, *check_data(found, target, split, task.encoders)])
    if time is None and validation is None:
        task.resplit, task.examples = source.of_seed, split.validation
    return task


@dataclass
class _Source:
    """A table that every seed splits and fits again."""

    table: Table
    target: Target
    left_out: dict[str, str]
    group: str | None
    time: str | None
    batch_size: int | None
    class_weights: str | None

    def of_seed(self, seed: int) -> TableTask:
        """Return the task with the split of a seed."""
        task, split = self.fit(seed)
        task.examples = split.validation
        return task

    def fit(self, seed: int) -> tuple[TableTask, Split]:
        """Fit the columns and the scale of the target to the training rows of a seed."""
        found, target = self.table, dataclasses.replace(self.target)
        split = split_rows(found, target, self.group, self.time, seed)
        columns = _fit_columns(found, target, split, self.left_out)
        encoders = [column.encoder for column in columns.values() if column.encoder]
        if not encoders:
            reasons = _left_out(columns)
            raise InvalidValue(
                f"{found.path} has no column to predict `{target.name}` from"
                f"{f': {reasons}' if reasons else ', as it has no other'}."
            )
        x = torch.as_tensor(encode(found, encoders)[target.rows]).float()
        objective = make_objective(target, split.train, split.validation, self.class_weights)
        train, held_out = torch.as_tensor(split.train), torch.as_tensor(split.validation)
        batch = self.batch_size or int(np.clip(2 ** round(math.log2(len(train) / 30)), 8, 256))
        source = f"`{encoders[0].name}`" if len(encoders) == 1 else f"{len(encoders)} columns"
        parts = f"{plural(len(train), 'training row')}, {plural(len(held_out), 'validation row')}"
        about = [f"{objective.kind}, from {source}: {parts}.", objective.guess, *[split.said] * bool(split.said)]
        about += [*found.said, *_readings(found, self.left_out), *target.said, *_descriptions(columns)]
        task = TableTask(
            functools.partial(make_model, x.shape[1], objective.outputs, len(train)),
            (x[train], objective.y[train]),
            (x[held_out], objective.y[held_out]),
            loss=objective.loss,
            metric=next(iter(objective.metrics.values())),
            epochs=int(np.clip(1000 // max(len(train) // batch, 1), 3, 60)),
            batch_size=batch,
            name=found.path.stem,
            about=" ".join(about),
            encoders=encoders,
            own_metrics=objective.metrics,
            table_target=target,
            validation_lines=[found.place(row) for row in target.rows[split.validation]],
        )
        return task, split


def make_model(inputs: int, outputs: int, rows: int) -> nn.Module:
    """Return a perceptron as wide as the root of the number of rows, between 8 and 128."""
    width = int(np.clip(rows**0.5, 8, 128))
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
    if rows >= TWO_LAYERS_FROM:
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _names(drop: str | Sequence[str]) -> list[str]:
    names = [drop] if isinstance(drop, str) else drop
    if not isinstance(names, (list, tuple)):
        raise InvalidType(f"`drop` must be a list of names of columns; received {drop!r}.")
    return list(names)


def _fit_columns(found: Table, target: Target, split: Split, left_out: dict[str, str]) -> dict[str, Column]:
    """Return the columns except the target, by name; `left_out` gives the reasons for those that are no inputs."""
    train = target.rows[split.train]
    fitted = {
        name: fit_column(found, i, target.rows, train)
        for i, name in enumerate(found.names)
        if name != target.name and name not in left_out
    }
    return fitted | {name: Column(None, reason) for name, reason in left_out.items()}


def encode(found: Table, encoders: Sequence[Encoder]) -> np.ndarray:
    """Return the inputs of each row (rows, inputs)."""
    return np.concatenate([encoder.encode(found.columns[found.names.index(encoder.name)]) for encoder in encoders], 1)


def _readings(found: Table, left_out: Collection[str]) -> list[str]:
    """Sentences on the columns whose numbers aren't plain, or can be read in two ways."""
    columns = [
        (name, column) for name, column in zip(found.names, found.number_columns, strict=True) if name not in left_out
    ]
    said = []
    examples = [f"`{name}` {it.example[0]!r} is {it.example[1]:.10g}" for name, it in columns if it.example]
    if examples:
        said.append(f"Numbers as they are read: {'; '.join(examples)}.")
    assumed = [
        f"`{name}` {it.assumed[0]!r} as {it.assumed[1]:.10g} ({it.assumed[2]:.10g} with a decimal comma)"
        for name, it in columns
        if it.assumed
    ]
    if assumed:
        said.append(f"A decimal point is assumed, since commas separate the cells: {'; '.join(assumed)}. --decimal "
                    f"decides.")  # fmt: skip
    return said


def _descriptions(columns: dict[str, Column]) -> list[str]:
    """Sentences on how the columns are read."""
    said = [column.note for column in columns.values() if column.note]
    dates = [f"`{name}` {it.date[0]!r} is {it.date[1]}" for name, it in columns.items() if it.date]
    if dates:
        said.append(f"Dates, as elapsed days, year, month and day of the week: {'; '.join(dates)}.")
    text = [
        f"`{name}`{f' ({column.code})' if column.code else ''}"
        for name, column in columns.items()
        if column.encoder and column.encoder.kind == "text"
    ]
    if text:
        said.append(f"Read as text: {', '.join(text)}.")
    reasons = _left_out(columns)
    return [*said, f"Left out: {reasons}."] if reasons else said


def _left_out(columns: dict[str, Column]) -> str:
    return ", ".join(f"`{name}` ({column.reason})" for name, column in columns.items() if not column.encoder)
