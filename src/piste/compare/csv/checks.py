"""Checks of the data behind a comparison: copies of rows in both parts, and columns that give the target away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...wording import listed, plural
from .cells import Cells
from .columns import is_identifier
from .encoders import Encoder, NumberEncoder
from .reader import Table
from .split import Split
from .target import Target

MIN_DISTINCT = 10
"""A number gives another number away only if it has this number of different values."""
MIN_ROWS_PER_VALUE = 4
"""A text column gives the target away only if each of its values has this number of rows on average."""


def check_data(table: Table, target: Target, split: Split, encoders: Sequence[Encoder]) -> list[str]:
    """Sentences about everything that makes the result look better than it is.

    Args:
        table: The table.
        target: The rows with a target.
        split: The training rows and the validation rows.
        encoders: The encoders of the columns that are used.
    """
    used = [table.names.index(encoder.name) for encoder in encoders]
    said = [*_copies(table, target, split, used), *_shared_identifiers(table, target, split)]
    leaks = [
        f"`{encoder.name}`"
        for at, encoder in zip(used, encoders, strict=True)
        if _gives_away(encoder, table.columns[at], target, split)
    ]
    if leaks:
        one = len(leaks) == 1
        said.append(
            f"{listed(leaks)} alone {'tells' if one else 'tell'} `{target.name}` in every row: leave "
            f"{'it' if one else 'them'} out (--drop) if {'it is' if one else 'they are'} not known beforehand."
        )
    return said


def _copies(table: Table, target: Target, split: Split, used: Sequence[int]) -> list[str]:
    at = table.names.index(target.name)
    cells = np.stack([table.columns[i].codes[target.rows] for i in [*used, at]], 1)
    _, row = np.unique(cells, axis=0, return_inverse=True)
    copies = int(np.isin(row[split.validation], row[split.train]).sum())
    if not copies:
        return []
    return [
        f"{plural(copies, 'validation row')} {'is a copy' if copies == 1 else 'are copies'} of training rows, in every "
        f"column that is used."
    ]


def _shared_identifiers(table: Table, target: Target, split: Split) -> list[str]:
    said = []
    for name, cells in zip(table.names, table.columns, strict=True):
        if not is_identifier(name) or name == target.name:
            continue
        codes = np.where(cells.missing, -1, cells.codes)[target.rows]
        shared = np.intersect1d(codes[split.train], codes[split.validation])
        shared = shared[shared >= 0]
        if shared.size:
            said.append(
                f"{plural(shared.size, 'value')} of `{name}` {'has' if shared.size == 1 else 'have'} rows in both "
                f"parts: --group {name} keeps them together."
            )
    return said


def _gives_away(encoder: Encoder, cells: Cells, target: Target, split: Split) -> bool:
    """Return whether the column alone determines the target of every training row."""
    codes, y = cells.codes[target.rows[split.train]], target.y[split.train]
    if isinstance(encoder, NumberEncoder):
        values = encoder.values(cells)[codes]
        known = ~np.isnan(values)
        if known.sum() < 0.9 * len(values) or len(np.unique(values[known])) < 2:
            return False
        if not target.labels:
            return _monotone(values[known], y[known])
        if _separates(values[known], y[known], len(np.unique(y))):
            return True
    if not target.labels:
        return False
    present, codes = np.unique(codes, return_inverse=True)
    if len(present) * MIN_ROWS_PER_VALUE > len(codes) or len(present) < len(np.unique(y)):
        return False
    table = np.zeros((len(present), len(target.labels)), int)
    np.add.at(table, (codes, y), 1)
    return bool((np.count_nonzero(table, 1) == 1).all())


def _monotone(values: np.ndarray, y: np.ndarray) -> bool:
    """Return whether the target always rises, or always falls, with the value, and is the same for the same value."""
    order = np.lexsort((y, values))
    steps, same = np.diff(y[order]), np.diff(values[order]) == 0
    if len(np.unique(values)) < MIN_DISTINCT or (steps[same] != 0).any():
        return False
    return bool((steps[~same] > 0).all() or (steps[~same] < 0).all())


def _separates(values: np.ndarray, y: np.ndarray, n_classes: int) -> bool:
    """Return whether each class has a range of values of its own."""
    order = np.lexsort((y, values))
    changes = np.diff(y[order]) != 0
    apart = np.diff(values[order]) > 0
    return bool(changes.sum() == n_classes - 1 and apart[changes].all())
