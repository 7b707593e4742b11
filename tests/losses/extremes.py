"""Infinite and huge operands of losses, with their exact values and gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tests.losses.samples import Row

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Extreme:
    """An infinite or huge element (or row), with its exact value and gradient."""

    name: str
    operands: tuple[Any, ...]
    value: float
    slope: float | Row
    options: dict[str, Any] = field(default_factory=dict)
    by: int = 0
    is_double: bool = False  # beyond the numbers of single precision

    def __str__(self) -> str:
        return f"{self.name}{self.operands}{self.options or ''}"


EXTREMES = [
    Extreme("l1", (INF, 0.0), INF, 1.0),
    *(Extreme("discriminator", (NAN, 0.5), NAN, NAN, {"kind": name}) for name in ("wasserstein", "hinge")),
    Extreme("generator", (NAN,), NAN, NAN, {"kind": "wasserstein"}),
    Extreme("dpo", (NAN, 0.0, 0.0, 0.0), NAN, NAN, {"variant": "hinge"}),
    Extreme("mse", (1e15, 0.0), 1e30, 2e15),
    Extreme("smooth_l1", (-INF, 0.0), INF, -1.0, {"beta": 2.0}),
    Extreme("huber", (INF, 0.0), INF, 2.0, {"delta": 2.0}),
    *(Extreme("bce", (x, y), abs(x - y) * 100, (x - y) * 1e12) for x in (0.0, 1.0) for y in (0.0, 1.0)),
    *(
        Extreme("bce_with_logits", (x, y), INF if (x > 0) != y else 0.0, (x > 0) - y)
        for x in (INF, -INF)
        for y in (0, 1.0)
    ),
    *(
        Extreme("bce_with_logits", (1e4 * s, y), 1e4 if (s > 0) != y else 0, (s > 0) - y)
        for s in (1, -1)
        for y in (0, 1.0)
    ),
    *(Extreme("bce_with_logits", (INF, y, p), p * 0 if y else INF, 1 - y) for y in (0, 1.0) for p in (2.0, 0.5)),
    Extreme("kl_div", (-INF, 0.0), 0.0, 0.0, {"log_target": False}),
    Extreme("kl_div", (-INF, 0.5), INF, -0.5, {"log_target": False}),
    Extreme("kl_div", (-1.0, -INF), 0.0, 0.0, {"log_target": True}),
    Extreme("kl_div", (-1.0, -INF), 0.0, 0.0, {"log_target": True}, by=1),
    Extreme("kl_div", (-INF, -INF), 0.0, 0.0, {"log_target": True}),
    Extreme("kl_div", (-INF, 0.0), INF, -1.0, {"log_target": True}),
    Extreme("poisson_nll", (-INF, 0.0), 0.0, 0.0),
    Extreme("poisson_nll", (-INF, 2.0), INF, -2.0),
    Extreme("poisson_nll", (0.0, 0.0), 0.0, 1.0, {"log_input": False, "eps": 0.0}),
    Extreme("poisson_nll", (0.0, 2.0), INF, -INF, {"log_input": False, "eps": 0.0}),
    Extreme("gaussian_nll", (INF, 0.0, 1.0), INF, INF),
    Extreme("hinge_embedding", (INF, -1), 0.0, 0.0),
    Extreme("hinge_embedding", (INF, 1), INF, 1.0),
    Extreme("hinge_embedding", (-INF, -1), INF, -1.0),
    *(
        Extreme("soft_margin", (1e4 * s, y), 1e4 if s * y < 0 else 0, -y if s * y < 0 else 0)
        for s in (1, -1)
        for y in (1.0, -1.0)
    ),
    Extreme("soft_margin", (INF, 1.0), 0.0, 0.0),
    Extreme("soft_margin", (-INF, 1.0), INF, -1.0),
    Extreme("margin_ranking", (INF, 0.0, 1.0), 0.0, 0.0, {"margin": 1.0}),
    Extreme("margin_ranking", (-INF, 0.0, 1.0), INF, -1.0, {"margin": 1.0}),
    Extreme("log_cosh", (INF, 0.0), INF, 1.0),
    Extreme("log_cosh", (-1e30, 0.0), 1e30, -1.0),
    Extreme("general_robust", (1e-12, 0.0), 0.5e-24, 1e-12, {"alpha": 0.5}),
    Extreme("general_robust", (1e6, 0.0), 2.0, 1.6e-17, {"alpha": -2.0}),
    Extreme("general_robust", (100.0, 0.0), 1.002, 0.0, {"alpha": -1e3}),
    Extreme("general_robust", (1e6, 0.0), 1.0, 0.0, {"alpha": -INF}),
    Extreme("general_robust", (1e6, 0.0), INF, INF, {"alpha": INF}),
    *(
        Extreme("general_robust", (1e-18, 0.0), 0.5e-36, 1e-18, {"alpha": a})
        for a in (-INF, INF, -1e300, 1e300, -1e23, 1e23, -1e6, -1e-300, 1e-300)
    ),
    *(
        Extreme(
            "general_robust",
            (2.0, 0.0),
            abs(math.expm1(math.copysign(2.0, a))),
            2 * math.exp(math.copysign(2.0, a)),
            {"alpha": a},
        )
        for a in (-INF, INF, -1e300, 1e300, -1e38, 1e20)
    ),
    *(Extreme("general_robust", (2.0, 0.0), math.log(3.0), 2 / 3, {"alpha": a}) for a in (1e-300, -1e-310)),
    *(
        Extreme("general_robust", (x, 0.0), x * x / 2, x, {"alpha": a})
        for x in (2.0, 5.0, 30.0)
        for a in (math.nextafter(2, 0), math.nextafter(2, 3))
    ),
    *(
        Extreme("general_robust", (x, 0.0), value, slope, {"alpha": 1.995})
        for x, value, slope in (
            (0.07, 0.0024476730731708067, 0.06988056006750537),
            (3.0, 4.427476461206377, 2.9443027895969087),
            (3e18, 3.5988307957989426e36, 2.393222479206297e18),
            (INF, INF, INF),
        )
    ),
    *(Extreme("charbonnier", (x, 0.0), abs(x), math.copysign(1.0, x)) for x in (1e25, -1e25, 3e38, INF, -INF)),
    *(Extreme("charbonnier", (0.0, 0.0), eps, 0.0, {"eps": eps}) for eps in (1e-35, 1e-25, 1e25, 1e35)),
    *(
        Extreme("charbonnier", (3 * unit, 0.0), 5 * unit, 0.6, {"eps": 4 * unit})
        for unit in (1e-35, 1e-16, 1e-15, 1e14, 1e15, 1e35)
    ),
    *(
        Extreme("charbonnier", (x, 0.0), value, slope, {"eps": eps}, is_double=True)
        for x, eps, value, slope in (
            (-1e300, 1.0, 1e300, -1.0),
            (0.0, 1e-300, 1e-300, 0.0),
            (3e-200, 4e-200, 5e-200, 0.6),
            (-3e200, 4e200, 5e200, -0.6),
        )
    ),
    *(
        Extreme("general_robust", (x, 0.0), value, math.copysign(slope, x), {"alpha": a, "scale": s}, is_double=True)
        for x in (1e200, -1e200)
        for a, s, value, slope in (
            (1.0, 1.0, 1e200, 1.0),
            (1.0, 0.1, 1e201, 10.0),
            (1.0, 1e-60, 1e260, 1e60),
            (0.0, 0.1, 402 * math.log(10) - math.log(2), 2e-200),
            (0.5, 0.1, 3 * (10**100.5 / 1.5**0.25), 10**-99.5 * 1.5**0.75),
            (1.5, 1.0, 1e300 / 3 * 2**0.75, 1e100 / 2**0.25),
        )
    ),
    Extreme("general_robust", (-INF, 0.0), INF, -2.0, {"scale": 0.5}),
    Extreme("general_robust", (-INF, 0.0), 2.0, 0.0, {"alpha": -2.0}),
    *(Extreme("general_robust", (INF, 0.0), INF, INF, {"alpha": a}) for a in (2.0, 3.0, 20.0, INF)),
    *(
        Extreme("general_robust", (INF, 0.0), value, slope, {"alpha": a, "scale": 0.5})
        for a, value, slope in (
            (1.5, INF, INF),
            (1.0, INF, 2.0),
            (0.5, INF, 0.0),
            (0.0, INF, 0.0),
            (-2.0, 2.0, 0.0),
            (-20.0, 1.1, 0.0),
            (-INF, 1.0, 0.0),
        )
    ),
    Extreme("quantile", (INF, 0.0), INF, 0.25, {"quantile": 0.75}),
    Extreme("quantile", (-INF, 0.0), INF, -0.75, {"quantile": 0.75}),
    Extreme("quantile", (2.0, 0.0), 2 * (1 - 0.9999), 1 - 0.9999, {"quantile": 0.9999}),  # 1 - q in double precision
    Extreme("expectile", (2.0, 0.0), 4 * (1 - 0.9999), 4 * (1 - 0.9999), {"expectile": 0.9999}),
    Extreme("expectile", (-1e15, 0.0), 0.75e30, -1.5e15, {"expectile": 0.75}),
    *(
        Extreme("sigmoid_focal", (x, y), INF if (x > 0) != y else 0.0, (0.25, 0.75)[x > 0] * ((x > 0) - y))
        for x in (INF, -INF)
        for y in (0, 1.0)
    ),
    *(
        Extreme("sigmoid_focal", (1e4 * s, y), 1e4 * (s != 2 * y - 1), (s > 0) - y, {"alpha": None, "gamma": g})
        for s in (1, -1)
        for y in (0.0, 1.0)
        for g in (0.0, 0.5, 2.0)
    ),
    *(
        Extreme("asymmetric", (1e4 * s, y), 1e4 * (s != 2 * y - 1), (s > 0) - y, {"margin": 0.0, **g})
        for s in (1, -1)
        for y in (0.0, 1.0)
        for g in ({}, {"gamma_negative": 0.5, "gamma_positive": 0.5}, {"gamma_negative": 0.0, "gamma_positive": 0.0})
    ),
    *(Extreme("sigmoid_focal", (x, y, 0.5), 0.0, 0.0, by=2) for x, y in ((INF, 1.0), (-INF, 0.0))),
    *(Extreme("asymmetric", (x, float(x > 0)), 0.0, 0.0, {"margin": 0.0}) for x in (INF, -INF)),
    *(Extreme("asymmetric", (x, float(x < 0)), INF, 1.0 if x > 0 else -1.0, {"margin": 0.0}) for x in (INF, -INF)),
    *(
        Extreme("sigmoid_focal", (1e4, 1.0), 0.0, -1e4 * (g == 0), {"alpha": None, "gamma": g}, by=1)
        for g in (0.0, 0.5, 2.0)
    ),
    Extreme("asymmetric", (INF, 0.0), -math.log(0.05) * 0.95**4, 0.0),
    Extreme("asymmetric", (-INF, 0.0), 0.0, 0.0),
    Extreme("asymmetric", (-INF, 1.0), INF, -1.0),
    Extreme("asymmetric", (INF, 1.0), 0.0, 0.0),
    Extreme("discriminator", (1e4, 1e4), 1e4, 0.0),
    Extreme("discriminator", (-INF, 0.0), INF, -1.0),
    Extreme("discriminator", (INF, 0.0), 1.0, 0.0, {"kind": "hinge"}),
    Extreme("generator", (-1e4,), 1e4, -1.0),
    Extreme("generator", (1e4,), -1e4, -1.0, {"kind": "minimax"}),
    *(
        Extreme("discriminator", (INF, 1.0), INF if k == "least_squares" else -INF, s, {"kind": k})
        for k, s in (("least_squares", INF), ("wasserstein", -1.0))
    ),
    Extreme("discriminator", (0.0, INF), INF, 1.0, {"kind": "wasserstein"}, by=1),
    Extreme("discriminator", (1.0, INF), INF, 1.0, {"kind": "relativistic"}, by=1),
    Extreme("discriminator", (2.0, INF), INF, 1.0, {"kind": "hinge"}, by=1),
    Extreme("discriminator", (2.0, -INF), 0.0, 0.0, {"kind": "hinge"}, by=1),
    Extreme("generator", (INF,), -INF, -1.0, {"kind": "hinge"}),
    Extreme("dpo", (-1e4, -1.0, -1.0, -1.0), 4999.5, -0.5, {"beta": 0.5}),
    Extreme("dpo", (-INF, -1.0, -1.0, -1.0), INF, -0.5, {"beta": 0.5}),
    Extreme("dpo", (-1.0, -INF, -1.0, -1.0), 0.0, 0.0, {"beta": 0.5}, by=1),
    Extreme("dpo", (-1.0, -INF, -1.0, -1.0), 0.0, 0.0, {"beta": 0.5, "variant": "hinge"}),
    Extreme("dpo", (-INF, -1.0, -1.0, -1.0), INF, -0.5, {"beta": 0.5, "variant": "hinge"}),
    Extreme("dpo", (-1e4, -1.0, -1.0, -1.0), 0.75 * 4999.5, -0.375, {"beta": 0.5, "label_smoothing": 0.25}),
    Extreme("grpo", (-1.0, -1e4, 1.0), -1.25, 0.0, {"clip_high": 0.25}),
    Extreme("grpo", (-1.0, -1e4, 0.0), 0.0, 0.0),
    Extreme("grpo", (-1.0, -1e4, -1.0), INF, INF),
    Extreme("grpo", (-INF, -1.0, 1.0), 0.0, 0.0),
    Extreme("grpo", (-INF, -1.0, -1.0), 0.75, 0.0, {"clip_low": 0.25}),
    Extreme("grpo", (-1.0, -2.0, 1.0), -1.0, -1.0, {"clip_high": 0.0}, by=2),
    Extreme("distillation", ([-INF, 0.0, 0.0], [-INF, 0.0, 0.0]), 0.0, [0.0, 0.0, 0.0]),
    *(
        Extreme("distillation", ([x, 0.0, 0.0], [y, 0.0, 0.0]), 0.0, [0.0, 0.0, 0.0], {"divergence": d})
        for d in ("forward", "reverse", "jsd")
        for x, y in ((-INF, -INF), (-1e4, -2e4))
    ),
    Extreme("distillation", ([1e4, 0.0], [1e4, 0.0]), 0.0, [0.0, 0.0]),
    Extreme("distillation", ([0.0, 0.0], [0.0, -INF]), math.log(2), [-0.5, 0.5]),
    Extreme("distillation", ([0.0, -INF], [0.0, 0.0]), INF, [0.5, -0.5]),
    Extreme("distillation", ([0.0, 0.0], [0.0, -INF]), math.log(2), [0.0, 0.0], by=1),
    *(
        Extreme(
            "arcface",
            ([c, 0.0], 0),
            math.log1p(math.exp(-c * math.cos(0.5))),
            [-math.cos(0.5) / (1 + math.exp(c * math.cos(0.5))), 1 / (1 + math.exp(c * math.cos(0.5)))],
            {"scale": 1.0, "margin": 0.5},
        )  # the slope of the sine is infinite at an angle of 0, and taken as 0; rounding may lead above 1
        for c in (1.0, 1.0078125)
    ),
    Extreme("cosface", ([1.0, 0.0], 0), math.log(2), [-0.5, 0.5], {"scale": 1.0, "margin": 1.0}),
    Extreme("coral", ([1e4, -1e4], 1), 0.0, [0.0, 0.0]),
    Extreme("corn", ([-1e4, 1e4], 0), 0.0, [0.0, 0.0]),
    Extreme("focal", ([1e4, 0.0, -1e4], 0), 0.0, [0.0, 0.0, 0.0], {"gamma": 0.5}),
    Extreme("focal", ([1e4, 0.0, -1e4], 2), 2e4, [1.0, 0.0, -1.0]),
    Extreme(
        "focal",
        ([-INF, 0.0, 0.0], [0.0, 1.0, 0.0]),
        math.log(2) / 4,
        [0.0, -0.25 * (0.5 + math.log(2)), 0.25 * (0.5 + math.log(2))],
    ),
    Extreme("focal", ([-INF, 0.0], 0), INF, [-1.0, 1.0]),
    Extreme("focal", ([-INF, 0.0, 0.0], [1.0, 0.0, 0.0]), INF, [-1.0, 0.5, 0.5]),
    Extreme("focal", ([1e4, 0.0, -1e4], [1.0, 0.0, 0.0]), 0.0, [0.0, 0.0, 0.0], {"gamma": 0.5}),
    Extreme("focal", ([NAN, 1.0, INF], -100), 0.0, [0.0, 0.0, 0.0]),
    *(
        Extreme(name, ([[[0.0, 0.0]]], [[[0.0, 0.0]]]), 0.0, [[[0.0, 0.0]]], {"smooth": 0.0})
        for name in ("dice", "jaccard", "tversky", "focal_tversky")
    ),
    Extreme("dice", ([[[0.0, 0.0]]], [[[0.0, 0.0]]]), 0.0, [[[0.0, 0.0]]], {"smooth": 0.0}),
    Extreme("focal_tversky", ([[[0.0, 1.0]]], [[[0.0, 1.0]]]), 0.0, [[[0.0, 0.0]]], {"gamma": 0.5}),
    Extreme("dice", ([[[INF, -INF]]], [[[1.0, 0.0]]]), 0.0, [[[0.0, 0.0]]], {"activation": "sigmoid"}),
    Extreme("nll", ([-INF, 0.0], 0), INF, [-1.0, 0.0]),
    Extreme("cross_entropy", ([1e4, 0.0, -1e4], 0), 0.0, [0.0, 0.0, 0.0]),
    Extreme("cross_entropy", ([1e4, 0.0, -1e4], 2), 2e4, [1.0, 0.0, -1.0]),
    Extreme("cross_entropy", ([-INF, 0.0, 0.0], 1), math.log(2), [0.0, -0.5, 0.5]),
    Extreme("cross_entropy", ([-INF, 0.0, 0.0], [0.0, 0.5, 0.5]), math.log(2), [0.0, 0.0, 0.0]),
    Extreme("cross_entropy", ([1e4, 0.0, -1e4], [0.25, 0.5, 0.25]), 1e4, [0.75, -0.5, -0.25]),
    Extreme("cross_entropy", ([-INF, 0.0, 0.0], [0.5, 0.5, 0.0]), INF, [-0.5, 0.0, 0.5]),
    Extreme(
        "cross_entropy",
        ([INF, 0.0, -INF], 0),
        math.log(1 + math.exp(-1) + math.exp(-2)),
        [0.0, 1 / (math.e + 1 + 1 / math.e), 0.0],
        {"softcap": 1.0},
    ),
    Extreme(
        "cross_entropy",
        ([-INF, 0.0, 0.0], [0.0, 0.5, 0.5]),
        math.log(2) + math.log(2) ** 2,
        [0.0] + [math.log(2)] * 2,
        {"z_loss": 1.0},
    ),
    Extreme("cross_entropy", ([NAN, 1.0, INF], -100), 0.0, [0.0, 0.0, 0.0]),
    Extreme("nll", ([NAN, 1.0, INF], 1), 0.0, [0.0, 0.0, 0.0], {"ignore_index": 1}),
    Extreme("multi_margin", ([1e4, 0.0, -INF], 0), 0.0, [0.0, 0.0, 0.0]),
    Extreme("multi_margin", ([0.0, 1e4, -INF], 0), 10001 / 3, [-1 / 3, 1 / 3, 0.0]),
    Extreme("multilabel_margin", ([1e4, 0.0, -INF], [0, -1, -1]), 0.0, [0.0, 0.0, 0.0]),
    Extreme("multilabel_soft_margin", ([INF, -INF], [1.0, 0.0]), 0.0, [0.0, 0.0]),
    Extreme("multilabel_soft_margin", ([INF, -1e4], [0.0, 1.0]), INF, [0.5, -0.5]),
    Extreme("multilabel_soft_margin", ([-INF, 0.0], [0.5, 1.0]), INF, [-0.25, -0.25]),
    Extreme("multilabel_soft_margin", ([INF, 0.0], [0.5, 1.0]), INF, [0.25, -0.25]),
    Extreme("cosine_embedding", ([0.0, 0.0], [1.0, 0.0], 1), 1.0, [-1e6, 0.0]),
    Extreme("triplet_margin", ([1e4, 0.0], [0.0, 0.0], [1e4, 0.0]), 10001.0, [1.0, 0.0], {"eps": 0.0}),
]
