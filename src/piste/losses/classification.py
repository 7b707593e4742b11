"""Losses of one class among C: cross entropy and the negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from ..engine.cpu import image_cross_entropy as cpu_pixels
from ..errors import InvalidValue
from ..formula.expression import where
from ..formula.row_functions import log_softmax, pick, size, total
from .class_loss import ClassLoss
from .loss import explained
from .reduction import Reduction, Settings
from .rowwise import Way
from .value_checks import first_offence, shape_of

__all__ = ["CrossEntropyLoss", "NLLLoss", "NLLLoss2d", "cross_entropy", "nll_loss"]


SLACK = 0.05
"""A rounded log-probability may lie a little above 0; logits and probabilities soon lie far above."""


def _above_zero(x, k, w):
    return pick(x, k) > SLACK


class NLLLoss(ClassLoss):
    """The negative log-likelihood, -w_k x_k, of the log-probabilities x at the class index k.

    Shapes: `input` (C), (N, C) or (N, C, d1, ...); `target` the same without C; `class_dim` says where C is
    if not there. A mean divides by the weights of the targets that are not `ignore_index`.
    Dtypes: input floating (16-bit floats are computed in float32); target any integer.
    Raises: InvalidValue for a class index outside [0, C - 1] and, unless check="off", for a log-probability
    above 0.
    Settings: `piste.losses.reduction`. After LogSoftmax it equals CrossEntropyLoss.

    >>> import torch, piste
    >>> logits = torch.tensor([[2., 0., 0.], [0., 0., 1.]])
    >>> piste.losses.NLLLoss()(torch.log_softmax(logits, dim=1), torch.tensor([0, 2]))
    tensor(0.3955)
    """

    name, function = "nll", "nll_loss"
    input_kind = "log-probabilities"
    expects = "log-probabilities (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.log_softmax(torch.randn(3, 5), dim=1), torch.tensor([1, 0, 4])"

    @staticmethod
    def value(x, k, w=None):
        return -pick(x, k) if w is None else -pick(w, k) * pick(x, k)

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        *,
        class_dim: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(
            size_average,
            reduce,
            reduction,
            weight=weight,
            ignore_index=ignore_index,
            class_dim=class_dim,
            **settings,
        )

    @classmethod
    def faults(cls, is_soft: bool, dtype: torch.dtype) -> tuple[Callable[..., Any], ...]:
        """A log-probability that is none."""
        return (_above_zero,)

    @classmethod
    def _refuse_input(cls, x: Tensor, y: Tensor, keep: Tensor) -> None:
        picked = pick(x.detach(), y)
        offence = first_offence(picked, keep & (picked > SLACK))
        if offence:
            raise InvalidValue(
                f"{cls.__name__}: `input` must hold log-probabilities, which are never above 0; received {offence} (at "
                "the target's class). Help: torch.log_softmax(logits, dim=1) or probabilities.log(); CrossEntropyLoss "
                'takes logits; check="off" allows unnormalised log-likelihoods.'
            )


class NLLLoss2d(NLLLoss):
    """NLLLoss of images, one class for each pixel: `input` (N, C, H, W), `target` (N, H, W).

    torch's old name; NLLLoss takes images too, and this one takes nothing else.

    >>> import torch, piste
    >>> log_probabilities = torch.log_softmax(torch.zeros(1, 4, 2, 2), dim=1)
    >>> piste.losses.NLLLoss2d()(log_probabilities, torch.tensor([[[0, 1], [2, 3]]]))
    tensor(1.3863)
    """

    name = "nll2d"
    expects = "log-probabilities (N, C, H, W) and class indices (N, H, W) of dtype int64, one for each pixel"
    example = "torch.log_softmax(torch.randn(1, 3, 2, 2), dim=1), torch.tensor([[[0, 2], [1, 1]]])"

    @classmethod
    def way(cls, operands: tuple[Any, ...], **options: Any) -> Way | None:
        """Images alone."""
        return super().way(operands, **options) if getattr(operands[0], "ndim", 0) == 4 else None

    @classmethod
    def _arranged(cls, x: Tensor, y: Tensor, class_dim: int | None, check: str) -> tuple[Tensor, Tensor, bool]:
        if x.dim() != 4 or y.dim() != 3:
            raise InvalidValue(
                "NLLLoss2d: `input` must be (N, C, H, W) and `target` (N, H, W), one class for each pixel; received "
                f"{shape_of(x)} and {shape_of(y)}. Help: NLLLoss takes (N, C) and (N). {cls._to_copy()}"
            )
        return super()._arranged(x, y, class_dim, check)


class CrossEntropyLoss(ClassLoss):
    """Cross entropy, -log softmax(x)_k, of the logits x at the class index k; or -sum_c y_c log softmax(x)_c.

    The second form is taken where `target` is floating and has the shape of `input`: class probabilities y.
    With
    `label_smoothing` e, y becomes (1 - e) y + e / C (Szegedy et al. 2015). `weight` multiplies each class's
    term.
    Shapes: `input` (C), (N, C) or (N, C, d1, ...); `target` the same without C, or the same; `class_dim` says
    where C is if not there: torch can't know that an (N, L, C) input has its classes last. A mean divides by
    the weights of the targets that are not `ignore_index`; for probabilities, by the number of rows.
    Dtypes: input floating (16-bit floats are computed in float32); indices any integer.
    Raises: InvalidValue for a class index outside [0, C - 1], for an input of one class and, unless
    check="off", for probabilities that are negative or do not sum to 1 (a row of zeros is left out).
    Settings: `piste.losses.reduction`.

    >>> import torch, piste
    >>> piste.losses.CrossEntropyLoss()(torch.tensor([[2., 0., 0.], [0., 0., 1.]]), torch.tensor([0, 2]))
    tensor(0.3955)
    """

    name, function = "cross_entropy", "cross_entropy"
    expects = "logits (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"
    ranges = {"label_smoothing": "[0, 1]"}

    @staticmethod
    def value(x, k, w=None, *, label_smoothing=0.0):
        p = log_softmax(x)
        sharp = -pick(p, k) if w is None else -pick(w, k) * pick(p, k)
        if label_smoothing == 0:
            return sharp
        even = -total(p if w is None else w * p) / size(x)
        return (1 - label_smoothing) * sharp + label_smoothing * even

    @staticmethod
    def soft_value(x, y, w=None, *, label_smoothing=0.0):
        q = y if label_smoothing == 0 else (1 - label_smoothing) * y + label_smoothing / size(x)
        z = log_softmax(x)
        p = where((q == 0) & (z == -math.inf), 0, z)  # a class that neither can be nor is costs nothing; 0 * inf is NaN
        return -total(q * p if w is None else w * q * p)

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """By the kernel of images where it serves: plain class indices, (N, C, d1, ...) and (N, d1, ...)."""
        x, k = operands
        is_plain = reduction.mode != "none" and reduction.normalizer is None and reduction.empty == "nan"
        if (
            is_plain
            and check != "nan"
            and options.get("weight") is None
            and not options.get("label_smoothing")
            and options.get("class_dim") in (None, 1)
            and isinstance(x, Tensor)
            and x.dim() > 2
            and x.shape[1] > 1
        ):
            served = cpu_pixels.cross_entropy(x, k, options.get("ignore_index", -100), reduction.mode == "mean")
            if served is not None:
                return served
        return super().compute(operands, reduction, check, **options)

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        class_dim: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(
            size_average,
            reduce,
            reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            class_dim=class_dim,
            **settings,
        )


@explained(NLLLoss)
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    class_dim: int | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `NLLLoss`."""
    return NLLLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        ignore_index=ignore_index,
        class_dim=class_dim,
        **settings,
    )


@explained(CrossEntropyLoss)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    class_dim: int | None = None,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `CrossEntropyLoss`."""
    return CrossEntropyLoss.run(
        input,
        target,
        size_average=size_average,
        reduce=reduce,
        reduction=reduction,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_dim=class_dim,
        **settings,
    )
