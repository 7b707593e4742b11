"""Losses of the overlap of regions, for segmentation: Dice, Jaccard, Tversky, focal Tversky."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import Bound, backends_of, cast_result, compute_dtype, rows_of_regions
from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import total
from ..formula.words import sigmoid, where
from ..options import Choice, Flag, Number, Option
from .arguments import COUNTED
from .binary import GUARD, LABEL
from .call import PreparedCall
from .reduction import Reduction
from .rowwise import Conditions, Rows, RowwiseLoss
from .value_checks import Check, check_same_device, check_tensors, first_violation, is_readable, shape_of

__all__ = ["DiceLoss", "FocalTverskyLoss", "JaccardLoss", "TverskyLoss"]

PROBABILITY = Check(
    "input",
    lambda x, y: (x < -0.01) | (x > 1.01),
    "in [0, 1]",
    'give logits with activation="sigmoid" (labels that may overlap) or "softmax" (one class at each place)',
    GUARD,
)
COMMON: dict[str, Option] = {
    "activation": Choice(None, (None, "sigmoid", "softmax"), "the function that makes probabilities of the input"),
    "smooth": Number(1.0, "added to numerator and denominator"),
    "batch": Flag(False, "whether the samples of a batch are one region for each class"),
    "absent": Choice("count", ("count", "skip"), "whether the mean counts or skips regions without target"),
}
SIGNATURE = "reduction, activation, smooth, batch, absent"


def probability(x: Any, activation: str | None) -> Any:
    """Return a probability, or the sigmoid of a logit; the softmax of the classes was computed before."""
    return sigmoid(x) if activation == "sigmoid" else x


def share(part: Any, whole: Any) -> Any:
    """Return part / whole; 1 of nothing, since an empty region is matched by an empty one."""
    return where(whole == 0, 1, part / where(whole == 0, 1, whole))


@functools.cache
def _conditions(loss: str, is_probability: bool, is_index: bool) -> Conditions:
    """Return the ranges of the operands; the same object each time, because it is a part of the key of the kernels."""
    if is_index:
        return Conditions(bounds=(Bound(1, "class", 0),))
    labels = LABEL.for_kernels(loss, 1)
    if not is_probability:
        return Conditions(bounds=(Bound(1, *GUARD),), checks=(labels,))
    return Conditions(bounds=(Bound(0, *GUARD), Bound(1, *GUARD)), checks=(PROBABILITY.for_kernels(loss, 0), labels))


def _have_kernel(regions: tuple[Tensor, ...], kinds: tuple[str, str]) -> bool:
    """Return whether a kernel computes the softmax with the loss."""
    if kinds[0] != "logits" or regions[0].dtype != torch.float32:
        return False
    return any(backend.takes_region_logits for backend in backends_of(regions[0].device.type)[:1])


def _regions(x: Tensor, batch: bool) -> Tensor:
    """Return the places of each region as a row."""
    return x.movedim(1, 0).flatten(1) if batch else x.flatten(2)


def _arranged(batch: bool, is_index: bool, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the regions of an input and its labels or class indices, or None where their shapes don't fit."""
    if is_index:
        if x.shape[1] < 2 or y.shape != x.shape[:1] + x.shape[2:]:
            return None
        y = y.unsqueeze(1)
    elif y.shape != x.shape:
        return None
    return _regions(x, batch), _regions(y, batch)


def _how_to_arrange(x: Tensor, y: Tensor) -> str:
    """Return the help for a target of another shape than the input."""
    rows = x.shape[:1] + x.shape[2:]
    if y.shape == (*rows, x.shape[1]):
        return "target.movedim(-1, 1), if its last dimension holds the classes"
    if y.shape == (x.shape[0], 1, *x.shape[2:]):
        return "target.squeeze(1).long(), if it holds class indices" if y.is_floating_point() else "target.squeeze(1)"
    if y.shape == rows:
        return "target.unsqueeze(1)" if x.shape[1] == 1 else "target.long(), if it holds class indices"
    return "one label or class index for each place of the input"


