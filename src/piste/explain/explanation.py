"""Work a loss or an optimizer through in numbers, by name, class or instance."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidType, InvalidValue, PisteError, english, nearest
from ..formula.printing import format_number
from ..losses import get_loss
from ..losses.loss import Loss
from ..losses.multilabel import MultiLabelMarginLoss
from ..optim import OPTIMIZERS, Optimizer
from ..optim.options import SHARED
from ..options import NumberOrTensor, TensorOption
from ..translation import translate
from .steps import explain_steps
from .text import format_explanation

__all__ = ["Explanation", "explain", "operand_names"]

_IN_THE_FORMULA = ("max_norm", "max_value", "cautious", "decoupled_decay", "lr_max", "convention")
"""The options of every optimizer that change the formula."""


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`.

    Attributes:
        text: The computation in words and numbers, in English; `str()` of the explanation is in the user's language.
        value: The value of the loss, or the parameter after the steps in float64; None where the call is rejected.
        refusal: The error of a rejected call of a loss, or None.

    Example:
        >>> from piste.explain import explain
        >>> explain("mse", [1.0], [3.0]).value
        tensor(4.)
    """

    text: str
    value: Tensor | None = None
    refusal: PisteError | None = None

    def __str__(self) -> str:
        return translate(self.text)

    __repr__ = __str__


def explain(loss: Any, *operands: Any, **options: Any) -> Explanation:
    """Work a loss or the steps of an optimizer through in numbers.

    For a loss the text shows the formula, elements, branches, clamps, reduction, result and gradient. Up to 12 elements
    (for a loss over classes, rows) are all shown; of more, those that contribute most, with counts of the rest. A call
    that the loss rejects is not raised but explained, with a line that works.

    For an optimizer it shows the formula and, for each step, the state before, the values put in, and the state after,
    in float64. The gradient is the same at every step.

    Args:
        loss: A loss of Piste (built or not), one of its functions, or its name, such as "l1"; a loss that holds a layer
            (LinearCrossEntropyLoss, AdaptiveLogSoftmaxWithLoss) is given built. Or an optimizer: a class, an instance,
            whose options are taken over, or a name, such as "adam".
        operands: Of a loss, its operands in order. Of an optimizer, the parameter and its gradient, of one shape; with
            `grad=` alone the parameter is 1 everywhere. Tensors, numbers, or nested lists of numbers; operands may be
            given by name.
        options: The options of the loss or the optimizer; and `steps` of an optimizer, from 1 (the default) to 100.

    Returns:
        The text, with the value of the loss or the parameter after the steps.

    Raises:
        InvalidValue: No loss or optimizer has this name, or an option or an optimizer's operand is out of its range.
        InvalidType: `loss` is neither a loss nor an optimizer, or the number of operands is wrong.

    Example:
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

        >>> print(explain("sgd", 1.0, 0.5, lr=0.1, momentum=0.9))
        SGD(lr=0.1, momentum=0.9)
        <BLANKLINE>
        Formula
          b' = mu * b + (1 if t == 1 else 1 - dampening) * g
          p' = p - lr * b'
        with p = the parameter, g = its gradient, t = the step, b = momentum_buffer, lr = 0.1, mu = 0.9, dampening = 0
        <BLANKLINE>
        Step 1
          before: p = 1, g = 0.5, b = 0
          b' = 0.9 * 0 + 1 * 0.5 = 0.5
          p' = 1 - 0.1 * 0.5 = 0.95
          after: p = 0.95, b = 0.5
        <BLANKLINE>
        Result
          p = 0.95
    """
    found = _find_optimizer(loss)
    if found is not None:
        return _explain_optimizer(*found, operands, options)
    if isinstance(loss, torch.nn.Module) and hasattr(loss, "as_plain_loss"):
        x, y = _take_operands(type(loss).__name__, "loss", ("input", "target"), operands, options)
        return _with_layer(loss, _tensor(x, False), _tensor(y, True), options)
    loss = _find_loss(loss)
    cls: type[Loss] = loss if isinstance(loss, type) else type(loss)
    values = _take_operands(cls.__name__, repr(cls.name), cls.arguments, operands, options)
    return _explain_loss(_module(loss, options), values)


