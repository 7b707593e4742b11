"""Softmax losses of cosines with a margin, for embeddings of faces and the like: ArcFace, CosFace."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

from torch import Tensor

from ..engine import ValueCheck, Violation
from ..errors import InvalidValue
from ..formula.row_functions import each, index, log_softmax, pick
from ..formula.words import sqrt, where
from ..options import Number
from .class_loss import CLASS_DIM, IGNORE_INDEX, ClassLoss
from .rowwise import rows_of_violation
from .value_checks import describe_violation, find_violation

__all__ = ["ArcFaceLoss", "CosFaceLoss"]

SLACK = 0.01
"""A rounded cosine may lie a little beyond 1."""


def _no_cosine(x, k, w):
    return (pick(x, k) > 1 + SLACK) | (pick(x, k) < -1 - SLACK)


@functools.cache
def _cosine_checks(cls: Any) -> tuple[ValueCheck, ...]:
    return (
        ValueCheck(_no_cosine, lambda x, k, w: pick(x, k), lambda found: cls.range_error(rows_of_violation(found))),
    )


class AngularLoss(ClassLoss):
    """Cross entropy of scaled cosines, that of the target's class with a margin."""

    input_kind: ClassVar[str] = "cosines"
    denominator = "count"
    expects = "cosines (N, C) between embeddings and the directions of the classes, and class indices (N)"
    example = "torch.rand(3, 5), torch.tensor([1, 0, 4])"
    index_faults = (_no_cosine,)
    elsewhere = dict.fromkeys(
        ("num_classes", "embedding_size", "in_features", "out_features"),
        "The loss has no weights: `input` holds cosines (N, C), linear(normalize(embedding), normalize(weight)) of "
        "torch.nn.functional, with your own weight (C, D).",
    )

    @classmethod
    def check_input(cls, x: Tensor, k: Tensor, keep: Tensor) -> None:
        """Raise for a cosine outside [-1, 1]."""
        picked = pick(x, k)
        violation = find_violation(picked, keep & (picked.abs() > 1 + SLACK))
        if violation is not None:
            raise cls.range_error(violation)

    @classmethod
    def index_checks(cls) -> tuple[ValueCheck, ...]:
        """Return the check for a cosine outside [-1, 1]."""
        return _cosine_checks(cls)  # type: ignore[arg-type]

    @classmethod
    def range_error(cls, violation: Violation) -> InvalidValue:
        """Return the error for values that are no cosines."""
        return InvalidValue(
            f"{cls.__name__}: `input` must hold cosines in [-1, 1]; received {describe_violation(violation)} (at the "
            "target's class). Help: torch.nn.functional.linear(normalize(embedding), normalize(weight)), with "
            "normalize = torch.nn.functional.normalize."
        )


def with_target(x: Any, k: Any, target: Any, scale: Any) -> Any:
    """Return the cross entropy of scaled cosines, in which that of class k is replaced."""
    return -pick(log_softmax(scale * where(index(x) == each(k), each(target), x)), k)


def _help_with_margin(value: Any) -> str | None:
    if not (isinstance(value, (int, float)) and value >= math.pi / 2):
        return None
    if value >= 90:
        return "the margin is in radians, and less than a right angle"
    return f"margin={round(math.radians(value), 6)} is {value:g} degrees in radians, the unit of the margin"


class ArcFaceLoss(AngularLoss):
    """Cross entropy of s cos(t), with cos(t_k + m) for the target's class k, of angles t (Deng et al. 2019).

    From https://arxiv.org/abs/1801.07698. s is `scale` and m is `margin`. Where t_k + m exceeds pi, cos(t_k) - m sin(m)
    stands for it, as in the authors' code. A mean divides by the number of rows other than those of `ignore_index`.

    Shape:
        input: (N, C), (C) or (N, C, d1, ...), floating: cosines in [-1, 1]. 16-bit floats are computed in float32.
        target: That of `input` without C, class indices of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, the cosine at a target is outside
            [-1, 1] (both unless check="off"), or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch has no such loss. pytorch_metric_learning's ArcFaceLoss holds the directions of the
    classes, and its margin is in degrees.

    Example:
        >>> import torch, piste
        >>> piste.losses.ArcFaceLoss(scale=4.0)(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
        tensor(0.3536)
    """

    name, functional_name = "arcface", "arcface_loss"
    options = {
        "margin": Number(0.5, "the angle m that is added, in radians", high=math.pi / 2, help=_help_with_margin),
        "scale": Number(64.0, "the factor s of the cosines", above=True),
        "ignore_index": IGNORE_INDEX,
        "class_dim": CLASS_DIM,
    }
    signature = "reduction, margin, scale, ignore_index, *, class_dim"

    def formula(x, k, w=None, *, margin, scale):
        c = pick(x, k)
        rest = 1 - c * c
        sine = where(rest > 0, sqrt(where(rest > 0, rest, 1)), 0)  # its slope is infinite at 0
        near = c * math.cos(margin) - sine * math.sin(margin)
        return with_target(x, k, where(c > -math.cos(margin), near, c - margin * math.sin(margin)), scale)


class CosFaceLoss(AngularLoss):
    """Cross entropy of s cos(t), with cos(t_k) - m for the target's class k, of angles t (Wang et al. 2018).

    From https://arxiv.org/abs/1801.09414. s is `scale` and m is `margin`. A mean divides by the number of rows other
    than those of `ignore_index`.

    Shape:
        input: (N, C), (C) or (N, C, d1, ...), floating: cosines in [-1, 1]. 16-bit floats are computed in float32.
        target: That of `input` without C, class indices of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, the cosine at a target is outside
            [-1, 1] (both unless check="off"), or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch has no such loss. pytorch_metric_learning's CosFaceLoss holds the directions of the
    classes.

    Example:
        >>> import torch, piste
        >>> piste.losses.CosFaceLoss(scale=4.0)(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
        tensor(0.3133)
    """

    name, functional_name = "cosface", "cosface_loss"
    options = {
        "margin": Number(0.35, "what is subtracted from the cosine of the target's class"),
        "scale": Number(64.0, "the factor s of the cosines", above=True),
        "ignore_index": IGNORE_INDEX,
        "class_dim": CLASS_DIM,
    }
    signature = "reduction, margin, scale, ignore_index, *, class_dim"

    def formula(x, k, w=None, *, margin, scale):
        return with_target(x, k, pick(x, k) - margin, scale)
