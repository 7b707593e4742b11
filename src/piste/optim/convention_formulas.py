"""The formulas of other libraries, each in the place of a rule's `update`, with the same buffers."""

from __future__ import annotations

from typing import Any

from ..formula.reductions import mean, norm
from ..formula.words import maximum, minimum, sign, sqrt, where


def keras_sgd(g: Any, b: Any, *, lr: Any, mu: Any, nesterov: bool) -> Any:
    if b is None:
        return lr * g, None
    b = mu * b + lr * g
    return (mu * b + lr * g if nesterov else b), b


def rms(g: Any, v: Any, b: Any, m: Any, *, lr: Any, alpha: Any, eps: Any, mu: Any) -> Any:
    v = alpha * v + (1 - alpha) * g * g
    m = None if m is None else alpha * m + (1 - alpha) * g
    d = lr * g / sqrt((v if m is None else v - m * m) + eps)
    if b is None:
        return d, v, b, m
    b = mu * b + d
    return b, v, b, m


def keras_adagrad(g: Any, s: Any, *, eps: Any) -> Any:
    s = s + g * g
    return g / sqrt(s + eps), s


def optax_adagrad(g: Any, s: Any, *, eps: Any) -> Any:
    s = s + g * g
    return where(s > 0, g / sqrt(s + eps), 0.0), s


def keras_adam(g: Any, m: Any, v: Any, w: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    w = None if w is None else maximum(w, v)
    correction = (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    return correction * m / (sqrt(v if w is None else w) + eps), m, v, w


def optax_adam(g: Any, m: Any, v: Any, w: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_hat = v / (1 - beta2**t)
    w = None if w is None else maximum(w, v_hat)
    return m / (1 - beta1**t) / (sqrt(v_hat if w is None else w) + eps), m, v, w


def keras_adamax(g: Any, m: Any, u: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g))
    return m / (1 - beta1**t) / (u + eps), m, u


def optax_nadam(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    ahead = beta1 / (1 - beta1 ** (t + 1)) * m + (1 - beta1) / (1 - beta1**t) * g
    return ahead / (sqrt(v / (1 - beta2**t)) + eps), m, v


def _added_epsilon(g: Any, r: Any, c: Any, v: Any, share: Any, eps1: Any, d: Any) -> Any:
    """Return the update of Adafactor without its rate, where epsilon is added to the squares, and the new averages."""
    q = g * g + eps1
    if v is None:
        r = r + share * (mean(q, over="row") - r)
        c = c + share * (mean(q, over="column") - c)
        s = r / mean(r, over="column") * c
    else:
        s = v = v + share * (q - v)
    u = g / sqrt(s)
    return u / maximum(sqrt(mean(u * u)) / d, 1), r, c, v


def _size(p: Any, eps2: Any) -> Any:
    return maximum(sqrt(mean(p * p)), eps2)


def keras_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, share: Any, rho: Any, eps1: Any, eps2: Any, d: Any
) -> Any:
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    return rho * _size(p, eps2) * u, r, c, v, m


def optax_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, lr: Any, share: Any, eps1: Any, eps2: Any, d: Any, beta1: Any,
    weight_decay: Any, scale_parameter: bool,
) -> Any:  # fmt: skip
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    u = lr * u
    u = _size(p, eps2) * u if scale_parameter else u
    m = None if m is None else beta1 * m + (1 - beta1) * u
    return (u if m is None else m) + weight_decay * p, r, c, v, m


def transformers_adafactor(
    p: Any, g: Any, r: Any, c: Any, v: Any, m: Any, *, t: Any, lr: Any, share: Any, eps1: Any, eps2: Any, d: Any,
    beta1: Any, weight_decay: Any, scale_parameter: bool, relative_step: bool, warmup_init: bool,
) -> Any:  # fmt: skip
    u, r, c, v = _added_epsilon(g, r, c, v, share, eps1, d)
    rate = minimum(1e-6 * t if warmup_init else 1e-2, 1 / sqrt(t)) if relative_step else lr
    rate = rate * _size(p, eps2) if scale_parameter else rate
    m = None if m is None else beta1 * m + (1 - beta1) * rate * u
    return (rate * u if m is None else m) + rate * weight_decay * p, r, c, v, m


def keras_lamb(p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
    size, length = norm(p), norm(u)
    return where((size > 0) & (length > 0), size / length, 1) * u, m, v


def pytorch_optimizer_lamb(p: Any, g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = m / (sqrt(v) + eps)
    size, length = minimum(norm(p), 10), norm(u)
    return where((size > 0) & (length > 0), size / (length + eps), 1) * u / (1 - beta1**t), m, v


def optax_lars(p: Any, g: Any, b: Any, *, lr: Any, mu: Any, weight_decay: Any, eta: Any, nesterov: bool) -> Any:
    u = g + weight_decay * p
    size, length = norm(p), norm(u)
    u = lr * where((size > 0) & (length > 0), eta * size / length, 1) * u
    if b is None:
        return u, None
    b = mu * b + u
    return (u + mu * b if nesterov else b), b


def optax_radam(g: Any, m: Any, v: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    long = rho >= 5
    rho, rho_inf = where(long, rho, 6.0), where(long, rho_inf, 6.0)  # any values for which r is defined
    r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return where(long, r * m_hat / (sqrt(v / (1 - beta2**t)) + eps), m_hat), m, v


def optax_adabelief(g: Any, m: Any, s: Any, *, t: Any, beta1: Any, beta2: Any, eps: Any) -> Any:
    m = beta1 * m + (1 - beta1) * g
    d = g - m
    s = beta2 * s + (1 - beta2) * d * d + 1e-16
    return m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps), m, s


def optax_adan(g: Any, m: Any, v: Any, n: Any, q: Any, *, t: Any, beta1: Any, beta2: Any, beta3: Any, eps: Any) -> Any:
    d = where(t == 1, 0, g + q)  # q is the last gradient, negated
    u = g + (1 - beta2) * d
    m = beta1 * m + (1 - beta1) * g
    n = beta2 * n + (1 - beta2) * d
    v = beta3 * v + (1 - beta3) * u * u
    ahead = m / (1 - beta1**t) + (1 - beta2) * n / (1 - beta2**t)
    return ahead / (sqrt(v / (1 - beta3**t) + 1e-8) + eps), m, v, n, -g


def optax_rprop(g: Any, q: Any, s: Any, *, eta_minus: Any, eta_plus: Any, s_min: Any, s_max: Any) -> Any:
    turn = g * q  # q is the step to take: optax takes each one step later
    changed = minimum(maximum(where(turn > 0, s * eta_plus, s * eta_minus), s_min), s_max)
    s = where(turn == 0, s, changed)
    return where(turn < 0, 0.0, q), where(turn < 0, 0.0, s * sign(g)), s
