"""Which engine steps a parameter, and why; and the plan of a group, which lasts from step to step."""

from __future__ import annotations

import importlib.util
import warnings
import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, compress
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from .cpu import fast_step
from .cpu import step_kernel as cpu
from .cpu.torch_internals import PLAIN
from .eager import step as eager
from .specs import Program, Slot

_failed: weakref.WeakKeyDictionary[Program, str] = weakref.WeakKeyDictionary()
"""Programs whose kernel could not be made, and what happened."""

_address = Tensor.data_ptr
_contiguous = Tensor.is_contiguous
_size = Tensor.numel


def _for_all(program: Program, options: Mapping[str, Any]) -> str | None:
    """Why the eager engine steps a whole group."""
    if options["differentiable"]:
        return "differentiable=True lets autograd record the step"
    if options["capturable"]:
        return "capturable=True keeps the step count on the device"
    if options["fused"] is False:
        return "fused=False asks for it"
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed"
    return _failed.get(program)


def reasons(program: Program, slots: Iterable[Slot], options: Mapping[str, Any]) -> list[str | None]:
    """Why the eager engine steps each slot; None where the kernel does."""
    for_all = _for_all(program, options)
    return [for_all or cpu.unserved(slot) for slot in slots]


def explained(program: Program, slots: Sequence[Slot], options: Mapping[str, Any]) -> list[str]:
    """A line for each engine that serves some of the parameters, and the reason where it is not the kernel."""
    count: dict[str, int] = {}
    for why in reasons(program, slots, options):
        line = "by the fused CPU kernel, all in one pass" if why is None else f"by the eager engine: {why}"
        count[line] = count.get(line, 0) + 1
    return [f"{n} of {len(slots)} parameters {line}" for line, n in count.items()]


class Plan:
    """How the parameters of a group are stepped, for as long as they, their gradients and their state stay in place.

    `step` checks that first and returns False where something has moved: a new plan is due then.
    """

    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        make_slot: Callable[[Tensor], Slot],
        gradient: Callable[[Tensor], Tensor],
        options: Mapping[str, Any],
    ) -> None:
        self.program, self._gradient, self._options = program, gradient, dict(options, params=None)
        self.has = [p.grad is not None for p in params]
        slots = {i: make_slot(params[i]) for i in compress(range(len(params)), self.has)}
        self._launches: list[tuple[cpu.Launch, list[int]]] = []
        served = self._launched(slots)
        self._direct = self._directly(params, slots, served)
        self._rest = {i: slots[i] for i in sorted(slots.keys() - set(served))}
        self._served = [i in slots and i not in self._rest for i in range(len(params))]
        self._whole = all(self._served)
        self._pointers = [slots[i].p.data_ptr() for i in served]
        self._flat = all(slots[i].p.is_contiguous() for i in served) and all(slots[i].g.is_contiguous() for i in served)
        self._strides = [x.stride() for i in served for x in (slots[i].p, slots[i].g)]
        self._sizes = [slots[i].p.numel() for i in served]
        self._may_be_negated = [k for k, i in enumerate(served) if not self._flat or slots[i].p.numel() == 1]
        # torch lets a gradient have a dtype of its own where grad_dtype says so; it may then change at any step
        self._kinds = [slots[i].g.dtype for i in served]
        self._any_kind = any(getattr(slots[i].p, "grad_dtype", slots[i].p.dtype) != slots[i].p.dtype for i in served)
        self._complex = any(slots[i].p.is_complex() for i in served)
        self.moves = bool(slots)

    def _launched(self, slots: Mapping[int, Slot]) -> list[int]:
        """Make a launch for every layout; return the places in the group that they serve, in order."""
        by_layout: dict[cpu.Layout, list[int]] = {}
        for (i, slot), why in zip(slots.items(), reasons(self.program, slots.values(), self._options), strict=True):
            if why is None:
                by_layout.setdefault(cpu.layout_of(slot), []).append(i)
            elif self._options["fused"]:
                raise Unsupported(
                    f"fused=True asks for the kernel, which can't step parameter {i} of shape {tuple(slot.p.shape)}: "
                    f"{why}. With fused=None Piste chooses an engine that can."
                )
        served = sorted(i for indices in by_layout.values() for i in indices)
        place = {i: k for k, i in enumerate(served)}
        try:
            for layout, indices in by_layout.items():
                launch = cpu.Launch(self.program, layout, [slots[i] for i in indices])
                self._launches.append((launch, [place[i] for i in indices]))
        except Exception as error:
            if self._options["fused"]:
                raise
            self._launches, served = [], []
            _failed[self.program] = f"its kernel could not be made ({error})"
            warnings.warn(
                f"{self.program.name} steps without its kernel, several times slower: {error}. "
                "fused=False asks for this and is quiet; fused=True makes it an error.",
                RuntimeWarning,
                stacklevel=7,
            )
        return served

    def _directly(self, params: Any, slots: Mapping[int, Slot], served: Sequence[int]) -> fast_step.FastStep | None:
        launches = [(launch, [served[k] for k in places]) for launch, places in self._launches]
        return (
            fast_step.FastStep(params, slots, launches)
            if served and fast_step.supports(params, slots, launches)
            else None
        )

    def step(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """Step `params`, which are those of the plan; or return False, with nothing changed."""
        if self._rest:
            with torch.set_grad_enabled(self._options["differentiable"]):
                return self._step_with_rest(params, numbers)
        return self._launch(params, numbers)

    def _step_with_rest(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """By the kernel what it serves, and by the eager engine the rest."""
        if any(params[i].grad is None for i in self._rest):
            return False
        rest = [replace(slot, g=self._gradient(params[i])) for i, slot in self._rest.items()]
        if None in reasons(self.program, rest, self._options) or not self._launch(params, numbers):
            return False
        eager.step(
            self.program,
            rest,
            numbers,
            differentiable=self._options["differentiable"],
            on_device=self._options["capturable"],
        )
        return True

    def _launch(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        values = array("d", [numbers[name] for name in self.program.numbers])
        return self._direct(params, values) if self._direct else self._asked(params, values)

    def _asked(self, params: Sequence[Tensor], values: array[float]) -> bool:
        """Ask every parameter, and run the launches."""
        grads: list[Any] = [p.grad for p in params]
        if not self._whole:
            if [g is not None for g in grads] != self.has:
                return False
            params, grads = list(compress(params, self._served)), list(compress(grads, self._served))
        if not self._launches:
            return True
        if not set(map(type, grads)) <= PLAIN:  # one is missing now, or of a subclass
            return False
        try:
            gradients = list(map(_address, grads))
        except RuntimeError:  # one has become sparse
            return False
        if list(map(_address, params)) != self._pointers or list(map(_size, grads)) != self._sizes:
            return False
        both = list(chain.from_iterable(zip(params, grads, strict=True)))
        if not (all(map(_contiguous, both)) if self._flat else list(map(Tensor.stride, both)) == self._strides):
            return False
        if self._any_kind and [g.dtype for g in grads] != self._kinds:
            return False
        if self._complex and any(map(Tensor.is_conj, grads)):
            return False
        # autograd leaves a sign to be applied later on single elements, and on views that are not flat
        if any(grads[k].is_neg() for k in self._may_be_negated):
            return False
        for launch, places in self._launches:
            launch.gradients[:] = array("q", gradients if len(self._launches) == 1 else [gradients[k] for k in places])
            launch.numbers[:] = values
            launch()
        torch.autograd.graph.increment_version(params)  # so that autograd notices a saved tensor that has changed
        return True
