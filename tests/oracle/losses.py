"""Each loss again, from its definition, in mpmath: one element (or one row) at a time, slow and exact.

Elementwise losses take the numbers of one element; losses over classes take a list of logits (or log-probabilities).
Gradients are mpmath's numerical derivatives of these functions, so a written derivative has nothing to copy from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
from mpmath import mpf

mpmath.mp.dps = 60
H = mpf(10) ** -20  # leaves an error of 1e-40 to a difference, and 1e-20 to a difference of differences


def l1(x: Any, y: Any) -> mpf:
    return abs(mpf(x) - mpf(y))


def mse(x: Any, y: Any) -> mpf:
    return (mpf(x) - mpf(y)) ** 2


def smooth_l1(x: Any, y: Any, beta: float = 1.0) -> mpf:
    """Girshick 2015, eq. 3, with its width beta."""
    distance = abs(mpf(x) - mpf(y))
    if beta == 0:
        return distance
    return distance**2 / (2 * mpf(beta)) if distance < beta else distance - mpf(beta) / 2


def huber(x: Any, y: Any, delta: float = 1.0) -> mpf:
    """Huber 1964: quadratic up to delta, then the tangent."""
    distance, delta = abs(mpf(x) - mpf(y)), mpf(delta)
    return distance**2 / 2 if distance <= delta else delta * distance - delta**2 / 2


def log_cosh(x: Any, y: Any) -> mpf:
    return mpmath.log(mpmath.cosh(mpf(x) - mpf(y)))


def charbonnier(x: Any, y: Any, eps: float = 1e-3) -> mpf:
    """Lai et al. 2017, section III-C."""
    return mpmath.sqrt((mpf(x) - mpf(y)) ** 2 + mpf(eps) ** 2)


def general_robust(x: Any, y: Any, alpha: float = 1.0, scale: float = 1.0) -> mpf:
    """Barron 2019, eq. 8, and the limit at infinity."""
    z, a = ((mpf(x) - mpf(y)) / mpf(scale)) ** 2, mpf(alpha)
    if a == 2:
        return z / 2
    if a == 0:
        return mpmath.log(z / 2 + 1)
    if mpmath.isinf(a):
        return mpmath.sign(a) * mpmath.expm1(mpmath.sign(a) * z / 2)
    return abs(a - 2) / a * ((z / abs(a - 2) + 1) ** (a / 2) - 1)


def quantile(x: Any, y: Any, quantiles: Any = None, quantile: float = 0.5) -> mpf:
    """Koenker and Bassett 1978: q of what the target exceeds the input by, 1 - q of what it falls short by."""
    q, d = mpf(quantile if quantiles is None else quantiles), mpf(y) - mpf(x)
    return q * d if d > 0 else (1 - q) * -d


def expectile(x: Any, y: Any, expectile: float = 0.5) -> mpf:
    """Newey and Powell 1987, eq. 2.2."""
    return abs(mpf(expectile) - (1 if y < x else 0)) * (mpf(x) - mpf(y)) ** 2


def bce(x: Any, y: Any) -> mpf:
    """The Bernoulli negative log-likelihood; torch bounds both logarithms below by -100."""
    x, y = mpf(x), mpf(y)

    def bounded(p: mpf) -> mpf:
        return mpf(-100) if p == 0 else max(mpmath.log(p), mpf(-100))

    return -y * bounded(x) - (1 - y) * bounded(1 - x)


def bce_with_logits(x: Any, y: Any, pos_weight: Any = 1) -> mpf:
    """The same of the probability 1 / (1 + e^-x), by its definition."""
    x, y = mpf(x), mpf(y)
    positive = mpmath.log(1 / (1 + mpmath.exp(-x)))
    negative = mpmath.log(1 / (1 + mpmath.exp(x)))
    return -(mpf(pos_weight) * y * positive + (1 - y) * negative)


def sigmoid_focal(x: Any, y: Any, alpha: Any = 0.25, gamma: float = 2.0) -> mpf:
    """Lin et al. 2017, eq. 5, with a probability as the label."""
    x, y, g = mpf(x), mpf(y), mpf(gamma)
    p = 1 / (1 + mpmath.exp(-x))
    q = 1 - (y * p + (1 - y) * (1 - p))
    a = 1 if alpha is None else mpf(alpha) * y + (1 - mpf(alpha)) * (1 - y)
    return a * q**g * bce_with_logits(x, y)


def asymmetric(x: Any, y: Any, gamma_negative: float = 4.0, gamma_positive: float = 1.0, margin: float = 0.05) -> mpf:
    """Ridnik et al. 2021, eq. 4 to 7."""
    y, p = mpf(y), 1 / (1 + mpmath.exp(-mpf(x)))
    shifted = max(p - mpf(margin), mpf(0))
    positive = (1 - p) ** mpf(gamma_positive) * mpmath.log(p)
    rest = min(1 / (1 + mpmath.exp(mpf(x))) + mpf(margin), mpf(1))  # 1 - shifted
    negative = shifted ** mpf(gamma_negative) * mpmath.log(rest)
    return -y * positive - (1 - y) * negative


def discriminator(r: Any, f: Any, kind: str = "logistic") -> mpf:
    """Goodfellow et al. 2014, eq. 1; Mao et al. 2017; Arjovsky et al. 2017; Lim and Ye 2017."""
    r, f = mpf(r), mpf(f)

    def p(z: mpf) -> mpf:
        return 1 / (1 + mpmath.exp(-z))

    return {
        "logistic": lambda: -mpmath.log(p(r)) - mpmath.log(1 - p(f)),
        "least_squares": lambda: (r - 1) ** 2 / 2 + f**2 / 2,
        "wasserstein": lambda: f - r,
        "hinge": lambda: max(mpf(0), 1 - r) + max(mpf(0), 1 + f),
        "relativistic": lambda: -mpmath.log(p(r - f)),
    }[kind]()


def generator(f: Any, kind: str = "non_saturating") -> mpf:
    """The same, of the generator."""
    f = mpf(f)
    p = 1 / (1 + mpmath.exp(-f))
    return {
        "non_saturating": lambda: -mpmath.log(p),
        "minimax": lambda: mpmath.log(1 - p),
        "least_squares": lambda: (f - 1) ** 2 / 2,
    }.get(kind, lambda: -f)()


def dpo(
    chosen: Any,
    rejected: Any,
    chosen0: Any,
    rejected0: Any,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    variant: str = "sigmoid",
) -> mpf:
    """Rafailov et al. 2023, eq. 7; Chowdhury et al. 2024, eq. 10; Zhao et al. 2023; Azar et al. 2023, eq. 17."""
    b, e = mpf(beta), mpf(label_smoothing)
    h = (mpf(chosen) - mpf(rejected)) - (mpf(chosen0) - mpf(rejected0))
    if variant == "hinge":
        return max(mpf(0), 1 - b * h)
    if variant == "ipo":
        return (h - 1 / (2 * b)) ** 2
    yes, no = -mpmath.log(1 / (1 + mpmath.exp(-b * h))), -mpmath.log(1 / (1 + mpmath.exp(b * h)))
    return (1 - e) * yes + e * no if variant == "sigmoid" else ((1 - e) * yes - e * no) / (1 - 2 * e)


def grpo(
    p: Any,
    old: Any,
    advantage: Any,
    reference: Any = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float = 0.0,
) -> mpf:
    """Shao et al. 2024, eq. 3 and 4, of a token."""
    r, a = mpmath.exp(mpf(p) - mpf(old)), mpf(advantage)
    loss = -min(r * a, min(max(r, 1 - mpf(clip_low)), 1 + mpf(clip_high)) * a)
    if reference is None:
        return loss
    ratio = mpmath.exp(mpf(reference)) / mpmath.exp(mpf(p))
    return loss + mpf(beta) * (ratio - mpmath.log(ratio) - 1)


def distillation(
    student: Sequence[Any],
    teacher: Sequence[Any],
    temperature: float = 1.0,
    divergence: str = "forward",
    beta: float = 0.5,
    scale: bool = True,
) -> mpf:
    """Hinton et al. 2015, eq. 2; Agarwal et al. 2024, eq. 1."""
    q, p = (
        [mpmath.exp(v) for v in log_probabilities([mpf(x) / mpf(temperature) for x in row])]
        for row in (student, teacher)
    )
    b = mpf(beta)
    m = [b * u + (1 - b) * v for u, v in zip(p, q, strict=True)]

    def kl(a: list[mpf], c: list[mpf]) -> mpf:
        return mpmath.fsum(u * mpmath.log(u / v) for u, v in zip(a, c, strict=True))

    loss = {"forward": lambda: kl(p, q), "reverse": lambda: kl(q, p)}.get(
        divergence, lambda: b * kl(p, m) + (1 - b) * kl(q, m)
    )()
    return mpf(temperature) ** 2 * loss if scale else loss


def arcface(row: Sequence[Any], k: int, margin: float = 0.5, scale: float = 64.0) -> mpf:
    """Deng et al. 2019, eq. 3; beyond pi the line of the authors' code."""
    angle, m = mpmath.acos(mpf(row[k])), mpf(margin)
    target = mpmath.cos(angle + m) if angle + m < mpmath.pi else mpf(row[k]) - m * mpmath.sin(m)
    return -log_probabilities([mpf(scale) * (target if c == k else mpf(x)) for c, x in enumerate(row)])[k]


