"""The step of whole matrices: a formula of one element, operations on matrices, and a formula of one element again.

Matrices of one shape lie in one tensor, the stack, so that a matrix stage takes many of them in one call. The formula
before the stage writes into the stack, and the formula after it reads from there: nothing is gathered or copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .eager.step import local_numbers
from .eager.step import step as step_eagerly
from .eight_bits import decode, encode
from .layout import is_sharded, positions
from .parts import own_part, whole_of
from .specs import ParamState, StepSpec, parameters
from .step_dispatch import StepPlan, describe_backends

__all__ = ["MatrixPlan", "MatrixSpec", "describe_matrix_backends", "step_matrices_eagerly"]

CACHED = 2**19
"""Numbers of matrices and buffers that one call of a matrix stage takes on a CPU, whose caches hold them."""


@dataclass(frozen=True, eq=False)
class MatrixSpec:
    """The step of a rule of matrices.

    Attributes:
        before: a step that leaves the parameter as it is; its last buffer is the input of the matrix stage.
        matrix: the stage. It takes matrices (count, rows, columns), its buffers (count, elements), and the numbers that
            it names by keyword, such as the step count `t`; it returns matrices of as many elements, and the new
            buffers if it has any: one that has not changed as it was given, and None for one that it renewed in place.
            It runs once for all matrices of one shape and step count, and on a CPU for as many of them at a time as its
            caches hold.
        after: a step whose only buffer is the result of the matrix stage.
        buffers: letters of the state that the stage reads and renews, the last ones of a rule.
        any_shape: whether the stage takes tensors (count, *shape) as they are, in place of matrices.
    """

    before: StepSpec
    matrix: Callable[..., Tensor]
    after: StepSpec
    buffers: tuple[str, ...] = ()
    any_shape: bool = False

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.before.name


class _Stacks:
    """The matrices of some parameters, one tensor for each shape, dtype and device, and their state.

    Args:
        spec: the step.
        states: the states of the parameters.
    """

    def __init__(self, spec: MatrixSpec, states: Iterable[ParamState]) -> None:
        self._spec = spec
        self._names = parameters(spec.matrix)[1:]
        self._stacks: list[tuple[Tensor, list[ParamState]]] = []  # with what the stage takes of each state
        self._before: dict[int, ParamState] = {}
        self._after: dict[int, ParamState] = {}
        alike: dict[Any, list[ParamState]] = {}
        for state in states:
            # The processes that hold parts gather them in one order, so it depends on nothing but the whole tensors.
            whole = state.p if state.whole is None else state.whole
            spread = (getattr(whole, name, None) for name in ("device_mesh", "placements"))
            alike.setdefault((whole.shape, whole.dtype, whole.device, *spread), []).append(state)
        for same in alike.values():
            p = same[0].p
            dtype = torch.float32 if p.dtype in spec.after.by_dtype else p.dtype  # a precision keeps more than 16 bits
            stack = torch.empty(len(same), *p.shape, dtype=dtype, device=p.device)
            stages = []
            for x, state in zip(stack, same, strict=True):
                self._before[id(state.p)], stage, self._after[id(state.p)] = _divided(spec, state, x)
                stages.append(stage)
            self._stacks.append((stack, stages))

    def before(self, p: Tensor) -> ParamState:
        """Return the state of a parameter for the step before the matrix stage."""
        return self._before[id(p)]

    def after(self, p: Tensor) -> ParamState:
        """Return the state of a parameter for the step after the matrix stage."""
        return self._after[id(p)]

    def run(self, numbers: Mapping[str, Any]) -> None:
        """Replace each matrix by the result of the matrix stage, and renew the buffers of the stage."""
        names = self._names
        chosen = {name: numbers[name] for name in names if name not in self._spec.buffers and name != "t"}
        is_bad = None if numbers.get("found_inf") is None else numbers["found_inf"] != 0
        with torch.no_grad():
            for stack, states in self._stacks:
                known = local_numbers(chosen, stack.device)
                if "t" not in names:
                    self._run_alike(stack, states, known, is_bad)
                    continue
                counts = [int(state.counters[0].item()) for state in states]
                for t in dict.fromkeys(counts):
                    places = [i for i, count in enumerate(counts) if count == t]
                    part = stack if len(places) == len(states) else stack[places]
                    self._run_alike(part, [states[i] for i in places], {**known, "t": t}, is_bad)
                    if part is not stack:
                        stack[places] = part

    def _run_alike(
        self, stack: Tensor, states: Sequence[ParamState], chosen: Mapping[str, Any], is_bad: Tensor | None
    ) -> None:
        """Run the stage in place for matrices of one shape and step count."""
        most = len(states)
        if stack.device.type == "cpu" and states[0].whole is None:  # processes with parts of other sizes stay in step
            most = max(1, CACHED // max(1, stack[0].numel() + sum(x.numel() for x in states[0].buffers)))
        for i, part in enumerate(stack.split(most)):
            self._run_once(part, states[i * most : (i + 1) * most], chosen, is_bad)

    def _run_once(
        self, stack: Tensor, states: Sequence[ParamState], chosen: Mapping[str, Any], is_bad: Tensor | None
    ) -> None:
        """Run the stage once, in place; where `is_bad` is true, its buffers stay as they are."""
        whole = states[0].whole
        u = stack if whole is None else torch.stack([whole_of(x, whole) for x in stack])
        kept = [_numbers_of(state) for state in states]
        if len(states) == 1 and is_bad is None:  # the stage works in the state itself
            buffers = [x.reshape(1, -1) for x in kept[0]]
            in_state = [x is y and x.is_contiguous() for x, y in zip(kept[0], states[0].buffers, strict=True)]
        else:
            buffers = [torch.stack([x.flatten() for x in alike]) for alike in zip(*kept, strict=True)]
            in_state = [False] * len(buffers)
        result = self._spec.matrix(u if self._spec.any_shape else u.flatten(2), *buffers, **chosen)
        result, *renewed = result if buffers else (result,)
        result = result.reshape(u.shape)
        if whole is None:
            stack.copy_(result)
        else:
            for x, value in zip(stack, result, strict=True):
                x.copy_(own_part(value, whole))
        for k, (old, values) in enumerate(zip(buffers, renewed, strict=False)):
            if values is old or (values is None and in_state[k]):
                continue
            for state, value in zip(states, old if values is None else values, strict=True):
                _renew(state, k, value, is_bad)


def _divided(spec: MatrixSpec, state: ParamState, u: Tensor) -> tuple[ParamState, ParamState, ParamState]:
    """Return what the step before the matrix stage, the stage and the step after it take of a state.

    The counters of the stage are the step count and those of random numbers.
    """
    counters = state.counters
    before, after = spec.before.of(state.p), spec.after.of(state.p)
    kept, own, added = _split_buffers(spec, state)
    eight = sum(x.dtype == torch.int8 for x in kept)
    random = [counters[1], counters[-1]] if state.scales or len(after.counters) > 1 else []
    of_before = counters if len(counters) == len(before.counters) else [counters[0], *counters[2:-1]]
    count = torch.zeros_like(counters[-1])
    return (
        replace(state, buffers=[*kept, u], counters=of_before, scales=state.scales[:eight]),
        replace(state, buffers=own, counters=[counters[0], *random], scales=state.scales[eight:]),
        replace(state, buffers=[u, *added], counters=[count, *random[: len(after.counters) - 1]], scales=()),
    )


def _numbers_of(state: ParamState) -> list[Tensor]:
    """Return the buffers of a stage as whole tensors of numbers."""
    scales = iter(state.scales)
    wide = (decode(x, next(scales), positions([x])) if x.dtype == torch.int8 else x for x in state.buffers)
    return [whole_of(x, state.whole) for x in wide]


def _renew(state: ParamState, index: int, value: Tensor, is_bad: Tensor | None) -> None:
    """Write a buffer of a stage, in whole numbers, as it is kept: in 8 bits, and in the part of this process."""
    x = state.buffers[index]
    if state.whole is None and is_bad is None and x.dtype != torch.int8 and not is_sharded(x):
        x.copy_(value.reshape(x.shape))
        return
    spread, x = (x, x.to_local()) if is_sharded(x) else (state.whole, x)
    part = own_part(value.reshape(x.shape if spread is None else spread.shape), spread)
    new = [(x, part)]
    if x.dtype == torch.int8:
        eight = [k for k, buffer in enumerate(state.buffers) if buffer.dtype == torch.int8]
        _, key, step = state.counters
        place = eight.index(index)
        # Buffers of the step before the stage take the keys after this one.
        codes, scales = encode(part, positions([x]), key.to(torch.int64) - 1 - place, step)
        new = [(x, codes), (state.scales[place], scales)]
    for old, latest in new:
        old.copy_(latest if is_bad is None else torch.where(is_bad.to(old.device), old, latest.to(old.dtype)))


class MatrixPlan:
    """The plan of a group that is stepped as matrices, with the methods of `StepPlan`.

    Args:
        spec: the step.
        params: the parameters of the group.
        make_state: makes the state of a parameter that has a gradient.
        gradient: returns the gradient of a parameter as the eager backend takes it.
        options: the options of the group.
    """

    def __init__(
        self,
        spec: MatrixSpec,
        params: Sequence[Tensor],
        make_state: Callable[[Tensor], ParamState],
        gradient: Callable[[Tensor], Tensor],
        options: Mapping[str, Any],
    ) -> None:
        states = {id(p): make_state(p) for p in params if p.grad is not None}
        self._stacks = stacks = _Stacks(spec, states.values())
        self._before = StepPlan(spec.before, params, stacks.before, gradient, options)
        self._after = StepPlan(spec.after, params, stacks.after, gradient, options)
        self.has_grad = self._before.has_grad
        self.steps_anything = self._before.steps_anything

    def step(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """Step `params`, which are those of the plan; or return False, with nothing changed."""
        if not self._before.step(params, numbers):
            return False
        self._stacks.run(numbers)
        return self._after.step(params, numbers)  # it verifies what the step before verified


def step_matrices_eagerly(
    spec: MatrixSpec, states: Sequence[ParamState], numbers: Mapping[str, Any], *, on_device: bool = False
) -> None:
    """Step parameters in place by torch operations.

    Args:
        spec: The step.
        states: The states of the parameters.
        numbers: The numbers of the group by name.
        on_device: Keep the step count in its tensor.
    """
    stacks = _Stacks(spec, states)
    step_eagerly(spec.before, [stacks.before(state.p) for state in states], numbers, on_device=on_device)
    stacks.run(numbers)
    step_eagerly(spec.after, [stacks.after(state.p) for state in states], numbers, on_device=on_device)


def describe_matrix_backends(spec: MatrixSpec, states: Sequence[ParamState], options: Mapping[str, Any]) -> list[str]:
    """Return a line for each backend that runs the formulas before and after the matrix stage of some parameters."""
    kept = [_split_buffers(spec, state)[0] for state in states]
    states = [
        replace(state, buffers=own, scales=state.scales[: sum(x.dtype == torch.int8 for x in own)])
        for state, own in zip(states, kept, strict=True)
    ]
    lines = describe_backends(spec.before, states, options)
    return [f"{line}; the matrix stage by torch operations" for line in lines]


def _split_buffers(spec: MatrixSpec, state: ParamState) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the buffers of the step before the matrix stage, those of the stage, and those of the step after it."""
    first = len(spec.before.buffers) - 1  # the last one is the stack
    last = len(state.buffers) - len(spec.after.of(state.p).buffers) + 1
    return list(state.buffers[:first]), list(state.buffers[first:last]), list(state.buffers[last:])