class RegionLoss(RowwiseLoss):
    """A loss of the predicted and the labelled region of each sample and class."""

    formula: ClassVar[Any]
    elsewhere = {
        **COUNTED,
        "include_background": "Leave the first class out of the operands: input[:, 1:], and labels target[:, 1:].",
        "ignore_index": "Probabilities and labels of the shape of `input`, both times a mask, leave out places.",
        "to_onehot_y": "Class indices (N, d1, ...) are taken as they are.",
        "mode": '"multiclass" is activation="softmax", and "binary" and "multilabel" are activation="sigmoid".',
        "jaccard": "JaccardLoss is a loss of its own.",
    }
    expects = "probabilities or logits (N, C, d1, ...), and labels of that shape or class indices (N, d1, ...)"
    example = "torch.rand(2, 3, 4, 4), torch.randint(3, (2, 4, 4))"
    symbols = {"x": "a region of input", "y": "its labels"}

    @classmethod
    def rows(
        cls,
        operands: tuple[Any, ...],
        check: str,
        *,
        activation: str | None = None,
        batch: bool = False,
        absent: str = "count",
        is_for_kernel: bool = False,
        **options: Any,
    ) -> Rows:
        """Return the places of each region as a row; for a kernel that computes the softmax, its logits."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        x, y = operands
        if not x.is_floating_point():
            raise InvalidType(
                f"{name}: `input` must hold floating-point probabilities or logits; received {x.dtype}. Help: "
                f"{'the arguments look exchanged' if y.is_floating_point() else 'input.float()'}."
            )
        if x.dim() < 3:
            raise InvalidValue(
                f"{name}: `input` must be (N, C, d1, ...); received {shape_of(x)}. Help: input.unsqueeze(1) adds the "
                "dimension of a single class."
            )
        classes = x.shape[1]
        is_index = y.shape == x.shape[:1] + x.shape[2:] and not y.is_floating_point() and classes > 1
        if not is_index and y.shape != x.shape:
            raise InvalidValue(
                f"{name}: `target` must have the shape of `input`, or hold class indices of shape "
                f"{tuple(x.shape[:1] + x.shape[2:])}; received {y.dtype} of shape {shape_of(y)} for {shape_of(x)}. "
                f"Help: {_how_to_arrange(x, y)}."
            )
        kinds = ("logits" if activation == "softmax" else "row", "classes" if is_index else "row")
        if activation == "softmax":
            x = x.to(compute_dtype(x.dtype))
        if y.is_floating_point():  # labels are not rounded to fewer bits
            x = x.to(torch.promote_types(x.dtype, y.dtype))
        is_converted = x is not operands[0] or y.dtype is not (torch.int64 if is_index else x.dtype)
        given = (x, y.long().unsqueeze(1) if is_index else y.to(x.dtype))
        regions = tuple(_regions(z, batch) for z in given)
        if not (is_for_kernel and _have_kernel(regions, kinds)):
            if is_index and check != "off" and is_readable((y,)):
                cls._check_indices(y, classes)
            is_converted = is_converted or kinds != ("row", "row")
            regions, kinds = rows_of_regions(kinds, regions), ("row", "row")
        obstacle = None if regions[0].shape[-1] > 1 else "the kernel takes regions of at least 2 places"
        if absent == "skip":
            obstacle = "regions without target are counted by torch operations"
        return Rows(
            cls.formula,
            regions,
            kinds,
            {"activation": activation, **options},
            operands[0].dtype,
            denominator="weights" if absent == "skip" else "count",
            arrange=None if is_converted else functools.partial(_arranged, batch, is_index),
            obstacle=obstacle,
        )

    @classmethod
    def rows_for_kernel(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Rows:
        """Return rows of logits, unless each region has an incoming gradient, which the softmax spreads to all."""
        return cls.rows(operands, check, is_for_kernel=reduction.mode != "none", **options)

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Return the loss in the dtype of the input, from which a softmax may have been widened."""
        return cast_result(super().compute(operands, reduction, check, **options), operands[0].dtype)

    @classmethod
    def _check_indices(cls, y: Tensor, classes: int) -> None:
        violation = first_violation(y, (y < 0) | (y >= classes))
        if violation:
            raise InvalidValue(
                f"{cls.__name__}: `target` must hold class indices in [0, {classes - 1}] for {classes} classes; "
                f"received {violation}. Help: probabilities and labels of the shape of `input`, both times a mask "
                "of the places that count, leave out the others."
            )

    @classmethod
    def conditions(cls, rows: Rows) -> Conditions:
        """Return the ranges of probabilities and labels."""
        return _conditions(cls.__name__, rows.options["activation"] is None, rows.kinds[1] == "classes")

    @classmethod
    def check_values(cls, rows: Rows, given: tuple[Tensor, ...]) -> None:
        """Raise for a probability or a label outside [0, 1]."""
        x, y = given
        if rows.options["activation"] is None:
            PROBABILITY.raise_for(cls.__name__, (x, x), 0)
        if y.shape == x.shape:
            LABEL.raise_for(cls.__name__, (x, y), 1)

    @classmethod
    def prepared(cls, rows: Rows) -> PreparedCall:
        """Return the rows for the eager backend; those without target are left out where the mean skips them."""
        call = super().prepared(rows)
        if rows.denominator == "weights":
            call.keep = call.operands[1].sum(-1) > 0
            call.count = call.weights = call.keep.sum
        return call


