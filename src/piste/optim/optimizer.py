"""The base of every optimizer: its arguments, groups and checkpoints, and the plans that step its groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from operator import is_
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import StepPlan, StepSpec, describe_backends, raise_reported, step_eagerly
from ..torch_internals import LOAD_HOOKS, has_step_hooks, is_profiling, profile_hook
from . import checkpoint
from . import validation as arguments
from .composition import numbers_of, step_spec
from .options import Option
from .state import as_buffer, gradient, known_state, param_state, state_of


class Optimizer(torch.optim.Optimizer):
    """The base of every optimizer; a subclass states a rule.

    A rule consists of

    - `options`: the arguments after `params`, in order (see `piste.optim.options`);
    - `buffers`: the state tensors of a parameter, as `{checkpoint key: letter or Buffer}`;
    - `update(g, *buffers, *, ...)`: the formula of one element. It takes the gradient, each buffer (`None` for a
      buffer that is off) and, by keyword, the numbers and flags that it names; a first argument `p` is the parameter.
      It returns the step `d` and the new buffers; the parameter moves by `-lr * d`;
    - `per_step`: numbers that depend on the step count `t` and the options alone, as formulas by name, in order.
      A number with the name of an option (`lr`) replaces that option in this step;
    - `counters`: further 0-d state tensors, next to the step count, declared as `buffers`.

    The base adds sign, weight decay, the last subtraction, dtypes, checkpoints and backends; no rule mentions them.
    """

    options: ClassVar[dict[str, Option]] = {}
    buffers: ClassVar[Mapping[str, Any]] = {}
    counters: ClassVar[Mapping[str, Any]] = {}
    per_step: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    fixed: ClassVar[Mapping[str, Any]] = {}  # entries of a group that are no arguments, as in torch.optim
    lenient: ClassVar[tuple[str, ...]] = ("decoupled_weight_decay",)  # options that old checkpoints lack
    pull: ClassVar[str] = ""  # a number that shrinks the weights, in addition to decoupled weight decay
    counts_steps: ClassVar[bool] = True  # whether the checkpoint has a "step"
    state_from_start: ClassVar[bool] = False  # whether state is made at construction, not at the first step
    zero_stays: ClassVar[bool] = False  # whether entries without a gradient stay: allows sparse gradients
    update: Callable[..., Any]
    _specs: ClassVar[dict[Any, StepSpec]] = {}  # by flags and buffers
    options_of_all: ClassVar[set[str]] = set()  # recognises the checkpoint of another optimizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.buffers = {key: as_buffer(b) for key, b in cls.buffers.items()}
        cls.counters = {key: as_buffer(b) for key, b in cls.counters.items()}
        cls._specs = {}
        Optimizer.options_of_all |= set(cls.options)
        cls.__signature__ = arguments.signature(cls.options)  # type: ignore[attr-defined]
        cls.__doc__ = arguments.documented(cls)

    def __init__(self, params: Any = arguments.MISSING, *args: Any, **kwargs: Any) -> None:
        self._plans: dict[int, list[tuple[Any, StepPlan]]] = {}
        self._pointers: list[int] = []
        self._known_options: dict[int, tuple[list[Any], Any, Mapping[str, Any]]] = {}
        defaults = arguments.bind(type(self), args, kwargs, has_params=params is not arguments.MISSING)
        super().__init__(arguments.checked_params(type(self), params), defaults)
        self._handed_out = False

    @classmethod
    def check_together(cls, values: Mapping[str, Any]) -> None:
        """Raise for options that are each in range and exclude each other."""

    @classmethod
    def state_keys(cls) -> list[str]:
        """Return the keys that a checkpoint may have for one parameter."""
        return ["step"] * cls.counts_steps + [*cls.counters, *cls.buffers]

    # --- groups and checkpoints -----------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its options are checked like the constructor's."""
        arguments.check_group(self, param_group)
        super().add_param_group(param_group)
        if self.state_from_start:
            for p in param_group["params"]:
                state_of(self, p, param_group)

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state by parameter; it may be changed or replaced."""
        self._handed_out = True
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._handed_out, self._state = True, state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "state" in state:
            self.state = state.pop("state")
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in arguments.defaults(type(self)).items():
                group.setdefault(name, default)
            group.update(self.fixed)
        self._plans, self._pointers, self._known_options = {}, [], {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer, from Piste or torch.optim; raise for others before anything changes."""
        hooks = getattr(self, LOAD_HOOKS, {})
        for hook in hooks.values():
            state_dict = hook(self, state_dict) or state_dict  # check the dict that torch will load
        state_dict = checkpoint.prepared(self, state_dict)
        setattr(self, LOAD_HOOKS, {})
        try:
            super().load_state_dict(state_dict)
        finally:
            setattr(self, LOAD_HOOKS, hooks)
        checkpoint.own(self, state_dict)

    def explain_backend(self) -> str:
        """Return the backend that steps the parameters of each group, with the reason where it is the eager one.

        Example:
            >>> import torch, piste
            >>> model = torch.nn.Linear(2, 1)
            >>> print(piste.optim.Adam(model.parameters(), fused=False).explain_backend())
            Adam, group 0: 2 of 2 parameters by the eager backend: fused=False asks for it
        """
        return "\n".join(
            f"{type(self).__name__}, group {index}: {line}"
            for index, group in enumerate(self.param_groups)
            for line in describe_backends(
                step_spec(type(self), group), [known_state(self, p) for p in group["params"]], group
            )
        )

    explain = explain_backend
    """An alias of `explain_backend`."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros where `set_to_none` is False."""
        if not set_to_none or torch.compiler.is_compiling() or is_profiling():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    # --- the step -------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients, and returns the loss, which `step` then returns.
        """
        if has_step_hooks(self) or (not torch.compiler.is_compiling() and is_profiling()):
            return _watched_step(self, closure)
        return self._step(closure)

    if profile_hook is not None:
        step.hooked = True  # type: ignore[attr-defined]  # PyTorch's wrapper costs more than a small step

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = False
        if torch.compiler.is_compiling():
            for group in self.param_groups:
                moved = self._traced_group(group) or moved
        else:
            raise_reported()
            if self._handed_out:
                self._forget_plans_of_other_state()
            groups = self.param_groups
            read = [self._read(index, group) for index, group in enumerate(groups)]  # raises before a group moves
            for index, group in enumerate(groups):
                moved = self._step_group(index, group, *read[index]) or moved
        if not moved:
            self._warn_nothing_moved()
        return loss

    def _traced_group(self, group: dict[str, Any]) -> bool:
        """Step a group while torch.compile traces: eagerly, the parameters that have a gradient."""
        slots = [param_state(self, p, group) for p in group["params"] if p.grad is not None]
        with torch.set_grad_enabled(group["differentiable"]):
            step_eagerly(
                step_spec(type(self), group),
                slots,
                numbers_of(type(self), group),
                differentiable=group["differentiable"],
                on_device=True,
            )
        return len(slots) > 0  # torch 2.9 to 2.11 can't trace `bool` of a list

    def _step_group(self, index: int, group: dict[str, Any], key: Any, numbers: Mapping[str, Any]) -> bool:
        """Step a group by its latest plan, or else by an older or a new plan."""
        plans = self._plans.get(index)
        if plans and plans[0][0] == key and plans[0][1].step(group["params"], numbers):
            return plans[0][1].steps_anything
        with torch.set_grad_enabled(group["differentiable"]):
            return self._planned(index, group, key, numbers).steps_anything

    def _read(self, index: int, group: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return the key of the plan and the numbers; both are cached while the options are the same objects."""
        known = self._known_options.get(index)
        if known is not None and all(map(is_, known[0], group.values())):
            return known[1:]
        arguments.check_changed(self, index, known and known[0])
        key = (step_spec(type(self), group), group["differentiable"], group["capturable"], group["fused"])
        numbers = numbers_of(type(self), group)
        self._known_options.pop(index, None)
        if all(name == "params" or _is_immutable(value) for name, value in group.items()):
            self._known_options[index] = (list(group.values()), key, numbers)
        return key, numbers

    def _planned(self, index: int, group: dict[str, Any], key: Any, numbers: Mapping[str, Any]) -> StepPlan:
        """Step a group by an older plan for the same gradients, or by a new one."""
        params = group["params"]
        plans = [(known, plan) for known, plan in self._plans.get(index, []) if known == key]
        has = [p.grad is not None for p in params]
        same = next((plan for _, plan in plans[1:] if plan.has_grad == has), None)
        if same is None or not same.step(params, numbers):
            same = StepPlan(
                key[0],
                params,
                partial(param_state, self, group=group),
                partial(gradient, type(self), group=group),
                group,
            )
            self._pointers = self._state_pointers()
            if not same.step(params, numbers):
                raise RuntimeError("a gradient changed during the step; step an optimizer from one thread at a time")
        others = [(known, plan) for known, plan in plans if plan.has_grad != has]
        self._plans[index] = [(key, same), *others[:_OLDER_PLANS]]
        return same

    def _state_pointers(self) -> list[int]:
        """Return the identities and addresses of the state tensors."""
        values = list(chain.from_iterable(map(dict.values, self._state.values())))
        where = (v.data_ptr() for v in values if isinstance(v, Tensor) and v.layout == torch.strided)
        return [*map(id, values), *where]

    def _forget_plans_of_other_state(self) -> None:
        """Drop the plans if state was replaced or moved through `state`: plans hold addresses."""
        if self._plans and self._state_pointers() != self._pointers:
            self._plans.clear()

    def _warn_nothing_moved(self) -> None:
        if not self.__dict__.get("_warned"):
            self._warned = True
            params = [p for group in self.param_groups for p in group["params"]]
            if any(p.requires_grad for p in params):
                why = "no parameter has a gradient. Help: call loss.backward() before step(), and zero_grad() after it."
            else:
                why = (
                    f"all of its {len(params)} parameters are frozen (requires_grad=False). "
                    "Help: unfreeze some with p.requires_grad_()."
                )
            warnings.warn(f"{type(self).__name__}.step() moved nothing: {why}", stacklevel=4)


_OLDER_PLANS = 3  # for models whose parameters take turns


_watched_step = Optimizer._step if profile_hook is None else profile_hook(Optimizer._step)


def _is_immutable(value: Any) -> bool:
    return all(map(_is_immutable, value)) if type(value) is tuple else type(value) in _IMMUTABLE


_IMMUTABLE = {bool, int, float, str, type(None)}
