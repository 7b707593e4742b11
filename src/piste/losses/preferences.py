"""Losses of preferences between two answers, from their log-probabilities: DPO and its variants."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidValue
from ..formula.words import sigmoid, where
from ..options import Choice, Number
from .elementwise import ElementwiseLoss
from .value_checks import Check
from .words import one_like, softplus

__all__ = ["DPOLoss"]

LOG_PROBABILITIES = ("chosen", "rejected", "reference_chosen", "reference_rejected")
HELP = "sum log_softmax(logits, -1) at the tokens of each answer"


def log_probability(argument: str, position: int, help: str) -> Check:
    """Return the check of an operand that holds log-probabilities; 0.05 leaves room for rounding."""
    return Check(
        argument,
        lambda *operands: operands[position] > 0.05,
        "a log-probability, which is at most 0",
        help,
        ("up to", 0.05),
    )


class DPOLoss(ElementwiseLoss):
    """Direct preference optimization, from log-probabilities of a chosen and of a rejected answer (Rafailov 2023).

    From https://arxiv.org/abs/2305.18290. With h = (chosen - reference_chosen) - (rejected - reference_rejected), b =
    `beta` and e = `label_smoothing` the `variant` is "sigmoid" -(1 - e) log sigmoid(b h) - e log sigmoid(-b h), which
    is DPO, and conservative DPO with e > 0; "robust" (-(1 - e) log sigmoid(b h) + e log sigmoid(-b h)) / (1 - 2 e)
    (https://arxiv.org/abs/2403.00409); "hinge" max(0, 1 - b h) (SLiC, https://arxiv.org/abs/2305.10425); "ipo"
    (h - 1 / (2 b))^2 (https://arxiv.org/abs/2310.12036), of log-probabilities averaged over tokens. The mean divides by
    the number of pairs.

    Shape:
        chosen, rejected: Any, the same, floating: log-probabilities of the answers by the trained model. 16-bit floats
            are computed in float32 and rounded once.
        reference_chosen, reference_rejected: That of `chosen`, by the reference model.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A log-probability is above 0 (unless check="off"), an option is out of its range,
            `label_smoothing` is given with "hinge" or "ipo", or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. TRL's DPOTrainer has the same values with the same word as loss_type.

    Example:
        >>> import torch, piste
        >>> chosen, rejected, reference = torch.tensor([-2.]), torch.tensor([-5.]), torch.tensor([-3.])
        >>> piste.losses.DPOLoss(beta=0.5)(chosen, rejected, reference, reference)
        tensor(0.2014)
    """

    name, functional_name = "dpo", "dpo_loss"
    arguments = LOG_PROBABILITIES
    options = {
        "beta": Number(0.1, "the strength of the pull to the reference model", above=True),
        "label_smoothing": Number(0.0, "the probability that a preference is wrong", high=0.5),
        "variant": Choice("sigmoid", ("sigmoid", "robust", "hinge", "ipo"), "the function of the difference"),
    }
    signature = "reduction, beta, label_smoothing, variant"
    expects = "log-probabilities of the answers by the model and by the reference model, all of the same shape"
    example = "-torch.rand(3), -torch.rand(3), -torch.rand(3), -torch.rand(3)"
    symbols = {"c": "chosen", "r": "rejected", "c0": "reference_chosen", "r0": "reference_rejected"}
    value_checks = tuple(log_probability(argument, i, HELP) for i, argument in enumerate(LOG_PROBABILITIES))

    def formula(c, r, c0, r0, *, beta, label_smoothing, variant):
        h = (c - c0) - (r - r0)
        z, e = beta * h, label_smoothing
        if variant == "ipo":
            d = h - 1 / (2 * beta)
            return d * d
        if variant == "hinge":
            return where(z >= 1, 0, 1 - z)
        if e == 0:
            return softplus(-z)
        if variant == "sigmoid":
            return (1 - e) * softplus(-z) + e * softplus(z)
        return ((1 - e) * softplus(-z) - e * softplus(z)) / (1 - 2 * e)

    def derivatives(c, r, c0, r0, *, beta, label_smoothing, variant):
        h = (c - c0) - (r - r0)
        z, e = beta * h, label_smoothing
        if variant == "ipo":
            by_h = 2 * h - 1 / beta
        elif variant == "hinge":
            by_h = where(z >= 1, 0, -beta * one_like(z))
        elif variant == "sigmoid":
            by_h = beta * (e - sigmoid(-z))
        else:
            by_h = beta * (e * sigmoid(z) + (1 - e) * sigmoid(-z)) / (2 * e - 1)
        return by_h, -by_h, -by_h, by_h

    @classmethod
    def validate(cls, **options: Any) -> None:
        """Raise for an option outside its range, and for a label smoothing that a variant has no place for."""
        super().validate(**options)
        if options["label_smoothing"] and options["variant"] in ("hinge", "ipo"):
            raise InvalidValue(
                f'{cls.__name__}: `label_smoothing` must be 0 with variant="{options["variant"]}"; received '
                f'label_smoothing={options["label_smoothing"]!r}. Help: "sigmoid" and "robust" take it.'
            )
