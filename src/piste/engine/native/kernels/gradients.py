"""A whole step in one call: ask libtorch where the gradients are, then run every launch.

A launch without entries is left to the caller, who finds the addresses of the gradients in its column.
"""

from __future__ import annotations

from numba import int64

from ..intrinsics import call_address, inline, pointer, prefetch, view
from ..tables import FastStepBlock, LaunchRecord, Libtorch, ParameterRecord, WorkTable
from .tensor_guard import BYTE, is_strided_on, is_unresolved, read

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
FIRST_FACT, FACT_WORDS, OWNER, STORAGE, DATA, AUTOGRAD, GRADIENT = 0, 0, 0, 0, 0, 0, 0  # see tensor_memory
INLINE_DIMS = 5
AHEAD = 8  # parameters whose memory is asked for before it is read
PARAMETER_BYTES, LAUNCH_BYTES = 88, 56  # of one record
OTHER_BACKEND, NO_GRADIENT = -1, -2  # in place of the dtype of a gradient


def fast_step(block, arguments) -> int:
    """Step the parameters of a list and return 1; or return 0, with nothing changed, where something has moved."""
    step = view(block, FastStepBlock)
    lib = view(step.libtorch, Libtorch)
    impls, found = pointer(step.impls, int64), pointer(step.found, int64)
    gradients = pointer(step.gradients, int64)
    for i in range(step.count):
        _ask_ahead(impls, i, step.count)
        expected = view(step.parameters + PARAMETER_BYTES * i, ParameterRecord)
        if call_address(step.item, arguments[0], i) != expected.object or not _is_of(impls[i], expected.object):
            return 0
        found[i] = _gradient(impls[i])
        _ask(found[i])
    place = 0
    for i in range(step.count):
        expected = view(step.parameters + PARAMETER_BYTES * i, ParameterRecord)
        if i + AHEAD < step.count:
            _ask_referred(found[i + AHEAD])
        if expected.grad_dtype == OTHER_BACKEND:
            continue
        p, data = step.impls + 8 * i, 0
        if _has_facts(step, impls[i], expected.facts) and _has_facts(step, found[i], expected.grad_facts):
            data = pointer(pointer(found[i], int64)[STORAGE], int64)[DATA]
            gradients[i] = data + expected.grad_offset
        if data == 0:
            g = call_address(lib.grad, impls[i])
            if expected.grad_dtype == NO_GRADIENT:
                if (read(lib.is_defined, g) & BYTE) != 0:
                    return 0
                continue
            if not _fits(lib, expected, p, g, pointer(step.dims + 8 * place, int64)):
                return 0
            gradients[i] = read(lib.address, g)
            if gradients[i] == 0 and expected.elements != 0:
                return 0  # a wrapper whose data is elsewhere
        place += 3 * expected.dim
        if read(lib.address, p) != expected.address:
            return 0
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
def _is_of(impl, object):
    """Whether an object of Python is that of a tensor."""
    if FIRST_FACT != 0:
        return pointer(impl, int64)[OWNER] == object
    return pointer(object + IMPL_OFFSET, int64)[0] == impl


@inline
def _gradient(impl):
    """The TensorImpl of the gradient of a tensor, which may be one that stands for none; 0 where it is not known."""
    if FIRST_FACT == 0:
        return 0
    autograd = pointer(impl, int64)[AUTOGRAD]
    return 0 if autograd == 0 else pointer(autograd, int64)[GRADIENT]


@inline
def _ask_ahead(impls, i, count):
    """Ask for the memory of a later parameter, and for that which another one refers to."""
    if i + 2 * AHEAD < count:
        _ask(impls[i + 2 * AHEAD])
    if i + AHEAD < count:
        _ask_referred(impls[i + AHEAD])


@inline
def _ask(impl):
    """Ask for the memory of a tensor, before it is read."""
    if FIRST_FACT != 0:
        prefetch(impl)
        prefetch(impl + 64)
        prefetch(impl + 128)


@inline
def _ask_referred(impl):
    """Ask for the memory that the words in front of the facts refer to, such as the storage."""
    if impl != 0:
        words = pointer(impl, int64)
        for k in range(2, FIRST_FACT):
            if k != OWNER:
                prefetch(words[k])


@inline
def _has_facts(step, impl, address):
    """Whether a tensor has the sizes, strides, dtype, device and keys of one that was found to fit."""
    if FIRST_FACT == 0 or impl == 0 or address == 0:
        return False
    words, facts = pointer(impl + 8 * FIRST_FACT, int64), pointer(address, int64)
    masks = pointer(step.masks, int64)
    differ = words[0] ^ facts[0]
    for k in range(1, 1 + facts[0]):
        differ |= (words[k] ^ facts[k]) | (words[INLINE_DIMS + k] ^ facts[INLINE_DIMS + k])
    for k in range(1 + 2 * INLINE_DIMS, FACT_WORDS):
        differ |= (words[k] ^ facts[k]) & masks[k]
    return differ == 0


@inline
def _fits(lib, expected, p, g, dims):
    """Whether a parameter and its gradient are those of the plan in all but their addresses, as libtorch says."""
    if (read(lib.is_defined, g) & BYTE) == 0:
        return False
    device, index, dim = expected.device, expected.device_index, expected.dim
    if not is_strided_on(lib, p, device, index) or not is_strided_on(lib, g, device, index):
        return False
    if read(lib.dtype, p) != expected.dtype or read(lib.dim, p) != dim:
        return False
    if read(lib.dtype, g) != expected.grad_dtype or read(lib.dim, g) != dim:
        return False
    sizes_p, strides_p = pointer(read(lib.sizes, p), int64), pointer(read(lib.strides, p), int64)
    sizes_g, strides_g = pointer(read(lib.sizes, g), int64), pointer(read(lib.strides, g), int64)
    for k in range(dim):
        size = dims[3 * k]
        if sizes_p[k] != size or sizes_g[k] != size:
            return False
        if size != 1 and (strides_p[k] != dims[3 * k + 1] or strides_g[k] != dims[3 * k + 2]):
            return False
    return not is_unresolved(lib, g)


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
