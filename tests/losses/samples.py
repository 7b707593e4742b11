"""Operands and options at which losses are compared: away from the corners of their formulas, and at them.

Away from a corner the oracle states the value and its derivatives; at a corner, where a gradient is a matter of
convention, torch does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

Row = list[float]


@dataclass(frozen=True)
class Points:
    """Operands of one loss with its options: elements (numbers) or rows (lists)."""

    name: str
    operands: list[tuple[Any, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    by: tuple[int, ...] | None = None  # the operands it is differentiated by; None: all that are floating
    order: int = 2  # of the highest derivative to look at; of rows 1
    last: str | None = None  # the argument that the last operand is given for, where it is an option

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={getattr(v, '__name__', v)}" for k, v in self.options.items())])


LINE = [(0.0, 0.25), (1.0, -2.0), (-3.0, 0.125), (0.1, 0.05), (5.0, 4.75), (-1.5, -1.25), (2.0, 2.5)]
PROBABLE = [(0.3, 0.0), (0.3, 1.0), (0.3, 0.6), (1e-6, 0.5), (1 - 1e-6, 0.25), (0.5, 0.5), (0.9, 0.2)]
LOGIT = [(0.5, 0.6), (0.0, 0.3), (4.0, 0.2), (-4.0, 0.25), (30.0, 0.75), (-30.0, 0.75), (500.0, 0.5), (-0.5, 0.6)]
WEIGHED = [(*point, p) for point, p in zip(LOGIT, (4.0, 2.5, 0.5, 3.0, 1.0, 0.25, 2.0, 0.125), strict=True)]
LOG_PAIR = [(-0.5, -2.0), (-3.0, -0.5), (-1.3575, -1.3575), (-30.0, -7.0)]  # the exponentials of the targets sum to 1
DISTRIBUTIONS = [(-0.5, 0.25), (-3.0, 0.249), (-1.0, 0.5), (-30.0, 1e-3)]
RATES = [(0.5, 0.25), (3.0, 2.5), (7.0, 4.0), (1e-3, 1.5)]
LOG_RATES = [(0.5, 0.25), (-3.0, 2.5), (2.0, 4.0), (0.0, 1.5)]
NORMAL = [(0.5, 0.25, 1.5), (-3.0, 2.5, 0.75), (2.0, 4.0, 8.0), (0.0, 1.5, 1.0)]
SIGNED = [(0.3, 1), (0.3, -1), (2.0, -1), (-2.0, 1), (-2.0, -1), (30.0, -1), (30.0, 1)]
RANKED = [(0.3, 0.1, 1.0), (0.3, 0.1, -1.0), (2.0, -1.0, 1.0), (-2.0, 1.0, 1.0), (5.0, 4.75, -1.0)]
SHARES = [0.1, 0.25, 0.5, 0.9, 0.75, 0.0, 1.0]
ANSWERS = [(-1.0, -2.5, -0.5, -0.25), (-3.0, -0.5, -2.0, -4.0), (-9.0, -1.0, -2.0, -2.5), (-1.0, -9.0, -2.0, -2.5)]
TOKENS = [(-1.0, -0.75, 1.5), (-0.75, -1.0, 1.5), (-1.0, -0.5, -2.0), (-0.25, -1.0, -0.75), (-1.0, -1.125, 0.5)]

ELEMENTS = [
    Points("l1", LINE),
    Points("mse", LINE),
    Points("smooth_l1", LINE, {"beta": 1.0}),
    Points("smooth_l1", LINE, {"beta": 0.3}),
    Points("smooth_l1", LINE, {"beta": 0.0}),
    Points("huber", LINE, {"delta": 1.0}),
    Points("huber", LINE, {"delta": 0.4}),
    Points("bce", PROBABLE),
    Points("bce", [(0.0, 0.3), (1.0, 0.6), (0.0, 1.0), (1.0, 0.0)], by=(1,)),  # both logarithms at their bound
    Points("bce_with_logits", LOGIT),
    Points("bce_with_logits", [(30.0, 1.0), (-30.0, 1.0), (2.0, 0.0), (-2.0, 0.0), (0.5, 1.0)], by=(0,)),
    Points("bce_with_logits", WEIGHED, last="pos_weight"),
    Points("kl_div", DISTRIBUTIONS, {"log_target": False}),
    Points("kl_div", [(-3.0, 1.0)], {"log_target": False}),
    Points("kl_div", LOG_PAIR, {"log_target": True}),
    Points("kl_div", [(-0.5, 0.0), (-3.0, 0.0)], {"log_target": False}, by=(0,)),
    Points("poisson_nll", LOG_RATES, {"log_input": True, "full": False}),
    Points("poisson_nll", LOG_RATES, {"log_input": True, "full": True}),
    Points("poisson_nll", [(0.5, 0.0), (-1.0, 0.0)], {"full": True}),
    Points("poisson_nll", RATES, {"log_input": False, "full": False}),
    Points("poisson_nll", RATES, {"log_input": False, "full": True, "eps": 1e-3}),
    Points("gaussian_nll", NORMAL, {"full": False}),
    Points("gaussian_nll", NORMAL, {"full": True, "eps": 0.5}),
    Points("hinge_embedding", SIGNED, {"margin": 1.0}),
    Points("hinge_embedding", SIGNED, {"margin": 0.5}),
    Points("hinge_embedding", SIGNED, {"margin": -0.5}),
    Points("soft_margin", [(x, float(y)) for x, y in SIGNED]),
    Points("margin_ranking", RANKED, {"margin": 0.5}),
    Points("margin_ranking", RANKED, {"margin": 0.125}),
    Points("log_cosh", [*LINE, (1e-3, 0.0), (2.0, 2.0), (0.0, 400.0)]),
    Points("charbonnier", LINE, {"eps": 0.5}),
    Points("charbonnier", LINE),
    *(Points("general_robust", LINE, {"alpha": a, "scale": 0.7}) for a in (2.0, 1.0, 0.5, 1e-9, 0.0, -2.0)),
    *(Points("general_robust", LINE, {"alpha": a, "scale": 2.0}) for a in (-20.0, -math.inf, math.inf)),
    Points("general_robust", LINE),
    Points("quantile", LINE, {"quantile": 0.9}),
    Points("quantile", LINE),
    Points("quantile", [(x, y, q) for (x, y), q in zip(LINE, SHARES, strict=True)], last="quantiles"),
    Points("expectile", LINE, {"expectile": 0.9}),
    Points("expectile", LINE),
    Points("sigmoid_focal", LOGIT),
    Points("sigmoid_focal", LOGIT, {"alpha": None, "gamma": 0.5}),
    Points("sigmoid_focal", LOGIT, {"alpha": 0.75, "gamma": 0.0}),
    Points("sigmoid_focal", [(x, y, p / 4) for x, y, p in WEIGHED], {"gamma": 1.5}, last="alpha"),
    *(
        Points("discriminator", [(r + 0.0625, f) for r, f in LINE], {"kind": k})
        for k in ("logistic", "least_squares", "wasserstein", "hinge", "relativistic")
    ),
    *(
        Points("generator", [(x,) for x, _ in LINE], {"kind": k})
        for k in ("non_saturating", "minimax", "least_squares", "wasserstein", "hinge")
    ),
    *(Points("dpo", ANSWERS, {"variant": v, "beta": 0.2}) for v in ("sigmoid", "robust", "hinge", "ipo")),
    *(Points("dpo", ANSWERS, {"variant": v, "beta": 0.2, "label_smoothing": 0.125}) for v in ("sigmoid", "robust")),
    Points("grpo", TOKENS),
    Points("grpo", TOKENS, {"clip_low": 0.5, "clip_high": 0.125}),
    Points("grpo", TOKENS, {"clip_low": 0.125, "clip_high": 0.5}),
    Points(
        "grpo",
        [(*point, p) for point, p in zip(TOKENS, (-1.5, -0.25, -1.0, -0.5, -3.0), strict=True)],
        {"beta": 0.25},
        last="reference",
    ),
    Points("asymmetric", LOGIT),
    Points("asymmetric", LOGIT, {"gamma_negative": 2.5, "gamma_positive": 0.5, "margin": 0.125}),
    Points("asymmetric", LOGIT, {"gamma_negative": 0.5, "gamma_positive": 2.0, "margin": 0.0}),
    Points("asymmetric", LOGIT, {"gamma_negative": 0.0, "gamma_positive": 0.0}),
]

AT_CORNERS = [  # (2.0, 2.0) is the corner of |x - y|, (1.0, 0.0) that of a width of 1, and so on
    Points("l1", [(2.0, 2.0), (0.0, 0.0)]),
    Points("smooth_l1", [(2.0, 2.0), (1.0, 0.0), (0.0, 1.0)], {"beta": 1.0}),
    Points("smooth_l1", [(2.0, 2.0)], {"beta": 0.0}),
    Points("huber", [(2.0, 2.0), (0.5, 0.0), (0.0, 0.5)], {"delta": 0.5}),
    Points("bce", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.5), (1e-60, 0.5)], by=(0,), order=1),
    Points("bce_with_logits", [(0.0, 0.0), (0.0, 1.0), (0.0, 0.25)], by=(0,)),
    Points("kl_div", [(-0.5, 0.0)], {"log_target": False}, by=(0,)),
    Points("poisson_nll", [(0.5, 1.0), (0.0, 1.0)], {"full": True}),
    Points("poisson_nll", [(0.0, 0.0), (0.0, 1.0)], {"log_input": False}, by=(0,)),
    Points("gaussian_nll", [(0.5, 1.0, 0.25), (0.5, 1.0, 0.0)], {"eps": 0.5}, order=1),
    Points("gaussian_nll", [(0.5, 1.0, 0.5)], {"eps": 0.5}),
    Points("hinge_embedding", [(1.0, -1), (1.0, 1), (0.0, 1), (0.0, -1)], {"margin": 1.0}),
    Points("soft_margin", [(0.0, 1.0), (0.0, -1.0)], by=(0,)),
    Points("margin_ranking", [(1.0, 0.5, 1.0), (0.5, 1.0, -1.0), (1.0, 1.0, 1.0)], {"margin": 0.5}),
    Points("margin_ranking", [(1.0, 1.0, 1.0), (1.0, 1.0, -1.0)], {"margin": 0.0}),
    Points("quantile", [(2.0, 2.0)], {"quantile": 0.9}),
    Points("expectile", [(2.0, 2.0)], {"expectile": 0.9}, order=1),
    Points("general_robust", [(2.0, 2.0)], {"alpha": 0.5}),
    Points("sigmoid_focal", [(0.0, 0.0), (0.0, 1.0), (2.0, 1.0), (-2.0, 0.0), (-2.0, 1.0)]),
    Points("asymmetric", [(0.0, 0.0), (0.0, 1.0), (2.0, 0.0), (-2.0, 1.0)]),
    Points("discriminator", [(1.0, -1.0), (0.0, -1.0), (1.0, 0.0)], {"kind": "hinge"}),
    *(Points("discriminator", [(0.0, 0.0), (2.0, 2.0)], {"kind": k}) for k in ("logistic", "relativistic")),
    Points("dpo", [(-1.0, -3.0, -2.0, -2.0)], {"variant": "hinge", "beta": 0.5}),
    Points("grpo", [(-1.0, -1.0, 0.0), (-1.0, -1.0, 2.0)]),
    *(Points("dpo", [(-1.0, -3.0, -1.0, -3.0)], {"label_smoothing": e}) for e in (0.0, 0.25)),
]

A, B, C = [0.5, -1.0, 2.0, 0.25], [0.25, 0.75, -0.5, 1.5], [1.0, -0.5, 0.125, -2.0]
TALL, FLAT = [-20.0, 10.0, 0.0, 3.0], [3.0, 3.0, 3.0, 3.0]
P, Q, ONE = [0.2, 0.5, 0.3, 0.0], [0.25, 0.125, 0.125, 0.5], [0.0, 1.0, 0.0, 0.0]
W = [0.5, 2.0, 1.0, 0.75]
INDEXED = [(A, 0), (A, 2), (B, 3), (TALL, 0), (TALL, 1), (FLAT, 2)]
SPREAD = [(A, P), (B, Q), (TALL, Q), (FLAT, ONE), (C, ONE)]
LISTS = [(A, [1, 0, -1, 2]), (B, [2, -1, 1, 0]), (C, [-1, 0, 1, 2]), (A, [3, 2, 1, -1]), (B, [0, 1, 2, 3])]
LABELS = [(A, [1.0, 0.0, 0.25, 0.5]), (B, [0.0, 1.0, 1.0, 0.0]), ([0.0, 30.0, -30.0, 4.0], [0.5, 1.0, 1.0, 0.25])]
PAIRS = [(A, B, 1), (A, C, -1), (A, B, -1), (B, C, 1), (A, A, -1), (C, A, -1)]
TRIPLETS = [(A, B, C), (A, C, B), (B, A, C), (C, B, A), (A, [9.0, 9.0, 9.0, 9.0], C), (A, [*A[:3], 0.5], [9.0] * 4)]


def city_blocks(a: Any, b: Any) -> Any:
    """A custom distance of two tensors of vectors, or of two lists of numbers."""
    return (a - b).abs().sum(-1) if isinstance(a, torch.Tensor) else sum(abs(u - v) for u, v in zip(a, b, strict=True))


STUDENTS = [(A, B), (B, C), (TALL, A), (FLAT, TALL), (A, FLAT)]
COSINES = [([0.5, -0.75, 0.25, -0.9375], k) for k in range(4)]

ROWS = [
    Points("nll", [([-0.5, -1.5, -2.5, -0.25], k) for k in range(4)]),
    Points("nll", [([-0.5, -1.5, -2.5, -0.25], k) for k in range(4)], {"weight": W}),
    Points("cross_entropy", INDEXED),
    Points("cross_entropy", INDEXED, {"weight": W}),
    Points("cross_entropy", INDEXED, {"label_smoothing": 0.2}),
    Points("cross_entropy", INDEXED, {"label_smoothing": 1.0}),
    Points("cross_entropy", INDEXED, {"weight": W, "label_smoothing": 0.3}),
    Points("cross_entropy", SPREAD),
    Points("cross_entropy", SPREAD, {"weight": W}),
    Points("cross_entropy", SPREAD, {"label_smoothing": 0.2}),
    Points("cross_entropy", SPREAD, {"label_smoothing": 1.0}),
    Points("cross_entropy", SPREAD, {"weight": W, "label_smoothing": 0.3}),
    Points("cross_entropy", INDEXED, {"z_loss": 0.25}),
    Points("cross_entropy", INDEXED, {"softcap": 2.5}),
    Points("cross_entropy", INDEXED, {"weight": W, "z_loss": 0.25, "softcap": 2.5, "label_smoothing": 0.25}),
    Points("cross_entropy", SPREAD, {"z_loss": 0.25}),
    Points("cross_entropy", SPREAD, {"weight": W, "z_loss": 0.25, "softcap": 2.5}),
    *(Points("distillation", STUDENTS, {"divergence": d, "temperature": 1.5}) for d in ("forward", "reverse", "jsd")),
    Points("distillation", STUDENTS, {"divergence": "jsd", "beta": 0.25, "scale": False, "temperature": 1.5}),
    Points("arcface", COSINES, {"scale": 4.0}),
    Points("arcface", COSINES, {"scale": 2.0, "margin": 0.25}),
    Points("cosface", COSINES, {"scale": 4.0}),
    Points("coral", [(A, k) for k in range(5)]),
    Points("corn", [(A, k) for k in range(5)]),
    Points("focal", INDEXED),
    Points("focal", INDEXED, {"gamma": 0.5, "weight": W}),
    Points("focal", INDEXED, {"gamma": 0.0}),
    Points("focal", SPREAD, {"gamma": 3.0}),
    Points("focal", SPREAD, {"weight": W}),
    Points("multi_margin", INDEXED),
    Points("multi_margin", INDEXED, {"p": 2, "margin": 0.5}),
    Points("multi_margin", INDEXED, {"p": 2, "weight": W}),
    Points("multilabel_margin", LISTS),
    Points("multilabel_soft_margin", LABELS),
    Points("multilabel_soft_margin", LABELS, {"weight": W}),
    Points("cosine_embedding", PAIRS),
    Points("cosine_embedding", PAIRS, {"margin": 0.25}),
    Points("cosine_embedding", PAIRS, {"margin": -0.5}),
    Points("triplet_margin", TRIPLETS),
    Points("triplet_margin", TRIPLETS, {"margin": 3.0, "p": 1.0}),
    Points("triplet_margin", TRIPLETS, {"p": 3.0, "swap": True, "eps": 1e-3}),
    Points("triplet_margin", TRIPLETS, {"swap": True, "margin": 6.0}),
    Points("triplet_margin_with_distance", TRIPLETS),
    Points("triplet_margin_with_distance", TRIPLETS, {"swap": True, "margin": 6.0}),
    Points("triplet_margin_with_distance", TRIPLETS, {"distance_function": city_blocks, "margin": 3.0}),
    Points("triplet_margin_with_distance", TRIPLETS, {"distance_function": city_blocks, "swap": True}),
]

ZERO, E, N = [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]
INF = math.inf
REGIONS = [([[0.25, 0.5, 0.75]], [[0.0, 1.0, 1.0]]), ([[0.5, 0.125, 0.0]], [[0.0, 0.0, 0.0]])]
ROWS_AT_CORNERS = [
    Points("nll", [([-0.5, -INF], 1), ([-INF, 0.0], 1)]),
    Points("cross_entropy", [([0.0, -INF], 0), ([-INF, 3.0], 1), ([1e4, 0.0], 0), ([1e4, 0.0], 1)]),
    *(
        Points(name, REGIONS, o)
        for name in ("dice", "jaccard", "tversky", "focal_tversky")
        for o in ({}, {"smooth": 0.25})
    ),
    Points("dice", REGIONS, {"squared": True}),
    Points("dice", REGIONS, {"absent": "skip"}),
    Points("tversky", REGIONS, {"alpha": 0.25, "beta": 0.75, "batch": True}),
    Points("focal_tversky", REGIONS, {"alpha": 0.25, "beta": 0.75, "gamma": 1.5}),
    Points("focal_tversky", [([[0.0, 1.0]], [[0.0, 1.0]])], {"gamma": 2.0}),
    Points("dice", [([[0.5, -2.0, 0.0]], [[1.0, 0.0, 0.25]])], {"activation": "sigmoid"}),
    *(
        Points(name, [([[0.5, -2.0, 0.0]], [[1.0, 0.0, 0.25]])], {"activation": "sigmoid", "smooth": 0.5})
        for name in ("jaccard", "tversky", "focal_tversky")
    ),
    Points("jaccard", [([[0.5, -2.0], [1.0, 3.0]], [1, 0])], {"activation": "softmax", "smooth": 0.0}),
    Points("multi_margin", [([1.0, 0.0], 0), ([0.0, -1.0], 0), ([0.5, 0.5], 1)]),
    Points("multi_margin", [([1.0, 0.0], 0), ([0.5, 0.5], 1)], {"p": 2}),
    Points("multilabel_margin", [([1.0, 0.0], [0, -1]), ([0.0, 1.0], [0, -1]), ([0.5, 0.0], [1, 0])]),
    Points("multilabel_soft_margin", [([0.0, 1.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, 0.0])], by=(0,)),
    Points("cosine_embedding", [(E, N, 1), (E, N, -1), (E, E, 1), (ZERO, E, 1), (ZERO, ZERO, -1), (E, [1.0, 1e-6], 1)]),
    Points("triplet_margin", [(ZERO, E, [2.0, 0.0]), (ZERO, E, [3.0, 0.0]), (E, E, N)], {"eps": 0.0}),
    Points("triplet_margin_with_distance", [(ZERO, E, [2.0, 0.0])], {"distance_function": city_blocks}),
    Points("triplet_margin", [(ZERO, E, N), (ZERO, E, [1.0, 2.0])], {"eps": 0.0, "swap": True, "p": 1.0}),
]
