"""Losses of ranks, from a logit for each step between neighbouring ranks: CORAL and CORN."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import total
from ..formula.words import where
from .reduction import Reduction
from .rowwise import Rows, RowwiseLoss
from .value_checks import check_same_device, check_tensors, first_violation, is_readable, shape_of
from .words import softplus

__all__ = ["CORALLoss", "CORNLoss"]


class OrdinalLoss(RowwiseLoss):
    """A loss of a rank from 0 to K - 1 and the K - 1 logits of its steps."""

    formula: ClassVar[Any]
    elsewhere = {"num_classes": "The number of ranks is one more than that of the logits in a row of `input`."}
    expects = "logits (N, K - 1) of the steps between K ranks, and ranks (N) of dtype int64"
    example = "torch.randn(3, 4), torch.tensor([1, 0, 4])"
    symbols = {"x": "a row of input", "y": "whether the rank is above each step", "m": "whether each step counts"}

    @classmethod
    def steps(cls, ranks: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return whether the rank is above each step, and further rows of the formula."""
        return (torch.arange(number, device=ranks.device) < ranks.unsqueeze(-1),)

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return rows of logits, each with the steps that its rank is above."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        x, k = operands
        if x.is_floating_point() and k.dim() == x.dim() > 0 and k.shape[:-1] == x.shape[:-1]:
            raise InvalidValue(
                f"{name}: `target` must hold one rank for each row of `input`, shape {tuple(x.shape[:-1])}; received "
                f"{k.dtype} of shape {shape_of(k)}. Help: target.argmax(-1), if it is one-hot; "
                "target.sum(-1), if it has a label for each step."
            )
        if not x.is_floating_point() or k.is_floating_point() or k.is_complex():
            raise InvalidType(
                f"{name}: `input` must hold floating-point logits and `target` ranks of dtype int64; received "
                f"{x.dtype} and {k.dtype}. Help: input.float(), target.long()."
            )
        if x.dim() == 0 or x.shape[-1] < 2 or k.shape != x.shape[:-1]:
            raise InvalidValue(
                f"{name}: `input` must be (N, K - 1) of K >= 3 ranks, with `target` (N); received {shape_of(x)} and "
                f"{shape_of(k)}. Help: {cls.line_that_works()}"
            )
        steps = x.shape[-1]
        if check != "off" and is_readable((k,)):
            violation = first_violation(k, (k < 0) | (k > steps))
            if violation:
                raise InvalidValue(
                    f"{name}: `target` must hold ranks in [0, {steps}], as {steps} logits make {steps + 1} ranks; "
                    f"received {violation}. Help: ranks are numbered from 0."
                )
        given = (x, *(row.to(x.dtype) for row in cls.steps(k, steps)))
        return Rows(cls.formula, given, ("row",) * len(given), options, x.dtype)


class CORALLoss(OrdinalLoss):
    """The sum over the steps j of binary cross entropy of the logit x_j with the label k > j (Cao et al. 2020).

    From https://arxiv.org/abs/1901.07884. k is the rank, and the probability of a rank above j is sigmoid(x_j). The
    logits of a consistent model share all but their biases. The predicted rank is the number of steps that are more
    probable than not, `(input > 0).sum(-1)`. A mean divides by the number of rows.

    Shape:
        input: (N, K - 1), (K - 1) or with more dimensions, floating logits. 16-bit floats are computed in float32.
        target: That of `input` without its last dimension: ranks in [0, K - 1] of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: A rank is outside [0, K - 1] (unless check="off"), there are fewer than 3 ranks, or shapes or
            devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch has no such loss. coral_pytorch's coral_loss has the same values, with the levels of
    levels_from_labelbatch as its target.

    Example:
        >>> import torch, piste
        >>> input = torch.tensor([[2., 0., -1.]])
        >>> piste.losses.CORALLoss()(input, torch.tensor([2]))
        tensor(1.1333)
        >>> (input > 0).sum(-1)
        tensor([1])
    """

    name, functional_name = "coral", "coral_loss"
    signature = "reduction"

    def formula(x: Any, y: Any) -> Any:  # type: ignore[override, misc]
        return total(where(y == 1, softplus(-x), softplus(x)))


class CORNLoss(OrdinalLoss):
    """CORAL of conditional probabilities: step j counts in the rows of rank j or above (Shi et al. 2021).

    From https://arxiv.org/abs/2111.08851. sigmoid(x_j) is the probability that the rank k is above j, if it is above
    j - 1, so that of k > j is their product up to j, and the predicted rank is
    `(input.sigmoid().cumprod(-1) > 0.5).sum(-1)`. A mean divides by the number of steps that count in all rows, the sum
    of min(k + 1, K - 1); normalizer="count" divides by the number of rows.

    Shape:
        input: (N, K - 1), (K - 1) or with more dimensions, floating logits. 16-bit floats are computed in float32.
        target: That of `input` without its last dimension: ranks in [0, K - 1] of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: A rank is outside [0, K - 1] (unless check="off"), there are fewer than 3 ranks, or shapes or
            devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch has no such loss. coral_pytorch's corn_loss has the same values.

    Example:
        >>> import torch, piste
        >>> input = torch.tensor([[2., 0., -1.]])
        >>> piste.losses.CORNLoss()(input, torch.tensor([0]))
        tensor(2.1269)
        >>> (input.sigmoid().cumprod(-1) > 0.5).sum(-1)
        tensor([1])
    """

    name, functional_name = "corn", "corn_loss"
    signature = "reduction"

    def formula(x: Any, y: Any, m: Any) -> Any:  # type: ignore[override, misc]
        return total(where(m == 1, where(y == 1, softplus(-x), softplus(x)), 0))

    @classmethod
    def steps(cls, ranks: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return whether the rank is above each step, and whether the step counts."""
        is_reached = torch.arange(number, device=ranks.device) <= ranks.unsqueeze(-1)
        return (*super().steps(ranks, number), is_reached)

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Divide a mean by the number of steps that count."""
        if reduction.mode == "mean" and reduction.normalizer in (None, "weights"):
            rows = cls.rows(operands, check, **options)
            reduction = reduction._replace(normalizer=rows.operands[2].double().sum())
        return super().compute(operands, reduction, check, **options)