def operand_names(name: str) -> tuple[str, ...]:
    """Return the names of the operands that an explanation needs.

    Args:
        name: The name of a loss or of an optimizer.

    Returns:
        The names, in the order in which `explain` takes the operands.

    Raises:
        InvalidValue: No loss or optimizer has this name.

    Example:
        >>> operand_names("triplet_margin"), operand_names("adam")
        (('anchor', 'positive', 'negative'), ('param', 'grad'))
    """
    return ("param", "grad") if _find_optimizer(name) else _find_loss(name).arguments


def _find_optimizer(subject: Any) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """Return the class of an optimizer and the options of an instance, or None for what is not an optimizer."""
    if isinstance(subject, str):
        by_name = {name.lower(): optimizer for name, optimizer in OPTIMIZERS.items()}
        subject = by_name.get(subject.rpartition(".")[2].lower())
    if isinstance(subject, Optimizer):
        group = subject.param_groups[0]
        options = {name: group[name] for name in (*subject.options, "maximize")}
        chosen = {name: group[name] for name in _IN_THE_FORMULA if group[name] != SHARED[name].default}
        return type(subject), options | chosen
    is_class = isinstance(subject, type) and issubclass(subject, Optimizer) and subject is not Optimizer
    return (subject, {}) if is_class else None


def _explain_optimizer(
    optimizer: type[Optimizer], known: dict[str, Any], operands: tuple[Any, ...], options: dict[str, Any]
) -> Explanation:
    steps = options.pop("steps", 1)
    if not operands and "grad" in options:
        grad = _real(options.pop("grad"))
        param = _real(options.pop("param")) if "param" in options else torch.ones_like(grad)
    else:
        name = optimizer.__name__
        param, grad = map(_real, _take_operands(name, repr(name.lower()), ("param", "grad"), operands, options))
    return Explanation(*explain_steps(optimizer, param, grad, steps, known | options))


def _take_operands(
    name: str, spelled: str, names: tuple[str, ...], operands: tuple[Any, ...], options: dict[str, Any]
) -> list[Any]:
    """Return the operands in order, and take those that are given by name out of the options.

    Raises:
        InvalidType: Their number is wrong, or one is given twice.
    """
    rest = names[len(operands) :]
    twice = [n for n in names[: len(operands)] if n in options]
    if twice:
        raise InvalidType(f"{name} received the operand `{twice[0]}` by position and by name. Help: leave one out.")
    values = [*operands, *(options.pop(n) for n in rest if n in options)]
    if len(values) != len(names):
        listed = ", ".join(f"`{n}`" for n in names)
        raise InvalidType(
            f"{name} takes {len(names)} operand{'s' * (len(names) != 1)} ({listed}); received {len(values)}. "
            f"Help: explain({spelled}, {', '.join(names)})."
        )
    return values


def _explain_loss(module: Loss, values: list[Any]) -> Explanation:
    operands = _operands(module, values)
    try:
        value = module(*operands)
    except PisteError as refusal:
        return Explanation(_refused(module, operands, refusal), refusal=refusal)
    chosen = {name: getattr(module, name) for name in module._options}
    call = type(module).prepare(tuple(operands), "off", **chosen)
    return Explanation(format_explanation(module, call, operands, value), value)


def _with_layer(loss: Any, x: Tensor, y: Tensor, options: dict[str, Any]) -> Explanation:
    """Explain a loss that holds a layer by its equivalent plain loss."""
    if options:
        raise InvalidType(
            f"{type(loss).__name__} holds a layer, so its options are given when it is built; received "
            f"{', '.join(options)}. Help: explain(loss, input, target)."
        )
    try:
        value = loss(x, y)
    except PisteError as refusal:
        return Explanation(f"{loss!r}\n\nRefused\n  {english(refusal)}", refusal=refusal)
    plain, x, y, sentence = loss.as_plain_loss(x, y)
    told = explain(plain, x.detach(), y)
    return Explanation(f"{loss!r}\n\n{sentence}\n\n{told.text}", value if isinstance(value, Tensor) else value.loss)


