"""The token loss of policies that are trained on rewards: GRPO."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidValue
from ..formula.words import exp, where
from ..options import Number, TensorOption
from .elementwise import WEIGHT, ElementwiseLoss
from .preferences import log_probability

__all__ = ["GRPOLoss"]

HELP = "log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)"


def clipped(r: Any, a: Any, low: Any, high: Any, below: Any, above: Any) -> Any:
    """Return r, with `above` and `below` in its place where the clipping bounds the gain of an advantage a."""
    return where(a >= 0, where(r > high, above, r), where(r < low, below, r))


class GRPOLoss(ElementwiseLoss):
    """The clipped loss of sampled tokens in GRPO and PPO, from their log-probabilities (Shao et al. 2024).

    From https://arxiv.org/abs/2402.03300. With the ratio r = exp(input - old) and the advantage A of a token it is
    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). With `reference`, log-probabilities q by the reference model,
    beta (e^d - d - 1) is added with d = q - input, an estimate of the KL divergence. `weight` is the mask of the
    tokens; the function form takes both in each call. The loss of a masked token is multiplied by 0, as in torch, so
    its log-probabilities must be finite: input.masked_fill(mask == 0, 0.0), and `old` alike. The mean divides by the
    sum of the weights, the number of tokens in the batch; other denominators in use are

    - GRPO, the mean over answers of the mean over tokens: weight=mask / mask.sum(1, keepdim=True);
    - DAPO (https://arxiv.org/abs/2503.14476), the tokens of all accumulated batches: normalizer=their number;
    - Dr. GRPO (https://arxiv.org/abs/2503.20783), a constant: normalizer=N * T, of N answers of up to T tokens.

    Shape:
        input: Any, usually (N, T), floating: log-probabilities of the tokens by the trained model. 16-bit floats are
            computed in float32 and rounded once.
        old: That of `input`, by the model that sampled the tokens.
        advantage: That of `input`; advantages (N,) of answers are advantage[:, None].expand_as(input).
        Returns a 0-dimensional tensor, or one of that shape with reduction="none".

    Raises:
        InvalidValue: A log-probability is above 0 (unless check="off"), an option is out of its range, one of `beta`
            and `reference` is given without the other, or the shapes or the devices differ.
        InvalidType: An operand is no tensor of real numbers.

    Differs from torch: torch has no such loss. TRL's GRPOTrainer has epsilon and epsilon_high for the clipping, and its
    loss_type "bnpo" is the mean of this loss.

    Example:
        >>> import torch, piste
        >>> x, old, advantage = torch.tensor([-1., -2.]), torch.tensor([-2., -2.]), torch.tensor([1., -0.5])
        >>> piste.losses.GRPOLoss(clip_high=0.25)(x, old, advantage)
        tensor(-0.3750)
    """

    name, functional_name = "grpo", "grpo_loss"
    arguments = ("input", "old", "advantage")
    options = {
        "clip_low": Number(0.2, "how far the ratio is followed below 1", high=1.0, closed=True),
        "clip_high": Number(0.2, "how far the ratio is followed above 1"),
        "beta": Number(0.0, "the factor of the KL divergence from the reference model"),
        "reference": TensorOption("log-probabilities by the reference model, broadcast to the shape of `input`"),
        "weight": WEIGHT,
    }
    signature = "reduction, clip_low, clip_high, beta, reference, weight"
    elsewhere = {"loss_type": "The denominator is `normalizer`, or the sum of `weight`: help(GRPOLoss) lists them."}
    denominator = "weights"
    extras = ("reference",)
    symbols = {"p": "input", "q": "old", "a": "advantage", "p0": "reference"}
    expects = "log-probabilities of the tokens by two models, and advantages, all of the same shape"
    example = "-torch.rand(2, 3), -torch.rand(2, 3), torch.randn(2, 3)"
    value_checks = tuple(log_probability(name, i, HELP) for name, i in (("input", 0), ("old", 1), ("reference", 3)))

    def formula(p, q, a, p0=None, *, clip_low, clip_high, beta):
        low, high = 1 - clip_low, 1 + clip_high
        loss = -a * clipped(exp(p - q), a, low, high, low, high)
        if p0 is None:
            return loss
        d = p0 - p
        return loss + beta * (exp(d) - d - 1)

    def derivatives(p, q, a, p0=None, *, clip_low, clip_high, beta):
        r, low, high = exp(p - q), 1 - clip_low, 1 + clip_high
        by_ratio = -a * clipped(r, a, low, high, 0, 0)  # times the ratio; an infinite one may be clipped
        slopes = by_ratio, -by_ratio, -clipped(r, a, low, high, low, high)
        if p0 is None:
            return slopes
        pull = beta * (1 - exp(p0 - p))
        return slopes[0] + pull, *slopes[1:], -pull

    @classmethod
    def validate(cls, **options: Any) -> None:
        """Raise for an option outside its range, and for a reference model or its factor without the other."""
        super().validate(**options)
        if options.get("reference") is None and options.get("beta"):
            raise InvalidValue(
                f"{cls.__name__}: `reference` must be given with beta={options['beta']!r}; received None. "
                "Help: log-probabilities of the tokens by the reference model, or beta=0."
            )
        if options.get("reference") is not None and not options["beta"]:
            raise InvalidValue(
                f"{cls.__name__}: `beta` must be above 0 with `reference`; received beta={options['beta']!r}. "
                "Help: beta=0.04 is the paper's; without a reference model leave `reference` out."
            )
