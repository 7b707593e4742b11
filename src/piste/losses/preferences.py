"""Losses of preferences between two answers, from their log-probabilities: DPO and its variants."""

from __future__ import annotations

from ..formula.words import where
from ..options import Choice, Number
from .adversarial import softplus
from .elementwise import ElementwiseLoss
from .value_checks import Check

__all__ = ["DPOLoss"]

LOG_PROBABILITIES = ("chosen", "rejected", "reference_chosen", "reference_rejected")


def _check(position: int) -> Check:
    return Check(
        LOG_PROBABILITIES[position],
        lambda *operands: operands[position] > 0.05,
        "a log-probability, which is at most 0",
        "sum torch.log_softmax(logits, -1) at the tokens of the answer",
        ("up to", 0.05),
    )


class DPOLoss(ElementwiseLoss):
    """Direct preference optimization: of a chosen and a rejected answer, each with its log-probability (Rafailov 2023).

    From https://arxiv.org/abs/2305.18290. h = (chosen - reference_chosen) - (rejected - reference_rejected) and b is
    `beta`. By `variant`: "sigmoid" -log sigmoid(b h), and with `label_smoothing` e: -(1 - e) log sigmoid(b h) -
    e log sigmoid(-b h) (conservative DPO); "robust" the difference of both over 1 - 2 e (https://arxiv.org/abs/2403.00409);
    "hinge" max(0, 1 - b h) (https://arxiv.org/abs/2305.10425); "ipo" (h - 1 / (2 b))^2 (https://arxiv.org/abs/2310.12036),
    of log-probabilities averaged over tokens. The mean divides by the number of pairs.

    Shape:
        chosen, rejected: Any, the same, floating: log-probabilities of the answers by the trained model.
        reference_chosen, reference_rejected: That of `chosen`, by the reference model.
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A log-probability is above 0 (unless check="off"), an option is out of its range, or the shapes or
            the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. TRL's DPOTrainer has the same values with loss_type= "sigmoid",
    "robust", "hinge" and "ipo".

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
    expects = "log-probabilities of chosen and rejected answers by the model and by a reference, all of the same shape"
    example = "-torch.rand(3), -torch.rand(3), -torch.rand(3), -torch.rand(3)"
    value_checks = tuple(map(_check, range(4)))

    def formula(c, r, c0, r0, *, beta, label_smoothing, variant):
        h = (c - c0) - (r - r0)
        z, e = beta * h, label_smoothing
        if variant == "hinge":
            return where(z >= 1, 0, 1 - z)
        if variant == "ipo":
            d = h - 1 / (2 * beta)
            return d * d
        if e == 0:
            return softplus(-z)
        if variant == "robust":
            return ((1 - e) * softplus(-z) - e * softplus(z)) / (1 - 2 * e)
        return (1 - e) * softplus(-z) + e * softplus(z)
