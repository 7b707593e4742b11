"""Losses as operators of torch.compile, which calls them with their kernels and value checks instead of tracing them.

This module is imported by the first loss that torch.compile traces, because it imports torch._dynamo.

The graph of torch.compile holds `piste::loss` with the handle of a call: the loss, its options and its settings as
text. The operator computes the gradients with the loss, and the backward pass multiplies them in the compiled code.
With reduction="none", and for float16, the backward pass is `piste::loss_backward` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..torch_internals import in_transform, recording_in_operators
from .call import ValidatedSettings
from .reduction import Reduction

__all__ = ["call_operator"]


class _Call(NamedTuple):
    """A loss with its settings, and the names of its options that are tensors."""

    loss: Any
    settings: ValidatedSettings
    names: tuple[str, ...]

    def split(self, tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return the operands, and the options by name."""
        count = len(tensors) - len(self.names)
        return tuple(tensors[:count]), dict(zip(self.names, tensors[count:], strict=True))

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the loss as a call outside of torch.compile."""
        operands, options = self.split(tensors)
        result: Tensor = self.loss.finished(operands, self.settings, options)
        return result

    def trace(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return a tensor with the shape and the dtype of the loss of tensors that have no values."""
        operands, options = self.split(tensors)
        settings = self.settings
        result: Tensor = self.loss.compute(operands, settings.reduction, settings.check, **settings.options, **options)
        return result


_calls: dict[str, _Call] = {}
"""The calls in compiled graphs by their handles, which compiled code on disk holds too."""
_handles: dict[tuple[Any, ...], str] = {}


def call_operator(
    loss: Any, given: Sequence[Tensor], settings: ValidatedSettings, names: Sequence[str]
) -> Tensor | None:
    """Return the loss by its operator while torch.compile traces the call; None where torch operations must compute it.

    Args:
        loss: The class of the loss.
        given: The operands, and the options that are tensors.
        settings: Its settings, for which `why_not_operator` is None.
        names: The names of the options that are tensors.
    """
    check = "sync" if settings.waits else settings.check
    options = tuple([(name, _as_constant(value)) for name, value in settings.options.items()])
    handle = _handle_of(loss, tuple(settings.reduction), check, options, tuple(names))
    if handle is None:
        return None
    # A gradient of float16 is rounded after the incoming one has scaled it up, and one number of "none" scales a row.
    has_one_factor = settings.reduction.mode != "none" and all([x.dtype != torch.float16 for x in given])
    is_trained = has_one_factor and torch.is_grad_enabled()
    result: Tensor = torch.ops.piste.loss(handle, list(given), [is_trained and x.requires_grad for x in given])[0]
    return result


