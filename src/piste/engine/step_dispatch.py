"""Choose the backend that steps each parameter, and keep the plan of a group from step to step."""

from __future__ import annotations

import warnings
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, compress
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported, english
from ..torch_internals import PLAIN_TYPES
from ..translation import translate
from .backend import (
    Backend,
    FastStep,
    StepKernel,
    backends_of,
    caller_level,
    captured_counts,
    forced_backend,
    warn_fallback,
)
from .eager import step as eager
from .hoisting import count_passes
from .specs import ParamState, StepSpec, SumSpec

__all__ = ["StepPlan", "SumPlan", "choose_backend", "describe_backends", "is_captured"]

_failed: weakref.WeakKeyDictionary[StepSpec, str] = weakref.WeakKeyDictionary()
"""Specs whose kernel could not be made, with the reason."""

_address = Tensor.data_ptr
_contiguous = Tensor.is_contiguous
_size = Tensor.numel


def is_captured(tensors: Iterable[Tensor]) -> bool:
    """Return whether a CUDA graph captures work on tensors now, which runs at each replay.

    Tensors without memory may be on CUDA devices where there is no CUDA.
    """
    return any(x.is_cuda for x in tensors) and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def choose_backend(spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> tuple[Backend | None, str | None]:
    """Return the backend that steps a parameter; None and the reason where it is the eager backend."""
    forced = forced_backend()
    if options["differentiable"]:
        return None, "differentiable=True lets autograd record the step"
    if options["fused"] is False:
        return None, "fused=False asks for it"
    if forced == "eager":
        return None, "PISTE_BACKEND=eager asks for it"
    if spec in _failed:
        return None, _failed[spec]
    spec = spec.of(state.p)
    reason = f"it is on {state.p.device.type}"
    for backend in backends_of(state.p.device.type):
        if forced is None or backend.name == forced:
            why = backend.why_unavailable() or backend.why_not_step(spec, state, options)
            if why is None:
                return backend, None
            reason = why
    return None, reason


def describe_backends(spec: StepSpec, states: Sequence[ParamState], options: Mapping[str, Any]) -> list[str]:
    """Return a line for each backend that steps some of the parameters, with the reason where it is the eager one."""
    count: Counter[tuple[str | None, str | None, int, str | None]] = Counter()
    for state in states:
        backend, why = choose_backend(spec, state, options)
        adder = None
        if spec.sums is not None:
            adding, _ = choose_backend(spec.sums, replace(state, counters=[]), options)
            adder = "torch operations" if adding is None else adding.describe()
        count[None if backend is None else backend.describe(), why, count_passes(spec.of(state.p)), adder] += 1
    return [_describe(n, len(states), *way) for way, n in count.items()]


def _describe(n: int, count: int, kernel: str | None, why: str | None, passes: int, adder: str | None) -> str:
    """Return the line for `n` of `count` parameters that the same kernel steps, or the eager backend for one reason."""
    if kernel is None:
        line = f"{n} of {count} parameters by the eager backend: {why}"
    elif passes == 1:
        line = f"{n} of {count} parameters by {kernel}, all in one pass"
    else:
        line = f"{n} of {count} parameters by {kernel}, all together, in {passes} passes"
    return line if adder is None else f"{line}; the sums over all parameters by {adder}"


def _why_not_made(error: Exception) -> str:
    return f"its kernel could not be made ({english(error)})"


class StepPlan:
    """The kernels that step the parameters of a group, while parameters, gradients and state stay in place.

    `step` verifies this, and returns False if a new plan is needed.

    Args:
        spec: the step.
        params: the parameters of the group.
        make_state: makes the state of a parameter that has a gradient.
        gradient: returns the gradient of a parameter as the eager backend takes it.
        options: the options of the group.
    """

    def __init__(
        self,
        spec: StepSpec,
        params: Sequence[Tensor],
        make_state: Callable[[Tensor], ParamState],
        gradient: Callable[[Tensor], Tensor],
        options: Mapping[str, Any],
    ) -> None:
        self.spec, self._gradient, self._options = spec, gradient, dict(options, params=None)
        self.has_grad = [p.grad is not None for p in params]
        states = {i: make_state(params[i]) for i in compress(range(len(params)), self.has_grad)}
        self.steps_anything = bool(states)
        self._kernels: list[tuple[StepKernel, list[int]]] = []
        self._try_fast: FastStep | None = None
        stepped = self._make_kernels(params, states)
        self._eager = {i: states[i] for i in sorted(states.keys() - set(stepped))}
        self._is_stepped = [i in states and i not in self._eager for i in range(len(params))]
        self._all_stepped = all(self._is_stepped)
        self._remember(params, [states[i] for i in stepped])

    def _remember(self, params: Sequence[Tensor], states: Sequence[ParamState]) -> None:
        """Record the facts about parameters and gradients that `_gradients` verifies."""
        both = [x for state in states for x in (state.p, state.g)]
        self._pointers = [state.p.data_ptr() for state in states]
        self._sizes = [state.p.numel() for state in states]
        self._is_flat = all(map(_contiguous, both))
        self._strides = [x.stride() for x in both]
        self._may_be_negated = [k for k, s in enumerate(states) if not self._is_flat or s.p.numel() == 1]
        # With grad_dtype PyTorch allows a gradient of another dtype, which may change at any step.
        self._dtypes = [state.g.dtype for state in states]
        self._any_dtype = any(getattr(s.p, "grad_dtype", s.p.dtype) != s.p.dtype for s in states)
        self._is_complex = any(state.p.is_complex() for state in states)

    def _make_kernels(self, params: Sequence[Tensor], states: Mapping[int, ParamState]) -> list[int]:
        """Make a kernel for every backend and layout; return the indices that they step, in order."""
        groups: dict[tuple[str, StepSpec, Any], tuple[Backend, list[int]]] = {}
        for i, state in states.items():
            backend, why = choose_backend(self.spec, state, self._options)
            if backend is not None:
                spec = self.spec.of(state.p)
                key = backend.name, spec, backend.step_layout(spec, state)
                groups.setdefault(key, (backend, []))[1].append(i)
            else:
                self._accept_fallback(i, state, why)
        stepped = sorted(i for _, indices in groups.values() for i in indices)
        try:
            made = [
                (backend, backend.compile_step(spec, layout, [states[i] for i in indices]), indices)
                for (_, spec, layout), (backend, indices) in groups.items()
            ]
        except Exception as error:
            if self._options["fused"] or forced_backend() is not None:
                raise
            _failed[self.spec] = _why_not_made(error)
            warnings.warn(
                translate(
                    f"{self.spec.name} falls back to the eager backend, several times slower: {english(error)}. "
                    "Help: fused=False silences this warning; fused=True makes it an error."
                ),
                RuntimeWarning,
                stacklevel=caller_level(),
            )
            return []
        backends = {backend.name: backend for backend, *_ in made}
        if len(backends) == 1:
            (backend,) = backends.values()
            self._try_fast = backend.fast_step(params, states, [(kernel, indices) for _, kernel, indices in made])
        place = {i: k for k, i in enumerate(stepped)}
        self._kernels = [(kernel, [place[i] for i in indices]) for _, kernel, indices in made]
        return stepped

    def _accept_fallback(self, index: int, state: ParamState, why: str | None) -> None:
        """Raise if `fused` or PISTE_BACKEND requires a kernel; warn if a backend lacks a package."""
        forced = forced_backend()
        if self._options["fused"] or forced not in (None, "eager"):
            setting, alternative = (
                ("fused=True", "fused=None")
                if self._options["fused"]
                else (f"PISTE_BACKEND={forced}", "PISTE_BACKEND without a value")
            )
            raise Unsupported(
                f"{setting} requires the kernel, which can't step parameter {index} of shape {tuple(state.p.shape)}: "
                f"{why}. Help: {alternative} falls back to the eager backend."
            )
        for backend in backends_of(state.p.device.type):
            if why is not None and why == backend.why_unavailable():
                warn_fallback(why)

    def step(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """Step `params`, which are those of the plan; or return False, with nothing changed."""
        if self._eager:
            with torch.set_grad_enabled(self._options["differentiable"]):
                return self._step_with_eager(params, numbers)
        return self._run_kernels(params, numbers)

    def _step_with_eager(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        """Step by the kernels, and the other parameters by the eager backend."""
        if any(params[i].grad is None for i in self._eager):
            return False
        if not self._options["capturable"] and is_captured([params[i] for i in self._eager]):
            raise captured_counts(self.spec.name)
        states = [replace(state, g=self._gradient(params[i])) for i, state in self._eager.items()]
        if any(choose_backend(self.spec, state, self._options)[0] is not None for state in states):
            return False
        if not self._run_kernels(params, numbers):
            return False
        self._run_eagerly(states, numbers)
        return True

    def _run_eagerly(self, states: list[ParamState], numbers: Mapping[str, Any]) -> None:
        eager.step(
            self.spec,
            states,
            numbers,
            differentiable=self._options["differentiable"],
            on_device=self._options["capturable"],
        )

    def _run_kernels(self, params: list[Tensor], numbers: Mapping[str, Any]) -> bool:
        if self._try_fast is not None:
            return self._try_fast(params, numbers)
        if not self._kernels:
            return self._all_stepped or [p.grad is not None for p in params] == self.has_grad
        stepped = params if self._all_stepped else list(compress(params, self._is_stepped))
        gradients = self._gradients(params, stepped)
        if gradients is None:
            return False
        for kernel, places in self._kernels:
            kernel.launch(array("q", [gradients[k] for k in places]), numbers)
        torch.autograd.graph.increment_version(
            stepped
        )  # as every in-place operation, because autograd may have saved the tensors
        return True

    def _gradients(self, params: Sequence[Tensor], stepped: Sequence[Tensor]) -> list[int] | None:
        """Return the addresses of the gradients, or None where a parameter or a gradient has changed."""
        grads: list[Any] = [p.grad for p in params]
        if not self._all_stepped:
            if [g is not None for g in grads] != self.has_grad:
                return None
            grads = list(compress(grads, self._is_stepped))
        if not PLAIN_TYPES.issuperset(map(type, grads)):  # a gradient is missing now, or of a subclass
            return None
        try:
            gradients = list(map(_address, grads))
        except RuntimeError:  # a gradient has become sparse
            return None
        if list(map(_address, stepped)) != self._pointers or list(map(_size, grads)) != self._sizes:
            return None
        both = list(chain.from_iterable(zip(stepped, grads, strict=True)))
        if not (all(map(_contiguous, both)) if self._is_flat else list(map(Tensor.stride, both)) == self._strides):
            return None
        if self._any_dtype and [g.dtype for g in grads] != self._dtypes:
            return None
        if self._is_complex and any(map(Tensor.is_conj, grads)):
            return None
        # Autograd may make lazily negated gradients: single elements, and views that are not contiguous.
        if any(grads[k].is_neg() for k in self._may_be_negated):
            return None
        return gradients


class SumPlan(StepPlan):
    """The kernels that add the terms of the parameters of a group; `step` adds them, and changes no tensor."""

    spec: SumSpec

    def total(self) -> list[Any]:
        """Return the sums of the last step: a list of numbers or a tensor for each kernel and each eager parameter."""
        kernels: list[Any] = [kernel for kernel, _ in self._kernels]
        return [*(kernel.total() for kernel in kernels), *(self._added if self._eager else [])]

    def _run_eagerly(self, states: list[ParamState], numbers: Mapping[str, Any]) -> None:
        self._added = eager.add_terms(self.spec, states, numbers, on_device=self._options["capturable"])

    def _accept_fallback(self, index: int, state: ParamState, why: str | None) -> None:
        """Accept it: `fused=True` requires the kernel of the step."""
