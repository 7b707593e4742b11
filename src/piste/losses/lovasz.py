"""The Lovasz extension of the Jaccard loss, for segmentation: of a hinge, and of the softmax."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import compute_dtype, decline
from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import total
from ..formula.words import where
from ..options import Choice, Flag, Integer
from .arguments import COUNTED
from .call import PreparedCall
from .loss import Loss
from .reduction import Reduction
from .value_checks import (
    check_nan,
    check_same_device,
    check_same_shape,
    check_tensors,
    first_violation,
    is_readable,
    shape_of,
)

__all__ = ["LovaszHingeLoss", "LovaszSoftmaxLoss"]

IGNORE_INDEX = Integer(-100, "the label of places that are left out")


def sort_errors(errors: Tensor, y: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors of regions (..., P) in falling order, and by how much the Jaccard loss grows with each.

    Args:
        errors: The error at each place.
        y: Whether the place belongs to the region.
        keep: Whether it counts; the others come last, with an error of 0.
    """
    order = torch.where(keep, errors.detach(), -math.inf).argsort(dim=-1, descending=True, stable=True)
    y, keep = ((x.gather(-1, order)).to(errors.dtype) for x in (y & keep, keep))
    size = y.sum(-1, keepdim=True)
    loss = 1 - (size - y.cumsum(-1)) / (size + (keep - y).cumsum(-1)).clamp_min(1)
    growth = loss.diff(dim=-1, prepend=torch.zeros_like(loss[..., :1]))
    return torch.where(keep > 0, errors.gather(-1, order), 0), growth


class LovaszLoss(Loss):
    """A loss of the errors at the places of a region, sorted; each counts as much as it adds to the Jaccard loss."""

    formula: ClassVar[Any]
    symbols = {
        "e": "the errors of a region, the largest first",
        "g": "the growth of its Jaccard loss when the places join the errors in that order",
    }

    @classmethod
    def call_of(cls, e: Tensor, g: Tensor, keep: Tensor, dtype: torch.dtype) -> PreparedCall:
        """Return the call of the formula.

        Args:
            e: The errors (N, P).
            g: Their weights.
            keep: Whether each row has a place that counts.
            dtype: That of the result.
        """
        return PreparedCall(cls.formula, (e, g), {}, dtype, keep.sum, keep.sum, "count", keep=keep)

    @classmethod
    def by_kernel(cls, call: PreparedCall, reduction: Reduction, check: str) -> Tensor | None:
        """Return None: nearly all of the time is spent on sorting."""
        return decline("the errors are sorted by torch operations")

    @classmethod
    def check_labels(cls, y: Tensor, classes: int, ignore_index: int, help: str) -> None:
        """Raise for a label that is no class."""
        violation = first_violation(y, (y != ignore_index) & ~((y >= 0) & (y < classes) & (y % 1 == 0)))
        if violation:
            raise InvalidValue(
                f"{cls.__name__}: `target` must hold whole numbers in [0, {classes - 1}], or ignore_index="
                f"{ignore_index}; received {violation}. Help: {help}."
            )


