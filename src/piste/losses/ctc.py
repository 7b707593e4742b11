"""CTC: labels and lengths are checked here; the sum over alignments is torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine import cast_result, compute_dtype
from ..errors import InvalidValue
from ..options import Flag, Integer
from .call import PreparedCall
from .loss import Loss
from .reduction import Reduction
from .value_checks import check_nan, check_tensors, first_violation, is_readable, shape_of

__all__ = ["CTCLoss"]


_ctc_loss = torch.nn.functional.ctc_loss  # read once: `piste.patch` replaces the name there


class CTCLoss(Loss):
    """Connectionist temporal classification: -log of the probability of a label sequence (Graves et al. 2006).

    From https://www.cs.toronto.edu/~graves/icml_2006.pdf. Computed by torch.nn.functional.ctc_loss. A mean divides each
    loss by the length of its target first, as in torch; `normalizer` divides the sum of those.

    Shape:
        log_probs: (T, N, C) or (T, C), floating. 16-bit floats are computed in float32 and rounded once.
        targets: (N, S), or all sequences one after the other; integers.
        input_lengths, target_lengths: (N), integers, or tuples of int.
        Returns a 0-dimensional tensor, or (N) with reduction="none".

    Raises:
        InvalidValue: A label is outside [0, C - 1] or equal to `blank`, a log-probability is above 0 (both unless
            check="off"), or a length does not fit.

    Differs from torch: torch.nn.CTCLoss reads out of bounds for lengths and labels out of range, and rejects calls
    without samples.

    Example:
        >>> import torch, piste
        >>> log_probs = torch.full((3, 1, 2), 0.5).log()
        >>> piste.losses.CTCLoss()(log_probs, torch.tensor([[1]]), (3,), (1,))
        tensor(0.2877)
    """

    name, functional_name = "ctc", "ctc_loss"
    arguments = ("log_probs", "targets", "input_lengths", "target_lengths")
    argument_types = {"input_lengths": "Tensor | Sequence[int]", "target_lengths": "Tensor | Sequence[int]"}
    options = {
        "blank": Integer(0, "the class index of the blank"),
        "zero_infinity": Flag(False, "whether an infinite loss, and its gradient, become 0"),
    }
    signature = "blank, reduction, zero_infinity"
    expects = "log-probabilities (T, N, C), labels (N, S), and input and target lengths (N,)"
    example = (
        "torch.log_softmax(torch.randn(6, 2, 4), dim=2), torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 5]), "
        "torch.tensor([2, 1])"
    )

    def formula(x, y, input_lengths, target_lengths, *, blank, zero_infinity):
        if x.dim() == 3 and not x.shape[1]:  # no samples, which torch refuses
            return x.sum((0, 2))
        return _ctc_loss(
            x, y, input_lengths, target_lengths, blank=blank, reduction="none", zero_infinity=zero_infinity
        )

    @classmethod
    def prepare(
        cls, operands: tuple[Any, ...], check: str, *, blank: int = 0, zero_infinity: bool = False, **options: Any
    ) -> PreparedCall:
        """Return valid labels and lengths, within the bounds of torch's arrays."""
        x, y, *lengths = operands
        check_tensors("CTCLoss", cls.arguments, (x, y))
        if x.dim() not in (2, 3) or not x.is_floating_point():
            help = "torch.log_softmax(logits, dim=-1)"
            if y.is_floating_point():
                help = "log_probs and targets look exchanged"
            raise InvalidValue(
                f"CTCLoss: `log_probs` must be (T, N, C) or (T, C), of a floating dtype; received {x.dtype} of shape "
                f"{shape_of(x)}. Help: {help}."
            )
        steps, classes, samples = x.shape[0], x.shape[-1], x.shape[1] if x.dim() == 3 else 1
        if y.is_floating_point() or y.dim() > 2 or (y.dim() == 2 and y.shape[0] != samples):
            raise InvalidValue(
                f"CTCLoss: `targets` must hold integer labels of shape ({samples}, S), or (S) with all sequences one "
                f"after the other; received {y.dtype} of shape {shape_of(y)}. "
                f"Help: {_how_to_arrange(x, y.shape[0] if y.dim() == 2 else -1)}."
            )
        if not isinstance(blank, int) or not 0 <= blank < classes:
            raise InvalidValue(f"CTCLoss: `blank` must be in [0, {classes - 1}]; received blank={blank!r}.")
        lengths = [cls._lengths(n, value, samples, x) for n, value in zip(cls.arguments[2:], lengths, strict=True)]
        if is_readable((x, y, *lengths)):
            cls._check_lengths(lengths, steps, y)
            if check != "off":
                cls._check_values(x, y, lengths[1], classes, blank, check)
        given = (x.to(compute_dtype(x.dtype)), y, *lengths)
        chosen = {"blank": blank, "zero_infinity": zero_infinity}
        return PreparedCall(cls.formula, given, chosen, x.dtype, lambda: samples, lambda: samples, "count")

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Reduce as every loss does, but take the mean over losses per label."""
        call = cls.prepare(operands, check, **options)
        values = call.formula(*call.operands, **call.options)
        if reduction.mode == "mean":
            values = values / call.operands[3].to(values.device).clamp_min(1).reshape(values.shape)
        return cast_result(reduction.of("CTCLoss", values, call), call.dtype)

    @staticmethod
    def _lengths(name: str, lengths: Any, samples: int, x: Tensor) -> Tensor:
        if not isinstance(lengths, Tensor):
            lengths = torch.tensor(lengths, device="cpu")
            lengths = lengths if lengths.numel() else lengths.long()
        if lengths.is_floating_point() or lengths.numel() != samples:
            help = _how_to_arrange(x, lengths.numel())
            if lengths.is_floating_point():
                help = f"{name}.long()"
            elif lengths.dim() == 0:
                help = f"torch.full(({samples},), {int(lengths)})"
            raise InvalidValue(
                f"CTCLoss: `{name}` must hold {samples} integers, one for each sample of `log_probs` {shape_of(x)}; "
                f"received {lengths.dtype} of shape {shape_of(lengths)}. Help: {help}."
            )
        return lengths

    @staticmethod
    def _check_lengths(lengths: list[Tensor], steps: int, y: Tensor) -> None:
        longest = y.shape[1] if y.dim() == 2 else y.numel()
        for name, given, limit in (("input_lengths", lengths[0], steps), ("target_lengths", lengths[1], longest)):
            violation = first_violation(given, (given < 0) | (given > limit))
            if violation:
                exchanged = [bool((n <= most).all()) for n, most in zip(lengths[::-1], (steps, longest), strict=True)]
                help = "input_lengths and target_lengths look exchanged" if all(exchanged) else _LIMITS[name]
                raise InvalidValue(f"CTCLoss: `{name}` must be in [0, {limit}]; received {violation}. Help: {help}.")
        if y.dim() == 1 and int(lengths[1].sum()) != y.numel():
            raise InvalidValue(
                f"CTCLoss: `target_lengths` must sum to the number of labels in `targets`, {y.numel()}; received "
                f"{int(lengths[1].sum())}."
            )

    @staticmethod
    def _check_values(x: Tensor, y: Tensor, lengths: Tensor, classes: int, blank: int, check: str) -> None:
        is_read = torch.ones_like(y, dtype=torch.bool)
        if y.dim() == 2:
            is_read = torch.arange(y.shape[1], device=y.device) < lengths.to(y.device).reshape(-1, 1)
        violation = first_violation(y, is_read & ((y < 0) | (y >= classes) | (y == blank)))
        if violation:
            raise InvalidValue(
                f"CTCLoss: `targets` must hold labels in [0, {classes - 1}] other than blank={blank}; received "
                f"{violation}. Help: padding lies beyond target_lengths; the blank is no label."
            )
        violation = first_violation(x.detach(), x.detach() > 0.05)
        if violation:
            raise InvalidValue(
                f"CTCLoss: `log_probs` must hold log-probabilities, which are never above 0; received {violation}. "
                "Help: torch.log_softmax(logits, dim=-1)."
            )
        if check == "nan":
            check_nan("CTCLoss", "log_probs", x)


_LIMITS = {
    "input_lengths": "a sample has at most T steps, the first dimension of log_probs",
    "target_lengths": "a sample has at most as many labels as targets has for it",
}


def _how_to_arrange(x: Tensor, samples: int) -> str:
    """Return the help for log-probabilities and targets of different numbers of samples."""
    if x.dim() == 3 and x.shape[0] == samples:
        return "log_probs.transpose(0, 1), as the time is the first dimension"
    return "time is the first dimension of log_probs, and the samples are the second"
