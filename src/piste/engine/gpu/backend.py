"""The GPU backend: one Triton kernel launch for all tensors of a group, on CUDA and ROCm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...torch_internals import PLAIN_TYPES
from ..backend import FastStep, LossKernel
from ..hoisting import has_lines
from ..layout import alike, overlapping, real_dtype
from ..specs import LossKernelSpec, ParamState, StepSpec
from .compiler import missing
from .device import Cuda
from .fast_step import make_fast_step
from .launch import GpuStepKernel
from .line_kernel import make_step_kernel, why_not_lines, with_tile
from .loss_kernel import GpuLossKernel
from .step_kernel import Layout

__all__ = ["GpuBackend"]

_DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_COUNTERS = {torch.float32: "float32", torch.float64: "float64"}


class GpuBackend:
    """Kernels that Triton compiles."""

    name = "gpu"
    devices = frozenset({"cuda"})
    takes_region_logits = False

    def describe(self) -> str:
        """Name the kernels."""
        return "the fused GPU kernel"

    def why_unavailable(self) -> str | None:
        """Return that Triton is missing, or None."""
        return missing()

    def why_not_step(self, spec: StepSpec, state: ParamState, options: Mapping[str, Any]) -> str | None:
        """Return the property of a parameter that the kernel can't handle, or None."""
        return why_not(spec, state)

    def step_layout(self, spec: StepSpec, state: ParamState) -> tuple[int, Layout]:
        """Return the device and the dtypes of a parameter, its gradient and its state."""
        return state.p.get_device(), layout_of(spec, state)

    def compile_step(self, spec: StepSpec, layout: Any, states: Sequence[ParamState]) -> GpuStepKernel:
        """Make the kernel that steps some parameters of one layout."""
        index, of_columns = layout
        return make_step_kernel(spec, of_columns, states, Cuda(index))

    def fast_step(
        self,
        params: Sequence[Tensor],
        states: Mapping[int, ParamState],
        kernels: Sequence[tuple[Any, Sequence[int]]],
    ) -> FastStep | None:
        """Make a function that checks all parameters in one native call and steps them, where the machine code can."""
        return make_fast_step(params, states, kernels)

    def why_not_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> str | None:
        """Return why the kernel can't compute a loss of operands like these, or None."""
        if any(x.device != operands[0].device for x in operands):
            return "its operands are on several devices"
        return None

    def compile_loss(self, spec: LossKernelSpec, operands: Sequence[Tensor]) -> LossKernel:
        """Make the kernel of a loss."""
        return GpuLossKernel(spec, Cuda(operands[0].get_device()))


def layout_of(spec: StepSpec, state: ParamState) -> Layout:
    """Return the layout of a state that `why_not` accepts; that of sums has no counters, and numbers on the device."""
    columns = (state.p, state.g, *state.buffers)
    kinds = tuple("int8" if x.dtype == torch.int8 else _DTYPES[real_dtype(x)] for x in columns)
    if not state.counters:
        return Layout(kinds, "float32", counts_on_device=True)
    first = state.counters[0]
    return with_tile(spec, Layout(kinds, _COUNTERS[first.dtype], first.device.type != "cpu"), state.p.shape)


def why_not(spec: StepSpec, state: ParamState) -> str | None:
    """Return why the kernel can't step a parameter with its gradient and state, or None."""
    columns = (state.p, state.g, *state.buffers)
    if state.g is not state.p.grad and state.p.grad is not None:
        return "its gradient is sparse"  # the state holds a dense copy
    for x in (*columns, *state.counters):
        if type(x) not in PLAIN_TYPES:
            return f"it is a {type(x).__name__}, a tensor subclass with operations of its own"
        if x.layout != torch.strided:
            return "its gradient is sparse" if x.is_sparse else f"its layout is {x.layout}"
        if real_dtype(x) not in _DTYPES and not (x.dtype == torch.int8 and state.scales):
            return f"its dtype is {x.dtype}"
        if x.is_conj() or x.is_neg():
            return "it is a lazy conjugate or negative"
    if any(x.device != state.p.device for x in columns):
        return "its gradient or its state is on another device"
    buffers = zip(spec.buffers, state.buffers, strict=False)  # before the first step there are none
    elements = [state.p, state.g, *(x for name, x in buffers if name not in spec.lines)]
    if any(x.shape != state.p.shape or x.is_complex() != state.p.is_complex() for x in elements):
        return "its gradient or its state has another shape or kind than it has"
    if has_lines(spec):
        if state.scales:
            return "its state has 8 bits, and its rule reduces over rows or columns"
        if (why := why_not_lines(spec, state)) is not None:
            return why
    elif not alike(columns):
        if any(map(overlapping, columns)):
            return "elements of it or of its state overlap in memory"
        return "it has gaps in memory, or other strides than its gradient or its state"
    if not state.counters:  # before the first step
        return None
    if len({(x.dtype, x.device, x.numel()) for x in state.counters}) > 1:
        return "its counters differ in dtype or device"
    if state.counters[0].numel() != 1 or state.counters[0].dtype not in _COUNTERS:
        return "its step count is not one floating-point number"
    if state.counters[0].device not in (state.p.device, torch.device("cpu")):
        return "its step count is on another device"
    return None
