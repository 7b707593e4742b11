"""The protocol of a backend, and the backends there are.

A backend turns a spec into a kernel. Dispatch asks the backends of a tensor's device, in the order in which they were
registered, whether they support a spec with its operands. The eager backend is no member of the list: it runs whatever
the others don't support. `PISTE_BACKEND` forces one backend: "eager" uses no kernel, and the name of another raises
`Unsupported` where it would fall back to the eager backend.
"""

from __future__ import annotations

import os
import sys
import warnings
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..errors import InvalidValue, did_you_mean
from .specs import ParamState, StepSpec

__all__ = ["BACKENDS", "Backend", "FastStep", "StepKernel", "forced_backend", "register", "warn_fallback"]

FastStep = Callable[[list[Tensor], Mapping[str, Any]], bool]
"""Step parameters and return True, or return False where one of them has changed, with nothing done."""


class StepKernel(Protocol):
    """A compiled step with the tensors that it steps."""

    elements: int

    def launch(self, gradients: array[int], numbers: Mapping[str, Any]) -> None:
        """Step the tensors, given the addresses of their gradients and the numbers of the group."""


class Backend(Protocol):
    """A way to run specs as kernels.

    Attributes:
        name: the value of PISTE_BACKEND that forces it.
        devices: the types of the devices whose tensors it takes.
    """

    name: str
    devices: frozenset[str]

    def describe(self) -> str:
        """Name the kernels for `explain_backend`, such as "the fused CPU kernel"."""

    def why_unavailable(self) -> str | None:
        """Return why this backend can't run on this machine, or None."""

    def why_not_step(self, spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> str | None:
        """Return why this backend can't step a parameter, or None."""

    def step_layout(self, state: ParamState) -> Hashable:
        """Return what a kernel depends on other than the spec; parameters of one layout share a kernel."""

    def compile_step(self, spec: StepSpec, layout: Any, states: Sequence[ParamState]) -> StepKernel:
        """Make the kernel that steps some parameters of one layout."""

    def fast_step(
        self,
        params: Sequence[Tensor],
        states: Mapping[int, ParamState],
        kernels: Sequence[tuple[Any, Sequence[int]]],
    ) -> FastStep | None:
        """Make a function that checks and steps all parameters in one native call, or return None.

        Args:
            params: all parameters of the group.
            states: the states of those that have a gradient, by their index in the group.
            kernels: each kernel with the indices of its parameters.
        """


BACKENDS: list[Backend] = []
"""The registered backends, in the order in which dispatch asks them."""


def register(backend: Backend, *, first: bool = False) -> None:
    """Add a backend; with `first`, in front of all others."""
    BACKENDS.insert(0 if first else len(BACKENDS), backend)


def backends_of(device: str) -> list[Backend]:
    """Return the registered backends that take tensors of a device type, in order."""
    return [backend for backend in BACKENDS if device in backend.devices]


def forced_backend() -> str | None:
    """Return the name of the backend that PISTE_BACKEND forces, or None."""
    name = os.environ.get("PISTE_BACKEND") or None
    names = ["eager", *(backend.name for backend in BACKENDS)]
    if name is not None and name not in names:
        raise InvalidValue(
            f"the environment variable PISTE_BACKEND must be one of {', '.join(names)}; received {name!r}. "
            f"{did_you_mean(name, names)}"
        )
    return name


_warned: set[str] = set()


def warn_fallback(cause: str) -> None:
    """Warn once for each cause that the eager backend runs instead, at the line outside Piste and PyTorch."""
    if cause in _warned:
        return
    _warned.add(cause)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("piste", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"Piste runs without kernels, several times slower: {cause}. PISTE_BACKEND=eager asks for this and is quiet.",
        RuntimeWarning,
        stacklevel=level,
    )
