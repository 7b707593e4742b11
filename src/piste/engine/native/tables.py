"""The argument blocks of kernels: words in memory that Python fills by name and machine code reads.

Addresses are integers. A kernel reads a block through `intrinsics.view(address, Block)`; generated source reads the
words of a loss or a step as `table[word(Block, "name")]`.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
from typing import Any, TypeVar

__all__ = [
    "Answer",
    "FastStepBlock",
    "LaunchRecord",
    "Libtorch",
    "OperandBlock",
    "OperandRecord",
    "ParameterRecord",
    "TensorFacts",
    "WorkTable",
    "columns_from",
    "with_columns",
    "word",
    "words",
]

Block = TypeVar("Block", bound=type[ctypes.Structure])


def words(block: Block) -> Block:
    """Make the annotations of a class its fields: `int` is an int64, `float` a float64."""
    kinds: dict[Any, Any] = {"int": ctypes.c_int64, "float": ctypes.c_double}
    block._fields_ = [(name, kinds[kind]) for name, kind in inspect.get_annotations(block).items()]
    return block


@functools.cache
def word(block: type[ctypes.Structure], name: str) -> int:
    """Return the place of a field in its block, in words."""
    return getattr(block, name).offset // 8


def columns_from(block: type[ctypes.Structure]) -> int:
    """Return the first word after a block, where its columns begin."""
    return ctypes.sizeof(block) // 8


@words
class Answer(ctypes.Structure):
    """What a built-in function made by `fastcall` keeps, followed by its PyMethodDef."""

    entry: int  # address
    table: int  # address of the argument block of the entry
    false: int  # address of the object
    true: int  # address of the object
    increase_reference: int  # address of Py_IncRef
    name: int  # PyMethodDef, to the end
    function: int
    flags: int
    doc: int


@words
class WorkTable(ctypes.Structure):
    """The head of every table of a parallel kernel: how blocks of work are distributed to threads."""

    counters: int  # address of one counter for each share, a cache line apart
    shares: int
    thread_num: int  # address of omp_get_thread_num, or 0
    blocks: int


@words
class Libtorch(ctypes.Structure):
    """The addresses of the functions of libtorch that machine code calls (see torch_internals)."""

    is_grad_enabled: int
    requires_grad: int
    get_num_threads: int
    has_storage: int
    grad: int
    bump_version: int
    is_neg: int
    is_conj: int
    is_defined: int
    device: int
    device_index: int
    layout: int
    dtype: int
    dim: int
    sizes: int
    strides: int
    address: int


@words
class TensorFacts(ctypes.Structure):
    """What the native guard reads from a tensor, for its self-test."""

    libtorch: int  # address of Libtorch
    is_grad_enabled: int
    threads: int
    requires_grad: int
    has_storage: int
    has_grad: int
    is_neg: int
    is_conj: int
    device: int
    device_index: int
    layout: int
    dtype: int
    dim: int
    sizes: int  # address
    strides: int  # address
    address: int
    type: int  # of the Python object
    length: int  # of the tuple
    grad_address: int


@words
class FastStepBlock(ctypes.Structure):
    """The argument block of `fast_step`."""

    libtorch: int
    item: int  # address of PyList_GetItem
    count: int  # of the parameters
    parameters: int  # address of their ParameterRecords
    impls: int  # address of their TensorImpls, which serve as handles
    dims: int  # address of the size, the parameter's stride and the gradient's stride of each dimension
    gradients: int  # address of one word for each parameter, where the address of its gradient is left
    found: int  # address of one word for each parameter, for the TensorImpl of its gradient
    masks: int  # address of the bits of the words in `facts` that are compared
    launches: int  # number of launches
    records: int  # address of their LaunchRecords
    parallel: int  # address of a word with the address of GOMP_parallel, or 0
    writes: int  # whether the launches change the parameters


@words
class ParameterRecord(ctypes.Structure):
    """What one parameter must be."""

    object: int  # address of the Python object
    grad_dtype: int  # -1: stepped by another backend; -2: there must be no gradient
    dim: int
    dtype: int
    device: int  # type of the device, as libtorch numbers it
    device_index: int  # -1: any
    address: int
    elements: int
    facts: int  # address of the words of the parameter (see tensor_memory), or 0
    grad_facts: int  # of its gradient
    grad_offset: int  # of its gradient in the storage, in bytes


@words
class LaunchRecord(ctypes.Structure):
    """One launch of a step; without entries, the gradients of a launch that Python makes."""

    prepare: int  # address of the entry, or 0
    body: int  # address of the entry, or 0
    table: int
    tensors: int
    places: int  # address of the place of each tensor among the parameters
    gradients: int  # address of the column of gradients
    max_shares: int  # 0: one thread steps everything


@words
class OperandBlock(ctypes.Structure):
    """The argument block of `are_alike`."""

    libtorch: int
    operands: int  # their number
    records: int  # address of their OperandRecords
    dims: int  # address of the size and the stride of each dimension of each operand
    device: int  # type of the device, as libtorch numbers it
    device_index: int  # -1: any
    tuple: int  # address of the type
    tensor: int  # address of the type
    parameter: int  # address of the type


@words
class OperandRecord(ctypes.Structure):
    """What one operand must be."""

    dtype: int
    dim: int
    wants_grad: int
    misalignment: int  # its address modulo `ALIGNMENT`


@functools.cache
def with_columns(block: Any, columns: int) -> Any:
    """Return the type of a table with a number of columns, in the field `columns`."""
    return type(f"{block.__name__}{columns}", (block,), {"_fields_": [("columns", ctypes.c_int64 * columns)]})
