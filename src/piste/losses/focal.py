"""Losses that give less weight to easy examples: focal of sigmoid and softmax, and asymmetric."""

from __future__ import annotations

import math
from typing import Any

from ..engine import BoundKind
from ..formula.row_functions import log_softmax, pick, total
from ..formula.words import exp, log, log1p, where
from ..options import Number, NumberOrTensor
from .binary import LABEL
from .class_loss import CLASS_DIM, CLASS_WEIGHT, IGNORE_INDEX, ClassLoss
from .elementwise import WEIGHT, ElementwiseLoss
from .value_checks import Check

__all__ = ["AsymmetricLoss", "FocalLoss", "SigmoidFocalLoss"]

UNIT: tuple[BoundKind, float] = "from 0 to", 1


def sides(x: Any) -> tuple[Any, Any, Any, Any]:
    """Return p = sigmoid(x), 1 - p, -log p and -log(1 - p) of a logit, each without overflow or cancellation."""
    e = exp(where(x > 0, -x, x))  # its own derivative at 0 is right for the second backward
    s, r = log1p(e), 1 / (1 + e)
    return where(x > 0, 1, e) * r, where(x > 0, e, 1) * r, s + where(x > 0, 0, -x), s + where(x > 0, x, 0)


def mix(x: Any, y: Any, positive: Any, negative: Any) -> Any:
    """Return y positive + (1 - y) negative, where an infinite logit with its own label costs 0, not 0 * inf."""
    of_positive = where((y == 0) & (x == -math.inf), 0, y * positive)
    return of_positive + where((y == 1) & (x == math.inf), 0, (1 - y) * negative)


def _help_with_alpha(value: Any) -> str | None:
    return "alpha=None weighs all labels alike, as -1 does in torchvision" if value == -1 else None


class SigmoidFocalLoss(ElementwiseLoss):
    """Binary cross entropy of a logit x times a (1 - p_t)^gamma, p_t the probability of the label (Lin et al. 2017).

    From https://arxiv.org/abs/1708.02002. p = sigmoid(x), p_t = y p + (1 - y) (1 - p), and a = alpha y + (1 - alpha)
    (1 - y), or 1 without `alpha`. gamma = 0 is BCEWithLogitsLoss. The mean divides by the number of elements, or by the
    sum of the weights where `weight` is given; the paper divides the sum by the number of positive labels, which
    `normalizer=` takes.

    Shape:
        input: Any, floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, in [0, 1]; 0/1 labels of integers or bool are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `target` or `alpha` is outside [0, 1] (tensors are not checked with check="off"), `alpha` or
            `weight` can't be broadcast to `input`, or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. torchvision.ops.sigmoid_focal_loss has the same values, with
    reduction="none" as its default; its alpha of -1 is None here.

    Example:
        >>> import torch, piste
        >>> piste.losses.SigmoidFocalLoss(alpha=0.5)(torch.tensor([0., 0.]), torch.tensor([1., 0.]))
        tensor(0.0866)
    """

    name, functional_name = "sigmoid_focal", "sigmoid_focal_loss"
    options = {
        "alpha": NumberOrTensor(
            0.25,
            "the weight of positive labels, 1 - alpha being that of negative ones: a number, or a tensor that is "
            "broadcast to the shape of `input`, such as (C,) for classes; None weighs all alike",
            high=1.0,
            closed=True,
            help=_help_with_alpha,
        ),
        "gamma": Number(2.0, "the power of 1 - p_t; the larger, the less easy examples count"),
        "weight": WEIGHT,
    }
    signature = "reduction, alpha, gamma, weight"
    denominator = "weights"
    extras = ("alpha",)
    expects = "logits and 0/1 labels (or probabilities) of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    value_checks = (
        LABEL,
        Check(
            "alpha",
            lambda x, y, a=0.5: (a < 0) | (a > 1) | (a != a),
            "in [0, 1]",
            "alpha weighs the positive labels, and 1 - alpha the negative ones",
            UNIT,
        ),
    )

    def formula(x, y, a=None, *, gamma, alpha=None):
        p, u, miss, false_alarm = sides(x)
        loss = (y * u + (1 - y) * p) ** gamma * mix(x, y, miss, false_alarm)
        w = alpha if a is None else a
        return loss if w is None else (w * y + (1 - w) * (1 - y)) * loss

    def derivatives(x, y, a=None, *, gamma, alpha=None):
        p, u, miss, false_alarm = sides(x)
        loss, q = mix(x, y, miss, false_alarm), y * u + (1 - y) * p
        base = where(q == 0, 1, q)  # the loss is 0 there, and the slope of a power below 1 would be infinite
        focus, steep = where(q == 0, 0**gamma, base**gamma), gamma * base ** (gamma - 1)
        bend = where(p * u == 0, 0, p * u * loss)
        by_x = focus * ((1 - y) * p - y * u) + steep * (1 - 2 * y) * bend
        by_y = focus * (miss - false_alarm) + steep * (u - p) * loss
        w = alpha if a is None else a
        if w is None:
            return by_x, by_y
        scale, focal = w * y + (1 - w) * (1 - y), focus * loss
        slopes = scale * by_x, scale * by_y + (2 * w - 1) * focal
        return slopes if a is None else (*slopes, (2 * y - 1) * focal)


