"""NaN and infinity in the data: named by row before training, unless the model takes them as input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ...errors import InvalidValue
from ..batches import take_rows, tensors_of
from ..data import Data
from ..objective import call_model
from ..task import Task

Judge = Callable[[torch.Tensor, torch.Tensor], Any]

MAX_ROWS = 256
"""Rows with NaN or infinity that are put through the model, to see whether its output is finite."""


def check_finite(
    task: Task, model: torch.nn.Module, data: Data, losses: Mapping[str, Judge], metrics: Mapping[str, Judge]
) -> None:
    """Raise for the first row whose NaN or infinity makes the output, a loss or the metric not finite.

    A model may take NaN as a missing value, and a custom loss may leave it out, so rows are judged by what the
    untrained model, the losses (training data) and the metrics (validation data) make of them. Datasets and loaders are
    read as far as the fixed training examples and the validation data. Batches of a custom step are not checked.

    Raises:
        InvalidValue: With the role of the data, the row and the value.
    """
    for role, (x, y), first in _pairs(task, data):
        rows = torch.cat([nonfinite_rows(part) for part in (*tensors_of(x), y)]).unique()[:MAX_ROWS]
        if not len(rows):
            continue
        chosen = take_rows((x, y), rows)
        output = call_model(model, chosen[0])
        if len(bad := nonfinite_rows(output)):
            row = int(rows[bad[0]])
            raise InvalidValue(
                f"row {first + row} of the {role} data has {_value(x, row)} in X, and the model's output for it is not "
                f"finite. Help: leave the row out, or replace the value."
            )
        for name, judge in (losses if role == "training" else metrics).items():
            for at, row in enumerate(rows.tolist()):
                if len(nonfinite_rows(y[row : row + 1])) and not _is_finite(
                    judge, output[at : at + 1], y[row : row + 1]
                ):
                    raise InvalidValue(
                        f"row {first + row} of the {role} data has {_value(y, row)} in y, for which {name} is not "
                        f"finite. Help: leave the row out, or give it a number."
                    )


def _is_finite(judge: Judge, output: torch.Tensor, target: torch.Tensor) -> bool:
    try:
        return bool(torch.isfinite(torch.as_tensor(judge(output, target))).all())
    except Exception:  # refused, or not to be computed for one row
        return False


def nonfinite_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return the indices of rows with NaN or infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return torch.empty(0, dtype=torch.long)
    if tensor.sum().isfinite():  # fast; finite values whose sum overflows are inspected one by one
        return torch.empty(0, dtype=torch.long)
    return (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().squeeze(1)


def _pairs(task: Task, data: Data) -> Iterator[tuple[str, Any, int]]:
    """(role, (X, y), number of the first row) for all pairs that are in memory."""
    if task.training_step is None and not task.objective.is_custom:
        yield from (("training", pair, 0) for pair in data.training_tensors())
    if task.validation_step is None and not task.objective.is_custom:
        first = 0
        for pair in data.validation:
            yield "validation", pair, first
            first += len(pair[1])


def _value(part: Any, row: int) -> str:
    """Return the first value of a row that is not finite."""
    for tensor in tensors_of(part):
        values = tensor[row]
        if len(bad := values[~torch.isfinite(values)].flatten()):
            return f"{float(bad[0]):g}"
    raise AssertionError("the row is finite")