def cosface(row: Sequence[Any], k: int, margin: float = 0.35, scale: float = 64.0) -> mpf:
    """Wang et al. 2018, eq. 4."""
    return -log_probabilities([mpf(scale) * (mpf(x) - mpf(margin) * (c == k)) for c, x in enumerate(row)])[k]


def coral(row: Sequence[Any], k: int) -> mpf:
    """Cao et al. 2020, eq. 4."""
    return mpmath.fsum(bce_with_logits(x, int(k > j)) for j, x in enumerate(row))


def corn(row: Sequence[Any], k: int) -> mpf:
    """Shi et al. 2021, eq. 5: task j is trained on the samples whose rank is above j - 1."""
    return mpmath.fsum(bce_with_logits(x, int(k > j)) for j, x in enumerate(row) if k > j - 1)


def kl_div(x: Any, y: Any, log_target: bool = False) -> mpf:
    """q log(q / p) of p = e^x."""
    q = mpmath.exp(y) if log_target else mpf(y)
    return mpf(0) if q == 0 else q * mpmath.log(q / mpmath.exp(mpf(x)))


def poisson_nll(x: Any, y: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8) -> mpf:
    """-log(rate^y e^-rate), and Stirling's series for log y! to its third term."""
    x, y = mpf(x), mpf(y)
    loss = mpmath.exp(x) - y * x if log_input else x - y * mpmath.log(x + mpf(eps))
    if full and y > 1:
        loss += y * mpmath.log(y / mpmath.e) + mpmath.log(mpmath.sqrt(2 * mpmath.pi * y))
    return loss


