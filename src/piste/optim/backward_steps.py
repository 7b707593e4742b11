"""Steps during the backward pass: each parameter is stepped when its gradient is complete, and the gradient freed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from ..engine import raise_reported
from ..errors import Unsupported
from ..torch_internals import STEP_CALLED, has_step_hooks, is_compiler_on, outside_of_compiler
from ..translation import translate
from .shards import is_sharded
from .step_plans import warn_unchanged

__all__ = ["stepping_in_backward"]

_OUTSIDE = translate("step_in_backward() steps each parameter by its kernel, outside of the compiled backward pass.")


@contextmanager
def stepping_in_backward(optimizer: Any) -> Iterator[None]:
    """Step every parameter that gets a gradient in the body, once, and set its gradient to None.

    Raises:
        Unsupported: The optimizer has an option or hooks that need all gradients at once; or, during the backward pass,
            a parameter gets a second gradient.
    """
    _check(optimizer)
    raise_reported()
    plans = optimizer._step_plans
    if optimizer._state_exposed:
        plans.forget_other_state(optimizer)
    options = plans.options(optimizer)
    stepped: set[int] = set()
    handles: list[Any] = []

    def step(p: Tensor, place: tuple[int, int], group: dict[str, Any]) -> None:
        if id(p) in stepped:
            raise Unsupported(
                f"a parameter of shape {tuple(p.shape)} received a second gradient in one step_in_backward(), after it "
                "was stepped. Help: run one backward pass, of the sum of the losses; earlier passes that accumulate "
                "gradients run outside of it."
            )
        stepped.add(id(p))
        plans.step_group(optimizer, place, {**group, "params": [p]}, *options[place[0]])
        p.grad = None

    step_outside = outside_of_compiler(step, _OUTSIDE)

    def called(p: Tensor, place: tuple[int, int], group: dict[str, Any]) -> None:
        (step_outside if is_compiler_on() else step)(p, place, group)

    try:
        for index, group in enumerate(optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                if p.requires_grad:
                    hook = partial(called, place=(index, i), group=group)
                    handles.append(p.register_post_accumulate_grad_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
    setattr(optimizer, STEP_CALLED, True)
    if not stepped and not optimizer._has_warned:
        optimizer._has_warned = True
        warn_unchanged(optimizer, f"{type(optimizer).__name__}.step_in_backward()")


def _check(optimizer: Any) -> None:
    """Raise if a step needs all gradients at once."""
    if optimizer.group_state:
        raise Unsupported(
            "step_in_backward() steps each parameter before the other gradients exist, and "
            f"{type(optimizer).__name__} adds over all parameters. Help: call step() after backward()."
        )
    for index, group in enumerate(optimizer.param_groups):
        reasons = {
            "max_norm": "is the norm of all gradients. Help: max_value limits each value",
            "nonfinite": "asks for all gradients before any parameter moves. Help: leave it at its default",
            "differentiable": "keeps gradients that are in the graph. Help: leave it at its default",
        }
        defaults = {"max_norm": None, "nonfinite": "ignore", "differentiable": False}
        for name, reason in reasons.items():
            if group[name] != defaults[name]:
                raise Unsupported(
                    f"step_in_backward() steps each parameter before the other gradients exist, and {name} {reason}, "
                    f"or call step() after backward(); received {name}={group[name]!r} in param group {index}."
                )
        if any(map(is_sharded, group["params"])):
            raise Unsupported(
                "step_in_backward() takes parameters whose gradients autograd leaves in place, and FSDP moves those of "
                f"sharded parameters after the backward pass; received some in param group {index}. Help: call step() "
                "after backward()."
            )
    if has_step_hooks(optimizer):
        raise Unsupported(
            "step_in_backward() has no moment at which the hooks of steps could run; received an optimizer with such "
            "hooks. Help: remove them, or call step() after backward()."
        )