class AsymmetricLoss(ElementwiseLoss):
    """The asymmetric loss of a label y: -y (1 - p)^g+ log p - (1 - y) q^g- log(1 - q), q = max(p - m, 0).

    From https://arxiv.org/abs/2009.14119 (Ridnik et al. 2021). p = sigmoid(x), g+ is `gamma_positive`, g- is
    `gamma_negative`, and m is `margin`, the probability below which a negative label costs nothing. The mean divides by
    the number of elements, or by the sum of the weights where `weight` is given; the paper's code sums.

    Shape:
        input: Any, floating logits. 16-bit floats are computed in float32 and rounded once.
        target: That of `input`, in [0, 1]; 0/1 labels of integers or bool are converted.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `target` is outside [0, 1] (unless check="off"), an option is out of its range, or the shapes or
            the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. `AsymmetricLoss` of the paper's code (and of timm) sums, and its
    logarithms end at `eps`, where those here are exact. timm's `AsymmetricLossMultiLabel` is the same
    with its reduction="sum"; its "batchmean" divides by the rows.

    Example:
        >>> import torch, piste
        >>> piste.losses.AsymmetricLoss(margin=0.0)(torch.tensor([0., 0.]), torch.tensor([1., 0.]))
        tensor(0.1949)
    """

    name, functional_name, aliases = "asymmetric", "asymmetric_loss", ("asl",)
    options = {
        "gamma_negative": Number(4.0, "the power of the shifted probability of negative labels"),
        "gamma_positive": Number(1.0, "the power of 1 - p of positive labels"),
        "margin": Number(0.05, "the shift m of the probability of negative labels", high=1.0),
        "weight": WEIGHT,
    }
    signature = "reduction, gamma_negative, gamma_positive, margin, weight"
    elsewhere = {
        "disable_torch_grad_focal_loss": "The powers have gradients, as with False.",
        "smoothing": "Smooth the labels yourself: target * (1 - smoothing) + smoothing / 2.",
        "eps": "The logarithms are exact without a bound.",
    }
    denominator = "weights"
    expects = "logits and 0/1 labels of the same shape"
    example = "torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0])"
    value_checks = (LABEL,)

    def formula(x, y, *, gamma_negative, gamma_positive, margin):
        p, u, miss, false_alarm = sides(x)
        q = where(p > margin, p - margin, 1)  # there the loss is 0 either way, and flat with 1
        if margin != 0:
            false_alarm = where(p > margin, -log(u + margin), 0)  # 1 - q, without cancellation
        return mix(x, y, u**gamma_positive * miss, q**gamma_negative * false_alarm)

    def derivatives(x, y, *, gamma_negative, gamma_positive, margin):
        p, u, miss, false_alarm = sides(x)
        q, share = where(p > margin, p - margin, 1), 1
        if margin != 0:
            false_alarm, share = where(p > margin, -log(u + margin), 0), u / (u + margin)
        positive, negative = u**gamma_positive, q**gamma_negative
        by_positive = -positive * (u + gamma_positive * where(p == 0, 0, p * miss))
        steep = gamma_negative * where(u == 0, 0, u * false_alarm) / q
        by_negative = where(p > margin, p * negative * (steep + share), 0)
        return y * by_positive + (1 - y) * by_negative, positive * miss - negative * false_alarm