def gaussian_nll(x: Any, y: Any, variance: Any, full: bool = False, eps: float = 1e-6) -> mpf:
    """-log of the normal density, without its constant unless `full`."""
    v = max(mpf(variance), mpf(eps))
    density = mpmath.exp(-((mpf(x) - mpf(y)) ** 2) / (2 * v)) / mpmath.sqrt(2 * mpmath.pi * v)
    return -mpmath.log(density) - (0 if full else mpmath.log(2 * mpmath.pi) / 2)


def hinge_embedding(x: Any, y: Any, margin: float = 1.0) -> mpf:
    return mpf(x) if y == 1 else max(mpf(0), mpf(margin) - mpf(x))


def soft_margin(x: Any, y: Any) -> mpf:
    return mpmath.log(1 + mpmath.exp(-mpf(y) * mpf(x)))


def margin_ranking(x1: Any, x2: Any, y: Any, margin: float = 0.0) -> mpf:
    return max(mpf(0), -mpf(y) * (mpf(x1) - mpf(x2)) + mpf(margin))


def log_probabilities(logits: Sequence[Any]) -> list[mpf]:
    total = mpmath.fsum(mpmath.exp(mpf(x)) for x in logits)
    return [mpmath.log(mpmath.exp(mpf(x)) / total) for x in logits]


def nll(row: Sequence[Any], k: int, weight: Sequence[Any] | None = None) -> mpf:
    return -mpf(row[k]) * (mpf(weight[k]) if weight is not None else 1)


def cross_entropy(
    row: Sequence[Any],
    target: int | Sequence[Any],
    weight: Sequence[Any] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
) -> mpf:
    """-sum over the classes of w_c q_c log p_c, with q the target smoothed towards 1 / C.

    `softcap` bounds the logits first (Gemma 2, section 2), and `z_loss` adds log(sum exp)^2 (PaLM, section 5).
    """
    classes, e = len(row), mpf(label_smoothing)
    if softcap:
        row = [softcap * mpmath.tanh(mpf(x) / softcap) for x in row]
    z = mpmath.log(mpmath.fsum(mpmath.exp(mpf(x)) for x in row))
    q = [mpf(c == target) for c in range(classes)] if isinstance(target, int) else [mpf(t) for t in target]
    q = [(1 - e) * t + e / classes for t in q]
    w = [mpf(v) for v in weight] if weight is not None else [mpf(1)] * classes
    return -mpmath.fsum(w[c] * q[c] * p for c, p in enumerate(log_probabilities(row))) + z_loss * z**2


