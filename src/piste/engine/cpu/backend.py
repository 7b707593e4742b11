"""The CPU backend: one kernel call for all tensors of a group, or for one loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from ...formula.expression import FormulaError
from ..backend import FastStep, LossKernel
from ..hoisting import has_lines
from ..native.openmp import openmp_parallel
from ..specs import LossKernelSpec, ParamState, StepSpec, has_few_long_rows, has_many_short_rows
from . import fast_step, image_cross_entropy
from .line_kernel import LineStepKernel
from .loss_kernel import kernel_of
from .region_kernel import LongRowsKernel, RegionKernel
from .step_kernel import StepKernel, layout_of, why_not_step
from .step_source import Layout
from .tile_kernel import tile_source

__all__ = ["CpuBackend"]


class CpuBackend:
    """Kernels that Numba compiles, on the thread pool of PyTorch."""

    name = "cpu"
    devices = frozenset({"cpu"})
    takes_region_logits = True

    def describe(self) -> str:
        """Name the kernels; say so where they run on one thread."""
        if openmp_parallel() is None:
            return "the fused CPU kernel on one thread (PyTorch has no OpenMP thread pool here)"
        return "the fused CPU kernel"

    def why_unavailable(self) -> str | None:
        """Return that Numba is missing, or None."""
        return "Numba is not installed" if importlib.util.find_spec("numba") is None else None

    def why_not_step(self, spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> str | None:
        """Return the property of a parameter or of its options that the kernel can't handle, or None."""
        if options["capturable"]:
            return "capturable=True keeps the step count on the device"
        return why_not_step(spec, state)

    def step_layout(self, spec: StepSpec, state: ParamState) -> Layout:
        """Return the dtypes and the layout of a parameter, its gradient and its state."""
        return layout_of(spec, state)

    def compile_step(self, spec: StepSpec, layout: Layout, states: Sequence[ParamState]) -> StepKernel:
        """Make the kernel that steps some parameters of one layout."""
        return (LineStepKernel if has_lines(spec) else StepKernel)(spec, layout, states)

    def fast_step(
        self,
        params: Sequence[Tensor],
        states: Mapping[int, ParamState],
        kernels: Sequence[tuple[StepKernel, Sequence[int]]],
    ) -> FastStep | None:
        """Make a function that checks and steps all parameters in one native call, where the machine code can."""
        return (
            fast_step.FastStep(list(params), states, kernels) if fast_step.supports(params, states, kernels) else None
        )

    def why_not_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> str | None:
        """Return None: the kernels take every dtype of a spec."""
        return None

    def compile_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> LossKernel:
        """Make the kernel of a loss; that of images where the classes of a cross entropy are far apart.

        Many short rows have a kernel of their own, and fewer rows than threads, where their loss has one.
        """
        if spec.operands[0].kind == "logits":
            return RegionKernel(spec)
        if not operands[0].is_contiguous() and image_cross_entropy.computes(spec):
            return image_cross_entropy.ImageCrossEntropy(spec)
        if spec.derivatives is None and has_few_long_rows(operands[0]):
            with suppress(FormulaError):
                return LongRowsKernel(spec)
        is_tiled = spec.derivatives is None and has_many_short_rows(operands[0]) and tile_source(spec) is not None
        return kernel_of(spec, is_tiled)
