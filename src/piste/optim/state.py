"""The gradient and state of one parameter, in the form that the backends take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from ..engine import SCALE, ParamState, is_captured, is_matrix
from ..errors import Unsupported
from . import checkpoint, precision
from .eight_bit_state import decode_codes, first_codes


@dataclass(frozen=True)
class Buffer:
    """A state tensor of a rule.

    Args:
        letter: The name in the formula.
        when: The option that must be on for the buffer to exist; None for a buffer that always exists.
        start: The initial value: a number, the name of an option, or "p" for the parameter.
        shape: "all" for the shape of the parameter. "rows" or "columns" for a number per row or column of a matrix,
            "first" for a number per index of its first dimension, and "vectors" for the shape of a parameter that is
            no matrix; others lack the buffer. A matrix has two or more dimensions, and the last two are at least the
            option `min_dim_size_to_factor`, if the rule has it. A function of the shape of the parameter and of
            the options returns another shape, of float32 or wider.
        is_weight: Keep the dtype of the weights, whatever `state_dtype` is.

    Example:
        >>> from piste.optim import Buffer
        >>> Buffer("b", when="momentum")
        Buffer(letter='b', when='momentum', start=0.0, shape='all', is_weight=False)
    """

    letter: str
    when: str | None = None
    start: float | str = 0.0
    shape: Literal["all", "rows", "columns", "first", "vectors"] | Callable[..., tuple[int, ...]] = "all"
    is_weight: bool = False

    def exists(self, is_matrix: bool, group: Mapping[str, Any]) -> bool:
        """Return whether a matrix, or a parameter that is none, has the buffer."""
        return (self.when is None or bool(group[self.when])) and (
            self.shape == "all" or callable(self.shape) or is_matrix != (self.shape == "vectors")
        )

    @property
    def may_have_8_bits(self) -> bool:
        """Whether the buffer has a number for each of the parameter's, other than the weight itself."""
        return self.shape == "all" and self.start != "p"

    def shape_for(self, p: Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of the buffer of a parameter in a group."""
        shape = list(p.shape)
        if callable(self.shape):
            return self.shape(shape, group)
        if self.shape == "first" and p.dim() > 1:
            return (shape[0], *(1 for _ in shape[1:]))
        if self.shape in ("rows", "columns") and p.dim() > 1:
            shape[-1 if self.shape == "rows" else -2] = 1
        return tuple(shape)


def least_size(group: Mapping[str, Any]) -> int:
    """Return the least size of the last two dimensions of a matrix, by the options of a group."""
    return int(group.get("min_dim_size_to_factor", 0))


def as_buffer(declared: str | Buffer) -> Buffer:
    """Return a declared buffer, which may be given by its letter alone."""
    return Buffer(declared) if isinstance(declared, str) else declared


def param_state(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> ParamState:
    """Return a parameter with its gradient and state; missing state is created."""
    return ParamState(p, gradient(optimizer.rule_of(group), p, group), *state_of(optimizer, p, group))


def existing_state(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> ParamState:
    """Return a parameter with its existing gradient and state; nothing is created."""
    state, rule = optimizer._state.get(p, {}), optimizer.rule_of(group)
    buffers, counters = (
        [state[key] for key in keys if key in state]
        for keys in ((*rule.buffers, *precision.TENSORS.values()), rule.counters)
    )
    scales = [state[key + SCALE] for key in rule.buffers if key + SCALE in state]
    return ParamState(p, p if p.grad is None else p.grad, buffers, counters, scales)


def state_of(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the buffers and counters of a parameter, in the order of the rule, and the scales of buffers of 8 bits."""
    rule = optimizer.rule_of(group)
    kept = {key: b for key, b in rule.buffers.items() if b.exists(is_matrix(p, least_size(group)), group)}
    mode = group["precision"] if precision.is_narrow(p, group) else "plain"
    has_buffers = len(kept) > 0  # torch 2.9 to 2.11 can't trace `bool` of a dictionary
    is_kept = rule.counts_steps or has_buffers or mode != "plain"
    if is_kept and not optimizer._state.get(p) and not torch.compiler.is_compiling() and is_captured([p]):
        raise first_step_captured(optimizer)
    state = optimizer._state[p] if is_kept else {}
    device = p.device if _counts_on_device(group) else "cpu"
    like = torch.zeros((), dtype=_counter_dtype(rule, state, device), device=device)
    counters = []
    if rule.counts_steps:
        counters.append(_counter(state, "step", like, lambda: 0.0))
    for key, counter in rule.counters.items():
        counters.append(_counter(state, key, like, partial(_start, counter, group)))
    is_first = any(state.get(key) is None for key in kept)
    dtype = precision.state_dtype(p, group)
    has_8_bits = group["state_dtype"] == "int8" and has_buffers
    buffers, scales = [], []
    for key, buffer in kept.items():
        if has_8_bits and buffer.may_have_8_bits and state.get(key) is None:
            state[key], state[key + SCALE] = first_codes(p, _start(buffer, group))
        buffers.append(_entry(state, key, partial(_first_value, buffer, p, group, dtype)))
        if buffers[-1].dtype == torch.int8 and has_8_bits:
            scales.append(state[key + SCALE])
        elif buffers[-1].dtype == torch.int8:  # the option has changed
            codes, scale = buffers[-1], state.pop(key + SCALE)
            buffers[-1] = state[key] = decode_codes(codes, scale).to(dtype)
    if not rule.counts_steps:
        counters.insert(0, _unsaved_step_count(optimizer, p, like, is_first))
    for key in precision.tensors_of(mode):
        buffers.append(_entry(state, key, partial(precision.first_tensor, key, p)))
    if mode == "stochastic" or has_8_bits:
        for place, key in zip((1, len(counters) + 1), precision.RANDOM, strict=True):
            first = partial(precision.first_count, key, optimizer, p, group)
            counters.insert(place, _counter(state, key, like, first))
    return buffers, counters, scales


def first_step_captured(optimizer: Any) -> Unsupported:
    """Return the error for a first step in a CUDA graph."""
    return Unsupported(
        f"{type(optimizer).__name__}.step() must run once before a CUDA graph captures it, because every replay would "
        "make its state and its tables again. Help: step before the capture, on another stream, with gradients of the "
        "same parameters, dtypes and strides."
    )


def _unsaved_step_count(optimizer: Any, p: Tensor, like: Tensor, is_first: bool) -> Tensor:
    """Return the step count of a parameter whose rule saves none: it only has to be 1 at the first step alone.

    It is kept from plan to plan, because a GPU may have left out the first step, which made the state.
    """
    if torch.compiler.is_compiling():
        return like.clone() if is_first else torch.ones_like(like)
    kept = optimizer._step_plans.unsaved_counts
    if is_first or p not in kept:
        kept[p] = like.clone() if is_first else torch.ones_like(like)
    elif kept[p].device != like.device:
        kept[p] = kept[p].to(like.device)
    count: Tensor = kept[p]
    return count


def gradient(cls: Any, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Return the gradient of a parameter.

    Takes the class, not the optimizer: plans keep this function, and a reference to the optimizer would be a cycle.

    Raises:
        Unsupported: The gradient is sparse, and the rule or weight decay moves entries without a gradient; or it is
            dense, and the rule takes sparse ones only.
    """
    g: Any = p.grad
    if p.is_complex() and any(b.shape != "all" for b in cls.buffers.values()):
        raise Unsupported(
            f"{cls.__name__} does not support complex parameters; received one of shape {tuple(p.shape)}. Help: "
            "optimize its real and imaginary parts as two parameters."
        )
    if not g.is_sparse:
        if cls.sparse_only:
            raise Unsupported(
                f"{cls.__name__} does not support dense gradients; received one of shape {tuple(g.shape)}. Help: use "
                "Adam, or make the layer sparse (nn.Embedding(..., sparse=True))."
            )
        return g
    if not cls.sparse_safe:
        raise Unsupported(
            f"{cls.__name__} does not support sparse gradients. Help: use SGD, Adagrad or SparseAdam, or make the "
            "layer dense (nn.Embedding(..., sparse=False))."
        )
    if group["state_dtype"] == "int8":
        raise Unsupported(
            'state_dtype="int8" is not compatible with sparse gradients, because the numbers of a block share a scale. '
            'Help: state_dtype="bfloat16".'
        )
    if group["cautious"]:
        raise Unsupported(
            "cautious=True is not compatible with sparse gradients, whose missing elements have no sign. Help: set "
            "cautious=False, or make the layer dense (nn.Embedding(..., sparse=False))."
        )
    if group.get("weight_decay"):
        raise Unsupported(
            "weight_decay option is not compatible with sparse gradients, because it changes every entry; received "
            f"weight_decay={group['weight_decay']}. Help: set weight_decay=0."
        )
    # Momentum also changes every entry, so the dense step is computed.
    return g.to_dense() if any(b.when and group[b.when] for b in cls.buffers.values()) else g


def _counts_on_device(group: Mapping[str, Any]) -> bool:
    """Return whether step counts are on the device of the parameter: `capturable` or an option tensor is there."""
    values = chain.from_iterable(v if isinstance(v, (tuple, list)) else (v,) for k, v in group.items() if k != "params")
    return bool(group["capturable"]) or any(isinstance(v, Tensor) and v.device.type != "cpu" for v in values)


def _start(buffer: Buffer, group: Mapping[str, Any]) -> Any:
    value = group[buffer.start] if isinstance(buffer.start, str) else buffer.start
    return value if torch.compiler.is_compiling() else float(value)  # a tensor stays in the graph


def _entry(state: dict[str, Any], key: str, make: Callable[[], Tensor]) -> Tensor:
    """Return an entry of the state as a dense tensor."""
    value = state.get(key)
    if value is None:
        value = state[key] = make()
    elif not isinstance(value, Tensor):
        value = state[key] = checkpoint.as_counter(value)
    elif value.is_sparse:  # in torch.optim, SGD keeps the momentum of a sparse gradient sparse
        value = state[key] = value.to_dense()
    return value


def _first_value(buffer: Buffer, p: Tensor, group: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    if buffer.start == "p":
        kept = precision.state_dtype(p, {**group, "state_dtype": None}) if buffer.is_weight else dtype
        return (p if group["differentiable"] else p.detach()).to(kept, copy=True)
    start = _start(buffer, group)
    if callable(buffer.shape):
        return p.new_full(buffer.shape_for(p, group), start, dtype=torch.promote_types(p.dtype, torch.float32))
    if buffer.shape in ("rows", "columns", "first"):
        return p.new_full(buffer.shape_for(p, group), start, dtype=dtype)
    return _filled_like(p, start, dtype)


def _filled_like(p: Tensor, start: Any, dtype: torch.dtype) -> Tensor:
    buffer = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    if isinstance(start, Tensor) or start:
        (torch.view_as_real(buffer) if buffer.is_complex() else buffer).fill_(start)
    return buffer


def _counter_dtype(rule: Any, state: Mapping[str, Any], device: Any) -> torch.dtype:
    """Return the dtype of new counters: that of the existing ones, because a kernel takes one dtype."""
    existing = [state[key] for key in ("step", *rule.counters) if isinstance(state.get(key), Tensor)]
    if rule.double_counters and torch.device(device).type != "mps":  # which has no float64
        return existing[0].dtype if existing else torch.float64
    return checkpoint.counter_dtype()


def _counter(state: dict[str, Any], key: str, like: Tensor, start: Callable[[], float]) -> Tensor:
    """Return a counter of the state; one on the host moves to the device on which the step counts."""
    counter = _entry(state, key, lambda: torch.full_like(like, start()))
    if like.device != counter.device and counter.device.type == "cpu":
        counter = state[key] = counter.to(like.device)
    return counter
