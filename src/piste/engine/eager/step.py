"""Steps as torch operations: the reference, for every dtype, layout and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...formula.operations import in_dtype
from ...torch_internals import is_compiler_on, outside_of_compiler
from ...translation import translate
from ..eight_bits import decode, encode
from ..layout import is_sharded, positions
from ..specs import ParamState, StepSpec, SumSpec

_AMP = ("found_inf", "grad_scale")
_COMPUTE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def step(
    program: StepSpec,
    slots: Iterable[ParamState],
    numbers: Mapping[str, Any],
    *,
    differentiable: bool = False,
    on_device: bool = False,
) -> None:
    """Step parameters in place.

    Args:
        program: The step.
        slots: The states of the parameters.
        numbers: The numbers of the group by name.
        differentiable: Leave the values that autograd has saved unchanged.
        on_device: Keep the step count in its tensor, for graph capture and tracing, which would make a Python number
            a constant of the graph.

    `found_inf` and `grad_scale` among the numbers are those of a GradScaler: a tensor that is not 0 leaves parameters
    and state as they are, and the factor by which gradients are too large.
    """
    found_inf: Any = numbers.get("found_inf")
    grad_scale: Any = numbers.get("grad_scale")
    numbers = {n: _plain(x, differentiable, on_device) for n, x in numbers.items() if n not in _AMP}
    for slot in slots:
        spec = program.of(slot.p)
        known = local_numbers(numbers, slot.p.device)
        if torch.compiler.is_compiling():  # a number that no operation reads would be a constant of the graph
            known = {name: _traced(x, slot) for name, x in known.items() if name not in spec.unread}
        known = {**known, "epsilon": torch.finfo(slot.p.dtype).eps} if "epsilon" in spec.numbers else known
        slot = _in_one_dimension(_unscaled(slot, grad_scale))
        kept = (slot.p, *slot.buffers, *slot.counters, *slot.scales)
        before = [] if found_inf is None else [(x, x.clone()) for x in kept]
        given = _counted(spec, slot, known, on_device or differentiable)
        scalars = in_dtype(_dtype_of_scalars(slot.p), spec.scalars, *given)
        if spec.uses_position or slot.scales:
            scalars["position"] = positions([slot.p, *(() if slot.g.is_sparse else (slot.g,)), *slot.buffers])
        if slot.scales:
            _step_in_8_bits(spec, slot, scalars)
        elif slot.g.is_sparse:
            (_sparse_step_outside if is_compiler_on() else _sparse_step)(spec, slot, scalars)
        else:
            _apply(spec, slot.p, slot.g, slot.buffers, scalars, differentiable)
        for x, old in before:
            store(x, torch.where(found_inf.to(x.device) != 0, old, x))


def add_terms(
    program: SumSpec,
    slots: Iterable[ParamState],
    numbers: Mapping[str, Any],
    *,
    differentiable: bool = False,
    on_device: bool = False,
) -> list[Tensor]:
    """Return the sums of each parameter's terms, in float64 where the device has it; nothing changes.

    Args:
        program: The sums.
        slots: The states of the parameters.
        numbers: The numbers of the group by name.
        differentiable: Let autograd record the sums.
        on_device: Keep numbers on their device.

    Returns:
        For each parameter a tensor with a number for each sum.
    """
    grad_scale: Any = numbers.get("grad_scale")
    numbers = {n: _plain(x, differentiable, on_device) for n, x in numbers.items() if n not in _AMP}
    found = []
    for slot in slots:
        spec, slot = program.of(slot.p), _unscaled(slot, grad_scale)
        buffers = list(slot.buffers)
        if slot.scales:
            places = positions([slot.p, slot.g, *buffers])
            scales = iter(slot.scales)
            buffers = [decode(x, next(scales), places) if x.dtype == torch.int8 else x for x in buffers]
        p, g, *buffers = _columns(slot.p, slot.g, buffers)
        compute = _COMPUTE.get(p.dtype, p.dtype)
        known = local_numbers(numbers, p.device)
        scalars = in_dtype(_dtype_of_scalars(p), spec.scalars, known, {}, lambda letter, value: value)
        own = [x.to(compute) for x in buffers]
        _, terms = in_dtype(compute, spec.element, p.to(compute), g.to(compute), own, scalars)
        wide = _dtype_of_scalars(p)
        sums = [term.sum(dtype=wide) for term in terms]
        found.append(torch.stack([x.full_tensor() if is_sharded(x) else x for x in sums]))
    return found


def _unscaled(slot: ParamState, grad_scale: Any) -> ParamState:
    """Return a parameter with its gradient over the scale of a GradScaler, or as it is."""
    if grad_scale is None:
        return slot
    g = slot.g
    return replace(slot, g=g.to(_COMPUTE.get(g.dtype, g.dtype)) / grad_scale.to(g.device))


def _in_one_dimension(slot: ParamState) -> ParamState:
    """Return views of one dimension of a parameter without any and its state, for torch.compile.

    Numbers of the step are 0-d tensors of float64 there, which would widen other 0-d tensors.
    """
    if not torch.compiler.is_compiling() or slot.p.dim() or is_sharded(slot.p):
        return slot
    buffers = [x if x.dim() else x.view(1) for x in slot.buffers]
    return replace(slot, p=slot.p.view(1), g=slot.g.view(1), buffers=buffers)


def _columns(p: Tensor, g: Tensor, buffers: Iterable[Tensor]) -> list[Tensor]:
    """Return tensors as a step takes them, with complex numbers as pairs."""
    if not p.is_complex():
        return [p, g, *buffers]
    return [torch.view_as_real(x) for x in (p, g.resolve_conj(), *buffers)]


def _plain(value: Any, differentiable: bool, on_device: bool) -> Any:
    """Return an option as a number, or as a 0-d tensor if it must be recorded, or stay on its device."""
    if not isinstance(value, Tensor):
        return value
    stays = differentiable or torch.compiler.is_compiling() or (on_device and value.device.type != "cpu")
    return value.reshape(()) if stays else value.item()


def _traced(value: Any, slot: ParamState) -> Any:
    """Return a number as a 0-d tensor where step counts are, for torch.compile.

    It makes powers and limits of a plain number constants of the graph, and compiles again when the number changes; a
    product it does not.
    """
    if type(value) not in (float, int):
        return value
    device = slot.counters[0].device if slot.counters else "cpu"
    wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
    return torch.ones((), dtype=wide, device=device) * value


def local_numbers(numbers: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """Return numbers with tensors of other devices on this one; torch takes those of the CPU anywhere.

    Parameters on several GPUs share the norm of all gradients, and an option may be a tensor on one of them.
    """
    moved = {
        name: x.to(device, non_blocking=True)
        for name, x in numbers.items()
        if isinstance(x, Tensor) and x.device != device and x.device.type != "cpu"
    }
    return {**numbers, **moved} if moved else numbers


def _counted(program: StepSpec, slot: ParamState, numbers: Mapping[str, Any], on_device: bool) -> tuple[Any, Any, Any]:
    """Count the step, and return the arguments of `StepSpec.scalars`: numbers, counters, and a function that stores."""
    kept = dict(zip(program.counters, slot.counters, strict=True))

    def read(letter: str) -> Any:
        return _wide(kept[letter]) if on_device else kept[letter].item()

    def renew(letter: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            store(kept[letter], value)
        else:
            kept[letter].fill_(value)
        return read(letter)

    if "t" in kept:
        store(kept["t"], kept["t"] + 1)
    return numbers, {letter: read(letter) for letter in kept}, renew


def _dtype_of_scalars(p: Tensor) -> torch.dtype:
    return torch.float32 if p.device.type == "mps" else torch.float64


def _wide(counter: Tensor) -> Tensor:
    # In float32, 1 - beta2**t loses most of its digits; MPS has no float64.
    return counter.clone() if counter.device.type == "mps" else counter.to(torch.float64, copy=True)


def _apply(
    program: StepSpec, p: Tensor, g: Tensor, buffers: list[Tensor], scalars: Mapping[str, Any], clone: bool
) -> None:
    p, g, *buffers = _columns(p, g, buffers)
    compute = _COMPUTE.get(p.dtype, p.dtype)
    before = [x.clone() if clone else x.to(compute) for x in (p, g, *buffers)]
    after_p, after = in_dtype(compute, program.element, before[0], before[1], before[2:], scalars)
    changed = list(zip((p, *buffers), (after_p, *after), strict=True))
    # A buffer may take the value of another one, or the parameter's, which must not change before it is read.
    apart = [value.clone() if any(value is x for x, _ in changed if x is not old) else value for old, value in changed]
    for (old, _), value in zip(changed, apart, strict=True):
        store(old, value)


def store(x: Any, value: Any) -> None:
    """Set a tensor; a value that operations of a DTensor have spread otherwise is spread as it is.

    Compilers of PyTorch leave out `copy_` to a 0-d tensor of float64 on the CPU, which they take for a Python number.
    """
    if torch.compiler.is_compiling() and x.dim() == 0 and not is_sharded(x):
        x = x.view(1)
    if is_sharded(x) and is_sharded(value) and value.placements != x.placements:
        value = value.redistribute(x.device_mesh, x.placements)
    x.copy_(value)


def _step_in_8_bits(program: StepSpec, slot: ParamState, scalars: Mapping[str, Any]) -> None:
    """Step with buffers whose numbers are in blocks of 8 bits."""
    places, key, step = (scalars[name] for name in ("position", "rounding_key", "rounding_step"))
    eight = [k for k, buffer in enumerate(slot.buffers) if buffer.dtype == torch.int8]
    wide = list(slot.buffers)
    for k, scales in zip(eight, slot.scales, strict=True):
        wide[k] = decode(slot.buffers[k], scales, places)
    _apply(program, slot.p, slot.g, wide, scalars, clone=False)
    for j, (k, scales) in enumerate(zip(eight, slot.scales, strict=True), 1):
        codes, largest = encode(wide[k], places, key + j, step)
        slot.buffers[k].copy_(codes)
        scales.copy_(largest)


def _sparse_step(program: StepSpec, slot: ParamState, scalars: Mapping[str, Any]) -> None:
    """Step the entries that have a gradient; the others don't change."""
    g = slot.g.coalesce()
    index = tuple(g.indices())
    whole = [slot.p, *slot.buffers]
    part = [x[index] for x in whole]
    if program.uses_position:
        scalars = {**scalars, "position": scalars["position"][index]}
    _apply(program, part[0], g.values(), part[1:], scalars, clone=False)
    for x, values in zip(whole, part, strict=True):
        x[index] = values


_sparse_step_outside = outside_of_compiler(
    _sparse_step,
    translate("torch.compile takes no sparse gradients, so the step of their entries is no part of a graph."),
)