class DiceLoss(RegionLoss):
    """1 - (2 I + s) / (P + Y + s) of each region: I = sum p y, P = sum p, Y = sum y, s = `smooth`.

    From https://arxiv.org/abs/1606.04797, whose P and Y are sums of squares: `squared`. Empty regions that are
    predicted empty cost 0. A mean divides by the number of regions, N C, or C with batch=True; with absent="skip", by
    the number of those that have a target.

    Shape:
        input: (N, C, d1, ...), floating: probabilities, or logits with `activation`. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`, in [0, 1]; or (N, d1, ...), class indices of any integer dtype.
        Returns a 0-dimensional tensor; with reduction="none" (N, C), or (C) with batch=True.

    Raises:
        InvalidValue: A probability or a label is outside [0, 1], a class index outside [0, C - 1] (all unless
            check="off"), an option is out of its range, or the shapes or the devices do not fit.
        InvalidType: The input is not floating.

    Differs from torch: torch has no such loss. MONAI's DiceLoss has the same values with smooth_nr and
    smooth_dr in place of `smooth`; segmentation_models_pytorch's has those of batch=True,
    absent="skip" and normalizer=C, with half of `smooth` for its own.

    Example:
        >>> import torch, piste
        >>> x, y = torch.tensor([[[0.5, 1., 0.]]]), torch.tensor([[[1, 1, 0]]])
        >>> piste.losses.DiceLoss(smooth=0.0)(x, y)
        tensor(0.1429)
    """

    name, functional_name = "dice", "dice_loss"
    options = {**COMMON, "squared": Flag(False, "whether the denominator sums squares")}
    signature = "reduction, activation, smooth, batch, absent, squared"

    def formula(x, y, *, activation, smooth, squared):
        p = probability(x, activation)
        sizes = total(p * p) + total(y * y) if squared else total(p) + total(y)
        return 1 - share(2 * total(p * y) + smooth, sizes + smooth)


class JaccardLoss(RegionLoss):
    """1 - (I + s) / (P + Y - I + s) of each region, the soft intersection over union (Rahman and Wang 2016).

    I = sum p y, P = sum p, Y = sum y, and s is `smooth`. Empty regions that are predicted empty cost 0. A mean divides
    by the number of regions, N C, or C with batch=True; with absent="skip", by the number of those that have a target.

    Shape:
        input: (N, C, d1, ...), floating: probabilities, or logits with `activation`. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`, in [0, 1]; or (N, d1, ...), class indices of any integer dtype.
        Returns a 0-dimensional tensor; with reduction="none" (N, C), or (C) with batch=True.

    Raises:
        InvalidValue: A probability or a label is outside [0, 1], a class index outside [0, C - 1] (all unless
            check="off"), an option is out of its range, or the shapes or the devices do not fit.
        InvalidType: The input is not floating.

    Differs from torch: torch has no such loss. It is MONAI's DiceLoss(jaccard=True), whose numerator is
    doubled for its `smooth_nr`; segmentation_models_pytorch's JaccardLoss has the values of batch=True,
    absent="skip" and normalizer=C.

    Example:
        >>> import torch, piste
        >>> x, y = torch.tensor([[[0.5, 1., 0.]]]), torch.tensor([[[1, 1, 0]]])
        >>> piste.losses.JaccardLoss(smooth=0.0)(x, y)
        tensor(0.2500)
    """

    name, functional_name, aliases = "jaccard", "jaccard_loss", ("iou",)
    options = COMMON
    signature = "reduction, activation, smooth, batch, absent"

    def formula(x, y, *, activation, smooth):
        p = probability(x, activation)
        overlap = total(p * y)
        return 1 - share(overlap + smooth, total(p) + total(y) - overlap + smooth)


TVERSKY: dict[str, Option] = {
    **COMMON,
    "alpha": Number(0.5, "the weight of false positives"),
    "beta": Number(0.5, "the weight of false negatives"),
}


