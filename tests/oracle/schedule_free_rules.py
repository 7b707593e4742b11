"""The Schedule-Free rules for one weight: the gradient at y, between z, which steps, and the average x of all z."""

from __future__ import annotations

from .element_rules import descent
from .rounding import Number


def average_weight(s, t, o):
    """The rate of this step, the weight of z in the average, and the kept sums (Defazio et al. 2024, section 4)."""
    lr = o.lr * min(Number(1), t / max(Number(1), o.warmup_steps))
    largest = max(s.get("lr_max", Number(0)), lr)
    weight = Number(t) ** o.r * largest**o.weight_lr_power
    total = s.get("weight_sum", Number(0)) + weight
    return lr, weight / total, {"step": Number(t), "weight_sum": total, "lr_max": largest}


def schedule_free(p, z, d, lr, c, beta):
    """The average x of all z, as y = (1 - beta) z + beta x holds before and after a step of z along d."""
    x = (p - (1 - beta) * z) / beta
    z = z - lr * d
    x = (1 - c) * x + c * z
    return (1 - beta) * z + beta * x, z


def schedule_free_sgd(p, g, s, t, o):
    """Defazio et al. 2024, equations 6 to 8."""
    lr, c, new = average_weight(s, t, o)
    p, new["z"] = schedule_free(p, s.get("z", p), descent(p, g, o), lr, c, o.momentum)
    return p, new


def schedule_free_adamw(p, g, s, t, o):
    """Defazio et al. 2024, algorithm 1, with the weight decay at y."""
    beta1, beta2 = o.betas
    if o.maximize:
        g = -g
    lr, c, new = average_weight(s, t, o)
    new["exp_avg_sq"] = v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
    d = g / ((v / (1 - beta2**t)).sqrt() + o.eps) + o.weight_decay * p
    p, new["z"] = schedule_free(p, s.get("z", p), d, lr, c, beta1)
    return p, new
