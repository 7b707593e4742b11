"""Checks of operands: types, shapes, devices, and the values that they hold."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..engine import BoundKind, ValueCheck, Violation, raise_reported
from ..errors import InvalidType, InvalidValue
from ..torch_internals import is_fake, unwrap

__all__ = [
    "Check",
    "broadcast_weight",
    "check",
    "check_class_weight",
    "check_nan",
    "check_same_device",
    "check_same_shape",
    "check_tensors",
    "common_dtype",
    "describe_violation",
    "find_violation",
    "first_violation",
    "is_readable",
    "shape_of",
    "unravel_index",
]


@dataclass(frozen=True)
class Check:
    """The domain of one argument: `fails` is a formula over the operands that holds for a value outside it.

    `guard` is a cheap sufficient condition (see `piste.engine.Bound`). A kernel tests it with one instruction
    for many elements; values outside it trigger the exact check. `help_for` has the help for single values, and
    `when` an option and its value without which the check does not apply. `exchanged` is a formula over the operands
    that holds everywhere if they were given in the wrong order: the input holds labels, and the target does not.
    """

    argument: str
    fails: Callable[..., Any]
    range: str
    help: str
    guard: tuple[BoundKind, float] | None = None
    help_for: Mapping[Any, str] = field(default_factory=dict)
    when: tuple[str, Any] | None = None
    exchanged: Callable[..., Any] | None = None

    def applies(self, options: Mapping[str, Any]) -> bool:
        """Return whether the check applies under these options."""
        return self.when is None or options.get(self.when[0]) == self.when[1]

    def raise_for(self, loss: str, operands: Sequence[Tensor], position: int) -> None:
        """Raise for the first value outside the domain."""
        operands = [o.detach() for o in operands]
        violation = find_violation(operands[position], self.fails(*operands))
        if violation is not None:
            are_exchanged = self.exchanged is not None and bool(self.exchanged(*operands).all())
            raise self.error(
                loss, violation, "the arguments look exchanged: `target` comes last" if are_exchanged else None
            )

    def for_kernels(self, loss: str, position: int) -> ValueCheck:
        """Return the check of an operand for kernels that report violations."""
        return ValueCheck(self.fails, lambda *operands: operands[position], functools.partial(self.error, loss))

    def error(self, loss: str, violation: Violation, help: str | None = None) -> InvalidValue:
        """Return the error for values outside the domain."""
        help = help or self.help_for.get(float(violation.value), self.help)
        received = describe_violation(violation)
        return InvalidValue(f"{loss}: `{self.argument}` must be {self.range}; received {received}. Help: {help}.")


def check() -> None:
    """Wait for the GPUs, and raise for values that a loss rejected there and that were not raised yet.

    A loss on a GPU does not wait for its value checks: the loss is NaN, the gradient of the rejected element or row is
    0, and the error is raised later, by the next loss on the GPU, by the next optimizer step, or here. There is nothing
    to do for losses on the CPU, which raise themselves.

    Raises:
        InvalidValue: as the loss raises on the CPU, with the number of its call.

    Example:
        >>> import torch, piste
        >>> loss = piste.losses.MSELoss()(torch.zeros(2), torch.ones(2))
        >>> piste.check()
    """
    raise_reported(wait=True)


def check_tensors(loss: str, names: Sequence[str], operands: Sequence[Any]) -> None:
    """Raise for an operand that is no tensor."""
    for name, operand in zip(names, operands, strict=False):
        if not isinstance(operand, Tensor):
            received = f"{type(operand).__name__}. Help: {_how_to_convert(name, operand)}"
            raise InvalidType(f"{loss}: `{name}` must be a torch.Tensor; received {received}.")


def _how_to_convert(name: str, operand: Any) -> str:
    if operand is None or isinstance(operand, torch.nn.Module):
        return "pass a tensor"
    if isinstance(getattr(operand, "logits", None), Tensor):
        return f"{name}.logits"
    if isinstance(operand, (tuple, list)) and operand and isinstance(operand[0], Tensor):
        return f"{name}[0], if the model returns several tensors, or torch.stack({name})"
    return f"torch.as_tensor({name})"


def check_same_device(loss: str, names: Sequence[str], operands: Sequence[Tensor]) -> None:
    """Raise for operands on different devices."""
    device = operands[0].device
    for name, operand in zip(names[1:], operands[1:], strict=False):
        if operand.device != device:
            raise InvalidValue(
                f"{loss}: `{names[0]}` and `{name}` must be on one device; received {device} and {operand.device}. "
                f"Help: {name}.to({names[0]}.device)."
            )


def shape_of(tensor: Tensor) -> str:
    """Return a shape as a plain tuple."""
    return str(tuple(tensor.shape))


def check_same_shape(loss: str, names: Sequence[str], operands: Sequence[Tensor], is_elementwise: bool = False) -> None:
    """Raise for operands of different shapes, which torch would broadcast to an unintended loss.

    Args:
        loss: The name of the loss.
        names: The names of the operands.
        operands: The operands.
        is_elementwise: Whether one value may be meant for all elements of a row, in contrast to losses of whole rows.
    """
    shape = operands[0].shape
    for name, operand in zip(names[1:], operands[1:], strict=False):
        if operand.shape != shape:
            raise InvalidValue(
                f"{loss}: `{names[0]}` and `{name}` must have the same shape; received "
                f"{shape_of(operands[0])} and {shape_of(operand)}. Help: "
                f"{_how_to_match(names[0], operands[0], name, operand, is_elementwise)}."
            )


def _how_to_match(first: str, a: Tensor, second: str, b: Tensor, is_elementwise: bool) -> str:
    for name, x, other, y in ((first, a, second, b), (second, b, first, a)):
        if x.dim() == y.dim() + 1:
            for dim in range(x.dim()):
                if x.shape[dim] == 1 and x.shape[:dim] + x.shape[dim + 1 :] == y.shape:
                    return f"{name}.squeeze({dim}) or {other}.unsqueeze({dim})"
    helps = []
    if b.dim() and b.dim() + 1 == a.dim() and a.shape[:1] + a.shape[2:] == b.shape:
        if is_elementwise:
            helps.append(
                f"{second}[:, None].expand_as({first}), if each value is meant for all elements along dimension 1"
            )
        if second in ("target", "teacher") and _may_hold_indices(b):
            helps.append(f"if `{second}` holds class indices, CrossEntropyLoss is the loss for them")
    if helps:
        return "; ".join(helps)
    if a.dim() == b.dim() == 2 and a.shape == b.shape[::-1]:
        return f"{second}.T, if rows and columns were exchanged"
    if a.numel() == b.numel():
        return f"{second}.reshape({first}.shape), if the order of the elements is the same"
    for name, x, other, y in ((second, b, first, a), (first, a, second, b)):
        if 0 < x.dim() < y.dim() and is_elementwise and y.shape[: x.dim()] == x.shape:
            index = ", ".join(["..."] + ["None"] * (y.dim() - x.dim()))
            return f"{name}[{index}].expand_as({other}), if each value is meant for several elements"
        if _expands(x, y) and (is_elementwise or x.shape[-1:] == y.shape[-1:]):
            return (
                f"give `{second}` the shape of `{first}`; a value meant for several elements is broadcast with "
                f"{name}.expand_as({other})"
            )
    return f"give `{second}` the shape of `{first}`"


def _may_hold_indices(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype is torch.bool)


def _expands(x: Tensor, y: Tensor) -> bool:
    """Return whether x.expand_as(y) is possible."""
    try:
        return torch.broadcast_shapes(x.shape, y.shape) == y.shape
    except RuntimeError:
        return False


def common_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the dtype that torch promotes some dtypes to."""
    common, *others = dtypes
    for dtype in others:  # on Python 3.14, torch.compile warns of functools.reduce
        common = torch.promote_types(common, dtype)
    return common