class FocalLoss(ClassLoss):
    """Cross entropy of logits x at the class index k times w_k (1 - p_k)^gamma, p = softmax(x) (Lin et al. 2017).

    From https://arxiv.org/abs/1708.02002. A floating `target` of the shape of `input` holds class probabilities y:
    -sum_c w_c y_c (1 - p_c)^gamma log p_c. The weights of the classes are the paper's alpha. A mean divides by the
    number of rows other than those of `ignore_index`; normalizer="weights" divides by the sum of their weights, as
    CrossEntropyLoss does.

    Shape:
        input: (C), (N, C) or (N, C, d1, ...), floating. 16-bit floats are computed in float32 and rounded once. With
            `class_dim` the classes are another dimension: -1 for (N, L, C).
        target: That of `input` without C, class indices of any integer dtype; or that of `input`, class probabilities.
        Returns a 0-dimensional tensor, or one of the shape of `input` without C with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, the input has fewer than 2 classes,
            probabilities are negative or do not sum to 1, or a class weight is negative or not finite (all unless
            check="off"); or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is one-hot of integers or holds indices as floats.

    Differs from torch: torch has no such loss. keras.losses.CategoricalFocalCrossentropy has the same values times its
    number `alpha`, and MONAI's FocalLoss(use_softmax=True) and kornia's focal_loss(alpha=None) with the mean over the
    classes too. kornia's `alpha` is a `weight` of 1 - alpha for class 0, and of alpha for the others.

    Example:
        >>> import torch, piste
        >>> piste.losses.FocalLoss()(torch.tensor([[2., 0., 0.], [0., 0., 1.]]), torch.tensor([0, 2]))
        tensor(0.0550)
    """

    name, functional_name = "focal", "focal_loss"
    options = {
        "gamma": Number(2.0, "the power of 1 - p_k; the larger, the less easy rows count"),
        "weight": CLASS_WEIGHT,
        "ignore_index": IGNORE_INDEX,
        "class_dim": CLASS_DIM,
    }
    signature = "reduction, gamma, weight, ignore_index, *, class_dim"
    expects = "logits (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"
    denominator = "count"

    def formula(x, k, w=None, *, gamma):
        p = pick(log_softmax(x), k)
        loss = -focus(p, gamma) * p
        return loss if w is None else pick(w, k) * loss

    def soft_formula(x, y, w=None, *, gamma):
        """Return the focal loss of a row with probabilities as targets."""
        z = log_softmax(x)
        p = where((y == 0) & (z == -math.inf), 0, z)  # an impossible class of probability 0 costs 0, not 0 * inf
        loss = -y * focus(p, gamma) * p
        return total(loss if w is None else w * loss)


def focus(p: Any, gamma: Any) -> Any:
    """Return (1 - e^p)^gamma of a log-probability p.

    It is flat at both ends, where its product with p is 0 or as steep as p: the slope of a power below 1 is infinite at
    0, and e^p times an infinite p is NaN.
    """
    q = 1 - exp(p)
    return where((q == 0) | (q == 1), 1, q) ** gamma
