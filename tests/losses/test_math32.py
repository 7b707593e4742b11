"""Accuracy of the exponentials and logarithms of float32 kernels."""

from __future__ import annotations

import math

import numpy as np


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


def test_exp_is_within_one_unit_in_the_last_place_and_log_within_two() -> None:
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
    assert ulps(math32.log32, np.log, np.concatenate([wide, near_one, ends])) < 2
    assert ulps(math32.log1p32, np.log1p, np.concatenate([wide, small, ends])) < 2
    part = np.concatenate([np.abs(small), wide[wide < 1], [0, 1e-45, 1e-38, 1, math.nan]]).astype(np.float32)
    assert ulps(math32.log1p32_unit_interval, np.log1p, part) < 2
