"""Cross entropy or focal loss of logits (N, C, d1, ...) and a class index for each place; classes are far apart.

With the logits x of a place, its class k, m = max x and s = sum e^(x - m), the loss is log s - (x_k - m) and its
gradient e^(x - m) / s, less 1 at k. Vector lanes run over places: all classes of a tile of places are copied to
scratch memory of the thread, computed there, and the gradient is written back. So logits and gradient are touched once
each.

The focal loss is (1 - e^-l)^gamma l with that loss l, and its gradient that of l times the derivative by l.

This states the formulas and the derivatives of `CrossEntropyLoss` and `FocalLoss` a second time.
tests/losses/test_image_cross_entropy.py compares them in float64.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64, int64

from ...native.intrinsics import column, inline, pointer, view
from ...native.kernels import math32
from ...native.kernels.work_sharing import take_blocks, thread_number
from ..tables import ImageTable

REAL: Any = float32  # float64: with the functions of float64
EXP: Any = math32.exp32_nonpositive
LOG: Any = math32.log32
POW: Any = math32.pow32
SIZE = 4  # bytes of REAL
TILE = 128  # places that are computed together
BLOCK_PLACES = 32 * TILE  # places of a block of work
FOCUS = 0  # 1: the focal loss; 2: with a gamma of 2, whose powers are products
EXP_FLOAT64, LOG_FLOAT64, POW_FLOAT64 = math.exp, math.log, math.pow
X, K, GRAD, E, M, S, F, H, TARGET = 0, 1, 2, 3, 4, 5, 6, 7, 8  # numbers of columns


def prepare(block):
    """Count the targets that are not ignored, and those out of range."""
    table = view(block, ImageTable)
    k = pointer(table.k, int64)
    kept, faults = 0, 0
    places, classes, left_out = table.places * table.samples, table.classes, table.ignored
    for r in range(places):
        target = k[r]
        is_kept = 0 if target == left_out else 1
        kept += is_kept
        faults += is_kept if (target < 0) | (target >= classes) else 0
    table.count, table.faults = kept, faults
    table.scale = 1.0 / float64(table.count) if table.is_mean != 0 else 1.0


def forward(block):
    """Leave the sum of the losses of each block."""
    _run(block, False)


def gradient(block):
    """Leave the sum of the losses of each block, and the gradient of the reduced loss."""
    _run(block, True)


@inline
def _run(block, with_gradient):
    table = view(block, ImageTable)
    partials = pointer(table.partials, float64)
    places, classes, scale, ignored = table.places, table.classes, table.scale, table.ignored
    per_sample = (places + BLOCK_PLACES - 1) // BLOCK_PLACES
    own = thread_number(block)
    scratch = table.scratch + own * (classes + 5) * TILE * SIZE
    gamma, zero, one = table.gamma, REAL(0.0), REAL(1.0)
    m = column(scratch + classes * TILE * SIZE, REAL, M)
    s = column(scratch + (classes + 1) * TILE * SIZE, REAL, S)
    f = column(scratch + (classes + 2) * TILE * SIZE, REAL, F)
    h = column(scratch + (classes + 3) * TILE * SIZE, REAL, H)
    k = column(scratch + (classes + 4) * TILE * SIZE, REAL, TARGET)
    turn, at, end = 0, 0, 0
    while True:
        turn, at, end = take_blocks(block, own, turn, 1)
        if at == end:
            break
        sample = at // per_sample
        place = (at - sample * per_sample) * BLOCK_PLACES
        stop = place + BLOCK_PLACES if place + BLOCK_PLACES < places else places
        total = 0.0
        while place < stop:
            width = TILE if place + TILE < stop else stop - place
            start = sample * classes * places + place
            t = column(table.k + (sample * places + place) * 8, int64, K)
            for j in range(width):
                target = t[j]
                k[j] = REAL(-1.0) if target == ignored else REAL(target)
                m[j], s[j], f[j] = REAL(-math.inf), zero, zero
            for c in range(classes):
                x = column(table.x + (start + c * places) * SIZE, REAL, X)
                e = column(scratch + c * TILE * SIZE, REAL, E)
                c_ = REAL(c)
                for j in range(width):
                    v, most, picked = x[j], m[j], f[j]
                    e[j] = v
                    m[j] = v if v > most else most
                    f[j] = v if k[j] == c_ else picked
            for c in range(classes):
                e = column(scratch + c * TILE * SIZE, REAL, E)
                for j in range(width):
                    v = REAL(EXP(e[j] - m[j]))
                    e[j] = v
                    s[j] = s[j] + v
            for j in range(width):
                f[j], h[j] = REAL(LOG(s[j])) - (f[j] - m[j]), one
            if FOCUS != 0:
                for j in range(width):
                    loss = f[j]
                    p = REAL(EXP(-loss))
                    q = one - p
                    is_flat = (q == zero) | (q == one)
                    base = one if is_flat else q
                    steep = base if FOCUS == 2 else REAL(POW(base, REAL(gamma - 1.0)))
                    focus = steep * base
                    f[j] = focus * loss
                    h[j] = focus + (zero if is_flat else REAL(gamma) * steep * p * loss)
            for j in range(width):
                loss, slope = f[j], REAL(scale) * h[j]
                f[j], h[j] = (loss, slope) if k[j] >= zero else (zero, zero)
            part = zero
            for j in range(width):
                part = math32.fast_add(part, f[j])
                f[j] = h[j] / s[j]
            total += float64(part)
            if with_gradient:
                for c in range(classes):
                    g = column(table.grad + (start + c * places) * SIZE, REAL, GRAD)
                    e = column(scratch + c * TILE * SIZE, REAL, E)
                    c_ = REAL(c)
                    for j in range(width):
                        factor = f[j]
                        v = e[j] * factor
                        v = zero if factor == zero else v
                        g[j] = v - (h[j] if k[j] == c_ else zero)
            place += width
        partials[at] = total


def finish(block):
    """Add the sums of the blocks in order."""
    table = view(block, ImageTable)
    partials = pointer(table.partials, float64)
    total = 0.0
    for k in range(table.blocks):
        total += partials[k]
    pointer(table.out, REAL)[0] = REAL(total / (float64(table.count) if table.is_mean != 0 else 1.0))