def _as_constant(value: Any) -> Any:
    """Return a number as text, which torch.compile takes as a constant where it has made the number a symbol."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (isinstance(value, int), float(value).hex()) if is_number else value


def _from_constant(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    is_int, text = value
    number = float.fromhex(text)
    return int(number) if is_int else number


@torch.compiler.assume_constant_result
def _handle_of(
    loss: Any, reduction: tuple[Any, ...], check: str, options: tuple[tuple[str, Any], ...], names: tuple[str, ...]
) -> str | None:
    """Return the handle of a call, shared by equal ones; None where only torch operations can compute it.

    torch.compile runs this function while it traces, and keeps the result.
    """
    if in_transform() or torch.compiler.is_exporting() or recording_in_operators() is None:
        return None
    key = (loss, reduction, check, options, names)
    if key not in _handles:
        known = {name: _from_constant(value) for name, value in options}
        settings = ValidatedSettings(Reduction(*reduction), check, known)
        shown = known | dict(zip(("reduction", "normalizer", "empty"), reduction, strict=True)) | {"check": check}
        text = ", ".join([*(f"{k}={v!r}" for k, v in shown.items()), *(f"{name}=tensor" for name in names)])
        handle = text = f"{loss.__module__}.{loss.__qualname__}({text})"
        count = 1
        while handle in _calls:  # the class was defined again
            count += 1
            handle = f"{text} #{count}"
        _calls[handle], _handles[key] = _Call(loss, settings, names), handle
    return _handles[key]


# --- the operators ----------------------------------------------------------------------------------------------------


def _loss(handle: str, operands: list[Tensor], wanted: list[bool]) -> tuple[Tensor, list[Tensor]]:
    """Compute a loss, and its gradients for an incoming gradient of 1 by the operands that are wanted."""
    if not any(wanted):
        with torch.no_grad():
            return _calls[handle].run(operands).contiguous(), []
    by, value, slopes = _differentiated(handle, operands, wanted, None)
    return value.detach(), [_laid_out_like(x, slope) for x, slope in zip(by, slopes, strict=True)]


def _loss_backward(handle: str, operands: list[Tensor], grad: Tensor, wanted: list[bool]) -> list[Tensor]:
    """Compute the gradients of a loss for an incoming gradient."""
    by, _, slopes = _differentiated(handle, operands, wanted, grad)
    return [_laid_out_like(x, slope) for x, slope in zip(by, slopes, strict=True)]


def _differentiated(
    handle: str, operands: list[Tensor], wanted: list[bool], grad: Tensor | None
) -> tuple[list[Tensor], Tensor, Sequence[Tensor | None]]:
    recording = recording_in_operators()
    assert recording is not None  # no call has a handle otherwise
    with recording, torch.enable_grad():
        leaves = [x.detach().requires_grad_(is_wanted) for x, is_wanted in zip(operands, wanted, strict=True)]
        by = [x for x in leaves if x.requires_grad]
        value = _calls[handle].run(leaves)
        return by, value, torch.autograd.grad(value, by, grad, allow_unused=True)


def _laid_out_like(x: Tensor, slope: Tensor | None) -> Tensor:
    """Return a gradient with the strides that compiled code expects; 0 where an operand has no influence."""
    if slope is None:
        return torch.zeros_like(x)
    like = torch.empty_like(x, device="meta")
    return slope if slope.stride() == like.stride() else torch.empty_like(x).copy_(slope)


def _shape_of_loss(handle: str, operands: list[Tensor], wanted: list[bool]) -> tuple[Tensor, list[Tensor]]:
    traced = _calls[handle].trace(operands)
    return traced.new_empty(traced.shape), _shapes_of_gradients(handle, operands, traced, wanted)


def _shapes_of_gradients(handle: str, operands: list[Tensor], grad: Tensor, wanted: list[bool]) -> list[Tensor]:
    return [torch.empty_like(x) for x, is_wanted in zip(operands, wanted, strict=True) if is_wanted]


def _save(ctx: Any, inputs: tuple[str, list[Tensor], list[bool]], output: tuple[Tensor, list[Tensor]]) -> None:
    ctx.handle, operands, computed = inputs
    ctx.wanted, ctx.has_slopes = [x.requires_grad for x in operands], any(computed)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, *output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[None, list[Tensor | None], None]:
    operands = list(ctx.saved_tensors[: len(ctx.wanted)])
    found: Sequence[Tensor | None]
    if torch.is_grad_enabled():  # a second derivative
        by = [x for x, is_wanted in zip(operands, ctx.wanted, strict=True) if is_wanted]
        found = torch.autograd.grad(_calls[ctx.handle].run(operands), by, grad, create_graph=True, allow_unused=True)
    elif ctx.has_slopes:
        found = [slope * grad for slope in ctx.saved_tensors[len(operands) :]]
    else:
        found = torch.ops.piste.loss_backward(ctx.handle, operands, grad, ctx.wanted)
    left = iter(found)
    return None, [next(left) if is_wanted else None for is_wanted in ctx.wanted], None


_library = torch.library.Library("piste", "DEF")
_library.define("loss(str handle, Tensor[] operands, bool[] wanted) -> (Tensor, Tensor[])")
_library.define("loss_backward(str handle, Tensor[] operands, Tensor grad, bool[] wanted) -> Tensor[]")
_library.impl("loss", _loss, "CompositeExplicitAutograd")
_library.impl("loss_backward", _loss_backward, "CompositeExplicitAutograd")
torch.library.register_fake("piste::loss", _shape_of_loss, lib=_library)
torch.library.register_fake("piste::loss_backward", _shapes_of_gradients, lib=_library)
torch.library.register_autograd("piste::loss", _backward, setup_context=_save, lib=_library)
