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
    "CallOptions",
    "FastLossBlock",
    "FastStepBlock",
    "ImageTable",
    "IsOneBlock",
    "LaunchRecord",
    "Libtorch",
    "LossNumbers",
    "LossTable",
    "ParameterRecord",
    "StepTable",
    "TensorFacts",
    "WorkTable",
    "columns_from",
    "loss_table",
    "step_table",
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
class LossTable(WorkTable):
    """The table of a loss. An elementwise loss has its elements as rows of one class.

    The addresses of the operands follow, and those of the gradients.
    """

    rows: int
    classes: int
    per_block: int  # rows of a block
    partials: int  # address of two float64 for each block: its sum, and its count of failed value checks
    out: int
    numbers: int  # address of LossNumbers
    ignored: int  # the ignored index
    scratch: int
    run: int  # blocks that a thread takes at a time
    result: int  # the dtype of a scalar result, as a place in loss_form.STORAGES; -1 if there is no scalar


@words
class LossNumbers(ctypes.Structure):
    """The float64 numbers of a loss; its numeric options follow."""

    scale: float  # what the gradients are multiplied by
    divisor: float
    faults: float


@words
class StepTable(WorkTable):
    """The table of a step.

    The addresses of the columns follow: those of the parameters, the gradients, each buffer and each counter.
    """

    block_ends: int  # address of the end of each block among the items
    items: int  # address of the tensor, the start and the stop of each item
    scalars: int  # address of the hoisted scalars of each tensor, in float64
    numbers: int  # address of the numbers of the group, in float64
    tensors: int
    shapes: int  # address of the shape of each tensor and the strides of its columns


@words
class CallOptions(ctypes.Structure):
    """The packed form of `LossArguments`."""

    divisor: float  # of a mean; 0: the number of rows or elements
    ignored: int  # the ignored index
    dims: int  # dimensions the first operand must have, and more than one class; negative: any


@words
class ImageTable(WorkTable):
    """The table of the image cross entropy."""

    places: int  # of one sample
    classes: int
    samples: int
    partials: int  # address of the sum of each block
    out: int
    x: int  # address of the logits
    k: int  # address of the targets
    grad: int
    ignored: int
    scratch: int
    scale: float
    is_mean: int
    faults: int  # targets out of range
    count: int  # targets that are not ignored


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
class IsOneBlock(ctypes.Structure):
    """The argument block of `is_one`: dtypes as libtorch numbers them."""

    libtorch: int
    float32: int
    float64: int
    bfloat16: int
    float16: int


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
    launches: int  # number of launches
    records: int  # address of their LaunchRecords
    parallel: int  # address of a word with the address of GOMP_parallel, or 0


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
class FastLossBlock(ctypes.Structure):
    """The argument block of `fast_loss`."""

    libtorch: int
    is_rows: int
    operands: int  # their number
    gradients: int  # their number
    dtypes: int  # address of the dtype of each operand, as libtorch numbers them
    shapes: int  # address of the shape of each operand: WHOLE, ROW_EACH or CLASS_EACH
    grad_flags: int  # address of whether each operand requires a gradient
    options: int  # number of numeric options
    numbers: int  # address of the numeric options
    scratch: int
    max_classes: int  # times threads, that the scratch holds
    prepare: int  # address of the entry, or 0
    run: int  # address of the entry
    finish: int  # address of the entry
    result: int  # as in LossTable
    tuple: int  # address of the type
    tensor: int  # address of the type
    parameter: int  # address of the type
    parallel: int  # address of a word with the address of GOMP_parallel, or 0
    thread_num: int  # address of omp_get_thread_num, or 0


@functools.cache
def loss_table(columns: int) -> type[LossTable]:
    """Return the type of a loss's table with a number of columns, in the field `columns`."""
    return _with_columns(LossTable, columns)


@functools.cache
def step_table(columns: int) -> type[StepTable]:
    """Return the type of a step's table with a number of columns, in the field `columns`."""
    return _with_columns(StepTable, columns)


def _with_columns(block: Any, columns: int) -> Any:
    return type(f"{block.__name__}{columns}", (block,), {"_fields_": [("columns", ctypes.c_int64 * columns)]})
