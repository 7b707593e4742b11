"""The few machine operations that Numba has no Python for; imported only when a kernel is compiled."""

from __future__ import annotations

import ctypes
import math
import operator
from typing import Any

import numba.extending
from llvmlite import ir
from numba import float32, float64, int8, int64, njit, types, uint16, uint32
from numba.core import cgutils
from numba.core.imputils import lower_constant, lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import lower_builtin, models, register_model, typeof_impl

__all__ = [
    "address_of",
    "bfloat16_at_random",
    "call_address",
    "column",
    "eight_bits",
    "fetch_add",
    "float16_at_random",
    "float32",
    "float64",
    "from_bfloat16",
    "from_eight_bits",
    "from_float16",
    "inline",
    "int8",
    "int64",
    "intrinsic",
    "larger_size",
    "math",
    "noise",
    "pointer",
    "prefetch",
    "stack_alloc",
    "to_bfloat16",
    "to_float16",
    "uint16",
    "view",
]

_WORD = ir.IntType(64)
_PREFETCH = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
intrinsic: Any = numba.extending.intrinsic
inline: Any = njit(inline="always")
"""Decorator of a function that becomes part of its caller, with the caller's rules of arithmetic."""


@intrinsic
def pointer(typingctx: Any, address: Any, dtype: Any) -> Any:
    """A pointer to the numbers of a dtype at an address: an array without checks and reference counts."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), codegen


class NoAliasPointer(types.CPointer):
    """A pointer to memory that no pointer of another number reaches, if either writes."""

    def __init__(self, dtype: Any, number: int) -> None:
        super().__init__(dtype)
        self.number = number
        self.name = f"column{number}({dtype})"

    @property
    def key(self) -> Any:
        return self.dtype, self.number


register_model(NoAliasPointer)(models.PointerModel)


@intrinsic(prefer_literal=True)
def column(typingctx: Any, address: Any, dtype: Any, number: Any) -> Any:
    """A pointer to a column of a table: memory that no column of another number reaches, unless both are only read.

    Without this promise LLVM compiles a vectorised and a scalar loop and chooses by the distance of the arrays. The
    scalar one is slower and adds in another order, so that a sum would depend on where its operands lie.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return NoAliasPointer(dtype.dtype, number.literal_value)(types.int64, dtype, number), codegen


_MOST_COLUMNS = 40


def _mark(builder: Any, access: Any, number: int) -> None:
    """Mark a load or store with the scope of its column; LLVM compares the columns beyond the last scope itself."""
    if number >= _MOST_COLUMNS:
        return
    module = builder.module
    domain = module.add_metadata(["piste"])
    scopes = [module.add_metadata([f"piste {k}", domain]) for k in range(_MOST_COLUMNS)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[number]]))
    access.set_metadata("noalias", module.add_metadata(scopes[:number] + scopes[number + 1 :]))


@lower_builtin(operator.getitem, NoAliasPointer, types.Integer)
def _load(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    loaded = builder.load(builder.gep(args[0], [args[1]]))
    _mark(builder, loaded, signature.args[0].number)
    return loaded


@lower_builtin(operator.setitem, NoAliasPointer, types.Integer, types.Any)
def _store(context: Any, builder: Any, signature: Any, args: Any) -> None:
    _mark(builder, builder.store(args[2], builder.gep(args[0], [args[1]])), signature.args[0].number)


@intrinsic
def address_of(typingctx: Any, at: Any) -> Any:
    """The address that a pointer or a view holds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _WORD) if isinstance(at, types.CPointer) else args[0]

    return types.int64(at), codegen


@intrinsic(prefer_literal=True)
def stack_alloc(typingctx: Any, words: Any) -> Any:
    """The address of a constant number of words that the calling entry has to itself until it returns."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(cgutils.alloca_once(builder, _WORD, words.literal_value), _WORD)

    return types.int64(words), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address before it is read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        function = builder.module.declare_intrinsic("llvm.prefetch", [at.type], _PREFETCH)
        builder.call(function, [at, *(ir.IntType(32)(number) for number in (0, 3, 1))])  # to read, in all caches, data
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, counter: Any) -> Any:
    """Add 1 to counter[0] atomically and return the number before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(_WORD, 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), codegen


@intrinsic
def call_address(typingctx: Any, function: Any, *args: Any) -> Any:
    """Call the C function at an address with words; the result is the word it leaves, whatever its type."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(_WORD, [_WORD] * len(words))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), words)

    (words,) = args if len(args) == 1 and isinstance(args[0], types.BaseTuple) else (types.Tuple(args),)
    return types.int64(types.int64, types.UniTuple(types.int64, len(words))), codegen


# --- argument blocks ------------------------------------------------------------------------------------------


class BlockClass(types.Opaque):
    """The type of a `ctypes.Structure` class."""

    def __init__(self, structure: Any) -> None:
        super().__init__(f"class({structure.__name__})")
        self.structure = structure


class BlockView(types.Type):
    """A `ctypes.Structure` of words at an address."""

    def __init__(self, structure: Any) -> None:
        super().__init__(f"view({structure.__name__})")
        self.structure = structure


@register_model(BlockView)
class _AddressModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _WORD)


register_model(BlockClass)(models.OpaqueModel)
_FIELD_TYPES = {ctypes.c_int64: types.int64, ctypes.c_double: types.float64}


