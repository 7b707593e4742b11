"""Rules of optimizers for one weight: `(p, g, s, t, o)` gives the parameter after the step and the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .rounding import Number

State = dict[str, Number]
Rule = Callable[[Number, Number, State, int, Any], tuple[Number, State]]


def descent(p: Number, g: Number, o: Any) -> Number:
    """The gradient of what is minimised: of the objective or its negative, plus weight_decay/2 p^2."""
    if o.maximize:
        g = -g
    return g + o.weight_decay * p if o.weight_decay else g


def sgd(p, g, s, t, o):
    """Sutskever et al. 2013, as in torch: the rate outside the buffer, which starts as the first gradient."""
    g = descent(p, g, o)
    if o.momentum:
        b = o.momentum * s["momentum_buffer"] + (1 - o.dampening) * g if "momentum_buffer" in s else g
        s = {"momentum_buffer": b}
        g = g + o.momentum * b if o.nesterov else b
    return p - o.lr * g, s


def rmsprop(p, g, s, t, o):
    """Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, eq. 38 to 41 (eps outside the root)."""
    g = descent(p, g, o)
    new = {"step": Number(t), "square_avg": o.alpha * s.get("square_avg", 0) + (1 - o.alpha) * g**2}
    n = new["square_avg"]
    if o.centered:
        new["grad_avg"] = o.alpha * s.get("grad_avg", 0) + (1 - o.alpha) * g
        n = n - new["grad_avg"] ** 2
    d = g / (n.sqrt() + o.eps)
    if o.momentum:
        d = new["momentum_buffer"] = o.momentum * s.get("momentum_buffer", 0) + d
    return p - o.lr * d, new


def adagrad(p, g, s, t, o):
    """Duchi, Hazan and Singer 2011; the rate may fall as 1 / (1 + lr_decay (t - 1))."""
    g = descent(p, g, o)
    total = s.get("sum", o.initial_accumulator_value) + g**2
    rate = o.lr / (1 + (t - 1) * o.lr_decay)
    return p - rate * g / (total.sqrt() + o.eps), {"step": Number(t), "sum": total}


def adadelta(p, g, s, t, o):
    """Zeiler 2012, algorithm 1."""
    g = descent(p, g, o)
    v = o.rho * s.get("square_avg", 0) + (1 - o.rho) * g**2
    u = s.get("acc_delta", Number(0))
    d = (u + o.eps).sqrt() / (v + o.eps).sqrt() * g
    return p - o.lr * d, {"step": Number(t), "square_avg": v, "acc_delta": o.rho * u + (1 - o.rho) * d**2}


def adam(p, g, s, t, o):
    """Kingma and Ba 2015, algorithm 1; AMSGrad (Reddi et al. 2018); AdamW (Loshchilov and Hutter 2019)."""
    beta1, beta2 = o.betas
    if o.decoupled_weight_decay:
        decay, g = o.lr * o.weight_decay * p, -g if o.maximize else g
    else:
        decay, g = Number(0), descent(p, g, o)
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
    new = {"step": Number(t), "exp_avg": m, "exp_avg_sq": v}
    if o.amsgrad:
        v = new["max_exp_avg_sq"] = max(s.get("max_exp_avg_sq", Number(0)), v)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - decay - o.lr * m_hat / (v_hat.sqrt() + o.eps), new


def adamax(p, g, s, t, o):
    """Kingma and Ba 2015, algorithm 2, with eps inside the maximum as in torch."""
    beta1, beta2 = o.betas
    g = descent(p, g, o)
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    u = max(beta2 * s.get("exp_inf", Number(0)), abs(g) + o.eps)
    return p - o.lr / (1 - beta1**t) * m / u, {"step": Number(t), "exp_avg": m, "exp_inf": u}


def nadam(p, g, s, t, o):
    """Dozat 2016, with the momentum schedule mu_t = beta1 (1 - 0.96^(t psi) / 2)."""
    beta1, beta2 = o.betas
    if o.decoupled_weight_decay:
        decay, g = o.lr * o.weight_decay * p, -g if o.maximize else g
    else:
        decay, g = Number(0), descent(p, g, o)
    mu = beta1 * (1 - Number("0.5") * Number(0.96) ** (t * o.momentum_decay))
    mu_next = beta1 * (1 - Number("0.5") * Number(0.96) ** ((t + 1) * o.momentum_decay))
    product = s.get("mu_product", 1) * mu
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    v_hat = v / (1 - beta2**t)
    p = p - decay - o.lr * m_hat / (v_hat.sqrt() + o.eps)
    return p, {"step": Number(t), "mu_product": product, "exp_avg": m, "exp_avg_sq": v}


def radam(p, g, s, t, o):
    """Liu et al. 2020, algorithm 2: rectified once the variance is tractable (rho_t > 5)."""
    beta1, beta2 = o.betas
    if o.decoupled_weight_decay:
        decay, g = o.lr * o.weight_decay * p, -g if o.maximize else g
    else:
        decay, g = Number(0), descent(p, g, o)
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho > 5:
        r = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()
        m_hat = m_hat * r * (1 - beta2**t).sqrt() / (v.sqrt() + o.eps)
    return p - decay - o.lr * m_hat, {"step": Number(t), "exp_avg": m, "exp_avg_sq": v}


def asgd(p, g, s, t, o):
    """Polyak and Juditsky 1992; eta_t = lr / (1 + lambd lr t)^alpha, and the mean from step t0 on."""
    g = descent(p, g, o)
    eta, mu, ax = s.get("eta", o.lr), s.get("mu", Number(1)), s.get("ax", Number(0))
    p = p - o.lambd * eta * p - eta * g
    ax = p if mu == 1 else ax + mu * (p - ax)
    eta = o.lr / (1 + o.lambd * o.lr * t) ** o.alpha
    return p, {"step": Number(t), "eta": eta, "mu": 1 / max(Number(1), t - o.t0), "ax": ax}


def rprop(p, g, s, t, o):
    """Riedmiller and Braun 1993, without weight backtracking: a turned gradient is forgotten for one step."""
    (shrink, grow), (smallest, largest) = o.etas, (bound.rounded(g.unit) for bound in o.step_sizes)
    if o.maximize:
        g = -g
    size, agreement = s.get("step_size", o.lr.rounded(g.unit)), g.sign() * s.get("prev", Number(0)).sign()
    if agreement > 0:
        size = size * grow
    elif agreement < 0:
        size, g = size * shrink, Number(0, g.unit)
    size = min(max(size, smallest), largest)
    return p - g.sign() * size, {"step": Number(t), "prev": g, "step_size": size}


def lion(p, g, s, t, o):
    """Chen et al. 2023, algorithm 2: the sign of an interpolation, and decoupled weight decay."""
    beta1, beta2 = o.betas
    if o.maximize:
        g = -g
    m = s.get("exp_avg", 0)
    c = beta1 * m + (1 - beta1) * g
    new = {"step": Number(t), "exp_avg": beta2 * m + (1 - beta2) * g}
    return p - o.lr * o.weight_decay * p - o.lr * c.sign(), new


def adabelief(p, g, s, t, o):
    """Zhuang et al. 2020, algorithm 2, with decoupled weight decay; eps enters the average and the denominator."""
    beta1, beta2 = o.betas
    if o.maximize:
        g = -g
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    v = beta2 * s.get("exp_avg_var", 0) + (1 - beta2) * (g - m) ** 2 + o.eps
    d = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + o.eps)
    return p - o.lr * o.weight_decay * p - o.lr * d, {"step": Number(t), "exp_avg": m, "exp_avg_var": v}


def adopt(p, g, s, t, o):
    """Taniguchi et al. 2024, algorithm 2, with the clipping of its section 6: v is that of the steps before."""
    beta1, beta2 = o.betas
    g = (-g if o.maximize else g) if o.decoupled_weight_decay else descent(p, g, o)
    if t == 1:
        return p, {"step": Number(t), "exp_avg": Number(0, g.unit), "exp_avg_sq": g**2}
    if o.decoupled_weight_decay:
        p = p - o.lr * o.weight_decay * p
    u = g / max(s["exp_avg_sq"].sqrt(), o.eps)
    if o.clip:
        c = Number(t - 1) ** Number("0.25")
        u = min(max(u, -c), c)
    m = beta1 * s["exp_avg"] + (1 - beta1) * u
    return p - o.lr * m, {"step": Number(t), "exp_avg": m, "exp_avg_sq": beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2}


def adan(p, g, s, t, o):
    """Xie et al. 2022, algorithm 1, with their beta_i as 1 - beta_i and decoupled weight decay."""
    beta1, beta2, beta3 = o.betas
    if o.maximize:
        g = -g
    change = g + s["neg_pre_grad"] if s else Number(0, g.unit)
    m = beta1 * s.get("exp_avg", 0) + (1 - beta1) * g
    n = beta2 * s.get("exp_avg_diff", 0) + (1 - beta2) * change
    v = beta3 * s.get("exp_avg_sq", 0) + (1 - beta3) * (g + beta2 * change) ** 2
    d = (m / (1 - beta1**t) + beta2 * n / (1 - beta2**t)) / ((v / (1 - beta3**t)).sqrt() + o.eps)
    new = {"step": Number(t), "exp_avg": m, "exp_avg_sq": v, "exp_avg_diff": n, "neg_pre_grad": -g}
    return p - o.lr * o.weight_decay * p - o.lr * d, new


def ademamix(p, g, s, t, o):
    """Pagliardini et al. 2024, equation AdEMAMix, with the schedulers of its section 3."""
    beta1, beta2, beta3 = o.betas
    if o.maximize:
        g = -g
    alpha = o.alpha
    if t < o.warmup:
        alpha = min(t * alpha / o.warmup, alpha)
        share = t / o.warmup
        first, last = (-1 / beta.log() if beta > 0 else Number(0) for beta in (beta1, beta3))  # half-lives over log(2)
        half_life = (1 - share) * first + share * last
        beta3 = min((-1 / half_life).exp(), beta3) if half_life > 0 else Number(0)
    fast = beta1 * s.get("exp_avg_fast", 0) + (1 - beta1) * g
    slow = beta3 * s.get("exp_avg_slow", 0) + (1 - beta3) * g
    v = beta2 * s.get("exp_avg_sq", 0) + (1 - beta2) * g**2
    d = (fast / (1 - beta1**t) + alpha * slow) / ((v / (1 - beta2**t)).sqrt() + o.eps)
    new = {"step": Number(t), "exp_avg_fast": fast, "exp_avg_sq": v, "exp_avg_slow": slow}
    return p - o.lr * o.weight_decay * p - o.lr * d, new