def _find_loss(loss: Any) -> Loss | type[Loss]:
    """Return the class of a loss by its name or function; a class or a built loss is returned as it is."""
    if isinstance(loss, str):
        try:
            return get_loss(loss)
        except InvalidValue as error:
            near = nearest(loss.rpartition(".")[2], [name.lower() for name in OPTIMIZERS], cutoff=0.75)
            if near:
                raise InvalidValue(
                    f"there is no loss or optimizer named {loss!r}. Did you mean {' or '.join(f'`{n}`' for n in near)}?"
                ) from error
            raise
    loss = loss if isinstance(loss, Loss) else getattr(loss, "loss", loss)  # of a function, the class
    if isinstance(loss, Loss) or (isinstance(loss, type) and issubclass(loss, Loss)):
        return loss
    raise InvalidType(
        "`loss` must be a loss of piste.losses, an optimizer of piste.optim, or the name of one; "
        f"received {loss!r}. Help: explain('l1', ...)."
    )


def _module(loss: Loss | type[Loss], options: dict[str, Any]) -> Loss:
    """Build a loss with some options; lists of numbers become tensors where the option is one."""
    declared = type(loss).options if isinstance(loss, Loss) else loss.options
    for name, value in options.items():
        is_tensor = name == "weight" or isinstance(declared.get(name), TensorOption)
        is_row = isinstance(declared.get(name), NumberOrTensor) and isinstance(value, (list, tuple))
        if is_row or (is_tensor and isinstance(value, (int, float, list, tuple))):
            options[name] = torch.tensor(value, dtype=torch.get_default_dtype())
    if isinstance(loss, Loss):
        if not options:
            return loss
        given = {n: getattr(loss, n) for n in (*loss._options, "reduction", "check", "normalizer", "empty")}
        return type(loss)(**(given | options))
    if "weight" in options and "weight" not in inspect.signature(loss).parameters:  # the functions take it
        module = loss(**{k: v for k, v in options.items() if k != "weight"})
        module.register_buffer("weight", options["weight"])
        module._options += ("weight",)
        return module
    return loss(**options)


def _operands(module: Loss, values: list[Any]) -> list[Tensor]:
    """Convert the operands of a loss to tensors.

    Lists of integers are indices or lengths, except in the place of real numbers: the first operand, and a target that
    has its shape, are floating point.
    """
    names = module.arguments
    first = _tensor(values[0], may_be_whole=False)
    operands = [first]
    for name, value in zip(names[1:], values[1:], strict=True):
        is_whole = name in ("targets", "input_lengths", "target_lengths") or isinstance(module, MultiLabelMarginLoss)
        is_target = name == "target" and _tensor(value, may_be_whole=True).shape != first.shape
        operands.append(_tensor(value, may_be_whole=is_whole or is_target))
    return operands


def _real(values: Any) -> Tensor:
    return _tensor(values, may_be_whole=False)


def _tensor(values: Any, may_be_whole: bool) -> Tensor:
    """Convert numbers to a tensor; integers stay integers where the operand may hold indices."""
    if isinstance(values, Tensor):
        return values.detach()
    tensor = torch.as_tensor(values)
    is_kept = may_be_whole or tensor.is_floating_point() or tensor.is_complex()
    return tensor if is_kept else tensor.to(torch.get_default_dtype())


def _refused(module: Loss, operands: list[Tensor], refusal: PisteError) -> str:
    lines = [repr(module), "", "Refused", f"  {english(refusal)}"]
    if "A line that works" not in english(refusal):
        lines += ["", "A line that works", f"  {module.line_that_works()}"]
    if module.check != "off":
        chosen = {name: getattr(module, name) for name in module._options}
        try:
            value = module.compute(tuple(operands), module.current_reduction(), "off", **chosen)
        except PisteError:
            return "\n".join(lines)
        shown = f", {format_number(value.item())}" if value.dim() == 0 else ""
        lines += [
            "",
            f'With check="off" there is a result all the same{shown}; explain(..., check="off") works it through.',
        ]
    return "\n".join(lines)
