"""The step of whole matrices: a formula of one element, operations on matrices, and a formula of one element again.

Matrices of one shape lie in one tensor, the stack, so that a matrix stage takes all of them in one call. The formula
before the stage writes into the stack, and the formula after it reads from there: nothing is gathered or copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .eager.step import step as step_eagerly
from .specs import ParamState, StepSpec, parameters
from .step_dispatch import StepPlan, describe_backends

__all__ = ["MatrixPlan", "MatrixSpec", "describe_matrix_backends", "step_matrices_eagerly"]


@dataclass(frozen=True, eq=False)
class MatrixSpec:
    """The step of a rule of matrices.

    Attributes:
        before: a step that leaves the parameter as it is; its last buffer is the input of the matrix stage.
        matrix: the stage. It takes matrices (count, rows, columns), its buffers (count, elements), and the numbers that
            it names by keyword, such as the step count `t`; it returns matrices of as many elements, and the new
            buffers if it has any. It runs once for all matrices of one shape and step count.
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
    """The matrices of some parameters, one tensor for each shape, dtype and device."""

    def __init__(self, spec: MatrixSpec, params: Iterable[Tensor], on_device: bool) -> None:
        alike: dict[Any, list[Tensor]] = {}
        for p in params:
            alike.setdefault((p.shape, p.dtype, p.device), []).append(p)
        self._spec, self._on_device = spec, on_device
        self._stacks: list[tuple[Tensor, list[Tensor]]] = []  # with the parameters
        self._of: dict[int, Tensor] = {}
        self._buffers: dict[int, list[Tensor]] = {}  # of the matrix stage
        self._counts: dict[int, Tensor] = {}  # of steps
        for (shape, dtype, device), matrices in alike.items():
            stack = torch.empty(len(matrices), *shape, dtype=dtype, device=device)
            self._stacks.append((stack, matrices))
            self._of.update((id(p), part) for p, part in zip(matrices, stack, strict=True))

    def before(self, state: ParamState) -> ParamState:
        """Return the state of a parameter for the step before the matrix stage."""
        kept, self._buffers[id(state.p)] = _split_buffers(self._spec, state)
        self._counts[id(state.p)] = state.counters[0]
        return replace(state, buffers=[*kept, self._of[id(state.p)]])

    def after(self, p: Tensor, g: Tensor) -> ParamState:
        """Return the state of a parameter for the step after the matrix stage."""
        return ParamState(p, g, [self._of[id(p)]], [torch.zeros((), device=p.device if self._on_device else None)])

    def run(self, numbers: Mapping[str, Any]) -> None:
        """Replace each matrix by the result of the matrix stage, and renew the buffers of the stage."""
        _, *names = parameters(self._spec.matrix)
        chosen = {name: numbers[name] for name in names if name not in self._spec.buffers and name != "t"}
        with torch.no_grad():
            for stack, params in self._stacks:
                if "t" not in names:
                    self._run_one(stack, params, chosen)
                    continue
                counts = [int(self._counts[id(p)].item()) for p in params]
                for t in dict.fromkeys(counts):
                    places = [i for i, count in enumerate(counts) if count == t]
                    part = stack if len(places) == len(params) else stack[places]
                    self._run_one(part, [params[i] for i in places], {**chosen, "t": t})
                    if part is not stack:
                        stack[places] = part

    def _run_one(self, stack: Tensor, params: Sequence[Tensor], chosen: Mapping[str, Any]) -> None:
        """Run the stage once, in place."""
        kept = [self._buffers[id(p)] for p in params]
        buffers = [torch.stack([x.flatten() for x in alike]) for alike in zip(*kept, strict=True)]
        result = self._spec.matrix(stack if self._spec.any_shape else stack.flatten(2), *buffers, **chosen)
        result, *renewed = result if buffers else (result,)
        stack.copy_(result.reshape(stack.shape))
        for alike, old, values in zip(zip(*kept, strict=True), buffers, renewed, strict=False):
            if values is not old:
                for x, value in zip(alike, values, strict=True):
                    x.copy_(value.reshape(x.shape))


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
        self._stacks = stacks = _Stacks(spec, [p for p in params if p.grad is not None], options["capturable"])
        self._before = StepPlan(spec.before, params, lambda p: stacks.before(make_state(p)), gradient, options)
        self._after = StepPlan(spec.after, params, lambda p: stacks.after(p, gradient(p)), gradient, options)
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
    stacks = _Stacks(spec, [state.p for state in states], on_device)
    step_eagerly(spec.before, [stacks.before(state) for state in states], numbers, on_device=on_device)
    stacks.run(numbers)
    step_eagerly(spec.after, [stacks.after(state.p, state.g) for state in states], numbers, on_device=on_device)


def describe_matrix_backends(spec: MatrixSpec, states: Sequence[ParamState], options: Mapping[str, Any]) -> list[str]:
    """Return a line for each backend that runs the formulas before and after the matrix stage of some parameters."""
    states = [replace(state, buffers=_split_buffers(spec, state)[0]) for state in states]
    lines = describe_backends(spec.before, states, options)
    return [f"{line}; the matrix stage by torch operations" for line in lines]


def _split_buffers(spec: MatrixSpec, state: ParamState) -> tuple[list[Tensor], list[Tensor]]:
    """Return the buffers of the step before the matrix stage, and those of the stage."""
    count = len(spec.before.buffers) - 1  # the last one is the stack
    return list(state.buffers[:count]), list(state.buffers[count:])
