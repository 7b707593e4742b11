"""Accuracy of the exponentials, logarithms and powers of float32 kernels."""

from __future__ import annotations

import math
import re

import numpy as np

from piste.engine.cpu.loss_lines import LossLines
from piste.formula.expression import Expr
from piste.formula.words import where


def ulps(function, exact, x: np.ndarray) -> float:
    import numba

    @numba.njit(fastmath={"contract", "nsz"}, error_model="numpy")
    def over(x, out):
        for i in range(len(x)):
            out[i] = function(x[i])

    out = np.empty_like(x)
    over(x, out)
    with np.errstate(all="ignore"):
        expected = exact(x.astype(np.float64))
        rounded = expected.astype(np.float32)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(out[~finite], rounded[~finite])
        return float(np.max(np.abs(out[finite] - expected[finite]) / np.spacing(np.abs(rounded[finite]))))


def test_exp_is_within_one_unit_in_the_last_place_and_the_others_within_two() -> None:
    from piste.engine.native.kernels import math32

    rng = np.random.default_rng(0)
    special = [0, -0.0, math.inf, -math.inf, math.nan, 1, -1, 1e-45, 1e-38, 88.7, 88.73, -87, -103.9, -104, -1e30, 1e30]
    marked_nan = np.array([0x7FC00001, 0xFFFFFFFF], np.uint32).view(np.float32)  # NaN whose low bits are set
    ends = np.concatenate([np.array(special, np.float32), marked_nan])
    wide = np.exp(rng.uniform(-100, 88, 100_000)).astype(np.float32)
    near_one = rng.uniform(0.5, 2, 100_000).astype(np.float32)
    exponents = rng.uniform(-104, 88.7, 100_000).astype(np.float32)
    small = rng.uniform(-1, 1, 100_000).astype(np.float32)
    assert ulps(math32.exp32, np.exp, np.concatenate([exponents, ends])) < 1
    assert ulps(math32.exp32_nonpositive, np.exp, np.concatenate([-np.abs(exponents), -np.abs(ends), -(small**2)])) < 1
    assert ulps(math32.expm1_32, np.expm1, np.concatenate([exponents, small, 1e-3 * small, ends])) < 2
    assert ulps(math32.log32, np.log, np.concatenate([wide, near_one, ends])) < 2
    assert ulps(math32.log1p32, np.log1p, np.concatenate([wide, small, ends])) < 2
    part = np.concatenate([np.abs(small), wide[wide < 1], [0, 1e-45, 1e-38, 1, math.nan]]).astype(np.float32)
    assert ulps(math32.log1p32_unit_interval, np.log1p, part) < 2


def powers(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a^b as kernels compute it, and in double precision."""
    import numba

    from piste.engine.native.kernels import math32

    @numba.njit(fastmath={"contract", "nsz"}, error_model="numpy")
    def over(a, b, out):
        for i in range(len(a)):
            out[i] = math32.pow32(a[i], b[i])

    out = np.empty_like(a)
    over(a, b, out)
    with np.errstate(all="ignore"):
        return out, np.power(a.astype(np.float64), b.astype(np.float64))


def test_a_power_is_within_one_unit_in_the_last_place() -> None:
    rng = np.random.default_rng(0)
    for far, largest in ((100, 1), (3, 20), (0.4, 200), (1e-3, 1e5)):  # of the logarithm, and of the exponent
        bases = np.exp(rng.uniform(-far, min(far, 88), 100_000)).astype(np.float32)
        found, expected = powers(bases, rng.uniform(-largest, largest, 100_000).astype(np.float32))
        normal = (np.abs(expected) > 1.2e-38) & (np.abs(expected) < 3.4e38)
        assert normal.mean() > 0.5
        units = np.abs(found - expected)[normal] / np.spacing(expected[normal].astype(np.float32))
        assert np.max(units) < 0.7
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(found[~normal], expected[~normal].astype(np.float32), rtol=1e-6, atol=3e-45)


def test_powers_at_the_ends_and_of_negative_numbers_are_those_of_ieee_754() -> None:
    inf, nan = math.inf, math.nan
    ends = [0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 1e-45, -1e-45, 3e38, -3e38]
    others = [0.1, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, -7.0, 1.5, -1.5, 1e10, 2.0**23 + 1, 2.0**24 + 4]
    a, b = (x.ravel() for x in np.meshgrid(*[np.array([*ends, *others], np.float32)] * 2))
    found, expected = powers(a.copy(), b.copy())
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
    np.testing.assert_array_equal(found, rounded)
    numbers = ~np.isnan(rounded)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(rounded[numbers]))


def test_powers_that_leave_out_an_end_share_the_logarithm_of_their_base() -> None:
    x = Expr("input", "x")
    lines = LossLines("float32", "v", lambda node: "x_" if node is x else None)
    inner = where(x == 0, 1, x)
    lines.name(x**1.7 + where(x == 0, 0, inner**1.7) + inner**0.7)
    assert sorted(re.findall(r"pow32\(.*\)", "\n".join(lines.lines))) == [
        "pow32(x_, float32(0.7))",
        "pow32(x_, float32(1.7))",
    ]
