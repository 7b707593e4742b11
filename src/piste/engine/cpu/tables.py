"""The argument blocks of the kernels of losses and steps."""

from __future__ import annotations

import ctypes
import functools

from ..native.tables import WorkTable, with_columns, words

__all__ = [
    "CallOptions",
    "FastLossBlock",
    "ImageTable",
    "IsOneBlock",
    "LossNumbers",
    "LossTable",
    "RegionTable",
    "SquaresTable",
    "StepTable",
    "loss_table",
    "region_table",
    "step_table",
]


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
    result: int  # the dtype of a scalar result, as a place in loss_lines.STORAGES; -1 if there is no scalar


@words
class RegionTable(LossTable):
    """The table of a loss of regions, whose rows are places; `classes` are the regions of a sample.

    `partials` has the sum of the losses of each sample. The addresses of the operands and gradients follow.
    """

    places: int  # of a region
    per_sample: int  # blocks of a sample
    first: int  # the first block of this turn
    samples: int  # of this turn
    sums: int  # address of the float64 sums of each block
    scalars: int  # address of the float32 scalars of each region that its gradients need


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
    """The table of the cross entropy and the focal loss of images."""

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
    gamma: float  # of the focal loss


@words
class SquaresTable(WorkTable):
    """The table of the sum of squares."""

    tensors: int  # address of the tensor of each block
    starts: int  # address of the first element of each block
    sizes: int  # address of the number of elements of each tensor
    addresses: int  # address of the address of each tensor
    kinds: int  # address of the dtype of each tensor, as numbered in the kernel
    sums: int  # address of the sum of each block
    total: float


@words
class IsOneBlock(ctypes.Structure):
    """The argument block of `is_one`: dtypes as libtorch numbers them."""

    libtorch: int
    float32: int
    float64: int
    bfloat16: int
    float16: int


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
    is_tiled: int  # 1 if the kernel takes many short rows, 0 if all others, -1 if both
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
    return with_columns(LossTable, columns)


@functools.cache
def region_table(columns: int) -> type[RegionTable]:
    """Return the type of a table of regions with a number of columns, in the field `columns`."""
    return with_columns(RegionTable, columns)


@functools.cache
def step_table(columns: int) -> type[StepTable]:
    """Return the type of a step's table with a number of columns, in the field `columns`."""
    return with_columns(StepTable, columns)
