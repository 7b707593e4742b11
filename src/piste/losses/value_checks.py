"""What a loss refuses, and how it says so: types, shapes, devices, dtypes, and the values it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engine.range_guards import Sure
from ..errors import InvalidType, InvalidValue, did_you_mean, nearest
from ..torch_internals import is_fake, unwrap

__all__ = [
    "Check",
    "choice",
    "first_offence",
    "is_readable",
    "number",
    "refuse_nan",
    "refuse_untensored",
    "same_device",
    "same_shape",
    "shape_of",
    "spread",
    "tensors",
    "unravelled",
]


@dataclass(frozen=True)
class Check:
    """A domain of one argument: `bad` is a formula over the operands that holds where a value is refused.

    `sure` names a range of numbers that are all allowed (see `piste.engine.range_guards`). A kernel tests it with one
    instruction for many elements, and inspects values one by one only outside it.
    """

    argument: str
    bad: Callable[..., Any]
    range: str
    help: str
    sure: Sure | None = None


def choice(loss: str, argument: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of the words allowed."""
    if value not in allowed:
        words = ", ".join(f'"{w}"' for w in allowed)
        hint = f" {did_you_mean(value, allowed)}" if isinstance(value, str) and nearest(value, allowed) else ""
        raise InvalidValue(f"{loss}: `{argument}` must be one of {words}; received {value!r}.{hint}")


def number(loss: str, option: str, value: Any, interval: str) -> None:
    """Refuse an option that is no number, or none in an interval such as "[0, inf)"."""
    if interval == "bool":
        if not isinstance(value, bool):
            raise InvalidType(f"{loss}: `{option}` must be True or False; received {value!r}.")
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidType(f"{loss}: `{option}` must be a number; received {value!r}.")
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):  # NaN is neither
        raise InvalidValue(f"{loss}: `{option}` must be in {interval}; received {option}={value!r}.")


def tensors(loss: str, names: Sequence[str], operands: Sequence[Any]) -> None:
    """Refuse anything that is not a tensor."""
    for name, operand in zip(names, operands, strict=False):
        if not isinstance(operand, Tensor):
            kind = type(operand).__name__
            how = "pass a tensor" if operand is None or isinstance(operand, torch.nn.Module) else "torch.as_tensor(...)"
            raise InvalidType(f"{loss}: `{name}` must be a torch.Tensor; received {kind}. Help: {how}.")


def same_device(loss: str, names: Sequence[str], operands: Sequence[Tensor]) -> None:
    """Refuse operands that live on different devices."""
    device = operands[0].device
    for name, operand in zip(names[1:], operands[1:], strict=False):
        if operand.device != device:
            raise InvalidValue(
                f"{loss}: `{names[0]}` and `{name}` must be on one device; received {device} and {operand.device}. "
                f"Help: {name}.to({names[0]}.device)."
            )


def shape_of(tensor: Tensor) -> str:
    """A shape as people write it."""
    return str(tuple(tensor.shape))


def same_shape(loss: str, names: Sequence[str], operands: Sequence[Tensor]) -> None:
    """Refuse operands of different shapes, which torch would broadcast to a loss that nobody meant."""
    shape = operands[0].shape
    for name, operand in zip(names[1:], operands[1:], strict=False):
        if operand.shape != shape:
            raise InvalidValue(
                f"{loss}: `{names[0]}` and `{name}` must have the same shape; received "
                f"{shape_of(operands[0])} and {shape_of(operand)}. Help: "
                f"{_how_to_match(names[0], operands[0], name, operand)}."
            )


def _how_to_match(first: str, a: Tensor, second: str, b: Tensor) -> str:
    for name, x, other, y in ((first, a, second, b), (second, b, first, a)):
        if x.dim() == y.dim() + 1:
            for dim in range(x.dim()):
                if x.shape[dim] == 1 and x.shape[:dim] + x.shape[dim + 1 :] == y.shape:
                    return f"{name}.squeeze({dim}) or {other}.unsqueeze({dim})"
    if b.dim() + 1 == a.dim() and b.dim() and a.shape[:1] + a.shape[2:] == b.shape:
        return f"if `{second}` holds class indices, CrossEntropyLoss is the loss for them"
    if a.dim() == b.dim() == 2 and a.shape == b.shape[::-1]:
        return f"{second}.T, if rows and columns were exchanged"
    if a.numel() == b.numel():
        return f"{second}.reshape({first}.shape), if the order of the elements is the same"
    return (
        f"give `{second}` the shape of `{first}`; a value meant for several elements is spread with "
        f"{second}.expand_as({first})"
    )


def is_readable(operands: Sequence[Any]) -> bool:
    """Whether values can be looked at now: not under vmap, torch.compile or export, nor on the meta device."""
    if torch.compiler.is_compiling():
        return False
    for operand in operands:
        if not isinstance(operand, Tensor):
            continue
        inner = unwrap(operand)
        if inner is None or inner.is_meta or is_fake(inner):
            return False
    return True


def first_offence(values: Tensor, bad: Tensor) -> str | None:
    """The first value where `bad` holds, and its index, as in "3.0 at (1, 1)"; None where none is.

    Where there are several it says so, and names the one that lies farthest off.
    """
    if not bool(bad.any()):
        return None
    places = bad.flatten().nonzero().flatten()
    first = _placed(values, int(places[0]))
    if len(places) == 1:
        return first
    found = values.flatten()[places]
    farthest = _placed(values, int(places[int(found.abs().argmax())]))
    worst = "" if farthest == first or bool(found.isnan().any()) else f"; the farthest off is {farthest}"
    return f"{first}, the first of {len(places)}{worst}"


def _placed(values: Tensor, flat: int) -> str:
    value = values.flatten()[flat].item()
    shown = repr(float(f"{value:.6g}")) if isinstance(value, float) else repr(value)
    return f"{shown} at {unravelled(flat, values.shape)}" if values.dim() else shown


def unravelled(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of the element that is number `flat` of a tensor of that shape."""
    index = []
    for extent in reversed(shape):
        flat, i = divmod(flat, extent)
        index.append(i)
    return tuple(reversed(index))


def refuse_nan(loss: str, argument: str, operand: Tensor) -> None:
    """Name the first NaN."""
    offence = first_offence(operand.detach(), operand.detach().isnan())
    if offence:
        raise InvalidValue(f'{loss}: `{argument}` holds {offence}, which check="nan" refuses.')


def refuse_untensored(loss: str, option: str, value: Any) -> None:
    if value is not None and not isinstance(value, Tensor):
        is_numbers = isinstance(value, (int, float, list, tuple))
        how = f" Help: torch.tensor({value!r})." if is_numbers else ""
        raise InvalidType(f"{loss}: `{option}` must be a torch.Tensor or None; received {type(value).__name__}.{how}")


def spread(loss: str, option: str, weight: Tensor, like: Tensor) -> Tensor:
    """A weight as a tensor that multiplies the elements of `like`, if its shape allows that."""
    try:
        fits = torch.broadcast_shapes(weight.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise InvalidValue(
            f"{loss}: `{option}` must have the shape of `input` or one that spreads to it; received {shape_of(weight)} "
            f"for {shape_of(like)}. Help: a weight for each row has shape (N, 1), for each column (C,)."
        )
    same_device(loss, ("input", option), (like, weight))
    return weight.to(like.dtype)
