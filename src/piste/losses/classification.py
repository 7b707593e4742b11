"""Losses of one class among C: cross entropy and the negative log-likelihood."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import Tensor

from ..engine import ValueCheck, Violation, is_sharded
from ..errors import InvalidValue, Unsupported
from ..formula.row_functions import log_softmax, pick, size, total
from ..formula.words import exp, where
from ..options import Flag, Number
from ..torch_internals import in_loss_parallel
from .call import ValidatedSettings
from .class_checks import line_to_copy
from .class_loss import CLASS_DIM, CLASS_WEIGHT, IGNORE_INDEX, ClassLoss
from .in_place import InPlace, wants_gradient
from .reduction import Reduction
from .rowwise import Rows, rows_of_violation
from .value_checks import describe_violation, find_violation, shape_of

__all__ = ["CrossEntropyLoss", "NLLLoss", "NLLLoss2d"]

SLACK = 0.05
"""A rounded log-probability may lie a little above 0; logits and probabilities lie far above."""


def _above_zero(x, k, w):
    return pick(x, k) > SLACK


@functools.cache
def _log_probability_checks(cls: Any) -> tuple[ValueCheck, ...]:
    return (
        ValueCheck(
            _above_zero, lambda x, k, w: pick(x, k), lambda found: cls._above_zero_error(rows_of_violation(found))
        ),
    )


class NLLLoss(ClassLoss):
    """The negative log-likelihood, -w_k x_k, of log-probabilities x at the class index k, with class weights w.

    After LogSoftmax the loss equals CrossEntropyLoss. A mean divides by the sum of the weights of the targets other
    than `ignore_index`.

    Shape:
        input: (C), (N, C) or (N, C, d1, ...), floating. 16-bit floats are computed in float32 and rounded once.
        target: That of `input` without C; class indices of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, a log-probability is above 0, or a
            class weight is negative or not finite (all unless check="off"); or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is no integer.

    Differs from torch: torch.nn.NLLLoss does not check that the input holds log-probabilities. A row that is ignored
    has the gradient 0 whatever it holds.

    Example:
        >>> import torch, piste
        >>> logits = torch.tensor([[2., 0., 0.], [0., 0., 1.]])
        >>> piste.losses.NLLLoss()(torch.log_softmax(logits, dim=1), torch.tensor([0, 2]))
        tensor(0.3955)
    """

    name, functional_name = "nll", "nll_loss"
    options = {"weight": CLASS_WEIGHT, "ignore_index": IGNORE_INDEX, "class_dim": CLASS_DIM}
    signature = "weight, size_average, ignore_index, reduce, reduction, *, class_dim"
    input_kind = "log-probabilities"
    expects = "log-probabilities (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.log_softmax(torch.randn(3, 5), dim=1), torch.tensor([1, 0, 4])"

    def formula(x, k, w=None):
        return -pick(x, k) if w is None else -pick(w, k) * pick(x, k)

    index_faults = (_above_zero,)

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Return the loss; raise where it gets no gradient through the operator that made its input."""
        x = operands[0]
        if isinstance(x, Tensor) and x.requires_grad and is_sharded(x) and in_loss_parallel():
            raise Unsupported(
                f"{cls.__name__} can't be trained within torch's loss_parallel(), where log_softmax leaves its "
                "gradient to torch.nn.functional.nll_loss. Help: CrossEntropyLoss takes the logits."
            )
        return super().compute(operands, reduction, check, **options)

    @classmethod
    def check_input(cls, x: Tensor, k: Tensor, keep: Tensor) -> None:
        """Raise for a log-probability above 0."""
        picked = pick(x, k)
        violation = find_violation(picked, keep & (picked > SLACK))
        if violation is not None:
            raise cls._above_zero_error(violation)

    @classmethod
    def index_checks(cls) -> tuple[ValueCheck, ...]:
        """Return the check for a log-probability above 0."""
        return _log_probability_checks(cls)  # type: ignore[arg-type]

    @classmethod
    def _above_zero_error(cls, violation: Violation) -> InvalidValue:
        return InvalidValue(
            f"{cls.__name__}: `input` must hold log-probabilities, which are never above 0; received "
            f"{describe_violation(violation)} (at the target's class). Help: torch.log_softmax(logits, dim=1) or "
            'probabilities.log(); CrossEntropyLoss takes logits; check="off" allows unnormalised log-likelihoods.'
        )