@typeof_impl.register(type(ctypes.Structure))
def _typeof_structure(structure: Any, context: Any) -> BlockClass:
    return BlockClass(structure)


@lower_constant(BlockClass)
def _structure_constant(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()


@intrinsic
def view(typingctx: Any, at: Any, structure: Any) -> Any:
    """The block of a `ctypes.Structure` at an address or pointer, with its fields as attributes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _WORD) if isinstance(at, types.CPointer) else args[0]

    return BlockView(structure.structure)(at, structure), codegen


def _field_type(block: BlockView, name: str) -> Any:
    fields = {name: kind for base in block.structure.__mro__ for name, kind in vars(base).get("_fields_", ())}
    return _FIELD_TYPES[fields[name]] if name in fields else None


@infer_getattr
class _BlockFields(AttributeTemplate):
    key = BlockView

    def generic_resolve(self, block: BlockView, name: str) -> Any:  # type: ignore[override]
        return _field_type(block, name)


def _field(builder: Any, block: BlockView, address: Any, name: str, kind: Any) -> Any:
    offset = getattr(block.structure, name).offset
    return builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())


@lower_getattr_generic(BlockView)
def _get_field(context: Any, builder: Any, block: BlockView, address: Any, name: str) -> Any:
    kind = context.get_value_type(_field_type(block, name))
    return builder.load(_field(builder, block, address, name, kind))


@lower_setattr_generic(BlockView)
def _set_field(context: Any, builder: Any, signature: Any, args: Any, name: str) -> None:
    address, value = args
    builder.store(value, _field(builder, signature.args[0], address, name, value.type))


# --- 16-bit floats --------------------------------------------------------------------------------------------


def _bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float32 as uint32, and back."""
    target = types.uint32 if x == types.float32 else types.float32

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return target(x), codegen


_bits: Any = intrinsic(_bits_of)


@inline
def from_bfloat16(x):
    return _bits(uint32(uint32(x) << uint32(16)))


@inline
def to_bfloat16(x):
    """Round to nearest, ties to even; NaN stays NaN."""
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


# --- rounding at random, as in formula/rounding.py ------------------------------------------------------------


@inline
def _mixed(x):
    x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x85EBCA6B))
    x = uint32(uint32(x ^ (x >> uint32(13))) * uint32(0xC2B2AE35))
    return uint32(x ^ (x >> uint32(16)))


@inline
def noise(key, step, position):
    """A whole number in [0, 65536) as a float32: a hash of a key, a step and a position."""
    first = _mixed(uint32(_mixed(uint32(uint32(int64(key)) + uint32(0x9E3779B9))) ^ uint32(int64(step))))
    second = _mixed(uint32(first + uint32(0x9E3779B9)))
    mixed = _mixed(uint32(_mixed(uint32(uint32(position) ^ first)) + second))
    return float32(mixed >> uint32(16))


@inline
def bfloat16_at_random(x, r):
    """One of the two bfloat16 nearest to x, by a whole number r in [0, 65536)."""
    rounded = _bits(uint32(uint32(_bits(x) + uint32(int64(r))) & uint32(0xFFFF0000)))
    return x if x != x else rounded


@inline
def float16_at_random(x, r):
    """One of the two float16 nearest to x, by a whole number r in [0, 65536)."""
    rounded = _bits(uint32(uint32(_bits(x) + (uint32(int64(r)) >> uint32(3))) & uint32(0xFFFFE000)))
    steps = float32(math.floor(float32(abs(x) * float32(2.0**24) + r * float32(2.0**-16))))
    small = float32(math.copysign(float32(steps * float32(2.0**-24)), x))
    chosen = small if abs(x) < float32(2.0**-14) else rounded
    return x if x != x else chosen


# --- state in 8 bits, as in engine/eight_bits.py --------------------------------------------------------------


@inline
def from_eight_bits(code, scale):
    """The number that a code stands for."""
    y = float32(float32(code) * float32(1 / 127))
    return float32(scale * float32(y * y * y * float32(abs(y))))


@inline
def larger_size(top, x):
    """The larger of a float32 and the magnitude of a number; integers are compared, which vectorizes."""
    a, b = _bits(top), _bits(float32(abs(x)))
    return _bits(a if a > b else b)


@inline
def _fourth(code):
    y = float32(code * float32(1 / 127))
    return float32(float32(y * y) * float32(y * y))


_whole: Any = int64
_byte: Any = int8


@inline
def eight_bits(x, scale, r):
    """The code of a number, by a whole number r in [0, 65536)."""
    size = float32(abs(x))
    below = float32(math.floor(float32(float32(127.0) * math.sqrt(float32(math.sqrt(float32(size / scale)))))))
    below = below if below < float32(127.0) else float32(127.0)
    low, high = float32(_fourth(below) * scale), float32(_fourth(float32(below + float32(1.0))) * scale)
    is_up = float32(size - low) > float32(float32(r * float32(2.0**-16)) * float32(high - low))
    code = float32(below + (float32(1.0) if is_up else float32(0.0)))
    code = code if code < float32(127.0) else float32(127.0)
    code = code if code > float32(1.0) else float32(1.0)
    code = -code if x < float32(0.0) else code
    return _byte(_whole(code)) if (size > float32(0.0)) & (scale < float32(math.inf)) else _byte(0)
