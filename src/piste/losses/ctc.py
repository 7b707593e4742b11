"""CTC: labels and lengths are checked here; the sum over alignments is torch's."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from ..engine.eager import loss as eager_loss
from ..errors import InvalidValue
from .loss import Call, Loss, explained
from .reduction import Reduction, Settings
from .value_checks import first_offence, is_readable, refuse_nan, shape_of, tensors

__all__ = ["CTCLoss", "ctc_loss"]


_ctc_loss = torch.nn.functional.ctc_loss  # read once: `piste.patch` replaces the name there


class CTCLoss(Loss):
    """Connectionist temporal classification: -log of the probability of a label sequence (Graves et al. 2006).

    Shapes: `log_probs` (T, N, C) or (T, C); `targets` (N, S), or all sequences one after the other;
    `input_lengths` and `target_lengths` (N), or tuples of int. A mean divides each loss by its target's length first,
    as in torch; `normalizer` divides the sum of those.
    Dtypes: log_probs floating (16-bit floats are computed in float32); the others integers.
    Raises: InvalidValue for labels outside [0, C - 1] or equal to `blank`, for lengths that don't fit, and for
    log-probabilities above 0 (all but shapes and lengths unless check="off"). torch reads out of bounds.
    Settings: `piste.losses.reduction`. Computed by torch.nn.functional.ctc_loss.

    >>> import torch, piste
    >>> log_probs = torch.full((3, 1, 2), 0.5).log()
    >>> piste.losses.CTCLoss()(log_probs, torch.tensor([[1]]), (3,), (1,))
    tensor(0.2877)
    """

    name, function = "ctc", "ctc_loss"
    arguments = ("log_probs", "targets", "input_lengths", "target_lengths")
    ranges = {"zero_infinity": "bool"}
    expects = "log-probabilities (T, N, C), labels (N, S) and two times N lengths"
    example = (
        "torch.log_softmax(torch.randn(6, 2, 4), dim=2), torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 5]), "
        "torch.tensor([2, 1])"
    )

    @staticmethod
    def value(x, y, input_lengths, target_lengths, *, blank, zero_infinity):
        if x.dim() == 3 and not x.shape[1]:  # no samples, which torch refuses
            return x.sum((0, 2))
        return _ctc_loss(
            x, y, input_lengths, target_lengths, blank=blank, reduction="none", zero_infinity=zero_infinity
        )

    @classmethod
    def prepare(
        cls, operands: tuple[Any, ...], check: str, *, blank: int = 0, zero_infinity: bool = False, **options: Any
    ) -> Call:
        """Labels and lengths that torch can follow without leaving its arrays."""
        x, y, *lengths = operands
        tensors("CTCLoss", cls.arguments, (x, y))
        if x.dim() not in (2, 3) or not x.is_floating_point():
            raise InvalidValue(
                f"CTCLoss: `log_probs` must be (T, N, C) or (T, C), of a floating dtype; received {x.dtype} of shape "
                f"{shape_of(x)}."
            )
        steps, classes, samples = x.shape[0], x.shape[-1], x.shape[1] if x.dim() == 3 else 1
        if y.is_floating_point() or y.dim() > 2 or (y.dim() == 2 and y.shape[0] != samples):
            raise InvalidValue(
                f"CTCLoss: `targets` must hold integer labels of shape ({samples}, S), or (S) with all sequences one "
                "after "
                f"the other; received {y.dtype} of shape {shape_of(y)}."
            )
        if not isinstance(blank, int) or not 0 <= blank < classes:
            raise InvalidValue(f"CTCLoss: `blank` must be in [0, {classes - 1}]; received blank={blank!r}.")
        lengths = [cls._lengths(n, value, samples, x) for n, value in zip(cls.arguments[2:], lengths, strict=True)]
        if is_readable((x, y, *lengths)):
            cls._refuse_lengths(lengths, steps, y)
            if check != "off":
                cls._refuse_values(x, y, lengths[1], classes, blank, check)
        letters = (x.to(eager_loss.working_dtype(x.dtype)), y, *lengths)
        given = {"blank": blank, "zero_infinity": zero_infinity}
        return Call(cls.value, letters, given, x.dtype, lambda: samples, lambda: samples, "count")

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """As every loss; a mean is over losses for each label."""
        call = cls.prepare(operands, check, **options)
        values = call.formula(*call.letters, **call.options)
        if reduction.mode == "mean":
            values = values / call.letters[3].to(values.device).clamp_min(1).reshape(values.shape)
        return eager_loss.narrowed(reduction.of("CTCLoss", values, call), call.dtype)

    @staticmethod
    def _lengths(name: str, lengths: Any, samples: int, x: Tensor) -> Tensor:
        if not isinstance(lengths, Tensor):
            lengths = torch.tensor(lengths)
            lengths = lengths if lengths.numel() else lengths.long()
        if lengths.is_floating_point() or lengths.numel() != samples:
            raise InvalidValue(
                f"CTCLoss: `{name}` must hold {samples} integers, one for each sample of `log_probs` {shape_of(x)}; "
                f"received {lengths.dtype} of shape {shape_of(lengths)}."
            )
        return lengths

    @staticmethod
    def _refuse_lengths(lengths: list[Tensor], steps: int, y: Tensor) -> None:
        longest = y.shape[1] if y.dim() == 2 else y.numel()
        for name, given, limit in (("input_lengths", lengths[0], steps), ("target_lengths", lengths[1], longest)):
            offence = first_offence(given, (given < 0) | (given > limit))
            if offence:
                raise InvalidValue(f"CTCLoss: `{name}` must be in [0, {limit}]; received {offence}.")
        if y.dim() == 1 and int(lengths[1].sum()) != y.numel():
            raise InvalidValue(
                f"CTCLoss: `target_lengths` must sum to the number of labels in `targets`, {y.numel()}; received "
                f"{int(lengths[1].sum())}."
            )

    @staticmethod
    def _refuse_values(x: Tensor, y: Tensor, lengths: Tensor, classes: int, blank: int, check: str) -> None:
        is_read = torch.ones_like(y, dtype=torch.bool)
        if y.dim() == 2:
            is_read = torch.arange(y.shape[1], device=y.device) < lengths.to(y.device).reshape(-1, 1)
        offence = first_offence(y, is_read & ((y < 0) | (y >= classes) | (y == blank)))
        if offence:
            raise InvalidValue(
                f"CTCLoss: `targets` must hold labels in [0, {classes - 1}] other than blank={blank}; received "
                f"{offence}. "
                "Help: padding lies beyond target_lengths; the blank is no label."
            )
        offence = first_offence(x.detach(), x.detach() > 0.05)
        if offence:
            raise InvalidValue(
                f"CTCLoss: `log_probs` must hold log-probabilities, which are never above 0; received {offence}. "
                "Help: torch.log_softmax(logits, dim=-1)."
            )
        if check == "nan":
            refuse_nan("CTCLoss", "log_probs", x)

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(reduction=reduction, blank=blank, zero_infinity=zero_infinity, **settings)


@explained(CTCLoss)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | tuple[int, ...],
    target_lengths: Tensor | tuple[int, ...],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    **settings: Unpack[Settings],
) -> Tensor:
    """The function form of `CTCLoss`."""
    return CTCLoss.run(
        log_probs,
        targets,
        input_lengths,
        target_lengths,
        reduction=reduction,
        blank=blank,
        zero_infinity=zero_infinity,
        **settings,
    )
