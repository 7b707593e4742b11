"""Losses of generators and discriminators, from the scores of samples."""

from __future__ import annotations

from typing import Any

from ..formula.words import exp, log1p, where
from ..options import Choice
from .elementwise import ElementwiseLoss

__all__ = ["DiscriminatorLoss", "GeneratorLoss"]


def softplus(z: Any) -> Any:
    """Return log(1 + e^z), without overflow; its derivative at 0 is right."""
    return where(z > 0, z, 0) + log1p(exp(where(z > 0, -z, z)))


class DiscriminatorLoss(ElementwiseLoss):
    """The loss of a discriminator that scores real samples r and generated ones f.

    By `kind`, with s(z) = log(1 + e^z): "logistic" s(-r) + s(f), that of the minimax and the non-saturating game
    (https://arxiv.org/abs/1406.2661); "least_squares" ((r - 1)^2 + f^2) / 2 (https://arxiv.org/abs/1611.04076);
    "wasserstein" f - r (https://arxiv.org/abs/1701.07875); "hinge" max(0, 1 - r) + max(0, 1 + f)
    (https://arxiv.org/abs/1705.02894); "relativistic" s(f - r), of pairs (https://arxiv.org/abs/1807.00734). The mean
    divides by the number of pairs.

    Shape:
        real: Any, floating: scores without sigmoid. 16-bit floats are computed in float32 and rounded once.
        fake: That of `real`: scores of generated samples, which are detached from the generator before they are scored.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `kind` is unknown, or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. "logistic" is the sum of BCEWithLogitsLoss with labels 1 and 0.

    Example:
        >>> import torch, piste
        >>> real, fake = torch.tensor([2., 0.5]), torch.tensor([-1., -0.5])
        >>> piste.losses.DiscriminatorLoss("hinge")(real, fake)
        tensor(0.5000)
    """

    name, functional_name = "discriminator", "discriminator_loss"
    arguments = ("real", "fake")
    options = {
        "kind": Choice(
            "logistic",
            ("logistic", "least_squares", "wasserstein", "hinge", "relativistic"),
            "the game between discriminator and generator",
        )
    }
    signature = "kind, reduction"
    expects = "scores of real samples and of generated ones, of the same shape"
    example = "torch.randn(4), torch.randn(4)"

    def formula(r, f, *, kind):
        if kind == "logistic":
            return softplus(-r) + softplus(f)
        if kind == "least_squares":
            return ((r - 1) * (r - 1) + f * f) / 2
        if kind == "wasserstein":
            return f - r
        if kind == "relativistic":
            return softplus(f - r)
        return where(r >= 1, 0, 1 - r) + where(f <= -1, 0, 1 + f)


class GeneratorLoss(ElementwiseLoss):
    """The loss of a generator whose samples a discriminator gives the scores f.

    By `kind`, with s(z) = log(1 + e^z): "non_saturating" s(-f) and "minimax" -s(f) (https://arxiv.org/abs/1406.2661),
    which go with DiscriminatorLoss("logistic"); "least_squares" (f - 1)^2 / 2; "wasserstein" and "hinge" -f. That of
    the relativistic game is DiscriminatorLoss("relativistic") with real and fake exchanged. The mean divides by the
    number of samples.

    Shape:
        fake: Any, floating: scores without sigmoid. 16-bit floats are computed in float32 and rounded once.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: `kind` is unknown.
        InvalidType: The operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. "non_saturating" is BCEWithLogitsLoss with labels 1.

    Example:
        >>> import torch, piste
        >>> piste.losses.GeneratorLoss("least_squares")(torch.tensor([3., 1.]))
        tensor(1.)
    """

    name, functional_name = "generator", "generator_loss"
    arguments = ("fake",)
    options = {
        "kind": Choice(
            "non_saturating",
            ("non_saturating", "minimax", "least_squares", "wasserstein", "hinge"),
            "the game between discriminator and generator",
        )
    }
    signature = "kind, reduction"
    expects = "scores of generated samples"
    example = "torch.randn(4)"

    def formula(f, *, kind):
        if kind == "non_saturating":
            return softplus(-f)
        if kind == "minimax":
            return -softplus(f)
        if kind == "least_squares":
            return (f - 1) * (f - 1) / 2
        return -f
