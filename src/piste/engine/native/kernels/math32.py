"""exp, expm1, log, log1p and powers of float32 that vectorise; sums in any order; bits of floats.

exp and a power are within 1 unit in the last place, expm1 and the logarithms within 2. A function is a range reduction
and a polynomial (Cephes' coefficients, but for exp and where it is stated), without a branch: it selects among values
that are computed already. Infinities, zeros and NaN give the results of `math`; a result too small for a normal number
is rounded to zero or to the nearest subnormal number.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64, int32, types

from ..intrinsics import inline, intrinsic

__all__ = [
    "bits",
    "differing_bits",
    "exp32",
    "exp32_nonpositive",
    "expm1_32",
    "fast_add",
    "float_to_ordered_int",
    "log1p32",
    "log1p32_unit_interval",
    "log32",
    "ordered_int_to_float",
    "pow32",
    "signed_bits",
]


@intrinsic
def fast_add(typingctx: Any, a: Any, b: Any) -> Any:
    """a + b in a sum that the compiler may reorder, so that it vectorises; the order is the same in every run."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=("reassoc", "nsz", "contract"))

    return a(a, b), codegen


def _recast(x: Any, dtype: Any) -> Any:
    """The bits of x as another type of the same width."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(dtype))

    return dtype(x), codegen


@intrinsic
def bits(typingctx: Any, x: Any) -> Any:
    """The bits of a float as a whole number without a sign: they grow from +0 on; below 0, and NaN, lie above."""
    return _recast(x, types.uint32 if x == types.float32 else types.uint64)


@intrinsic
def signed_bits(typingctx: Any, x: Any) -> Any:
    """The bits of a float as a whole number with a sign: they grow from +0 on, and lie below 0 where the float does."""
    return _recast(x, types.int32 if x == types.float32 else types.int64)


@intrinsic
def _as_float(typingctx: Any, x: Any) -> Any:
    """A float of the given bits."""
    return _recast(x, types.float32 if x == types.int32 else types.float64)


_ROUND = float32(12582912.0)  # 1.5 * 2^23: adding it rounds a float32 to a whole number, which its low bits then hold
_ABOVE, _BELOW = int32(0x4B400000 - 126), int32(0x4B400000 - 151)  # the bits of _ROUND, less the exponent of 1/2, 2^24
_EXPONENT = float32(12582912.0 + 151.0)  # _ROUND for the exponents of 2^(n + 24)
_TINY = float32(5.9604644775390625e-8)  # 2^-24


@inline
def _reduced(y, rounding, unit):
    """e^r times a power of two, where y = n ln 2 + r, and n + `rounding`. The polynomial adds an error of 0.03 ulp."""
    t = y * float32(1.44269504088896341) + rounding
    n = t - rounding
    r = y - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.3814496342e-3) * unit * r + float32(8.3687519654e-3) * unit
    p = p * r + float32(4.1668392718e-2) * unit
    p = p * r + float32(1.6666519642e-1) * unit
    p = p * r + float32(4.9999994040e-1) * unit
    p = p * r + unit
    return p * r + unit, t


@inline
def exp32(x):
    """e^x = 2^n e^r with n the nearest whole number to x / ln 2; NaN goes through all of it."""
    low = float32(-104.0) if x < float32(-104.0) else x
    p, t = _reduced(float32(89.0) if low > float32(89.0) else low, _ROUND, float32(1.0))
    # 2^n in two factors, so that the largest and the subnormal come out right: 2 and 2^(n - 1), or 2^-24 and 2^(n + 24)
    is_below = t < _ROUND
    rest = _TINY if is_below else float32(2.0)
    near = int32(signed_bits(t) - (_BELOW if is_below else _ABOVE))
    return p * _as_float(int32(near << int32(23))) * rest


@inline
def exp32_nonpositive(x):
    """e^x of x up to 0, where 2^(n + 24) is a normal number and 2^-24 is a factor of the polynomial."""
    p, t = _reduced(float32(-104.0) if x < float32(-104.0) else x, _EXPONENT, _TINY)
    return p * _as_float(int32(signed_bits(t) << int32(23)))


@inline
def expm1_32(x):
    """e^x - 1 = 2^n (e^r - 1) + (2^n - 1), with n and r as in exp32; NaN goes through all of it."""
    low = float32(-30.0) if x < float32(-30.0) else x
    y = float32(89.0) if low > float32(89.0) else low
    t = y * float32(1.44269504088896341) + _ROUND
    n = t - _ROUND
    r = y - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.3814496342e-3) * r + float32(8.3687519654e-3)
    p = p * r + float32(4.1668392718e-2)
    p = p * r + float32(1.6666519642e-1)
    p = p * r + float32(4.9999994040e-1)
    p = p * r * r + r
    half = _as_float(int32(int32(signed_bits(t) - _ABOVE) << int32(23)))  # 2^(n - 1), since 2^128 is too large
    return (half * p + (half - float32(0.5))) * float32(2.0)


@inline
def _log_of(f, e):
    """log(1 + f) + e ln 2, with 1 + f in [sqrt(1/2), sqrt(2))."""
    p = float32(7.0376836292e-2) * f + float32(-1.1514610310e-1)
    p = p * f + float32(1.1676998740e-1)
    p = p * f + float32(-1.2420140846e-1)
    p = p * f + float32(1.4249322787e-1)
    p = p * f + float32(-1.6668057665e-1)
    p = p * f + float32(2.0000714765e-1)
    p = p * f + float32(-2.4999993993e-1)
    p = p * f + float32(3.3333331174e-1)
    return (p * f - float32(0.5)) * f * f + f + e * float32(-2.12194440e-4) + e * float32(0.693359375)


@inline
def _at_the_ends(x, result):
    """The logarithm of x: the result where x is above 0 and finite, and else what it is there."""
    result = result if x < float32(math.inf) else x
    result = result if x > float32(0.0) else float32(math.nan)
    return float32(-math.inf) if x == float32(0.0) else result


@inline
def _split(x):
    """f and e of x = 2^e (1 + f) above 0, with 1 + f in [sqrt(1/2), sqrt(2))."""
    is_small = x < float32(1.17549435e-38)
    y = x * float32(8388608.0) if is_small else x  # a subnormal number is brought up by 2^23
    shift = float32(-23.0) if is_small else float32(0.0)
    bits = int32(signed_bits(y) - int32(0x3F3504F3))
    m = _as_float(int32(int32(bits & int32(0x007FFFFF)) + int32(0x3F3504F3)))
    return m - float32(1.0), float32(int32(bits >> int32(23))) + shift


@inline
def log32(x):
    """log x = log(1 + f) + e ln 2."""
    f, e = _split(x)
    return _at_the_ends(x, _log_of(f, e))


@inline
def log1p32(x):
    """log(1 + x) = log(2^-e (1 + x)) + e ln 2, where what was lost when 1 was added is added to 2^-e (1 + x) - 1."""
    u = float32(1.0) + x
    lost = x - (u - float32(1.0))
    bits = int32(signed_bits(u) - int32(0x3F3504F3))
    e = int32(bits >> int32(23))
    m = _as_float(int32(int32(bits & int32(0x007FFFFF)) + int32(0x3F3504F3)))
    down = int32(int32(0x3F800000) - int32(e << int32(23)))  # 2^-e; where that is too small, nothing is lost
    scale = _as_float(down if down > int32(0) else int32(0))
    return _at_the_ends(u, _log_of((m - float32(1.0)) + lost * scale, float32(e)))


@inline
def log1p32_unit_interval(x):
    """log(1 + x) of x from 0 to 1: one polynomial, the nearest to it by relative error."""
    p = float32(-3.2440228387713432e-3) * x + float32(1.9851455464959145e-2)
    p = p * x + float32(-5.6959524750709534e-2)
    p = p * x + float32(0.10603655129671097)
    p = p * x + float32(-0.15305593609809875)
    p = p * x + float32(0.1967594027519226)
    p = p * x + float32(-0.24954134225845337)
    p = p * x + float32(0.3332996368408203)
    p = p * x + float32(-0.4999990165233612)
    return p * x * x + x


_ROUND64 = 6755399441055744.0  # 1.5 * 2^52: adding it rounds a float64 to a whole number, which its low bits then hold
_LARGEST = 3.4028234663852886e38  # of float32


@inline
def _log2_of(f):
    """log2(1 + f) in double precision, with 1 + f in [sqrt(1/2), sqrt(2)): the nearest polynomial by relative error."""
    p = -0.08634599699575216 * f + 0.15485749082449837
    p = p * f - 0.15698223824698956
    p = p * f + 0.15900150579245545
    p = p * f - 0.17904695782152513
    p = p * f + 0.2060962555422354
    p = p * f - 0.2405041736740819
    p = p * f + 0.28854064358745946
    p = p * f - 0.3606728005609099
    p = p * f + 0.4808983207290466
    p = p * f - 0.7213475252130904
    p = p * f + 1.4426950409393458
    return p * f


@inline
def _exp2(y):
    """2^y = 2^n 2^r in double precision, of y from -1000 to 1000."""
    t = y + _ROUND64
    r = y - (t - _ROUND64)
    p = 0.00015345817225638264 * r + 0.0013399931163345143
    p = p * r + 0.00961848893757904
    p = p * r + 0.05550328777161656
    p = p * r + 0.2402264689080672
    p = p * r + 0.6931472057371766
    p = p * r + 1.0000000005541483
    return _as_float(signed_bits(p) + (signed_bits(t) << 52))


@inline
def pow32(a, b):
    """a^b = 2^(b log2 |a|) in double precision; signs, infinities and NaN are those of IEEE 754.

    What follows from b alone is computed once for all elements, where they have the same b.
    """
    size = float32(abs(a))
    f, e = _split(size)
    power = float64(b)
    within = _LARGEST if power > _LARGEST else power
    within = -_LARGEST if within < -_LARGEST else within  # an infinity times log2 1 would be NaN
    y = within * (_log2_of(float64(f)) + float64(e))
    y = -160.0 if y < -160.0 else y  # beyond the range of float32
    y = 160.0 if y > 160.0 else y
    result = float32(_exp2(y))

    half = 0.5 * power
    is_whole = (power + _ROUND64) - _ROUND64 == power
    is_odd = is_whole & ((half + _ROUND64) - _ROUND64 != half)
    one, inf, nan = float32(1.0), float32(math.inf), float32(math.nan)
    at_zero, at_inf = (float32(0.0), inf) if power > 0.0 else (inf, float32(0.0))
    at_zero, at_inf, at_nan = (one, one, one) if power == 0.0 else (at_zero, at_inf, nan)
    result = nan if (a < float32(0.0)) & (not is_whole) else result
    result = at_zero if size == float32(0.0) else result
    result = at_inf if size == inf else result
    result = -result if (signed_bits(a) < int32(0)) & is_odd else result
    result = at_nan if a != a else result
    of_nan = one if a == one else nan
    return of_nan if power != power else result


@intrinsic
def differing_bits(typingctx: Any, seen: Any, x: Any, y: Any) -> Any:
    """The bits of `seen`, and those in which two floats differ."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        seen_, x_, y_ = args
        whole = context.get_value_type(seen)
        return builder.or_(seen_, builder.xor(builder.bitcast(x_, whole), builder.bitcast(y_, whole)))

    return seen(seen, x, y), codegen


@intrinsic
def float_to_ordered_int(typingctx: Any, x: Any) -> Any:
    """An integer that grows as the float does: its bits, with all but the sign turned over where it is negative."""
    whole, width = (types.int32, 32) if x == types.float32 else (types.int64, 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(whole)
        return _turned(builder, builder.bitcast(args[0], kind), kind, width)

    return whole(x), codegen


@intrinsic
def ordered_int_to_float(typingctx: Any, bits: Any, like: Any) -> Any:
    """The float that `float_to_ordered_int` made an integer of."""
    width = 32 if like == types.float32 else 64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(bits)
        return builder.bitcast(_turned(builder, args[0], kind, width), context.get_value_type(like))

    return like(bits, like), codegen


def _turned(builder: Any, bits: Any, kind: Any, width: int) -> Any:
    sign = builder.ashr(bits, kind(width - 1))
    return builder.xor(bits, builder.and_(sign, kind((1 << (width - 1)) - 1)))
