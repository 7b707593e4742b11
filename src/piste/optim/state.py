"""The gradient and the state of one parameter, as the backends take them; missing state is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..engine import ParamState
from ..errors import Unsupported
from . import checkpoint


@dataclass(frozen=True)
class Buffer:
    """A state tensor of a rule.

    Args:
        letter: Its name in the formula.
        when: The option that must be on for the buffer to exist; `None` for a buffer that always exists.
        start: Its initial value: a number, or the name of an option.
    """

    letter: str
    when: str | None = None
    start: float | str = 0.0


def as_buffer(declared: str | Buffer) -> Buffer:
    """Return the buffer that a rule declares by its letter alone, or in full."""
    return Buffer(declared) if isinstance(declared, str) else declared


def param_state(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> ParamState:
    """Return the parameter with its gradient and its state, which is made where it is missing."""
    return ParamState(p, gradient(type(optimizer), p, group), *state_of(optimizer, p, group))


def known_state(optimizer: Any, p: Tensor) -> ParamState:
    """Return the parameter with the gradient and the state that exist; nothing is made."""
    state = optimizer._state.get(p, {})
    buffers, counters = (
        [state[key] for key in keys if key in state] for keys in (optimizer.buffers, optimizer.counters)
    )
    return ParamState(p, p if p.grad is None else p.grad, buffers, counters)


def state_of(optimizer: Any, p: Tensor, group: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the buffers and counters of a parameter, in the order of the rule."""
    kept = {key: b for key, b in optimizer.buffers.items() if b.when is None or group[b.when]}
    state = optimizer._state[p] if optimizer.counts_steps or kept else {}
    device = p.device if _counts_on_device(group) else "cpu"
    like = torch.zeros((), dtype=torch.get_default_dtype(), device=device)
    counters = []
    if optimizer.counts_steps:
        counters.append(_entry(state, "step", lambda: like.clone()))
    for key, counter in optimizer.counters.items():
        counters.append(_entry(state, key, partial(torch.full_like, like, _start(counter, group))))
    is_first = any(state.get(key) is None for key in kept)
    buffers = [_entry(state, key, partial(_full, p, _start(buffer, group))) for key, buffer in kept.items()]
    if not optimizer.counts_steps:  # without a count in the checkpoint, t only tells the first step from later ones
        counters.insert(0, like.clone() if is_first else torch.ones_like(like))
    return buffers, counters


def gradient(cls: Any, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Return the gradient of a parameter.

    Plans keep this function, so it takes the class: holding the optimizer would close a reference cycle.

    Raises:
        Unsupported: The gradient is sparse, and the rule (or weight decay) moves entries without a gradient.
    """
    g: Any = p.grad
    if not g.is_sparse:
        return g
    if not cls.zero_stays:
        raise Unsupported(
            f"{cls.__name__} does not support sparse gradients. SGD and Adagrad do; or make the layer dense "
            "(nn.Embedding(..., sparse=False))."
        )
    if group.get("weight_decay"):
        raise Unsupported(
            "weight_decay option is not compatible with sparse gradients: it moves every entry. Set weight_decay=0."
        )
    # Momentum moves every entry too, so the dense step is meant.
    return g.to_dense() if any(b.when and group[b.when] for b in cls.buffers.values()) else g


def _counts_on_device(group: Mapping[str, Any]) -> bool:
    """Whether step counts lie on the parameter's device: on request, or because a number of the group lies there."""
    values = chain.from_iterable(v if isinstance(v, (tuple, list)) else (v,) for k, v in group.items() if k != "params")
    return bool(group["capturable"]) or any(isinstance(v, Tensor) and v.device.type != "cpu" for v in values)


def _start(buffer: Buffer, group: Mapping[str, Any]) -> float:
    return float(group[buffer.start] if isinstance(buffer.start, str) else buffer.start)


def _entry(state: dict[str, Any], key: str, make: Callable[[], Tensor]) -> Tensor:
    """Return an entry of the state as a dense tensor."""
    value = state.get(key)
    if value is None:
        value = state[key] = make()
    elif not isinstance(value, Tensor):
        value = state[key] = checkpoint.counter(value)
    elif value.is_sparse:  # torch's SGD keeps the momentum of a sparse gradient sparse
        value = state[key] = value.to_dense()
    return value


def _full(p: Tensor, start: float) -> Tensor:
    made = torch.zeros_like(p, memory_format=torch.preserve_format)
    if start:
        (torch.view_as_real(made) if made.is_complex() else made).fill_(start)
    return made
