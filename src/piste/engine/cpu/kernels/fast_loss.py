"""A loss of few elements in one call: ask libtorch about the operands, fill the table, run the kernel."""

from __future__ import annotations

from numba import float64, int64

from ...native.intrinsics import address_of, call_address, pointer, stack_alloc, view
from ...native.kernels.tensor_guard import BYTE, is_strided_cpu, is_unresolved, read
from ...native.kernels.work_sharing import reset_counters
from ...native.tables import Libtorch
from ..tables import CallOptions, FastLossBlock, LossNumbers, LossTable

IMPL_OFFSET = 0  # from the address of a tensor object to its handle
OBJECT_TYPE, TUPLE_LENGTH, TUPLE_ITEMS, BYTES_CONTENT = 0, 0, 0, 0  # offsets in objects of CPython
BLOCK = 1 << 13  # as in loss_lines
CHUNKS_PER_THREAD = 8
PARALLEL_FROM = 1 << 15
MAX_ELEMENTS = 1 << 18
SHORT_ROWS, MANY_ELEMENTS = 64, 4096
TABLE_WORDS, NUMBER_WORDS, PARTIAL_WORDS, COUNTER_WORDS = 64, 64, 256, 512  # of the memory on the stack
FIRST_COLUMN, FIRST_OPTION = 0, 0  # words of a LossTable and of LossNumbers
MAX_THREADS = 32
WHOLE, ROW_EACH, CLASS_EACH = 0, 1, 2  # an operand of the first one's shape, of its rows, or of its classes


def fast_loss(block, arguments) -> int:
    """Compute a loss and return 1; or return 0 where an operand, or a value of one, needs another way.

    The arguments are a bytes object (CallOptions), the tensor for the loss, the tuple of the operands, and the tuple of
    the tensors for the gradients.
    """
    kernel = view(block, FastLossBlock)
    lib = view(kernel.libtorch, Libtorch)
    options = view(arguments[0] + BYTES_CONTENT, CallOptions)
    columns = pointer(stack_alloc(TABLE_WORDS), int64)
    table = view(columns, LossTable)
    if pointer(arguments[2] + OBJECT_TYPE, int64)[0] != kernel.tuple:
        return 0
    if pointer(arguments[2] + TUPLE_LENGTH, int64)[0] != kernel.operands:
        return 0
    operands, slopes = pointer(arguments[2] + TUPLE_ITEMS, int64), pointer(arguments[3] + TUPLE_ITEMS, int64)
    dtypes, shapes = pointer(kernel.dtypes, int64), pointer(kernel.shapes, int64)
    grad_flags, is_grad_enabled = pointer(kernel.grad_flags, int64), call_address(lib.is_grad_enabled) & BYTE
    first = columns  # the sizes of the first operand, from its turn on
    n, classes, elements, dims = 1, 1, 1, 0
    for i in range(kernel.operands):
        kind = pointer(operands[i] + OBJECT_TYPE, int64)[0]
        if kind != kernel.tensor and kind != kernel.parameter:
            return 0
        x = operands[i] + IMPL_OFFSET
        if (call_address(lib.requires_grad, pointer(x, int64)[0]) & is_grad_enabled) != grad_flags[i]:
            return 0
        if not is_strided_cpu(lib, x) or read(lib.dtype, x) != dtypes[i] or is_unresolved(lib, x):
            return 0
        dim = read(lib.dim, x)
        sizes, strides = pointer(read(lib.sizes, x), int64), pointer(read(lib.strides, x), int64)
        if i == 0:
            first, dims = sizes, dim
        skipped = dims - 1 if shapes[i] == CLASS_EACH else 0
        expected = dims - 1 if shapes[i] == ROW_EACH else dims - skipped
        if dim != expected:
            return 0
        n = 1
        for j in range(dim):
            k = dim - 1 - j
            if sizes[k] != first[k + skipped] or (sizes[k] != 1 and strides[k] != n):
                return 0
            n *= sizes[k]
        columns[FIRST_COLUMN + i] = read(lib.address, x)
        if columns[FIRST_COLUMN + i] == 0:
            return 0
        if i == 0:
            elements = n
            if kernel.is_rows != 0:
                classes = first[dims - 1]
    if elements == 0 or elements > MAX_ELEMENTS:
        return 0
    if kernel.is_tiled >= 0 and (1 if classes <= SHORT_ROWS and elements >= MANY_ELEMENTS else 0) != kernel.is_tiled:
        return 0
    threads = call_address(lib.get_num_threads) & 0xFFFFFFFF if elements > PARALLEL_FROM else 1
    threads = threads if threads < MAX_THREADS else MAX_THREADS
    if classes * threads > kernel.max_classes or (options.dims >= 0 and (dims != options.dims or classes < 2)):
        return 0
    table.out = read(lib.address, arguments[1] + IMPL_OFFSET)
    for i in range(kernel.gradients):
        columns[FIRST_COLUMN + kernel.operands + i] = read(lib.address, slopes[i] + IMPL_OFFSET)
    rows = elements // classes
    per_block = BLOCK // classes if classes < BLOCK else 1
    blocks = (rows + per_block - 1) // per_block
    run = blocks // (CHUNKS_PER_THREAD * threads)
    table.shares, table.blocks, table.thread_num = threads, blocks, kernel.thread_num
    table.counters = stack_alloc(COUNTER_WORDS)
    reset_counters(columns)
    table.rows, table.classes, table.per_block, table.run = rows, classes, per_block, run if run > 1 else 1
    table.ignored, table.scratch, table.result = options.ignored, kernel.scratch, kernel.result
    table.partials, table.numbers = stack_alloc(PARTIAL_WORDS), stack_alloc(NUMBER_WORDS)
    numbers = view(table.numbers, LossNumbers)
    numbers.divisor = float64(rows) if options.divisor == 0.0 else options.divisor
    numbers.scale = 1.0 / numbers.divisor
    values, copies = pointer(kernel.numbers, float64), pointer(table.numbers, float64)
    for k in range(kernel.options):
        copies[FIRST_OPTION + k] = values[k]
    if kernel.prepare != 0:
        call_address(kernel.prepare, address_of(columns))
        if numbers.divisor == 0.0:
            return 0  # the mean of nothing is decided elsewhere
    parallel = pointer(kernel.parallel, int64)[0]
    if threads > 1 and parallel != 0:
        call_address(parallel, kernel.run, address_of(columns), threads, 0)
    else:
        call_address(kernel.run, address_of(columns))
    call_address(kernel.finish, address_of(columns))
    return 1 if numbers.faults == 0.0 else 0
