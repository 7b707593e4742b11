"""The training rows and the validation rows: at random, by group, by time, or from a file of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InvalidValue
from ...wording import listed, plural
from .columns import is_numeric
from .dates import date_values, describe_date, find_date_formats
from .reader import Table
from .target import Target, find_column

VALIDATION_SHARE = 0.25
MIN_GROUPS = 4


@dataclass
class Split:
    """Indices into the target's rows, and a sentence on how they were chosen ("" for a random split)."""

    train: np.ndarray
    validation: np.ndarray
    said: str = ""


def split_rows(
    table: Table, target: Target, group: str | None = None, time: str | None = None, seed: int = 0
) -> Split:  # fmt: skip
    """Choose a quarter of the rows for validation, at random unless they are given or the latest.

    Args:
        table: The table; the rows of its validation file, if it has one, are the validation rows.
        target: The rows with a target.
        group: A column whose equal values stay in the same part.
        time: A column of dates or numbers; the latest rows are the validation rows.
        seed: The seed of the choice.

    Raises:
        InvalidValue: A part would be empty or lack a class.
    """
    given = {"--group": group, "--time": time, "--validation": table.validation_path}
    used = [option for option, value in given.items() if value is not None]
    if len(used) > 1:
        raise InvalidValue(f"give one of {', '.join(given)}; received {' and '.join(used)}.")
    if group is not None:
        split = _by_group(table, target, find_column(table, group, "group"), seed)
    elif time is not None:
        split = _by_time(table, target, find_column(table, time, "time"))
    elif table.n_train is not None:
        below = target.rows >= table.n_train
        split = Split(
            np.flatnonzero(~below), np.flatnonzero(below), f"The validation rows are those of {table.validation_path}."
        )
    else:
        split = _at_random(target, seed)
    return _with_known_classes(table, target, split)


def _at_random(target: Target, seed: int) -> Split:
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(target.y))
    stratify = target.y if target.labels else None
    return Split(*train_test_split(rows, test_size=VALIDATION_SHARE, random_state=seed, stratify=stratify))


def _by_group(table: Table, target: Target, at: int, seed: int) -> Split:
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    name, cells = table.names[at], table.columns[at]
    groups = cells.codes[target.rows].copy()
    missing = cells.missing[target.rows]
    groups[missing] = len(cells.texts) + np.arange(missing.sum())  # each row without a group is its own
    n_groups = len(np.unique(groups))
    if n_groups < MIN_GROUPS:
        raise InvalidValue(
            f"`{name}` must have at least {MIN_GROUPS} different values to group rows by; {table.path} has {n_groups}."
        )
    rows = np.arange(len(groups))
    if target.labels:
        folds = StratifiedGroupKFold(round(1 / VALIDATION_SHARE), shuffle=True, random_state=seed)
    else:
        folds = GroupShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=seed)
    train, validation = next(folds.split(rows, target.y, groups))
    n_validation = len(np.unique(groups[validation]))
    said = (
        f"Rows of one `{name}` stay in one part: {n_groups - n_validation} in training, {n_validation} in validation."
    )
    return Split(train, validation, said)


def _by_time(table: Table, target: Target, at: int) -> Split:
    name, cells = table.names[at], table.columns[at]
    formats = find_date_formats(cells)
    values = table.number_columns[at].values[target.rows]
    if len(formats) == 1:
        values = date_values(cells, formats[0])[cells.codes[target.rows]]
    elif formats or not is_numeric(cells, table.number_columns[at], target.rows):
        example = next(text for text in cells.texts)
        reason = "its day and month can't be told apart" if formats else "it holds no dates or numbers"
        raise InvalidValue(
            f"`{name}` must hold dates or numbers to split by time; {reason}, such as {example!r} in "
            f"{table.place(0)}. Help: write dates as 2024-03-05."
        )
    unknown = np.flatnonzero(np.isnan(values))
    if unknown.size:
        raise InvalidValue(
            f"`{name}` must be known in every row to split by time; received {cells[target.rows[unknown[0]]]!r} in "
            f"{table.place(target.rows[unknown[0]])}. Help: fill the cell or delete the row."
        )
    start = np.sort(values)[int(len(values) * (1 - VALIDATION_SHARE))]
    later = values >= start
    if later.all():
        raise InvalidValue(f"`{name}` is the same in most rows of {table.path}: they can't be split by time.")
    shown = describe_date(start) if formats else f"{start:.10g}"
    return Split(
        np.flatnonzero(~later), np.flatnonzero(later), f"The validation rows are those with `{name}` from {shown} on."
    )


def _with_known_classes(table: Table, target: Target, split: Split) -> Split:
    """Leave out validation rows of classes that no training row has, and check that both parts have rows."""
    if target.labels and len(split.train):
        present = np.unique(target.y[split.train])
        unknown = ~np.isin(target.y[split.validation], present)
        if unknown.any():
            labels = [target.labels[i] for i in np.unique(target.y[split.validation[unknown]])]
            split.said += (
                f" Left out: {plural(int(unknown.sum()), 'validation row')} of classes without a training row "
            )
            split.said += f"({listed(labels)})."
            split.validation = split.validation[~unknown]
        if len(present) < 2:
            raise InvalidValue(
                f"`{target.name}` is {target.labels[present[0]]} in every training row: there is nothing to learn."
            )
    if not len(split.train) or not len(split.validation):
        part = "training" if not len(split.train) else "validation"
        raise InvalidValue(f"no row of {table.path} with a `{target.name}` is left for {part}.")
    return split
