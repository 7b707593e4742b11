"""A loss, worked through in numbers: the formula that runs, its steps, the reduction, the gradient; or the refusal."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidType, PisteError
from ..formula.printing import number
from ..losses import get_loss
from ..losses.loss import Loss
from ..losses.multilabel import MultiLabelMarginLoss
from .text import tell

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: `text`, the `value` of the loss, or the `refusal` where the call was refused."""

    text: str
    value: Tensor | None = None
    refusal: PisteError | None = None

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def explain(loss: Any, input: Any, target: Any, *more: Any, **options: Any) -> Explanation:
    """Work a loss through: formula, elements, branches, clamps, reduction, result and gradient, as text.

    `loss` is a loss of Piste (built or not), one of its functions, or a name such as "l1" or "cross_entropy";
    `options` are its options. `input` and `target` are tensors, or numbers and nested lists of them. Up to 12 elements
    (for a loss over classes, rows) are all shown; of more, those that contribute most, with counts of the rest.
    A loss that holds a layer (LinearCrossEntropyLoss, AdaptiveLogSoftmaxWithLoss) is given built.
    A call that the loss refuses is not raised but explained, with a line that works.
    Raises: InvalidValue for an unknown name, InvalidType for what is no loss.

    >>> from piste.explain import explain
    >>> print(explain("l1", [[1, 1], [1, 1]], [[0, 1], [2, 3]]))
    L1Loss()
    <BLANKLINE>
    Formula
      loss = |x - y|
    with x = input, y = target
    <BLANKLINE>
    Elements
      (0, 0)  |1 - 0| = 1
      (0, 1)  |1 - 1| = 0
      (1, 0)  |1 - 2| = 1
      (1, 1)  |1 - 3| = 2
    <BLANKLINE>
    Reduction: mean
      1 + 0 + 1 + 2 = 4
      4 / 4 = 1   (divided by the number of elements)
    <BLANKLINE>
    Result
      1
    <BLANKLINE>
    Gradient
      d loss / d x = sign(x - y), each divided by 4
      [[0.25, 0], [-0.25, -0.25]]
    """
    if isinstance(loss, torch.nn.Module) and hasattr(loss, "comes_to"):
        return _with_layer(loss, _tensor(input, False), _tensor(target, True), options)
    module = _module(loss, options)
    operands = _operands(module, (input, target, *more))
    try:
        value = module(*operands)
    except PisteError as refusal:
        return Explanation(_refused(module, operands, refusal), refusal=refusal)
    chosen = {name: getattr(module, name) for name in module._options}
    call = type(module).prepare(tuple(operands), "off", **chosen)
    return Explanation(tell(module, call, operands, value), value)


def _with_layer(loss: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Explanation:
    """A loss that holds a layer, by the plain loss that it comes to."""
    if options:
        raise InvalidType(
            f"{type(loss).__name__} holds a layer, so its options are given when it is built; received "
            f"{', '.join(options)}. Help: explain(loss, input, target)."
        )
    try:
        value = loss(x, y)
    except PisteError as refusal:
        return Explanation(f"{loss!r}\n\nRefused\n  {refusal}", refusal=refusal)
    plain, x, y, said = loss.comes_to(x, y)
    told = explain(plain, x.detach(), y)
    return Explanation(f"{loss!r}\n\n{said}\n\n{told.text}", value if isinstance(value, Tensor) else value.loss)


def _module(loss: Any, options: dict[str, Any]) -> Loss:
    if isinstance(loss, str):
        loss = get_loss(loss)
    if isinstance(loss, Loss):
        if not options:
            return loss
        given = {n: getattr(loss, n) for n in (*loss._options, "reduction", "check", "normalizer", "empty")}
        return type(loss)(**(given | options))
    loss = getattr(loss, "loss", loss)  # of a function, the class
    if isinstance(loss, type) and issubclass(loss, Loss):
        if "weight" in options and "weight" not in inspect.signature(loss).parameters:  # the functions take it
            module = loss(**{k: v for k, v in options.items() if k != "weight"})
            module.register_buffer("weight", options["weight"])
            module._options += ("weight",)
            return module
        return loss(**options)
    raise InvalidType(
        f"`loss` must be a loss of piste.losses or its name; received {loss!r}. Help: explain('l1', ...)."
    )


def _operands(module: Loss, values: tuple[Any, ...]) -> list[Tensor]:
    """Convert the operands of a loss to tensors.

    Lists of integers are indices or lengths, except in the place of real numbers: the first operand, and a target that
    has its shape, are floating point.
    """
    names = module.arguments
    if len(values) != len(names):
        listed = ", ".join(f"`{name}`" for name in names)
        raise InvalidType(
            f"{type(module).__name__} takes {len(names)} operands ({listed}); received {len(values)}. "
            f"Help: explain({module.name!r}, {', '.join(names)})."
        )
    first = _tensor(values[0], may_be_whole=False)
    operands = [first]
    for name, value in zip(names[1:], values[1:], strict=True):
        is_whole = name in ("targets", "input_lengths", "target_lengths") or isinstance(module, MultiLabelMarginLoss)
        is_target = name == "target" and _tensor(value, may_be_whole=True).shape != first.shape
        operands.append(_tensor(value, may_be_whole=is_whole or is_target))
    return operands


def _tensor(values: Any, may_be_whole: bool) -> Tensor:
    """Convert numbers to a tensor; integers stay integers where the operand may hold indices."""
    if isinstance(values, Tensor):
        return values.detach()
    tensor = torch.as_tensor(values)
    return tensor if tensor.is_floating_point() or may_be_whole else tensor.to(torch.get_default_dtype())


def _refused(module: Loss, operands: list[Tensor], refusal: PisteError) -> str:
    lines = [repr(module), "", "Refused", f"  {refusal}"]
    if "A line that works" not in str(refusal):
        lines += ["", "A line that works", f"  {module.line_that_works()}"]
    if module.check != "off":
        chosen = {name: getattr(module, name) for name in module._options}
        try:
            value = module.compute(tuple(operands), module._reduction(), "off", **chosen)
        except PisteError:
            return "\n".join(lines)
        shown = f", {number(value.item())}" if value.dim() == 0 else ""
        lines += [
            "",
            f'With check="off" there is a result all the same{shown}; explain(..., check="off") works it through.',
        ]
    return "\n".join(lines)