def focal(
    row: Sequence[Any], target: int | Sequence[Any], weight: Sequence[Any] | None = None, gamma: float = 2.0
) -> mpf:
    """Lin et al. 2017, eq. 5, of the softmax, with the weights of the classes as alpha."""
    shares = [mpf(c == target) for c in range(len(row))] if isinstance(target, int) else [mpf(t) for t in target]
    weights = [mpf(v) for v in weight] if weight is not None else [mpf(1)] * len(row)
    terms = (
        w * y * (1 - mpmath.exp(log_p)) ** mpf(gamma) * log_p
        for w, y, log_p in zip(weights, shares, log_probabilities(row), strict=True)
    )
    return -mpmath.fsum(terms)


def multi_margin(
    row: Sequence[Any], k: int, p: int = 1, margin: float = 1.0, weight: Sequence[Any] | None = None
) -> mpf:
    """Crammer and Singer 2001, as torch scales it: the mean over all C classes, the target's own term being 0."""
    terms = [max(mpf(0), mpf(margin) - mpf(row[k]) + mpf(x)) ** p for c, x in enumerate(row) if c != k]
    return (mpf(weight[k]) if weight is not None else 1) * mpmath.fsum(terms) / len(row)


def multilabel_margin(row: Sequence[Any], labels: Sequence[int]) -> mpf:
    """Every label against every class that is none, by a margin of 1."""
    listed = list(labels)[: list(labels).index(-1)] if -1 in labels else list(labels)
    others = [c for c in range(len(row)) if c not in listed]
    return mpmath.fsum(max(mpf(0), 1 - (mpf(row[j]) - mpf(row[i]))) for j in listed for i in others) / len(row)


def multilabel_soft_margin(row: Sequence[Any], labels: Sequence[Any], weight: Sequence[Any] | None = None) -> mpf:
    weight = weight or [1] * len(row)
    return mpmath.fsum(mpf(w) * bce_with_logits(x, y) for x, y, w in zip(row, labels, weight, strict=True)) / len(row)


def cosine_embedding(a: Sequence[Any], b: Sequence[Any], y: int, margin: float = 0.0) -> mpf:
    """With the 1e-12 that torch adds to each squared length; only vectors of nearly nothing feel it."""
    dot = mpmath.fsum(mpf(u) * mpf(v) for u, v in zip(a, b, strict=True))
    squares = (mpmath.fsum(mpf(u) ** 2 for u in v) + mpf(1e-12) for v in (a, b))
    cosine = dot / mpmath.sqrt(mpmath.fprod(squares))
    return 1 - cosine if y == 1 else max(mpf(0), cosine - mpf(margin))


def triplet_margin(
    a: Sequence[Any],
    b: Sequence[Any],
    c: Sequence[Any],
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> mpf:
    """Balntas et al. 2016; the distances are torch's, of differences plus eps."""

    def distance(u: Sequence[Any], v: Sequence[Any]) -> mpf:
        return mpmath.norm([mpf(s) - mpf(t) + mpf(eps) for s, t in zip(u, v, strict=True)], p)

    far = min(distance(a, c), distance(b, c)) if swap else distance(a, c)
    return max(mpf(0), mpf(margin) + distance(a, b) - far)


def triplet_margin_with_distance(
    a: Sequence[Any],
    b: Sequence[Any],
    c: Sequence[Any],
    distance_function: Callable[..., Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
) -> mpf:
    """The same with any distance; torch.pairwise_distance is the Euclidean one of the difference plus 1e-6."""
    if distance_function is None:
        return triplet_margin(a, b, c, margin, swap=swap)
    exact = [[mpf(x) for x in row] for row in (a, b, c)]
    near, far, across = (distance_function(exact[i], exact[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    return max(mpf(0), mpf(margin) + near - (min(far, across) if swap else far))


def gradient(loss: Callable[..., mpf], *arguments: Any, by: int = 0, **options: Any) -> Any:
    """The derivative by argument number `by`; a list of them where that argument is a row."""
    given = list(arguments)

    def along(c: int | None) -> mpf:
        def moved(z: mpf) -> mpf:
            new = list(given)
            new[by] = z if c is None else [*given[by][:c], z, *given[by][c + 1 :]]
            return loss(*new, **options)

        return mpmath.diff(moved, mpf(given[by] if c is None else given[by][c]), h=H)

    return [along(c) for c in range(len(given[by]))] if isinstance(given[by], list) else along(None)


def curvature(loss: Callable[..., mpf], *arguments: Any, by: tuple[int, int]) -> mpf:
    """The second derivative by the arguments number `by`, both of them numbers."""
    first, second = by

    def slope(z: mpf) -> mpf:
        given = list(arguments)
        given[second] = z
        return mpmath.diff(lambda u: loss(*[u if i == first else v for i, v in enumerate(given)]), given[first], h=H)

    return mpmath.diff(slope, mpf(arguments[second]), h=H)
