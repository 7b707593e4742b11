"""A whole step in one call of machine code, which asks libtorch where the gradients are.

Asking two thousand parameters for gradient, address, size and layout takes Python longer than stepping them.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from ...torch_internals import PLAIN_TYPES
from ..specs import ParamState
from .compiler import load_file
from .fastcall import make_fastcall
from .native_guard import native_guard
from .openmp import function_address, parallel_address_cell
from .step_kernel import ALONE, StepKernel
from .tables import FastStepBlock, LaunchRecord, ParameterRecord
from .torch_internals import dtype_code, impl_offset

__all__ = ["FastStep", "supports"]

GIL_MAX_ELEMENTS = 1 << 22
"""Up to this many elements a step holds the GIL, so that no gradient is replaced: about a millisecond."""
_OTHER_BACKEND, _NO_GRADIENT = -1, -2  # in place of the dtype of a gradient


class FastStep:
    """The step of a plan's parameters by their launches, as long as everything is where it was."""

    def __init__(
        self, params: list[Any], slots: Mapping[int, ParamState], launches: Sequence[tuple[StepKernel, Sequence[int]]]
    ) -> None:
        lib = native_guard()
        assert lib is not None
        self._params, self._launches = list(params), launches  # an object that is kept keeps its address
        stepped = {i for _, indices in launches for i in indices}
        parameters, dims = (ParameterRecord * len(params))(), array("q")
        for i, p in enumerate(params):
            parameters[i].object = id(p)
            if i not in stepped:
                parameters[i].grad_dtype = _OTHER_BACKEND if i in slots else _NO_GRADIENT
                continue
            slot = slots[i]
            parameters[i].grad_dtype, parameters[i].dtype = dtype_code(slot.g.dtype), dtype_code(slot.p.dtype)
            parameters[i].dim, parameters[i].address = slot.p.dim(), p.data_ptr()
            for dim in zip(slot.p.shape, slot.p.stride(), slot.g.stride(), strict=True):
                dims.extend(dim)
        places = [array("q", indices) for _, indices in launches]
        records = (LaunchRecord * len(launches))()
        for record, (launch, _), where in zip(records, launches, places, strict=True):
            entries = launch.kernel.addresses
            record.prepare, record.body, record.table = entries["prepare"], entries["body"], launch.at
            record.tensors, record.places = len(where), where.buffer_info()[0]
            record.gradients = launch.gradients.buffer_info()[0]
            record.max_shares = launch.shares if launch.elements > ALONE else 0
        impls, gradients = array("q", [p._cdata for p in params]), array("q", bytes(8 * len(params)))
        block = FastStepBlock(
            libtorch=ctypes.addressof(lib),
            item=function_address(ctypes.pythonapi.PyList_GetItem),
            count=len(params),
            parameters=ctypes.addressof(parameters),
            impls=impls.buffer_info()[0],
            dims=dims.buffer_info()[0],
            gradients=gradients.buffer_info()[0],
            launches=len(launches),
            records=ctypes.addressof(records),
            parallel=parallel_address_cell(),
        )
        module = load_file("fast_step", ("fast_step",), IMPL_OFFSET=impl_offset())
        self._step = make_fastcall(module, "fast_step", block, lib, parameters, dims, places, records, impls, gradients)

    def __call__(self, params: list[Any], numbers: Mapping[str, Any]) -> bool:
        """Step and return True; or return False, with nothing changed, where something has moved."""
        if type(params) is not list or len(params) != len(self._params):
            return False
        for launch, _ in self._launches:
            launch.set_numbers(numbers)
        return self._step(params)


def supports(
    params: Sequence[Any], slots: Mapping[int, ParamState], launches: Sequence[tuple[StepKernel, Sequence[int]]]
) -> bool:
    """Return whether a plan can be stepped in one call."""
    return (
        native_guard() is not None
        and sum(launch.elements for launch, _ in launches) <= GIL_MAX_ELEMENTS
        and all(type(p) in PLAIN_TYPES and not p.is_inference() for p in params)
        and all(slots[i].g is params[i].grad for _, indices in launches for i in indices)
    )