class NLLLoss2d(NLLLoss):
    """NLLLoss of images, with a class for each pixel.

    torch's old name. NLLLoss takes images too, and this loss takes nothing else.

    Shape:
        input: (N, C, H, W), floating, log-probabilities.
        target: (N, H, W), class indices of any integer dtype.
        Returns a 0-dimensional tensor, or one of the shape of `target` with reduction="none".

    Raises:
        InvalidValue: The operands are no images, or NLLLoss would reject them.

    Differs from torch: torch.nn.NLLLoss2d warns that it is deprecated.

    Example:
        >>> import torch, piste
        >>> log_probabilities = torch.log_softmax(torch.zeros(1, 4, 2, 2), dim=1)
        >>> piste.losses.NLLLoss2d()(log_probabilities, torch.tensor([[[0, 1], [2, 3]]]))
        tensor(1.3863)
    """

    name = "nll2d"
    expects = "log-probabilities (N, C, H, W) and class indices (N, H, W) of dtype int64, one for each pixel"
    example = "torch.log_softmax(torch.randn(1, 3, 2, 2), dim=1), torch.tensor([[[0, 2], [1, 1]]])"

    @classmethod
    def check_shape(cls, x: Tensor, y: Tensor) -> None:
        """Raise for operands that are no images."""
        if x.dim() != 4 or y.dim() != 3:
            help = "NLLLoss takes (N, C) and (N)"
            if x.dim() == y.dim() == 4 and y.shape[1] == 1:
                help = "target.squeeze(1)"
            raise InvalidValue(
                "NLLLoss2d: `input` must be (N, C, H, W) and `target` (N, H, W), one class for each pixel; received "
                f"{shape_of(x)} and {shape_of(y)}. Help: {help}. {line_to_copy(cls)}"
            )


