"""Losses that hold a layer: validated here, computed by torch.

LinearCrossEntropyLoss exists where torch has it (2.12 and later).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue, Unsupported, did_you_mean
from .call import PreparedCall
from .class_checks import arrange, check_indices, check_probabilities, check_weight
from .classification import CrossEntropyLoss, NLLLoss
from .loss import Loss
from .reduction import SETTINGS, make_reduction
from .value_checks import (
    check_class_weight,
    check_nan,
    check_same_device,
    check_tensors,
    first_violation,
    is_readable,
    shape_of,
)

__all__ = ["AdaptiveLogSoftmaxWithLoss", "EquivalentCall"]

_linear_cross_entropy: Any = getattr(torch.nn.functional, "linear_cross_entropy", None)


class EquivalentCall(NamedTuple):
    """A loss without a layer, with the input and target that give the same value, and a sentence that says so."""

    loss: Loss
    input: Tensor
    target: Tensor
    sentence: str


class _CheckedModule(torch.nn.Module):
    """A module of torch with the settings of `piste.losses.reduction` in addition to its own arguments."""

    reductions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *args: Any,
        check: str = "raise",
        normalizer: float | Tensor | str | None = None,
        empty: str = "nan",
        **options: Any,
    ) -> None:
        name, known = type(self).__name__, [*inspect.signature(super().__init__).parameters, *SETTINGS]
        unknown = [option for option in options if option not in known]
        if unknown:
            raise InvalidType(" ".join(f"{name}() has no argument `{o}`. {did_you_mean(o, known)}" for o in unknown))
        make_reduction(name, self.reductions, options.get("reduction", "mean"), check, normalizer, empty)
        super().__init__(*args, **options)
        self.check, self.normalizer, self.empty = check, normalizer, empty

    def __call__(self, input: Any, target: Any) -> Any:
        """Compute the loss; torch.fx records a call of this module."""
        if isinstance(input, torch.fx.Proxy):
            path = input.tracer.path_of_module(self)  # type: ignore[attr-defined]
            return input.tracer.create_proxy("call_module", path, (input, target), {})
        return super().__call__(input, target)

    def __prepare_scriptable__(self) -> Any:
        raise Unsupported(
            f"torch.jit.script can't compile the checks of {type(self).__name__}. Help: torch.compile and "
            "torch.jit.trace work with it; or script the model without its loss."
        )


def _check_operands(name: str, in_features: int, input: Any, target: Any) -> None:
    """Raise unless input and target are tensors on one device, and the input fits the layer."""
    check_tensors(name, ("input", "target"), (input, target))
    check_same_device(name, ("input", "target"), (input, target))
    if not input.is_floating_point():
        help = "the arguments look exchanged: `target` comes last" if target.is_floating_point() else "input.float()"
        raise InvalidType(f"{name}: `input` must hold floating-point features; received {input.dtype}. Help: {help}.")
    if not input.dim() or input.shape[-1] != in_features:
        raise InvalidValue(
            f"{name}: `input` must have {in_features} features in its last dimension; received {shape_of(input)}. "
            "Help: in_features is the width of the input, given when the loss is built."
        )


class AdaptiveLogSoftmaxWithLoss(_CheckedModule, torch.nn.AdaptiveLogSoftmaxWithLoss):
    """An approximation of softmax and its negative log-likelihood for many classes (Grave et al. 2017).

    Frequent classes are in a head, rare ones in tails: https://arxiv.org/abs/1609.04309.

    Args:
        *args, **options: Those of torch.nn.AdaptiveLogSoftmaxWithLoss, by position or by name.
        check, normalizer, empty: The settings of `piste.losses.reduction`; the normalizers "count" and "weights"
            are both the number of rows.

    A call takes `input` (N, in_features), floating, and `target` (N), class indices of any integer dtype; or
    (in_features) and (). It returns torch's pair: `output` (N), the log-probability of each target, and `loss`,
    the mean of -`output`.

    Raises:
        InvalidType: An operand is no tensor of that kind and shape, or an option is unknown.
        InvalidValue: The width of the input is not in_features, or a class index is outside [0, n_classes - 1]
            (unless check="off").

    Differs from torch: Values and settings are checked. torch.fx records a call of the module.

    Example:
        >>> import torch, piste
        >>> loss = piste.losses.AdaptiveLogSoftmaxWithLoss(4, 10, cutoffs=[3, 6])
        >>> loss(torch.randn(2, 4), torch.tensor([0, 9])).output.shape
        torch.Size([2])
    """

    reductions = ("mean",)

    def forward(self, input: Tensor, target: Tensor) -> Any:
        """Return the log-probability of each target, and their mean loss."""
        name = "AdaptiveLogSoftmaxWithLoss"
        reduction = make_reduction(name, self.reductions, "mean", self.check, self.normalizer, self.empty)
        _check_operands(name, self.in_features, input, target)
        if target.is_floating_point() or input.dim() not in (1, 2) or target.shape != input.shape[:-1]:
            help = "one class index for each row of the input"
            if target.shape == input.shape[:-1]:
                help = "target.long()"
            elif target.shape == (*input.shape[:-1], self.n_classes):
                help = "target.argmax(-1), if it is one-hot"
            raise InvalidType(
                f"{name}: `target` must hold class indices of dtype int64, one for each row of `input` (N, "
                f"in_features); received {target.dtype} of shape {shape_of(target)} for {shape_of(input)}. "
                f"Help: {help}."
            )
        if self.check != "off" and is_readable((input, target)):
            violation = first_violation(target, (target < 0) | (target >= self.n_classes))
            if violation:
                raise InvalidValue(
                    f"{name}: `target` must hold class indices in [0, {self.n_classes - 1}]; received {violation}. "
                    "Help: labels are numbered from 0; n_classes is given when the loss is built."
                )
            if self.check == "nan":
                check_nan(name, "input", input)
        result = super().forward(input, target.long())
        if reduction.normalizer is None and reduction.empty == "nan":
            return result
        rows = target.numel
        call = PreparedCall(lambda: result.output, (), {}, input.dtype, count=rows, weights=rows, denominator="count")
        return result._replace(loss=reduction.of(name, -result.output, call))

    def as_plain_loss(self, input: Tensor, target: Tensor) -> EquivalentCall:
        """NLLLoss of the log-probabilities of all classes."""
        loss = NLLLoss(check=self.check, normalizer=self.normalizer, empty=self.empty)
        is_single = input.dim() == 1
        x = self.log_prob(input.unsqueeze(0) if is_single else input)
        sentence = "Computed by torch: log-probabilities of all classes from a head and tails; then NLLLoss of those."
        return EquivalentCall(loss, x[0] if is_single else x, target, sentence)


class _Linear(CrossEntropyLoss):
    """The shape rules of cross entropy, in messages that name the loss with its linear layer."""

    @classmethod
    def line_that_works(cls) -> str:
        """Return a call to copy."""
        return "piste.losses.LinearCrossEntropyLoss(4, 3)(torch.randn(2, 4), torch.tensor([0, 2]))"


_Linear.__name__ = "LinearCrossEntropyLoss"


if hasattr(torch.nn, "LinearCrossEntropyLoss"):
    __all__ += ["LinearCrossEntropyLoss", "linear_cross_entropy"]

    class LinearCrossEntropyLoss(_CheckedModule, torch.nn.LinearCrossEntropyLoss):
        """A linear layer and CrossEntropyLoss in one, which may compute without all logits at once.

        Args:
            *args, **options: Those of torch.nn.LinearCrossEntropyLoss, by position or by name.
            check, normalizer, empty: The settings of `piste.losses.reduction`.

        A call takes `input` (N, in_features) or (in_features), floating, and a `target` as in `CrossEntropyLoss`
        for the logits: class indices, or class probabilities. It returns the loss, 0-dimensional or one for each row.

        Raises:
            InvalidType: An operand is no tensor of that kind, or an option is unknown.
            InvalidValue: The width of the input is not in_features, or CrossEntropyLoss would reject the target.

        Differs from torch: Values, shapes and settings are checked. torch.fx records a call of the module.

        Example:
            >>> import torch, piste
            >>> piste.losses.LinearCrossEntropyLoss(4, 3)(torch.randn(2, 4), torch.tensor([0, 2])).dim()
            0
        """

        reductions = _Linear.reductions

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            """Return the loss of the rows of `input` against `target`."""
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

        def as_plain_loss(self, input: Tensor, target: Tensor) -> EquivalentCall:
            """CrossEntropyLoss of the logits."""
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
            sentence = "Computed by torch: logits = linear(input); then CrossEntropyLoss of those."
            return EquivalentCall(loss, x, target, sentence)

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
        """Compute `LinearCrossEntropyLoss` without building the module.

        Args:
            input: The inputs of the layer (N, in_features).
            linear_weight: The weight of the layer (C, in_features).
            target: The class indices (N,).
            reduction: "mean", "sum" or "none".
            weight: A factor for each class (C,), or None.
            ignore_index: The class index of ignored rows, or None.
            label_smoothing: The share of the target that is spread over all classes, in [0, 1].
            check: The response to invalid values, as in `piste.losses.check`.
            normalizer: The denominator of a mean.
            empty: The mean of no rows, "nan" or "zero".
            **options: The other options of the function in torch.

        Returns:
            The loss.

        Raises:
            InvalidType, InvalidValue: An argument is invalid.

        Example:
            >>> import torch, piste
            >>> loss = piste.losses.linear_cross_entropy(torch.ones(2, 3), torch.zeros(4, 3), torch.tensor([0, 3]))
            >>> loss
            tensor(1.3863)
        """
        name = "LinearCrossEntropyLoss"
        how = make_reduction(name, _Linear.reductions, reduction, check, normalizer, empty)
        check_tensors(name, ("input", "linear_weight", "target"), (input, linear_weight, target))
        _check_operands(name, linear_weight.shape[-1] if linear_weight.dim() else 0, input, target)
        check_same_device(name, ("input", "linear_weight"), (input, linear_weight))
        _Linear.validate(label_smoothing=label_smoothing)
        logits = torch.empty((), dtype=torch.float32, device=target.device).expand(
            (*input.shape[:-1], linear_weight.shape[0], *linear_weight.shape[1:-1])
        )
        x, y, has_indices, _ = arrange(_Linear, logits, target, None, check)
        if weight is not None:
            check_weight(_Linear, weight, x)
            if check != "off":
                check_class_weight(name, weight)
        keep = y != (-100 if ignore_index is None else ignore_index) if has_indices else None
        if check != "off" and is_readable((input, target)):
            if keep is not None:
                check_indices(_Linear, y, keep, x.shape[-1], -100 if ignore_index is None else ignore_index)
            else:
                check_probabilities(_Linear, y.float(), y.dtype)
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
            by = torch.ones(x.shape[-1], dtype=torch.float32, device=y.device) if weight is None else weight
            return (y * by).sum() if keep is None else torch.where(keep, by[torch.where(keep, y, 0)], 0).sum()

        count = (lambda: x[..., 0].numel()) if keep is None else keep.sum
        denominator = "count" if keep is None else "weights"
        return how.of(
            name,
            value,
            PreparedCall(compute, (), {}, value.dtype, count=count, weights=weights, denominator=denominator),
        )