def tversky(x: Any, y: Any, activation: str | None, smooth: Any, alpha: Any, beta: Any) -> Any:
    """Return the Tversky index of a region: the share of its hits in hits and weighted misses."""
    p = probability(x, activation)
    hits = total(p * y)
    false_alarms, misses = total(p) - hits, total(y) - hits
    return share(hits + smooth, hits + alpha * false_alarms + beta * misses + smooth)


class TverskyLoss(RegionLoss):
    """1 - (I + s) / (I + alpha (P - I) + beta (Y - I) + s) of each region (Salehi et al. 2017).

    From https://arxiv.org/abs/1706.05721. I = sum p y, P = sum p, Y = sum y, and s is `smooth`. alpha = beta = 0.5 is
    DiceLoss with twice the `smooth`, and alpha = beta = 1 JaccardLoss. Empty regions that are predicted empty cost 0. A
    mean divides by the number of regions, N C, or C with batch=True; with absent="skip", by the number of those that
    have a target.

    Shape:
        input: (N, C, d1, ...), floating: probabilities, or logits with `activation`. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`, in [0, 1]; or (N, d1, ...), class indices of any integer dtype.
        Returns a 0-dimensional tensor; with reduction="none" (N, C), or (C) with batch=True.

    Raises:
        InvalidValue: A probability or a label is outside [0, 1], a class index outside [0, C - 1] (all unless
            check="off"), an option is out of its range, or the shapes or the devices do not fit.
        InvalidType: The input is not floating.

    Differs from torch: torch has no such loss. MONAI's TverskyLoss has the same values with smooth_nr and
    smooth_dr in place of `smooth`.

    Example:
        >>> import torch, piste
        >>> x, y = torch.tensor([[[0.5, 1., 0.]]]), torch.tensor([[[1, 1, 0]]])
        >>> piste.losses.TverskyLoss(smooth=0.0, alpha=0.0, beta=1.0)(x, y)
        tensor(0.2500)
    """

    name, functional_name = "tversky", "tversky_loss"
    options = TVERSKY
    signature = "reduction, activation, smooth, batch, absent, alpha, beta"

    def formula(x, y, *, activation, smooth, alpha, beta):
        return 1 - tversky(x, y, activation, smooth, alpha, beta)


class FocalTverskyLoss(RegionLoss):
    """(1 - T)^gamma of each region, with the index T of TverskyLoss (Abraham and Khan 2019).

    From https://arxiv.org/abs/1810.07842, whose exponent is 1 / gamma: its 4/3 is gamma=0.75 here. Empty regions that
    are predicted empty cost 0. A mean divides by the number of regions, N C, or C with batch=True; with absent="skip",
    by the number of those that have a target.

    Shape:
        input: (N, C, d1, ...), floating: probabilities, or logits with `activation`. 16-bit floats are computed in
            float32 and rounded once.
        target: That of `input`, in [0, 1]; or (N, d1, ...), class indices of any integer dtype.
        Returns a 0-dimensional tensor; with reduction="none" (N, C), or (C) with batch=True.

    Raises:
        InvalidValue: A probability or a label is outside [0, 1], a class index outside [0, C - 1] (all unless
            check="off"), an option is out of its range, or the shapes or the devices do not fit.
        InvalidType: The input is not floating.

    Differs from torch: torch has no such loss. segmentation_models_pytorch's TverskyLoss(gamma=) has the
    power of the mean over the classes.

    Example:
        >>> import torch, piste
        >>> x, y = torch.tensor([[[0.5, 1., 0.]]]), torch.tensor([[[1, 1, 0]]])
        >>> piste.losses.FocalTverskyLoss(smooth=0.0, gamma=0.5)(x, y)
        tensor(0.3780)
    """

    name, functional_name = "focal_tversky", "focal_tversky_loss"
    options = {
        **TVERSKY,
        "gamma": Number(0.75, "the power; below 1, regions that are nearly right count more", above=True),
    }
    signature = "reduction, activation, smooth, batch, absent, alpha, beta, gamma"

    def formula(x, y, *, activation, smooth, alpha, beta, gamma):
        rest = 1 - tversky(x, y, activation, smooth, alpha, beta)
        # The slope of a power below 1 is infinite at 0; a region that is right has the gradient 0.
        return where(rest <= 0, 0, where(rest <= 0, 1, rest) ** gamma)
