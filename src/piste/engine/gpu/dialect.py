"""The words of the emitter in Triton, and the functions that Triton's language lacks.

The functions are Triton source. They need neither libdevice, which the interpreter can't run, nor Triton's standard
library, so the compiler and the interpreter run the same text.
"""

from __future__ import annotations

from functools import cache

from ..eight_bits import BLOCK
from ..emit import INFIX, Dialect

FUNCTIONS = '''
@triton.jit
def exponential(x):
    """exp(x) in single precision; results below the smallest normal number may be 0."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def log1p(x):
    """log(1 + x): the rounding error of 1 + x is divided out again."""
    u = 1.0 + x
    near = tl.log(u) * (x / (u - 1.0))
    return tl.where(u == 1.0, x, tl.where(tl.abs(u) < float("inf"), near, u))


@triton.jit
def expm1(x):
    """exp(x) - 1: where the difference cancels, the rounding error of exp(x) is divided out again."""
    w = tl.exp(x)
    near = tl.where(w == 1.0, x, (w - 1.0) * (x / tl.log(w)))
    return tl.where(tl.abs(x) < 0.5, near, w - 1.0)


@triton.jit
def power(a, b):
    """a ** b in double precision; a negative base takes whole exponents alone."""
    result = tl.exp(b * tl.log(tl.abs(a)))
    signed = tl.where(tl.floor(b * 0.5) * 2.0 == b, result, -result)
    negative = tl.where(tl.floor(b) == b, signed, float("nan"))
    result = tl.where(a < 0.0, negative, result)
    return tl.where(b == 0.0, 1.0, tl.where(a == 1.0, 1.0, result))
'''

RANDOM_ROUNDING = '''
@triton.jit
def mixed(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def noise(key, step, position):
    """A whole number in [0, 65536) as a float: a hash of a key, a step and a position."""
    salt = tl.full((), 0x9E3779B9, tl.uint32)
    first = mixed(mixed(key.to(tl.int64).to(tl.uint32) + salt) ^ step.to(tl.int64).to(tl.uint32))
    second = mixed(first + salt)
    return (mixed(mixed(position.to(tl.uint32) ^ first) + second) >> 16).to(tl.float32)


@triton.jit
def bfloat16_at_random(x, r):
    bits = x.to(tl.uint32, bitcast=True) + r.to(tl.int64).to(tl.uint32)
    rounded = (bits & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
    return tl.where(x != x, x, rounded)


@triton.jit
def float16_at_random(x, r):
    bits = x.to(tl.uint32, bitcast=True) + (r.to(tl.int64).to(tl.uint32) >> 3)
    rounded = (bits & 0xFFFFE000).to(tl.uint32).to(tl.float32, bitcast=True)
    steps = tl.floor(tl.abs(x) * 16777216.0 + r * 0.0000152587890625)
    small = steps * 0.000000059604644775390625
    rounded = tl.where(tl.abs(x) < 0.00006103515625, tl.where(x < 0.0, -small, small), rounded)
    return tl.where(x != x, x, rounded)
'''
"""The functions of steps that round at random, as in formula/rounding.py."""

EIGHT_BITS = f'''
@triton.jit
def from_eight_bits(code, scale):
    y = code.to(tl.float32) * {1 / 127}
    return scale * (y * y * y * tl.abs(y))


@triton.jit
def fourth(code):
    y = code * {1 / 127}
    return y * y * (y * y)


@triton.jit
def eight_bits(x, key, step, position, blocks: tl.constexpr):
    """The codes of numbers, and the scales of their blocks. Integers have the order of sizes, with NaN at the end."""
    x = x.to(tl.float32)
    size = tl.abs(x)
    sizes = tl.reshape(size.to(tl.int32, bitcast=True), (blocks, {BLOCK}))
    scales = tl.max(sizes, axis=1).to(tl.float32, bitcast=True)
    scale = tl.reshape(tl.broadcast_to(scales[:, None], (blocks, {BLOCK})), (blocks * {BLOCK},))
    below = tl.floor(127.0 * tl.sqrt_rn(tl.sqrt_rn(tl.div_rn(size, scale))))
    below = tl.where(below < 127.0, below, 127.0)
    low, high = fourth(below) * scale, fourth(below + 1.0) * scale
    up = size - low > noise(key, step, position) * 0.0000152587890625 * (high - low)
    code = below + tl.where(up, 1.0, 0.0)
    code = tl.where(code < 127.0, tl.where(code > 1.0, code, 1.0), 127.0)
    code = tl.where(size > 0.0, tl.where(scale < float("inf"), code, 0.0), 0.0)
    return tl.where(x < 0.0, -code, code).to(tl.int32).to(tl.int8), scales
'''
"""The functions of state in 8 bits, as in engine/eight_bits.py."""


@cache
def triton(precision: str) -> Dialect:
    """Return the dialect for "float32" or "float64".

    A literal is a float32 in Triton, so a constant in double precision states its dtype.
    """
    is_double = precision == "float64"
    wide = "tl.cast({0}, tl.float64), tl.cast({1}, tl.float64)"
    words: dict[str, str | tuple[str, ...]] = {
        "constant": "tl.full((), {0}, tl.float64)" if is_double else "{0}",
        "inf": 'float("inf")',
        "nan": 'float("nan")',
        "neg": "-{0}",
        "invert": "{0} == 0",
        "abs": "tl.abs({0})",
        "exp": "tl.exp({0})" if is_double else "exponential({0})",
        "expm1": "expm1({0})",
        "log": "tl.log({0})",
        "log1p": "log1p({0})",
        "**": "power({0}, {1})" if is_double else f"power({wide}).to(tl.float32)",
        "where": "tl.where({0}, {1}, {2})",
        "sign": "tl.where({0} > {zero}, {one}, tl.where({0} < {zero}, {minus_one}, {zero}))",
    }
    for dtype in ("bfloat16", "float16"):
        words[dtype] = f"tl.cast(tl.cast({{0}}, tl.{dtype}), tl.float32)"
        words[f"{dtype}_at_random"] = f"{dtype}_at_random({{0}}, {{1}})"
    words["noise"] = "noise({0}, {1}, {2})"
    words |= {op: f"{{0}} {op} {{1}}" for op in INFIX}
    # The interpreter keeps a comparison of floats as floats, which have no bitwise operations.
    words |= {"&": "tl.where({0}, {1}, {0})", "|": "tl.where({0}, {0}, {1})"}
    # The plain words round to the nearest in double precision, and are approximations in single precision.
    words["sqrt"] = "tl.sqrt({0})" if is_double else "tl.sqrt_rn({0})"
    if not is_double:
        words["/"] = "tl.div_rn({0}, {1})"
    for word, beyond in (("maximum", ">"), ("minimum", "<")):
        # A comparison with NaN is false, so a NaN in the second operand is the result.
        words[word] = f"tl.where({{0}} != {{0}}, {{0}}, tl.where({{0}} {beyond} {{1}}, {{0}}, {{1}}))"
    return words
