"""The few machine operations that Numba has no Python for; imported only when a kernel is compiled."""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import float32, float64, int64, njit, types, uint16, uint32
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "call0",
    "call1",
    "call2",
    "call4",
    "claim",
    "column",
    "float32",
    "float64",
    "from_bfloat16",
    "from_float16",
    "int64",
    "math",
    "place",
    "pointer",
    "room",
    "to_bfloat16",
    "to_float16",
    "uint16",
]


@intrinsic
def pointer(typingctx: Any, address: Any, dtype: Any) -> Any:
    """What lies at an address, to be indexed: without the checks and the bookkeeping of an array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), codegen


class Column(types.CPointer):
    """A pointer whose entries no other column shares, if it is written through."""

    def __init__(self, dtype: Any, number: int) -> None:
        super().__init__(dtype)
        self.number = number
        self.name = f"column{number}({dtype})"

    @property
    def key(self) -> Any:
        return self.dtype, self.number


register_model(Column)(models.PointerModel)


@intrinsic(prefer_literal=True)
def column(typingctx: Any, address: Any, dtype: Any, number: Any) -> Any:
    """A pointer to what nothing reaches by a column of another number, unless both are only read.

    Where LLVM has to find out whether two arrays overlap, it keeps a loop in lanes and one without, and takes the
    second where they lie close together: slower, and in another order, so that the sum would depend on the memory.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return Column(dtype.dtype, number.literal_value)(types.int64, dtype, number), codegen


_MOST_COLUMNS = 40


def _mark(builder: Any, access: Any, number: int) -> None:
    """Say of a load or store which column it belongs to; of one beyond the last LLVM finds out by itself."""
    if number >= _MOST_COLUMNS:
        return
    module = builder.module
    domain = module.add_metadata(["piste"])
    scopes = [module.add_metadata([f"piste {k}", domain]) for k in range(_MOST_COLUMNS)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[number]]))
    access.set_metadata("noalias", module.add_metadata(scopes[:number] + scopes[number + 1 :]))


@lower_builtin(operator.getitem, Column, types.Integer)
def _load(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    loaded = builder.load(builder.gep(args[0], [args[1]]))
    _mark(builder, loaded, signature.args[0].number)
    return loaded


@lower_builtin(operator.setitem, Column, types.Integer, types.Any)
def _store(context: Any, builder: Any, signature: Any, args: Any) -> None:
    _mark(builder, builder.store(args[2], builder.gep(args[0], [args[1]])), signature.args[0].number)


@intrinsic
def place(typingctx: Any, table: Any) -> Any:
    """The address of a table."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(types.CPointer(types.int64)), codegen


@intrinsic(prefer_literal=True)
def room(typingctx: Any, words: Any) -> Any:
    """The address of a constant number of words that the function has to itself until it returns."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(cgutils.alloca_once(builder, ir.IntType(64), words.literal_value), ir.IntType(64))

    return types.int64(words), codegen


@intrinsic
def claim(typingctx: Any, table: Any) -> Any:
    """The next number of the counter at table[0], each handed out once whoever asks."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", args[0], one, "monotonic")

    return types.int64(types.CPointer(types.int64)), codegen


def _caller(count: int) -> Any:
    """Call the C function at an address with `count` words; the answer is the word it leaves, whatever its type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word] * count)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(*[types.int64] * (count + 1)), codegen


@intrinsic
def call0(typingctx: Any, function: Any) -> Any:
    return _caller(0)


@intrinsic
def call1(typingctx: Any, function: Any, a: Any) -> Any:
    return _caller(1)


@intrinsic
def call2(typingctx: Any, function: Any, a: Any, b: Any) -> Any:
    return _caller(2)


@intrinsic
def call4(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    return _caller(4)


def _bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float32 as uint32, and back."""
    target = types.uint32 if x == types.float32 else types.float32

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return target(x), codegen


_bits: Any = intrinsic(_bits_of)


@njit(inline="always")
def from_bfloat16(x):
    return _bits(uint32(uint32(x) << uint32(16)))


@njit(inline="always")
def to_bfloat16(x):
    """Rounded to nearest, ties to even; NaN stays NaN."""
    u = _bits(float32(x))
    rounded = uint32(u + uint32(0x7FFF) + ((u >> uint32(16)) & uint32(1)))
    chosen = uint32(0x7FC00000) if x != x else rounded
    return uint16(chosen >> uint32(16))


@intrinsic
def from_float16(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def to_float16(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen
