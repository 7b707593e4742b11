"""Rules of optimizers for one tensor: lists of parameters, gradients and states of its elements, and lists after it."""

from __future__ import annotations

from collections.abc import Sequence

from .rounding import Number


def two_norm(xs: Sequence[Number]) -> Number:
    """The root of the sum of squares."""
    return sum((x * x for x in xs), Number(0)).sqrt()


def lamb(ps, gs, ss, t, o):
    """You et al. 2020, algorithm 2, with phi(z) = z; the decay is part of the update whose norm counts.

    `trust_clip` and `always_adapt` are those of timm.
    """
    beta1, beta2 = o.betas
    updates, after = [], []
    for p, g, s in zip(ps, gs, ss, strict=True):
        g = -g if o.maximize else g
        m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
        v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
        after.append({"step": Number(t), "exp_avg": m, "exp_avg_sq": v})
        if o.bias_correction:
            m, v = m / (1 - beta1**t), v / (1 - beta2**t)
        updates.append(m / (v.sqrt() + o.eps) + o.weight_decay * p)
    size, length = two_norm(ps), two_norm(updates)
    ratio = size / length if size and length else Number(1)
    if o.trust_clip and ratio > 1:
        ratio = Number(1)
    if not o.always_adapt and o.weight_decay == 0:
        ratio = Number(1)
    return [p - o.lr * ratio * u for p, u in zip(ps, updates, strict=True)], after


def lars(ps, gs, ss, t, o):
    """You, Gitman and Ginsburg 2017, algorithm 1, with the rate outside the buffer."""
    gs = [-g for g in gs] if o.maximize else gs
    updates = [g + o.weight_decay * p for p, g in zip(ps, gs, strict=True)]
    if o.adapt:
        size = two_norm(ps)
        length = two_norm(gs) + o.weight_decay * size
        ratio = o.trust_coefficient * size / length if size and length else Number(1)
        updates = [ratio * u for u in updates]
    if not o.momentum:
        return [p - o.lr * u for p, u in zip(ps, updates, strict=True)], [{} for _ in ps]
    buffers = [o.momentum * s.get("momentum_buffer", 0) + u for s, u in zip(ss, updates, strict=True)]
    steps = [u + o.momentum * b for u, b in zip(updates, buffers, strict=True)] if o.nesterov else buffers
    return [p - o.lr * d for p, d in zip(ps, steps, strict=True)], [{"momentum_buffer": b} for b in buffers]


def stableadamw(ps, gs, ss, t, o):
    """Wortsman et al. 2023, algorithm 2; the rate that is divided by the RMS also multiplies the decay."""
    beta1, beta2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) if t > 1 else Number(0) for beta in o.betas)
    after, squares = [], Number(0)
    for g, s in zip(gs, ss, strict=True):
        g = -g if o.maximize else g
        m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
        v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
        after.append({"step": Number(t), "exp_avg": m, "exp_avg_sq": v})
        squares = squares + g**2 / max(v, o.eps**2)
    rate = o.lr / max(Number(1), (squares / max(len(gs), 1)).sqrt())  # a tensor without elements has no update
    new = []
    for p, s in zip(ps, after, strict=True):
        new.append(p - rate * o.weight_decay * p - rate * s["exp_avg"] / (s["exp_avg_sq"].sqrt() + o.eps))
    return new, after