def is_readable(operands: Sequence[Any]) -> bool:
    """Return whether values can be read now: not under vmap, torch.compile or export, nor on the meta device."""
    if torch.compiler.is_compiling():
        return False
    for operand in operands:
        if not isinstance(operand, Tensor):
            continue
        inner = unwrap(operand)
        if inner is None or inner.is_meta or is_fake(inner):
            return False
    return True


def first_violation(values: Tensor, fails: Tensor) -> str | None:
    """Return the first value where `fails` holds, as `describe_violation` shows it; None if there is none."""
    violation = find_violation(values, fails)
    return None if violation is None else describe_violation(violation)


def find_violation(values: Tensor, fails: Tensor) -> Violation | None:
    """Return the values where `fails` holds, or None if there are none."""
    if not bool(fails.any()):
        return None
    places = fails.expand(values.shape).flatten().nonzero().flatten()
    violating = values.flatten()[places]
    distances = violating.float() if violating.dtype is torch.bool else violating.abs()
    farthest = int(distances.argmax())  # NaN is the farthest of all
    first_value, farthest_value = violating[0].item(), violating[farthest].item()
    return Violation(
        len(places), int(places[0]), first_value, int(places[farthest]), farthest_value, tuple(values.shape)
    )


def describe_violation(violation: Violation) -> str:
    """Return the first value with its index, as in "3.0 at (1, 1)"; of several, also their number and the farthest."""
    count, place, value, far_place, far_value, shape = violation
    first, farthest = _placed(value, place, shape), _placed(far_value, far_place, shape)
    if count == 1:
        return first
    worst = "" if farthest == first or math.isnan(far_value) else f"; the farthest off is {farthest}"
    return f"{first}, the first of {count}{worst}"


