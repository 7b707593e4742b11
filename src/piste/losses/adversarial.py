"""Losses of generators and discriminators, from the scores of samples."""

from __future__ import annotations

from ..formula.words import sigmoid, where
from ..options import Choice
from .elementwise import ElementwiseLoss
from .words import one_like, softplus

__all__ = ["DiscriminatorLoss", "GeneratorLoss"]


class DiscriminatorLoss(ElementwiseLoss):
    """The loss of a discriminator that gives real samples the scores r and generated samples the scores f.

    By `kind`, with s(z) = log(1 + e^z): "logistic" s(-r) + s(f), for the minimax and the non-saturating generator
    (https://arxiv.org/abs/1406.2661); "least_squares" ((r - 1)^2 + f^2) / 2 (https://arxiv.org/abs/1611.04076);
    "wasserstein" f - r (https://arxiv.org/abs/1701.07875); "hinge" max(0, 1 - r) + max(0, 1 + f)
    (https://arxiv.org/abs/1705.02894); "relativistic" s(f - r), of pairs (https://arxiv.org/abs/1807.00734). With real
    and fake exchanged, "relativistic" is the loss of the generator too. The mean divides by the number of pairs.

    Shape:
        real: Any, floating scores before a sigmoid. 16-bit floats are computed in float32 and rounded once.
        fake: That of `real`. Detach the samples from the generator before they are scored.
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
            "the game of discriminator and generator",
            {
                **dict.fromkeys(
                    ("minimax", "non_saturating", "vanilla"), 'the discriminator of that game is "logistic"'
                ),
                "lsgan": 'kind="least_squares"',
                "wgan": 'kind="wasserstein"',
            },
        )
    }
    signature = "kind, reduction"
    expects = "scores of real and of generated samples, of the same shape"
    example = "torch.randn(4), torch.randn(4)"

    def formula(r, f, *, kind):
        if kind == "logistic":
            return softplus(-r) + softplus(f)
        if kind == "least_squares":
            return ((r - 1) * (r - 1) + f * f) / 2
        if kind == "wasserstein":
            return f - r
        if kind == "hinge":
            return where(r >= 1, 0, 1 - r) + where(f <= -1, 0, 1 + f)
        return softplus(f - r)

    def derivatives(r, f, *, kind):
        if kind == "logistic":
            return -sigmoid(-r), sigmoid(f)
        if kind == "least_squares":
            return r - 1, f
        if kind == "wasserstein":
            return -one_like(r), one_like(f)
        if kind == "hinge":
            return where(r >= 1, 0, -one_like(r)), where(f <= -1, 0, one_like(f))
        s = sigmoid(f - r)
        return -s, s


class GeneratorLoss(ElementwiseLoss):
    """The loss of a generator whose samples have the scores f of a discriminator.

    By `kind`, with s(z) = log(1 + e^z): "non_saturating" s(-f) and "minimax" -s(f) (https://arxiv.org/abs/1406.2661),
    both for DiscriminatorLoss("logistic"); "least_squares" (f - 1)^2 / 2; "wasserstein" and "hinge" -f. The loss of
    the relativistic game needs the real scores: DiscriminatorLoss("relativistic")(fake, real). The mean divides by the
    number of samples.

    Shape:
        fake: Any, floating scores before a sigmoid. 16-bit floats are computed in float32 and rounded once.
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
            "the game of discriminator and generator",
            {
                **dict.fromkeys(("logistic", "vanilla"), 'the generator of that game is "non_saturating" or "minimax"'),
                "relativistic": 'the generator needs the real scores: DiscriminatorLoss("relativistic")(fake, real)',
                "lsgan": 'kind="least_squares"',
                "wgan": 'kind="wasserstein"',
            },
        )
    }
    signature = "kind, reduction"
    expects = "a tensor of scores of generated samples"
    example = "torch.randn(4)"

    def formula(f, *, kind):
        if kind == "non_saturating":
            return softplus(-f)
        if kind == "minimax":
            return -softplus(f)
        if kind == "least_squares":
            return (f - 1) * (f - 1) / 2
        return -f

    def derivatives(f, *, kind):
        if kind == "non_saturating":
            return (-sigmoid(-f),)
        if kind == "minimax":
            return (-sigmoid(f),)
        if kind == "least_squares":
            return (f - 1,)
        return (-one_like(f),)