class CrossEntropyLoss(InPlace, ClassLoss):
    """Cross entropy, -w_k log softmax(x)_k, of logits x at the class index k, with class weights w.

    A floating `target` of the shape of `input` holds class probabilities y: -sum_c w_c y_c log softmax(x)_c. With
    `label_smoothing` e, y becomes (1 - e) y + e / C (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567). A mean
    divides by the sum of the weights of the targets other than `ignore_index`; for probabilities, by the number of
    rows.

    With `softcap` c, x becomes c tanh(x / c) (Gemma 2, https://arxiv.org/abs/2408.00118). With `z_loss` z, each row
    adds z log(sum_c e^(x_c))^2, without the weight of its class (PaLM, https://arxiv.org/abs/2204.02311). Both run in
    the same kernel.

    With `inplace` the gradient replaces `input` in memory, so the logits are lost. On a GPU no other memory of that
    size is used; the CPU kernel uses such memory during the call alone. An `input` whose classes lie far apart in
    memory may be copied first, and the gradient replaces the copy. One backward pass is possible. Calls that compute
    no gradient leave `input` as it is. A float16 gradient is rounded before the factor of a GradScaler reaches it.
    Other uses of `input` that autograd has not recorded, such as an accuracy computed after the loss, go unnoticed.

    Shape:
        input: (C), (N, C) or (N, C, d1, ...), floating. 16-bit floats are computed in float32 and rounded once. With
            `class_dim` the classes are another dimension: -1 for (N, L, C).
        target: That of `input` without C, class indices of any integer dtype; or that of `input`, class probabilities.
        Returns a 0-dimensional tensor, or one of the shape of `input` without C with reduction="none".

    Raises:
        InvalidValue: A class index is outside [0, C - 1] and not `ignore_index`, the input has fewer than 2 classes,
            probabilities are negative or do not sum to 1 (a row of zeros is left out), or a class weight is negative or
            not finite (all unless check="off"); or shapes or devices do not fit.
        InvalidType: The input is not floating, or the target is one-hot of integers or holds indices as floats.
        Unsupported: `inplace` is set, and `input` is a leaf, another tensor shares its memory, or no kernel applies, as
            under autocast and torch.compile.

    Differs from torch: torch.nn.CrossEntropyLoss checks indices alone. A row that is ignored has the gradient 0
    whatever it holds. A class of probability 0 costs 0 also where its logit is -inf.

    Example:
        >>> import torch, piste
        >>> piste.losses.CrossEntropyLoss()(torch.tensor([[2., 0., 0.], [0., 0., 1.]]), torch.tensor([0, 2]))
        tensor(0.3955)
    """

    name, functional_name, aliases = "cross_entropy", "cross_entropy", ("ce", "xent")
    options = {
        "weight": CLASS_WEIGHT,
        "ignore_index": IGNORE_INDEX,
        "label_smoothing": Number(0.0, "the share of a target spread evenly over the classes", high=1.0, closed=True),
        "class_dim": CLASS_DIM,
        "z_loss": Number(0.0, "the weight of the squared logarithm of the sum of exponentials"),
        "softcap": Number(0.0, "the bound of the logits, which a tanh keeps; 0 for none"),
        "inplace": Flag(False, "whether the gradient replaces `input` in memory"),
    }
    signature = (
        "weight, size_average, ignore_index, reduce, reduction, label_smoothing, *, class_dim, z_loss, softcap, inplace"
    )
    expects = "logits (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of dtype int64"
    example = "torch.randn(3, 5), torch.tensor([1, 0, 4])"

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return rows of classes; an option that is off is no part of the kernel."""
        options.pop("inplace", None)
        used = {name: value for name, value in options.items() if name not in ("z_loss", "softcap") or value != 0}
        return super().rows(operands, check, **used)

    @classmethod
    def why_no_operator(cls, operands: tuple[Any, ...], check: str, **options: Any) -> str | None:
        """Return why torch.compile traces these rows, or None."""
        if options.get("inplace"):
            return "an operator changes no operand, and inplace=True is refused there"
        return super().why_no_operator(operands, check, **options)

    @classmethod
    def compute(
        cls, operands: tuple[Any, ...], reduction: Reduction, check: str, *, inplace: bool = False, **options: Any
    ) -> Tensor:
        """Return the loss; with `inplace` and an input that requires a gradient, the gradient replaces the input."""
        if inplace and wants_gradient(operands[0]):
            return cls.compute_in_place(operands, reduction, check, **options)
        return super().compute(operands, reduction, check, **options)

    @classmethod
    def _kernel_for(cls, operands: Any, settings: ValidatedSettings, tensors: Any) -> tuple[Any, ...]:
        # Calls in place ask each time whether something else needs the input.
        return () if settings.options["inplace"] else super()._kernel_for(operands, settings, tensors)

    def formula(x, k, w=None, *, label_smoothing=0.0, z_loss=0.0, softcap=0.0):
        if softcap != 0:
            x = capped(x, softcap)
        p = log_softmax(x)
        sharp = -pick(p, k) if w is None else -pick(w, k) * pick(p, k)
        if label_smoothing == 0:
            loss = sharp
        else:
            even = -total(p if w is None else w * p) / size(x)
            loss = (1 - label_smoothing) * sharp + label_smoothing * even
        if z_loss == 0:
            return loss
        z = pick(x, k) - pick(p, k)  # the logarithm of the sum of the exponentials
        return loss + z_loss * z * z

    def soft_formula(x, y, w=None, *, label_smoothing=0.0, z_loss=0.0, softcap=0.0):
        """Return the cross entropy of a row with probabilities as targets."""
        if softcap != 0:
            x = capped(x, softcap)
        q = y if label_smoothing == 0 else (1 - label_smoothing) * y + label_smoothing / size(x)
        z = log_softmax(x)
        p = where((q == 0) & (z == -math.inf), 0, z)  # an impossible class of probability 0 costs 0, not 0 * inf
        loss = -total(q * p if w is None else w * q * p)
        if z_loss == 0:
            return loss
        # The logarithm of the sum of the exponentials, as a mean of x - z, which is the same for every class.
        s = total(exp(z) * where(z == -math.inf, 0, x - z))
        return loss + z_loss * s * s


def capped(x: Any, c: Any) -> Any:
    """Return c tanh(x / c)."""
    e = exp(where(x > 0, x, -x) * (-2 / c))
    return c * where(x > 0, 1 - e, e - 1) / (1 + e)
