"""Checks of input, target and weights of the losses over classes, with the help for each mistake."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine import Violation
from ..errors import InvalidType, InvalidValue
from .value_checks import (
    check_same_device,
    describe_violation,
    find_violation,
    is_readable,
    shape_of,
    unravel_index,
)

__all__ = [
    "Arranged",
    "arrange",
    "check_indices",
    "check_probabilities",
    "check_weight",
    "index_error",
    "line_to_copy",
    "probability_error",
    "slack_of",
    "sum_error",
]

_INDICES_HELP = "Help: class indices look like torch.tensor([0, 2, 1]), one whole number (int64) for each sample"


class Arranged(NamedTuple):
    """Input and target with the classes in the last dimension."""

    input: Tensor
    target: Tensor
    has_indices: bool  # whether the target holds class indices, not probabilities
    moved_dim: int | None  # the dimension that the classes had, if it was not the last


def arrange(loss: Any, x: Tensor, y: Tensor, class_dim: int | None, check: str) -> Arranged:
    """Return input and target with the classes last; raise where they do not fit each other.

    Args:
        loss: The class of the loss.
        x: The input.
        y: The target: class indices or, if the loss takes them, class probabilities.
        class_dim: The dimension of the classes; None is dimension 1, or 0 of a single row.
        check: The setting of the loss; "off" allows a single class.
    """
    name = loss.__name__
    if not x.is_floating_point():
        help = "input.real or input.abs()" if x.is_complex() else "input.float()"
        is_class_index = y.is_floating_point() and y.dim() > 0 and y.shape[:1] + y.shape[2:] == x.shape
        if is_class_index or (y.is_floating_point() and y.shape == x.shape and _is_one_hot(x)):
            help = f"input and target look exchanged: the first argument holds the {loss.input_kind}"
        raise InvalidType(
            f"{name}: `input` must hold floating-point {loss.input_kind}; received {x.dtype}. Help: {help}."
        )
    if x.dim() == 0:
        raise InvalidValue(f"{name}: `input` must be (C) or (N, C, ...); received a 0-dimensional tensor.")
    dim = class_dim if class_dim is not None else min(1, x.dim() - 1)
    if not -x.dim() <= dim < x.dim():
        raise InvalidValue(
            f"{name}: `class_dim` must be in [{-x.dim()}, {x.dim() - 1}] for an input of {x.dim()} dimensions; "
            f"received class_dim={dim}."
        )
    dim %= x.dim()
    rows = x.shape[:dim] + x.shape[dim + 1 :]
    is_whole = not y.is_floating_point() and not y.is_complex()
    if x.shape[dim] == 0:
        raise InvalidValue(
            f"{name}: `input` must have at least 2 classes; received {shape_of(x)}, that is no class (dimension "
            f"{dim}). Help: the last layer of the model needs an output for each class."
        )
    if x.shape[dim] == 1 and check != "off" and (y.shape == rows or y.shape == x.shape):
        raise InvalidValue(
            f"{name}: `input` must have at least 2 classes; received {shape_of(x)}, that is one class (dimension "
            f"{dim}), which leaves nothing to learn: the loss is 0 whatever the input. "
            "Help: for a yes or no, BCEWithLogitsLoss with one logit and a 0/1 target of the same shape."
        )
    moved = None if dim == x.dim() - 1 else dim
    if y.shape == rows and is_whole:
        return Arranged(x if moved is None else x.movedim(dim, -1), y.long(), True, moved)
    if y.shape == x.shape and y.is_floating_point() and loss.soft_formula:
        return Arranged(*((x, y) if moved is None else (x.movedim(dim, -1), y.movedim(dim, -1))), False, moved)
    raise _mismatch(loss, x, y, dim, rows, is_whole)


def _mismatch(
    loss: Any, x: Tensor, y: Tensor, dim: int, rows: torch.Size, is_whole: bool
) -> InvalidValue | InvalidType:
    """Return the error for a target that fits neither as class indices nor as probabilities."""
    received = f"received {y.dtype} of shape {shape_of(y)} for an input {shape_of(x)}"
    wants = f"class indices of dtype int64 and shape {tuple(rows)}"
    if loss.soft_formula:
        wants += f", or class probabilities of a floating dtype and shape {shape_of(x)}"
    kind: type[InvalidValue] | type[InvalidType] = InvalidValue
    if y.is_complex():
        kind, how = InvalidType, "a class index is a whole number"
    elif y.shape == x.shape:
        kind = InvalidType
        if is_whole and x.dim() == 1 and not _is_one_hot(y):
            how = "an input (C) is one sample; several samples have an input (N, C)"
        elif is_whole and loss.soft_formula:
            how = f"it looks one-hot: target.argmax({dim}) gives the indices, target.float() the probabilities"
        else:
            how = f"if it is one-hot or holds scores, target.argmax({dim}) gives the class indices"
    elif y.shape == rows:
        kind = InvalidType
        how = "target.long(), if it holds class indices; for 0/1 targets of single logits use BCEWithLogitsLoss"
    elif y.dim() == len(rows) + 1 and y.shape[dim] == 1 and y.squeeze(dim).shape == rows:
        how = f"target.squeeze({dim})" + ("" if is_whole else ".long()")
    elif x.dim() > 2 and y.shape == x.shape[:-1]:
        how = "if the classes are the last dimension of the input, say class_dim=-1"
    elif y.shape == (*rows, x.shape[dim]):
        how = f"target.argmax(-1), if it is one-hot in its last dimension; the classes are dimension {dim}"
    elif x.dim() == 1 and y.dim() == 1:
        how = "an input (C) is one sample; several samples have an input (N, C)"
    else:
        how = "one target for each sample (and place); the classes are dimension 1 of the input"
    return kind(f"{loss.__name__}: `target` must hold {wants}; {received}. Help: {how}. {line_to_copy(loss)}")


def _is_one_hot(y: Tensor) -> bool:
    """Return whether the values are 0 and 1 alone, as far as they can be read."""
    return y.dim() > 0 and is_readable((y,)) and bool(((y == 0) | (y == 1)).all())


def line_to_copy(loss: Any) -> str:
    """Return what the loss takes, with a call that works."""
    return f"It takes {loss.expects}. A line that works: {loss.line_that_works()}"


def check_weight(loss: Any, weight: Tensor, x: Tensor) -> None:
    """Raise for class weights of another shape or device than the classes of x have."""
    classes = x.shape[-1]
    if weight.shape != (classes,):
        raise InvalidValue(
            f"{loss.__name__}: `weight` must have one number for each class, shape ({classes},); received "
            f"{shape_of(weight)}. Help: {_how_to_weigh(weight, x)}."
        )
    check_same_device(loss.__name__, ("input", "weight"), (x, weight))


def _how_to_weigh(weight: Tensor, x: Tensor) -> str:
    if weight.numel() == x.shape[-1]:
        return "weight.flatten()"
    if weight.numel() == x.shape[:-1].numel():
        return 'for a weight of each sample, multiply the losses: loss with reduction="none", times weight, .mean()'
    return f"torch.ones({x.shape[-1]}) weighs all classes alike"


def check_indices(loss: Any, y: Tensor, keep: Tensor, classes: int, ignore_index: int) -> None:
    """Raise for a class index out of range in the rows that count."""
    violation = find_violation(y, keep & ((y < 0) | (y >= classes)))
    if violation is not None:
        are_signs = violation.value == -1 and bool(((y == 1) | (y == -1)).all())
        help = "(target + 1) // 2 makes class indices of labels -1 and 1" if are_signs else None
        raise index_error(loss, violation, classes, ignore_index, help)


def index_error(
    loss: Any, violation: Violation, classes: int, ignore_index: int, help: str | None = None
) -> InvalidValue:
    """Return the error for class indices out of range."""
    index = int(violation.value)
    how = "numbered from 1? target - 1" if index == classes else "labels are numbered from 0"
    if index > classes:
        how = "the input must have as many classes as there are labels"
    elif loss.supports_ignore_index and index < 0:
        how = f"is it a mask? ignore_index={index}"
    others = f", or ignore_index={ignore_index}" if loss.supports_ignore_index else ""
    return InvalidValue(
        f"{loss.__name__}: `target` must hold class indices in [0, {classes - 1}] for {classes} classes{others}; "
        f"received {describe_violation(violation)}. Help: {help or how}."
    )


def slack_of(dtype: torch.dtype) -> float:
    """Return how far from 1 the sum of rounded probabilities may be."""
    return max(1e-3, 4 * torch.finfo(dtype).eps)


def check_probabilities(loss: Any, y: Tensor, dtype: torch.dtype, x: Tensor | None = None) -> None:
    """Raise for rows of the target y that are no class probabilities; a row of zeros is left out.

    The values of the input x, if given, show whether the operands were exchanged.
    """
    y = y.detach()
    violation = find_violation(y, y < 0)
    if violation is not None:
        raise probability_error(loss, violation, _help_for_negative(x, y))
    sums = y.sum(-1)
    slack = slack_of(dtype)
    violation = find_violation(sums, ((sums - 1).abs() > slack) & (sums != 0))
    if violation is not None:
        raise sum_error(loss, violation, _help_for_sums(y, sums, slack))


def _help_for_negative(x: Tensor | None, y: Tensor) -> str:
    if x is not None and _is_one_hot(x.detach()):
        return "Help: the arguments look exchanged: `target` comes last"
    is_log = bool((y <= 0).all())
    return "Help: target.exp() makes probabilities of log-probabilities" if is_log else _INDICES_HELP


def _help_for_sums(y: Tensor, sums: Tensor, slack: float) -> str:
    if sums.dim() and bool(((y == 0) | (y == 1)).all()):
        return "Help: for several classes in a row, BCEWithLogitsLoss takes a 0/1 label for each class"
    if sums.dim() and bool((sums > 1 + slack).all()):
        counts = "counts / counts.sum(dim, keepdim=True) makes probabilities of counts, dim being the classes'"
        return f"{_INDICES_HELP}; {counts}"
    return _INDICES_HELP


def probability_error(loss: Any, violation: Violation, help: str = _INDICES_HELP) -> InvalidValue:
    """Return the error for negative probabilities."""
    return InvalidValue(
        f"{loss.__name__}: `target` holds class probabilities, which must be at least 0; received "
        f"{describe_violation(violation)}. {help}."
    )


def sum_error(loss: Any, violation: Violation, help: str = _INDICES_HELP) -> InvalidValue:
    """Return the error for rows of probabilities that do not sum to 1."""
    row = unravel_index(violation.first, violation.shape)
    index = row[0] if len(row) == 1 else row
    binary = "; one logit and one 0/1 target for each sample make a binary problem: BCEWithLogitsLoss"
    return InvalidValue(
        f"{loss.__name__}: `target` of a floating dtype and the shape of the input holds class "
        "probabilities, so each row must sum to 1 (or be all 0, to be left out); "
        f"{f'row {index}' if row else 'this one'} sums to {violation.value:g}. {help}"
        f"{'' if row else binary}."
    )