def _placed(value: float, flat: int, shape: Sequence[int]) -> str:
    shown = repr(float(f"{value:.6g}")) if isinstance(value, float) else repr(value)
    return f"{shown} at {unravel_index(flat, shape)}" if shape else shown


def unravel_index(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of the element at position `flat` of a contiguous tensor of a shape."""
    index = []
    for extent in reversed(shape):
        flat, i = divmod(flat, extent)
        index.append(i)
    return tuple(reversed(index))


def check_nan(loss: str, argument: str, operand: Tensor) -> None:
    """Raise for the first NaN."""
    violation = first_violation(operand.detach(), operand.detach().isnan())
    if violation:
        raise InvalidValue(f'{loss}: `{argument}` holds {violation}, which check="nan" refuses.')


def broadcast_weight(loss: str, option: str, weight: Tensor, like: Tensor) -> Tensor:
    """Return a weight as a factor of the elements of `like`; raise if it can't be broadcast to them."""
    try:
        fits = torch.broadcast_shapes(weight.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        help = "a weight for each row has shape (N, 1), for each column (C,)"
        if weight.dim() == 1 and like.dim() > 2 and weight.shape[0] == like.shape[1]:
            ones = ", 1" * (like.dim() - 2)
            help = f"one {option} for each channel of {shape_of(like)} is {option}.view({weight.shape[0]}{ones})"
        raise InvalidValue(
            f"{loss}: `{option}` must have the shape of `input` or one that can be broadcast to it; received "
            f"{shape_of(weight)} for {shape_of(like)}. Help: {help}."
        )
    check_same_device(loss, ("input", option), (like, weight))
    return weight.to(like.dtype)


_valid_weights: dict[int, tuple[weakref.ref[Tensor], int]] = {}


def check_class_weight(loss: str, weight: Tensor) -> None:
    """Raise for a class weight that is negative or not finite.

    The values are read once: a tensor that was valid is checked again only after a change in place.
    """
    if torch.compiler.is_compiling():
        return
    known = _valid_weights.get(id(weight))
    version = -1 if weight.is_inference() else weight._version  # inference tensors count no changes
    if known is not None and known[0]() is weight and known[1] == version >= 0:
        return
    if not is_readable((weight,)):
        return
    values = weight.detach()
    violation = first_violation(values, ~((values >= 0) & (values < math.inf)))
    if violation:
        raise InvalidValue(
            f"{loss}: `weight` must hold class weights in [0, inf); received {violation}. Help: the inverse frequency "
            "of a class is a usual weight, and 0 leaves the class out."
        )
    key = id(weight)
    _valid_weights[key] = weakref.ref(weight, lambda _: _valid_weights.pop(key, None)), version
