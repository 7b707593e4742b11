"""Everything about an optimizer that is not its rule: arguments, groups, state, checkpoints, and who runs the step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine import ParamState, StepPlan, StepSpec, describe_backends, parameters, raise_reported, step_eagerly
from ..errors import Unsupported
from ..formula.expression import FormulaError
from ..torch_internals import LOAD_HOOKS, has_step_hooks, is_profiling, profile_hook
from . import checkpoint
from . import validation as arguments
from .options import Flag, Option


@dataclass(frozen=True)
class Buffer:
    """A state tensor: its letter in the formula, the option that has to be on for it to be kept, and its start."""

    letter: str
    when: str | None = None
    start: float | str = 0.0  # a number, or the name of an option


class Optimizer(torch.optim.Optimizer):
    """The base of every optimizer; a subclass states a rule.

    A rule consists of

    - `options`: its arguments after `params`, in order (see `piste.optim.options`);
    - `buffers`: the tensors it remembers, as `{checkpoint key: letter or Buffer}`;
    - `update(g, *buffers, *, ...)`: the formula of one element. It takes the gradient, each buffer (`None` where it
      is not kept) and, by keyword, whichever numbers and flags it names; it may ask for the parameter as `p` first.
      It returns the step `d` and the new buffers; the parameter moves by `-lr * d`;
    - `per_step`: numbers that depend on the step count `t` and the options alone, as formulas by name, in order.
      One that is named like an option (`lr`) replaces it for this step;
    - `counters`: 0-d tensors it remembers besides the step count, as `buffers`.

    Sign, weight decay, the last subtraction, dtypes, checkpoints and engines are the base's; no rule mentions them.
    """

    options: ClassVar[dict[str, Option]] = {}
    buffers: ClassVar[Mapping[str, Any]] = {}
    counters: ClassVar[Mapping[str, Any]] = {}
    per_step: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    fixed: ClassVar[Mapping[str, Any]] = {}  # group entries that are no arguments, as in torch.optim
    lenient: ClassVar[tuple[str, ...]] = ("decoupled_weight_decay",)  # options that old checkpoints lack
    pull: ClassVar[str] = ""  # a number that shrinks the weights as a decoupled weight decay does, besides it
    counts_steps: ClassVar[bool] = True  # whether the checkpoint has a "step"
    state_from_start: ClassVar[bool] = False  # whether the state is made with the optimizer, not at its first step
    zero_stays: ClassVar[bool] = False  # whether an entry without a gradient stays as it is: sparse gradients work
    update: Callable[..., Any]
    _programs: ClassVar[dict[Any, StepSpec]] = {}
    options_of_all: ClassVar[set[str]] = set()  # which tells a checkpoint of another optimizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.buffers = {key: _buffer(b) for key, b in cls.buffers.items()}
        cls.counters = {key: _buffer(b) for key, b in cls.counters.items()}
        cls._programs = {}
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
        """Raise where options that are each in range don't go together."""

    @classmethod
    def state_keys(cls) -> list[str]:
        """What a checkpoint may hold for one parameter."""
        return ["step"] * cls.counts_steps + [*cls.counters, *cls.buffers]

    # --- groups and checkpoints -----------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its options are checked like the constructor's."""
        arguments.check_group(self, param_group)
        super().add_param_group(param_group)
        if self.state_from_start:
            for p in param_group["params"]:
                self._state_of(p, param_group)

    @property
    def state(self) -> Any:  # type: ignore[override]
        """What the optimizer remembers, by parameter. It may be replaced or changed at will."""
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
        """Load a checkpoint of this optimizer, Piste's or torch.optim's; anything else is refused before a change."""
        hooks = getattr(self, LOAD_HOOKS, {})
        for hook in hooks.values():
            state_dict = hook(self, state_dict) or state_dict  # the checks see what torch will load
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
            for line in describe_backends(self._program(group), [self._known(p) for p in group["params"]], group)
        )

    explain = explain_backend
    """The same, by its first name."""

    def _known(self, p: Tensor) -> ParamState:
        """The parameter with whatever gradient and state it has so far."""
        state = self._state.get(p, {})
        buffers, counters = ([state[key] for key in keys if key in state] for keys in (self.buffers, self.counters))
        return ParamState(p, p if p.grad is None else p.grad, buffers, counters)

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
        """What torch.compile sees: the eager backend on the parameters that have a gradient."""
        slots = [self._slot(p, group) for p in group["params"] if p.grad is not None]
        with torch.set_grad_enabled(group["differentiable"]):
            step_eagerly(
                self._program(group),
                slots,
                self._numbers(group),
                differentiable=group["differentiable"],
                on_device=True,
            )
        return len(slots) > 0  # torch 2.9 to 2.11 can't trace `bool` of a list

    def _step_group(self, index: int, group: dict[str, Any], key: Any, numbers: Mapping[str, Any]) -> bool:
        """By the plan of last time, or by one made for the same gradients before, or by a new one."""
        plans = self._plans.get(index)
        if plans and plans[0][0] == key and plans[0][1].step(group["params"], numbers):
            return plans[0][1].steps_anything
        with torch.set_grad_enabled(group["differentiable"]):
            return self._planned(index, group, key, numbers).steps_anything

    def _read(self, index: int, group: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """What a plan is made for, and the numbers: those of last time, where the options are the same objects."""
        known = self._known_options.get(index)
        if known is not None and all(map(is_, known[0], group.values())):
            return known[1:]
        arguments.check_changed(self, index, known and known[0])
        key = (self._program(group), group["differentiable"], group["capturable"], group["fused"])
        numbers = self._numbers(group)
        self._known_options.pop(index, None)
        if all(name == "params" or _is_immutable(value) for name, value in group.items()):
            self._known_options[index] = (list(group.values()), key, numbers)
        return key, numbers

    def _planned(self, index: int, group: dict[str, Any], key: Any, numbers: Mapping[str, Any]) -> StepPlan:
        """Step a group by a plan that is not the last one's."""
        params = group["params"]
        plans = [(known, plan) for known, plan in self._plans.get(index, []) if known == key]
        has = [p.grad is not None for p in params]
        same = next((plan for _, plan in plans[1:] if plan.has_grad == has), None)
        if same is None or not same.step(params, numbers):
            same = StepPlan(
                key[0], params, partial(self._slot, group=group), partial(type(self)._gradient, group=group), group
            )
            self._pointers = self._state_pointers()
            if not same.step(params, numbers):
                raise RuntimeError("a gradient changed during the step; step an optimizer from one thread at a time")
        others = [(known, plan) for known, plan in plans if plan.has_grad != has]
        self._plans[index] = [(key, same), *others[:_PLANS_KEPT]]
        return same

    def _state_pointers(self) -> list[int]:
        """Which tensors the state consists of, and where they lie."""
        values = list(chain.from_iterable(map(dict.values, self._state.values())))
        where = (v.data_ptr() for v in values if isinstance(v, Tensor) and v.layout == torch.strided)
        return [*map(id, values), *where]

    def _forget_plans_of_other_state(self) -> None:
        """Plans know where the state was, and whoever got hold of it once may have replaced or moved it since."""
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

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            letter: value
            for name, option in self.options.items()
            for letter, value in option.letters(name, group[name])
        }

    def _slot(self, p: Tensor, group: Mapping[str, Any]) -> ParamState:
        """The parameter, its gradient and its state, made where it is missing."""
        return ParamState(p, self._gradient(p, group), *self._state_of(p, group))

    def _state_of(self, p: Tensor, group: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Its buffers and counters."""
        kept = {key: buffer for key, buffer in self.buffers.items() if buffer.when is None or group[buffer.when]}
        state = self._state[p] if self.counts_steps or kept else {}
        like = torch.zeros((), dtype=torch.get_default_dtype(), device=p.device if _counts_on_device(group) else "cpu")
        fresh = False
        counters = []
        if self.counts_steps:
            counters.append(_kept(state, "step", lambda: like.clone()))
        for key, counter in self.counters.items():
            start = self._start(counter, group)
            counters.append(_kept(state, key, partial(torch.full_like, like, start)))
        buffers = []
        for key, buffer in kept.items():
            fresh = fresh or state.get(key) is None
            buffers.append(_kept(state, key, partial(_full, p, self._start(buffer, group))))
        if not self.counts_steps:  # without a count in the checkpoint, t says only whether this is the first
            counters.insert(0, like.clone() if fresh else torch.ones_like(like))
        return buffers, counters

    def _start(self, buffer: Buffer, group: Mapping[str, Any]) -> float:
        return float(group[buffer.start] if isinstance(buffer.start, str) else buffer.start)

    @classmethod
    def _gradient(cls, p: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The gradient of `p`; a plan keeps this method, so it must not hold the optimizer: that would be a cycle."""
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
        # Momentum moves every entry as well, so it is the dense step that is meant.
        return g.to_dense() if any(b.when and group[b.when] for b in cls.buffers.values()) else g

    def _program(self, group: Mapping[str, Any]) -> StepSpec:
        """What the engines run for this group: the rule, with what the base adds to it."""
        flags = {name: bool(group[name]) for name, option in self.options.items() if isinstance(option, Flag)}
        kept = tuple(b.letter for b in self.buffers.values() if b.when is None or group[b.when])
        decay = ("decoupled" if group.get("decoupled_weight_decay") else "l2") if group.get("weight_decay") else ""
        key = (kept, decay, bool(group["maximize"]), *flags.values())
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._compose(kept, decay, bool(group["maximize"]), flags)
        return program

    @classmethod
    def _compose(cls, kept: tuple[str, ...], decay: str, maximize: bool, flags: Mapping[str, bool]) -> StepSpec:
        update = cls.update
        asked = parameters(update)
        letters = [b.letter for b in cls.buffers.values()]
        reads_p = asked[0] == "p"
        pulls = [pull for pull in (cls.pull, "weight_decay" if decay == "decoupled" else "") if pull]
        by_name = asked[reads_p + 1 + len(letters) :]

        def element(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
            lr = scalars["lr"]
            if maximize:
                g = -g
            if decay == "l2":
                g = g + scalars["weight_decay"] * p
            for pull in pulls:
                p = p * (1 - lr * scalars[pull])
            state = dict(zip(kept, buffers, strict=True))
            result = update(
                *([p] * reads_p),
                g,
                *(state.get(x) for x in letters),
                **{n: flags[n] if n in flags else scalars[n] for n in by_name},
            )
            d, *after = result if isinstance(result, tuple) else (result,)
            if len(after) != len(letters):
                raise FormulaError(
                    f"{cls.__name__}.update must return the step and {len(letters)} buffers "
                    f"({', '.join(letters) or 'none'}); it returned {len(after)}."
                )
            return p - lr * d, [new for x, new in zip(letters, after, strict=True) if x in kept]

        element.__qualname__ = f"{cls.__name__}.update"  # what a message about it should name
        numbers = tuple(
            letter
            for n, o in cls.options.items()
            for letter, _ in o.letters(n, o.default if o.default is not None else 0)
        )
        counters = ("t", *(c.letter for c in cls.counters.values()))
        return StepSpec(cls.__name__, element, numbers, kept, counters, cls.per_step)


def _counts_on_device(group: Mapping[str, Any]) -> bool:
    """Whether the step counts lie next to the parameters: on request, or because a number of the group lies there."""
    values = chain.from_iterable(v if isinstance(v, (tuple, list)) else (v,) for k, v in group.items() if k != "params")
    return bool(group["capturable"]) or any(isinstance(v, Tensor) and v.device.type != "cpu" for v in values)


_PLANS_KEPT = 3  # besides the current one, for models whose parameters take turns


_watched_step = Optimizer._step if profile_hook is None else profile_hook(Optimizer._step)


def _buffer(declared: str | Buffer) -> Buffer:
    return Buffer(declared) if isinstance(declared, str) else declared


def _is_immutable(value: Any) -> bool:
    return all(map(_is_immutable, value)) if type(value) is tuple else type(value) in _IMMUTABLE


_IMMUTABLE = {bool, int, float, str, type(None)}


def _kept(state: dict[str, Any], key: str, make: Callable[[], Tensor]) -> Tensor:
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
