"""Losses that hold a layer, checked here and computed by torch: LinearCrossEntropy (where this torch has it), and
AdaptiveLogSoftmaxWithLoss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue
from .classification import CrossEntropyLoss, NLLLoss
from .loss import Loss, PreparedCall
from .reduction import make_reduction
from .value_checks import (
    check_class_weight,
    check_nan,
    check_same_device,
    check_tensors,
    first_violation,
    is_readable,
    shape_of,
)

__all__ = ["AdaptiveLogSoftmaxWithLoss", "Comes"]

Comes = tuple[Loss, Tensor, Tensor, str]
"""A plain loss with its input and target, that a loss with a layer comes to; and how, in a sentence."""


_linear_cross_entropy: Any = getattr(torch.nn.functional, "linear_cross_entropy", None)  # torch 2.12 and later


class _Settled:
    """A module of torch with the settings of `piste.losses.reduction` besides its own arguments."""

    reductions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *args: Any,
        check: str = "raise",
        normalizer: float | Tensor | str | None = None,
        empty: str = "nan",
        **options: Any,
    ) -> None:
        mode = options.get("reduction", "mean")
        make_reduction(type(self).__name__, self.reductions, mode, check, normalizer, empty)
        super().__init__(*args, **options)
        self.check, self.normalizer, self.empty = check, normalizer, empty


class AdaptiveLogSoftmaxWithLoss(_Settled, torch.nn.AdaptiveLogSoftmaxWithLoss):
    """Efficient softmax approximation: frequent classes in a head, rare ones in tails (Grave et al. 2017).

    Gives torch's pair `output` (N), the log-probability of each target, and `loss`, -`output` reduced to its mean.
    Shapes: `input` (N, in_features) and `target` (N), or (in_features) and ().
    Raises: InvalidType for what is no tensor of that kind; InvalidValue for a class outside [0, n_classes - 1]
    (unless check="off").
    Settings: `piste.losses.reduction`; "count" and "weights" are both the number of rows. Computed by
    torch.nn.AdaptiveLogSoftmaxWithLoss, whose arguments it takes.

    >>> import torch, piste
    >>> loss = piste.losses.AdaptiveLogSoftmaxWithLoss(4, 10, cutoffs=[3, 6])
    >>> loss(torch.randn(2, 4), torch.tensor([0, 9])).output.shape
    torch.Size([2])
    """

    reductions = ("mean",)

    def forward(self, input: Tensor, target: Tensor) -> Any:
        """The log-probability of each target, and their mean loss."""
        name = "AdaptiveLogSoftmaxWithLoss"
        how = make_reduction(name, self.reductions, "mean", self.check, self.normalizer, self.empty)
        check_tensors(name, ("input", "target"), (input, target))
        check_same_device(name, ("input", "target"), (input, target))
        if target.is_floating_point() or input.dim() not in (1, 2) or target.shape != input.shape[:-1]:
            raise InvalidType(
                f"{name}: `target` must hold class indices of dtype int64, one for each row of `input` (N, "
                f"in_features); received {target.dtype} of shape {shape_of(target)} for {shape_of(input)}."
            )
        if self.check != "off" and is_readable((input, target)):
            violation = first_violation(target, (target < 0) | (target >= self.n_classes))
            if violation:
                raise InvalidValue(
                    f"{name}: `target` must hold class indices in [0, {self.n_classes - 1}]; received {violation}."
                )
            if self.check == "nan":
                check_nan(name, "input", input)
        found = super().forward(input, target.long())
        if how.normalizer is None and how.empty == "nan":
            return found
        rows = target.numel
        call = PreparedCall(lambda: found.output, (), {}, input.dtype, count=rows, weights=rows, denominator="count")
        return found._replace(loss=how.of(name, -found.output, call))

    def comes_to(self, input: Tensor, target: Tensor) -> Comes:
        """NLLLoss of its log-probabilities."""
        loss = NLLLoss(check=self.check, normalizer=self.normalizer, empty=self.empty)
        is_one = input.dim() == 1
        x = self.log_prob(input.unsqueeze(0) if is_one else input)
        said = "Computed by torch: log-probabilities of all classes from a head and tails; then NLLLoss of those."
        return loss, x[0] if is_one else x, target, said


class _Linear(CrossEntropyLoss):
    """The rules of cross entropy, said of the loss that has its linear layer."""

    @classmethod
    def line_that_works(cls) -> str:
        """A call to copy."""
        return "piste.losses.LinearCrossEntropyLoss(4, 3)(torch.randn(2, 4), torch.tensor([0, 2]))"


_Linear.__name__ = "LinearCrossEntropyLoss"


if hasattr(torch.nn, "LinearCrossEntropyLoss"):
    __all__ += ["LinearCrossEntropyLoss", "linear_cross_entropy"]

    class LinearCrossEntropyLoss(_Settled, torch.nn.LinearCrossEntropyLoss):
        """A linear layer and CrossEntropyLoss in one, which may go without all logits at once.

        Shapes: `input` (N, in_features) or (in_features), `target` as in `CrossEntropyLoss` for the logits.
        Raises: what CrossEntropyLoss raises. Settings: `piste.losses.reduction`. Computed by
        torch.nn.functional.linear_cross_entropy; the other arguments are those of torch.nn.LinearCrossEntropyLoss.

        >>> import torch, piste
        >>> piste.losses.LinearCrossEntropyLoss(4, 3)(torch.randn(2, 4), torch.tensor([0, 2])).dim()
        0
        """

        reductions = _Linear.reductions

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            """The loss of the rows of `input` against `target`."""
            places = (self.num_classes, *self.out_features)
            bias = self.linear.bias
            return linear_cross_entropy(
                input,
                self.linear.weight.reshape(*places, self.linear.in_features),
                target,
                linear_bias=None if bias is None else bias.reshape(places),
                weight=self.weight,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                options=self.options,
                check=self.check,
                normalizer=self.normalizer,
                empty=self.empty,
            )

        def comes_to(self, input: Tensor, target: Tensor) -> Comes:
            """CrossEntropyLoss of its logits."""
            loss = CrossEntropyLoss(
                self.weight,
                ignore_index=-100 if self.ignore_index is None else self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
                check=self.check,
                normalizer=self.normalizer,
                empty=self.empty,
            )
            x = self.linear(input).reshape(*input.shape[:-1], self.num_classes, *self.out_features)
            said = "Computed by torch: logits = linear(input); then CrossEntropyLoss of those."
            return loss, x, target, said

    def linear_cross_entropy(
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        *,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        check: str = "raise",
        normalizer: float | Tensor | str | None = None,
        empty: str = "nan",
        **options: Any,
    ) -> Tensor:
        """The function form of `LinearCrossEntropyLoss`; `options` are those of torch's."""
        name = "LinearCrossEntropyLoss"
        how = make_reduction(name, _Linear.reductions, reduction, check, normalizer, empty)
        check_tensors(name, ("input", "linear_weight", "target"), (input, linear_weight, target))
        check_same_device(name, ("input", "linear_weight", "target"), (input, linear_weight, target))
        _Linear.validate(label_smoothing=label_smoothing)
        logits = torch.empty((), device=target.device).expand(
            (*input.shape[:-1], linear_weight.shape[0], *linear_weight.shape[1:-1])
        )
        x, y, has_indices = _Linear._arranged(logits, target, None, check)
        if weight is not None:
            _Linear._check_weight(weight, x)
            if check != "off":
                check_class_weight(name, weight)
        keep = y != (-100 if ignore_index is None else ignore_index) if has_indices else None
        if check != "off" and is_readable((input, target)):
            if keep is not None:
                _Linear._check_indices(y, keep, x.shape[-1], -100 if ignore_index is None else ignore_index)
            else:
                _Linear._check_probabilities(y.float(), y.dtype)
            if check == "nan":
                for argument, operand in (("input", input), ("target", target), ("linear_weight", linear_weight)):
                    check_nan(name, argument, operand)
        compute: Callable[..., Tensor] = _linear_cross_entropy
        is_torchs = normalizer is None and empty == "nan"
        mode = reduction if is_torchs or reduction == "none" else "sum"
        value = compute(
            input,
            linear_weight,
            target,
            weight=weight,
            reduction=mode,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            **options,
        )
        if is_torchs:
            return value

        def weights() -> Tensor:
            by = torch.ones(x.shape[-1], device=y.device) if weight is None else weight
            return (y * by).sum() if keep is None else torch.where(keep, by[torch.where(keep, y, 0)], 0).sum()

        count = (lambda: x[..., 0].numel()) if keep is None else keep.sum
        denominator = "count" if keep is None else "weights"
        return how.of(
            name,
            value,
            PreparedCall(compute, (), {}, value.dtype, count=count, weights=weights, denominator=denominator),
        )
