"""The gradients of a step, found by machine code, which then runs the launches of the CPU.

Asking two thousand parameters for gradient, address, size and layout takes Python longer than stepping them.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...torch_internals import PLAIN_TYPES
from ..specs import ParamState
from .compiler import load_file
from .fastcall import make_fastcall
from .native_guard import native_guard
from .openmp import function_address, parallel_address_cell
from .tables import FastStepBlock, ParameterRecord
from .tensor_memory import FactTable, fact_words
from .torch_internals import device_code, dtype_code, impl_offset

__all__ = ["can_check", "native_step"]

_OTHER_BACKEND, _NO_GRADIENT = -1, -2  # in place of the dtype of a gradient


def native_step(
    params: Sequence[Any],
    slots: Mapping[int, ParamState],
    records: Any,
    places: Sequence[Sequence[int]],
    writes: bool = True,
) -> Callable[[Any], bool]:
    """Return a function that checks a list of parameters and runs launches, all in one native call.

    It returns False, with nothing changed, where a parameter or a gradient has changed other than in its values.

    Args:
        params: the parameters of the group.
        slots: the states of those that have a gradient, by their index in the group.
        records: the launches, with their entries, their tables and the columns that receive the addresses of gradients.
        places: for each launch the indices of its parameters.
        writes: whether the launches change the parameters, which counts up their versions.
    """
    lib = native_guard()
    assert lib is not None
    kept, count = list(params), len(params)  # an object that is kept keeps its address
    stepped = {i for indices in places for i in indices}
    parameters, dims, facts = (ParameterRecord * count)(), array("q"), FactTable()
    known = fact_words()
    for i, p in enumerate(params):
        parameters[i].object = id(p)
        if i not in stepped:
            parameters[i].grad_dtype = _OTHER_BACKEND if i in slots else _NO_GRADIENT
            continue
        slot, (kind, index) = slots[i], device_code(p)
        parameters[i].grad_dtype, parameters[i].dtype = dtype_code(slot.g.dtype), dtype_code(slot.p.dtype)
        parameters[i].device, parameters[i].device_index = kind, index
        parameters[i].dim, parameters[i].address = slot.p.dim(), p.data_ptr()
        parameters[i].elements = p.numel()
        parameters[i].facts, parameters[i].grad_facts = facts.of(slot.p), facts.of(slot.g)
        parameters[i].grad_offset = slot.g.storage_offset() * slot.g.element_size()
        for dim in zip(slot.p.shape, slot.p.stride(), slot.g.stride(), strict=True):
            dims.extend(dim)
    columns = [array("q", indices) for indices in places]
    for record, column in zip(records, columns, strict=True):
        record.tensors, record.places = len(column), column.buffer_info()[0]
    impls = array("q", [p._cdata for p in params])
    gradients, found = (array("q", bytes(8 * count)) for _ in range(2))
    block = FastStepBlock(
        libtorch=ctypes.addressof(lib),
        item=function_address(ctypes.pythonapi.PyList_GetItem),
        count=count,
        parameters=ctypes.addressof(parameters),
        impls=impls.buffer_info()[0],
        dims=dims.buffer_info()[0],
        gradients=gradients.buffer_info()[0],
        found=found.buffer_info()[0],
        masks=known.masks.buffer_info()[0],
        launches=len(records),
        records=ctypes.addressof(records),
        parallel=parallel_address_cell(),
        writes=int(writes),
    )
    constants = {
        "IMPL_OFFSET": impl_offset(),
        "FIRST_FACT": known.first,
        "FACT_WORDS": len(known.masks),
        "OWNER": known.object,
        "STORAGE": known.storage,
        "DATA": known.data,
        "AUTOGRAD": known.autograd,
        "GRADIENT": known.gradient,
    }
    module = load_file("native/kernels/gradients", ("fast_step",), **constants)
    arrays = impls, gradients, found, known, facts, dims, columns
    step = make_fastcall(module, "fast_step", block, lib, parameters, records, arrays, kept)
    return lambda given: type(given) is list and len(given) == count and step(given)


def can_check(params: Sequence[Any], slots: Mapping[int, ParamState], places: Sequence[Sequence[int]]) -> bool:
    """Return whether machine code can check the parameters at these places, and find their gradients."""
    return (
        native_guard() is not None
        and all(type(p) in PLAIN_TYPES and not p.is_inference() for p in params)
        and all(slots[i].g is params[i].grad for indices in places for i in indices)
        and all(device_code(params[i])[1] == params[i].get_device() for indices in places for i in indices)
    )
