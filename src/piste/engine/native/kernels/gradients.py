"""A whole step in one call: ask libtorch where the gradients are, then run every launch.

A launch without entries is left to the caller, who finds the addresses of the gradients in its column.
"""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, inline, pointer, view
from ..tables import FastStepBlock, LaunchRecord, Libtorch, ParameterRecord, WorkTable
from .tensor_guard import BYTE, is_strided_on, is_unresolved, read

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
PARAMETER_BYTES, LAUNCH_BYTES = 56, 56  # of one record
OTHER_BACKEND, NO_GRADIENT = -1, -2  # in place of the dtype of a gradient


def fast_step(block, arguments) -> int:
    """Step the parameters of a list and return 1; or return 0, with nothing changed, where something has moved."""
    step = view(block, FastStepBlock)
    lib = view(step.libtorch, Libtorch)
    impls, dims = pointer(step.impls, int64), pointer(step.dims, int64)
    gradients = pointer(step.gradients, int64)
    place = 0
    for i in range(step.count):
        expected = view(step.parameters + PARAMETER_BYTES * i, ParameterRecord)
        if call_address(step.item, arguments[0], i) != expected.object:
            return 0
        if pointer(expected.object + IMPL_OFFSET, int64)[0] != impls[i]:
            return 0
        if expected.grad_dtype == OTHER_BACKEND:
            continue
        g = call_address(lib.grad, impls[i])
        if ((read(lib.is_defined, g) & BYTE) == 0) != (expected.grad_dtype == NO_GRADIENT):
            return 0
        if expected.grad_dtype == NO_GRADIENT:
            continue
        p = step.impls + 8 * i
        device, index = expected.device, expected.device_index
        if not is_strided_on(lib, p, device, index) or not is_strided_on(lib, g, device, index):
            return 0
        dim = expected.dim
        if read(lib.dtype, p) != expected.dtype or read(lib.dim, p) != dim:
            return 0
        if read(lib.dtype, g) != expected.grad_dtype or read(lib.dim, g) != dim:
            return 0
        sizes_p, strides_p = pointer(read(lib.sizes, p), int64), pointer(read(lib.strides, p), int64)
        sizes_g, strides_g = pointer(read(lib.sizes, g), int64), pointer(read(lib.strides, g), int64)
        elements = 1
        for k in range(dim):
            size = dims[place]
            elements *= size
            if sizes_p[k] != size or sizes_g[k] != size:
                return 0
            if size != 1 and (strides_p[k] != dims[place + 1] or strides_g[k] != dims[place + 2]):
                return 0
            place += 3
        if read(lib.address, p) != expected.address or is_unresolved(lib, g):
            return 0
        gradients[i] = read(lib.address, g)
        if gradients[i] == 0 and elements != 0:
            return 0  # a wrapper whose data is elsewhere
    for i in range(step.launches):
        _launch(lib, step, view(step.records + LAUNCH_BYTES * i, LaunchRecord), gradients)
    if step.writes == 0:
        return 1
    # As every in-place operation: autograd notices that a tensor it has saved has changed.
    for i in range(step.count):
        if view(step.parameters + PARAMETER_BYTES * i, ParameterRecord).grad_dtype >= 0:
            call_address(lib.bump_version, step.impls + 8 * i)
    return 1


@inline
def _launch(lib, step, launch, gradients):
    places, column = pointer(launch.places, int64), pointer(launch.gradients, int64)
    for k in range(launch.tensors):
        column[k] = gradients[places[k]]
    if launch.body == 0:
        return
    threads, parallel = 1, pointer(step.parallel, int64)[0]
    if launch.max_shares > 1 and parallel != 0:
        threads = call_address(lib.get_num_threads) & 0xFFFFFFFF
    shares = threads if threads < launch.max_shares else launch.max_shares
    view(launch.table, WorkTable).shares = shares if shares > 1 else 1
    call_address(launch.prepare, launch.table)
    if shares > 1:
        call_address(parallel, launch.body, launch.table, threads, 0)
    else:
        call_address(launch.body, launch.table)