class LovaszHingeLoss(LovaszLoss):
    """The Lovasz hinge of a binary region: sum max(e, 0) g of its sorted errors e = 1 - x (2 y - 1) (Berman 2018).

    From https://arxiv.org/abs/1705.08790. g is the growth of the Jaccard loss when the places join the errors in that
    order, so the loss is a convex upper bound of it. A region is a sample, or the batch with per_image=False. A mean
    divides by the number of regions with a place that is not ignored; one without costs 0.

    Shape:
        input: (N, d1, ...), floating logits. 16-bit floats are computed in float32 and rounded once. Labels that may
            overlap have a region each with input.flatten(0, 1).
        target: That of `input`: 0, 1 or `ignore_index`.
        Returns a 0-dimensional tensor; with reduction="none" (N), or (1) with per_image=False.

    Raises:
        InvalidValue: A label is not 0, 1 or `ignore_index` (unless check="off"), or the shapes or the devices differ.
        InvalidType: The input is not floating.

    Differs from torch: torch has no such loss. It is lovasz_hinge of the paper's authors, whose mean counts samples
    that are ignored as a whole.

    Example:
        >>> import torch, piste
        >>> input, target = torch.tensor([[2., -1., 0.5]]), torch.tensor([[1, 1, 0]])
        >>> piste.losses.LovaszHingeLoss()(input, target)
        tensor(1.2500)
    """

    name, functional_name = "lovasz_hinge", "lovasz_hinge_loss"
    options = {"per_image": Flag(True, "whether each sample is a region"), "ignore_index": IGNORE_INDEX}
    signature = "reduction, per_image, ignore_index"
    expects = "logits and 0/1 labels of the same shape (N, d1, ...)"
    example = "torch.randn(2, 4, 4), torch.randint(2, (2, 4, 4))"

    def formula(e, g):
        return total(where(e <= 0, 0, e) * g)

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        per_image: bool = True,
        ignore_index: int = -100,
        **options: Any,
    ) -> PreparedCall:
        """Return the sorted hinges of each region."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_shape(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        x, y = operands
        if not x.is_floating_point():
            help = "the arguments look exchanged" if y.is_floating_point() else "input.float()"
            raise InvalidType(f"{name}: `input` must hold floating-point logits; received {x.dtype}. Help: {help}.")
        if x.dim() < 2:
            raise InvalidValue(
                f"{name}: `input` must be (N, d1, ...); received {shape_of(x)}. Help: input.unsqueeze(0)."
            )
        if check != "off" and is_readable(operands):
            cls.check_labels(y, 2, ignore_index, "a place of the region is 1, another one 0")
            if check == "nan":
                check_nan(name, "input", x)
        x, y = (z.flatten(1) if per_image else z.reshape(1, -1) for z in (x.to(compute_dtype(x.dtype)), y))
        keep = y != ignore_index
        e, g = sort_errors(1 - x * (2 * y.to(x.dtype) - 1), y == 1, keep)
        return cls.call_of(e, g, keep.any(-1), operands[0].dtype)


class LovaszSoftmaxLoss(LovaszLoss):
    """The Lovasz extension of the Jaccard loss of classes: sum e g of the sorted errors e = |y - p| (Berman 2018).

    From https://arxiv.org/abs/1705.08790. p is the softmax of the input and y the class, 0 or 1, at each place; g is
    the growth of the Jaccard loss when the places join the errors in that order. The loss of the batch, or of each
    sample with `per_image`, is the mean over classes: those that its target has, or all with classes="all". A mean
    divides by the number of samples with a place that is not ignored; one without costs 0.

    Shape:
        input: (N, C, d1, ...), floating logits, or probabilities with activation=None. 16-bit floats are computed in
            float32 and rounded once.
        target: (N, d1, ...), class indices of any integer dtype, or `ignore_index`.
        Returns a 0-dimensional tensor; with reduction="none" (1), or (N) with `per_image`.

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, a probability outside [0, 1] (both
            unless check="off"), there are fewer than 2 classes, or the shapes or the devices do not fit.
        InvalidType: The input is not floating, or the target holds no integers.

    Differs from torch: torch has no such loss. It is lovasz_softmax of the paper's authors, of probabilities, whose
    mean counts samples that are ignored as a whole.

    Example:
        >>> import torch, piste
        >>> input, target = torch.tensor([[[0.5, 1.], [0.5, 0.]]]), torch.tensor([[0, 0]])
        >>> piste.losses.LovaszSoftmaxLoss(activation=None)(input, target)
        tensor(0.2500)
    """

    name, functional_name = "lovasz_softmax", "lovasz_softmax_loss"
    options = {
        "activation": Choice("softmax", ("softmax", None), "the function that makes probabilities of the input"),
        "per_image": Flag(False, "whether each sample has a loss of its own"),
        "classes": Choice("present", ("present", "all"), "the classes that count: those of the target, or all"),
        "ignore_index": IGNORE_INDEX,
    }
    signature = "reduction, activation, per_image, classes, ignore_index"
    elsewhere = COUNTED
    expects = "logits (N, C, d1, ...) and class indices (N, d1, ...)"
    symbols = {
        "e": "the errors of each class, the largest first",
        "g": "the growth of its Jaccard loss when the places join the errors in that order, over the number of classes",
    }
    example = "torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))"

    def formula(e, g):
        return total(e * g)

    @classmethod
    def prepare(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        activation: str | None = "softmax",
        per_image: bool = False,
        classes: str = "present",
        ignore_index: int = -100,
        **options: Any,
    ) -> PreparedCall:
        """Return the sorted errors of each class."""
        cls._check_shapes(operands)
        x, y = operands
        number = x.shape[1]
        if check != "off" and is_readable(operands):
            cls.check_labels(y, number, ignore_index, "labels are numbered from 0")
            if activation is None:
                _check_probabilities(x)
            if check == "nan":
                check_nan(cls.__name__, "input", x)
        # An ignored place has the gradient 0, also where it holds NaN.
        p = torch.where((y == ignore_index).unsqueeze(1), 0, x.to(compute_dtype(x.dtype)))
        p = p.softmax(1) if activation == "softmax" else p
        p, y = p.flatten(2), y.flatten(1).unsqueeze(1)
        if not per_image:
            p, y = (z.movedim(1, 0).reshape(1, z.shape[1], -1) for z in (p, y))
        is_class = y == torch.arange(number, device=y.device).unsqueeze(-1)
        keep = (y != ignore_index).expand_as(p)
        e, g = sort_errors(torch.where(is_class, 1 - p, p), is_class, keep)
        counts = ((is_class & keep) if classes == "present" else keep).any(-1)
        share = counts.to(g.dtype)
        share = share / share.sum(-1, keepdim=True).clamp_min(1)
        return cls.call_of(e.flatten(1), (share.unsqueeze(-1) * g).flatten(1), counts.any(-1), x.dtype)

    @classmethod
    def _check_shapes(cls, operands: tuple[Any, ...]) -> None:
        check_tensors("LovaszSoftmaxLoss", cls.arguments, operands)
        check_same_device("LovaszSoftmaxLoss", cls.arguments, operands)
        x, y = operands
        if not x.is_floating_point():
            help = "the arguments look exchanged" if y.is_floating_point() else "input.float()"
            raise InvalidType(
                f"LovaszSoftmaxLoss: `input` must hold floating-point logits; received {x.dtype}. Help: {help}."
            )
        if x.dim() < 3 or x.shape[1] < 2:
            raise InvalidValue(
                f"LovaszSoftmaxLoss: `input` must be (N, C, d1, ...) with at least 2 classes; received {shape_of(x)}. "
                "Help: LovaszHingeLoss takes a logit for each place."
            )
        if y.is_floating_point() or y.is_complex():
            raise InvalidType(
                f"LovaszSoftmaxLoss: `target` must hold class indices, of an integer dtype; received {y.dtype}. "
                "Help: target.long()."
            )
        if y.shape != x.shape[:1] + x.shape[2:]:
            raise InvalidValue(
                f"LovaszSoftmaxLoss: `target` must have shape {tuple(x.shape[:1] + x.shape[2:])} for an input "
                f"{shape_of(x)}; received {shape_of(y)}. Help: target.argmax(1), if it is one-hot."
            )


def _check_probabilities(x: Tensor) -> None:
    x = x.detach()
    violation = first_violation(x, (x < -0.01) | (x > 1.01))
    if violation:
        raise InvalidValue(
            f"LovaszSoftmaxLoss: `input` must be in [0, 1] with activation=None; received {violation}. "
            'Help: activation="softmax" takes logits.'
        )
