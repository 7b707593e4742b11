"""The formulas and checks of every loss, and what all losses share.

They are judged by the oracles, at corners by torch's losses, and by counts made by hand; as torch operations, since
the kernels are made of the same formulas, and have tests of their own that they are the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from piste import losses
from piste.formula.expression import Expr
from piste.losses.registry import LOSSES
from tests.losses.assertions import (
    find_elementwise_mismatch,
    find_extreme_mismatch,
    find_rowwise_mismatch,
    find_torch_mismatch,
)
from tests.losses.denominators import find_mean_mismatch
from tests.losses.domains import DOMAINS, find_domain_mismatch, find_guard_mismatch
from tests.losses.extremes import EXTREMES
from tests.losses.penalty_checks import find_penalty_mismatch
from tests.losses.region_checks import find_region_mismatch
from tests.losses.samples import AT_CORNERS, ELEMENTS, ROWS, ROWS_AT_CORNERS
from tests.losses.shapes import SHAPES, find_shape_mismatch
from tests.losses.violations import find_wrong_words
from tests.oracle.reference import reference

from . import chunks, contrastive
from .subject import Check, RecentFirst, Subject, stated

PACKAGE = "piste.losses"
FILES = (
    "regression",
    "robust_regression",
    "binary",
    "adversarial",
    "preferences",
    "policies",
    "distributions",
    "margins",
    "class_loss",
    "focal",
    "regions",
    "classification",
    "multilabel",
    "embeddings",
    "distillation",
    "angular",
    "ordinal",
)
"""In the order of import."""
ROW_FILES = FILES[FILES.index("margins") + 1 :]
FORMULAS = ("formula", "soft_formula", "derivatives", "value_checks")
FURTHER = {
    "distillation": ("DistillationLoss.rows", "divergence_from"),
    "preferences": ("log_probability",),
    "robust_regression": ("unit_of",),
    "policies": ("clipped",),
    "angular": ("with_target", "AngularLoss.check_input"),
    "ordinal": ("OrdinalLoss.steps", "CORNLoss.steps", "CORNLoss.compute"),
    "focal": ("sides", "mix", "focus"),
    "regions": ("probability", "share", "tversky", "RegionLoss.rows", "RegionLoss.prepared"),
    "class_loss": ("ClassLoss.rows", "ClassLoss.check_values", "ClassLoss.prepared"),
    "classification": (
        "CrossEntropyLoss.rows",
        "capped",
        "NLLLoss.check_input",
    ),
    "multilabel": ("MultiLabelMarginLoss.check_values",),
    "embeddings": ("CosineEmbeddingLoss.rows", "TripletLoss.rows", "distance"),
}
"""Where else a value is judged or a denominator counted."""
BASES = ("loss", "elementwise", "rowwise", "in_place")
WORDS = "piste.formula.row_functions"
ROW_WORDS = ("log_softmax", "total", "norm", "size", "index", "each", "pick", "hinges")
SHARED = {
    "reduction": (("Reduction.of", "Reduction.denominator"), ("arguments", "call", *BASES, *FILES)),
    "elementwise": (("ElementwiseLoss.prepare", "ElementwiseLoss._inspect"), FILES),
    "rowwise": (("RowwiseLoss.prepare", "RowwiseLoss.prepared"), ("in_place", *ROW_FILES)),
    "class_checks": (("check_probabilities",), ROW_FILES),
    "words": (("softplus", "one_like"), ("adversarial", "preferences", "ordinal")),
    "value_checks": (
        ("first_violation", "find_violation", "describe_violation"),
        ("reduction", "arguments", "call", "class_checks", *BASES, *FILES),
    ),
}

REGRESSION = ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss")
PROMOTED = "x.dtype if has_indices else torch.promote_types(x.dtype, y.dtype)"
SMOOTHED = "(1 - label_smoothing) * y + label_smoothing / size(x)"
EVEN = "the square, the absolute value or the norm is the same"
BORDER = "both sides are the same number there, and its slope is written down apart"
USUAL = f"1e-15 < eps < {1e15}"
NEAR_2 = "where(abs(u) < 0.5, loss, where(z == math.inf, z, large))"  # both are b / alpha (e^u - 1)
NEAR_0, FAR = "-0.5 * log1p(-t * t)", "d + log1p(e) - math.log(2)"
FAR_FROM_LIMIT = "the limit has the bits of the formula from far smaller numbers on"
ROUNDING = "both forms are the same number up to rounding, which a test of small differences measures"
UNUSED = "it stands in where the result is not used"
MASKED = "it is multiplied by 0"
DTYPE = "it gives the constant its dtype"
ALIKE = "both have the same shape and dtype"
GUARDED = "where(z == -math.inf, 0, x - z)"
SUMMAND = f"exp(z) * {GUARDED}"
OBSTACLE = "None if student.dtype == teacher.dtype else 'the kernel takes logits of one dtype'"

EQUIVALENT: dict[str, dict[str, str]] = {
    "piste.losses.regression": {
        **{f"{name}.formula: x - y -> {other}": EVEN for name in REGRESSION for other in ("y - x", "-(x - y)")},
        "SmoothL1Loss.formula: d < beta -> d <= beta": BORDER,
        "HuberLoss.formula: d <= delta -> d < delta": BORDER,
        "HuberLoss.derivatives: delta * sign(d) -> delta / sign(d)": "the sign is 1 or -1 on that side",
    },
    "piste.losses.adversarial": {
        "DiscriminatorLoss.formula: r >= 1 -> r > 1": BORDER,
        "DiscriminatorLoss.formula: f <= -1 -> f < -1": BORDER,
        **{f"DiscriminatorLoss.derivatives: {a} -> {b} (number {n})": DTYPE for a, b in ("rf", "fr") for n in (3, 5)},
    },
    "piste.losses.policies": {
        f"clipped: r {a} -> r {b}": BORDER for a, b in (("> high", ">= high"), ("< low", "<= low"))
    },
    "piste.losses.penalties": {
        **{f"gradient_penalty: real -> fake (number {n})": ALIKE for n in (2, 3, 4, 5)},
        **{
            f"gradient_penalty: torch.linalg.vector_norm(g, dim=1) - 1 -> {other}": EVEN
            for other in ("1 - torch.linalg.vector_norm(g, dim=1)", "-(torch.linalg.vector_norm(g, dim=1) - 1)")
        },
    },
    "piste.losses.preferences": {
        "log_probability: help -> argument": "the message alone changes",
        "DPOLoss.formula: h - 1 / (2 * beta) -> 1 / (2 * beta) - h": EVEN,
        "DPOLoss.formula: h - 1 / (2 * beta) -> -(h - 1 / (2 * beta))": EVEN,
        "DPOLoss.formula: z >= 1 -> z > 1": BORDER,
        "DPOLoss.derivatives: -beta * one_like(z) -> -beta / one_like(z)": "it divides by 1",
    },
    "piste.losses.words": {f"softplus: z > 0 -> z >= 0{nth}": BORDER for nth in ("", " (number 2)")},
    "piste.losses.distillation": {
        "divergence_from: 0 -> 1": "it is multiplied by 0",
        "DistillationLoss.formula: 1 -> 2 (number 2)": "it is multiplied by 0",
        **{
            f"DistillationLoss.rows: {change}": "the eager backend has the same values"
            for change in (
                f"{OBSTACLE} -> 'the kernel takes logits of one dtype' if student.dtype == teacher.dtype else None",
                f"{OBSTACLE} -> None",
                f"{OBSTACLE} -> 'the kernel takes logits of one dtype'",
                "student.dtype == teacher.dtype -> student.dtype != teacher.dtype",
            )
        },
    },
    "piste.losses.angular": {
        "ArcFaceLoss.formula: 1 -> 0 (number 2)": "it stands in at an angle of 0, and what is made of it is not used",
        "ArcFaceLoss.formula: 1 -> 2 (number 2)": "it stands in at an angle of 0, and what is made of it is not used",
        "ArcFaceLoss.formula: c > -math.cos(margin) -> c >= -math.cos(margin)": BORDER,
        "AngularLoss.check_input: pick(x, k) -> -pick(x, k)": EVEN,
    },
    "piste.losses.regions": {
        "share: 1 -> 2 (number 2)": UNUSED,
        "FocalTverskyLoss.formula: 1 -> 0 (number 2)": UNUSED,
        "FocalTverskyLoss.formula: 1 -> 2 (number 2)": UNUSED,
        "RegionLoss.rows: 0 -> 1 (number 2)": ALIKE,
    },
    "piste.losses.robust_regression": {
        **{
            f"{name}Loss.formula: x - y -> {other}": EVEN
            for name in ("LogCosh", "Charbonnier", "GeneralRobust")
            for other in ("y - x", "-(x - y)")
        },
        "GeneralRobustLoss.formula: (x - y) / scale -> -((x - y) / scale)": EVEN,
        **{
            f"GeneralRobustLoss.{part}: alpha - 2 -> {other}": EVEN
            for part in ("formula", "derivatives")
            for other in ("2 - alpha", "-(alpha - 2)")
        },
        **{f"GeneralRobustLoss.derivatives: alpha - 2 -> {x} (number 2)": EVEN for x in ("2 - alpha", "-(alpha - 2)")},
        **{
            f"GeneralRobustLoss.{part}: {change}": FAR_FROM_LIMIT
            for part in ("formula", "derivatives")
            for change in ("abs(alpha) > LIMIT -> abs(alpha) >= LIMIT", "alpha > 0 -> alpha >= 0", "0 -> 1")
        },
        "GeneralRobustLoss.formula: abs(alpha) < 1 / LIMIT -> abs(alpha) <= 1 / LIMIT": FAR_FROM_LIMIT,
        "GeneralRobustLoss.formula: 1 -> 2 (number 3)": FAR_FROM_LIMIT,
        "GeneralRobustLoss.formula: 0.5 * factor -> 0.5 / factor": "it is 1 or -1",
        **{
            f"GeneralRobustLoss.formula: {change}": "z / b is below the smallest number in single precision alone"
            for change in (
                "abs(alpha) > STEEP -> abs(alpha) >= STEEP",
                "abs(alpha) > STEEP -> abs(alpha) < STEEP",
                "abs(alpha) -> alpha (number 3)",
                "abs(alpha) -> -abs(alpha) (number 3)",
                "alpha -> scale (number 8)",
                "where(z < 1e-18, 0.5 * alpha / b * z, u) -> u",
                "z < 1e-18 -> z <= 1e-18",
                "1e-18 -> 2e-18",
                "1e-18 -> 0",
            )
        },
        "GeneralRobustLoss.derivatives: abs(alpha) > STEEP -> abs(alpha) >= STEEP": ROUNDING,
        "CharbonnierLoss.formula: d / unit -> -(d / unit)": EVEN,
        **{
            f"unit_of: {change}": ROUNDING
            for change in (
                f"(1.0, eps) if {USUAL} else (eps, 1.0) -> (eps, 1.0)",
                f"{USUAL} -> 1e-15 <= eps < {1e15}",
                f"{USUAL} -> 1e-15 < eps <= {1e15}",
                "1e-15 -> 2e-15",
                f"{1e15} -> {2e15}",
                f"{1e15} -> 0",
            )
        },
        "LogCoshLoss.formula: (1 - e) / (1 + e) -> -((1 - e) / (1 + e))": EVEN,
        **{f"LogCoshLoss.formula: 1 - e -> {other}": EVEN for other in ("e - 1", "-(1 - e)")},
        "LogCoshLoss.formula: 1 + e -> -(1 + e)": EVEN,
        f"LogCoshLoss.formula: where(d < 1, {NEAR_0}, {FAR}) -> {FAR}": ROUNDING,
        "LogCoshLoss.formula: d < 1 -> d <= 1": BORDER,
        "LogCoshLoss.formula: 1 -> 0 (number 3)": ROUNDING,
        "LogCoshLoss.formula: 1 -> 2 (number 3)": ROUNDING,
        "GeneralRobustLoss.formula: abs(u) < 0.5 -> abs(u) <= 0.5": BORDER,
        "GeneralRobustLoss.formula: 0.5 -> 1.0 (number 6)": ROUNDING,
        **{
            f"GeneralRobustLoss.formula: {change}": ROUNDING
            for change in (
                f"{NEAR_2} -> where(abs(u) < 0.5, where(z == math.inf, z, large), loss)",
                f"{NEAR_2} -> where(z == math.inf, z, large)",
                f"{NEAR_2} -> loss",
                "abs(u) < 0.5 -> abs(u) > 0.5",
                "abs(u) -> u",
                "abs(u) -> -abs(u)",
                "0.5 -> 0 (number 6)",
            )
        },
        "GeneralRobustLoss.formula: 1.99 < alpha < 2.01 -> 1.99 <= alpha < 2.01": ROUNDING,
        "GeneralRobustLoss.formula: 1.99 < alpha < 2.01 -> 1.99 < alpha <= 2.01": ROUNDING,
        "GeneralRobustLoss.formula: 1.99 -> 3.98": ROUNDING,
        "GeneralRobustLoss.formula: 2.01 -> 4.02": ROUNDING,
        "GeneralRobustLoss.formula: 2.01 -> 0": ROUNDING,
        "ExpectileLoss.formula: d >= 0 -> d > 0": BORDER,
    },
    "piste.losses.focal": {
        "SigmoidFocalLoss.derivatives: 1 -> 2 (number 2)": "it multiplies a loss of 0",
        "SigmoidFocalLoss.derivatives: p * u -> -(p * u)": "both are 0 at once",
        "AsymmetricLoss.formula: 1 -> 0": "it multiplies a loss of 0",
        "AsymmetricLoss.formula: 1 -> 2": "it multiplies a loss of 0",
        "AsymmetricLoss.derivatives: 1 -> 2": "it multiplies a loss of 0",
        "AsymmetricLoss.derivatives: p > margin -> p >= margin (number 3)": BORDER,
        "FocalLoss.soft_formula: 0 -> 1 (number 2)": MASKED,
        **{
            f"AsymmetricLoss.{part}: p > margin -> p >= margin{nth}": BORDER
            for part in ("formula", "derivatives")
            for nth in ("", " (number 2)")
        },
    },
    "piste.losses.binary": {
        f"BCEWithLogitsLoss.formula: 0 -> 1 (number {k})": "a label of 0 multiplies it, and so does 1 - y of 1"
        for k in (2, 4)
    },
    "piste.losses.distributions": {
        "PoissonNLLLoss.derivatives: y > 1 -> y >= 1": "n is 1 either way",
        "PoissonNLLLoss.derivatives: 1 -> 0 (number 2)": UNUSED,
        "PoissonNLLLoss.derivatives: 1 -> 0 (number 3)": UNUSED,
        "PoissonNLLLoss.derivatives: 1 -> 2 (number 3)": UNUSED,
        **{f"GaussianNLLLoss.formula: x - y -> {other}": EVEN for other in ("y - x", "-(x - y)")},
    },
    "piste.losses.margins": {
        "HingeEmbeddingLoss.derivatives: 0 * y + 1 -> 1": DTYPE,
        **{f"HingeEmbeddingLoss.derivatives: 0 * y -> {other}": DTYPE for other in ("0 / y", "0", "-(0 * y)")},
        "SoftMarginLoss.formula: z > 0 -> z >= 0": BORDER,
    },
    "piste.losses.class_loss": {
        f"ClassLoss.rows: {PROMOTED} -> torch.promote_types(x.dtype, y.dtype)": "integers promote nothing",
        "ClassLoss.check_values: 0 -> 1": UNUSED,
        "ClassLoss.prepared: 0 -> 1": UNUSED,
        "ClassLoss.prepared: 0 -> 1 (number 2)": UNUSED,
    },
    "piste.losses.class_checks": {
        "check_probabilities: (sums - 1).abs() > slack -> (sums - 1).abs() >= slack": "no such sum",
        **{f"check_probabilities: sums - 1 -> {other}": EVEN for other in ("1 - sums", "-(sums - 1)")},
    },
    "piste.losses.rowwise": {
        "RowwiseLoss.prepared: x if x is None or kind in ('index', 'labels') else x.to(working) -> x": (
            "the checks run in float64, which is its own working dtype"
        ),
        "RowwiseLoss.prepared: 0 -> 1": ALIKE,
    },
    "piste.losses.classification": {
        f"CrossEntropyLoss.soft_formula: y if label_smoothing == 0 else {SMOOTHED} -> {SMOOTHED}": "by 0 it is y",
        "CrossEntropyLoss.soft_formula: x -> y (number 2)": ALIKE,
        "CrossEntropyLoss.soft_formula: 0 -> 1 (number 4)": MASKED,
        "CrossEntropyLoss.soft_formula: 0 -> 1 (number 6)": MASKED,
        "CrossEntropyLoss.formula: 0 -> 1 (number 3)": "without z_loss 0 z^2 is added",
        "CrossEntropyLoss.formula: pick(x, k) - pick(p, k) -> pick(p, k) - pick(x, k)": EVEN,
        "CrossEntropyLoss.formula: pick(x, k) - pick(p, k) -> -(pick(x, k) - pick(p, k))": EVEN,
        f"CrossEntropyLoss.soft_formula: total({SUMMAND}) -> -total({SUMMAND})": EVEN,
        f"CrossEntropyLoss.soft_formula: {SUMMAND} -> -({SUMMAND})": EVEN,
        "CrossEntropyLoss.soft_formula: exp(z) -> -exp(z)": EVEN,
        f"CrossEntropyLoss.soft_formula: {GUARDED} -> -{GUARDED}": EVEN,
        "CrossEntropyLoss.soft_formula: x - z -> z - x": EVEN,
        "CrossEntropyLoss.soft_formula: x - z -> -(x - z)": EVEN,
    },
    "piste.losses.multilabel": {
        "MultiLabelMarginLoss.formula: x -> k (number 2)": ALIKE,
        "MultiLabelSoftMarginLoss.formula: 0 -> 1 (number 3)": MASKED,
        "MultiLabelSoftMarginLoss.formula: 0 -> 1 (number 6)": MASKED,
        "MultiLabelSoftMarginLoss.formula: x -> y (number 10)": ALIKE,
    },
    "piste.losses.embeddings": {
        **{f"TripletMarginLoss.formula: {d} + eps -> -({d} + eps)": EVEN for d in ("a - b", "a - c", "b - c")},
        "TripletLoss.rows: 0 -> 1": ALIKE,
        "distance: a -> b": ALIKE,
        "distance: a -> b (number 3)": ALIKE,
    },
    "piste.formula.operations": {"_listed_against_others: 0 -> 1 (number 3)": UNUSED},
    "piste.losses.reduction": {
        "Reduction.of: 1 -> 2": "the sum that it divides is 0",
        "Reduction.of: total * math.nan -> total / math.nan": "NaN either way",
        "Reduction.of: total * math.nan -> -(total * math.nan)": "NaN either way",
    },
}
"""By module: changes that change nothing, and why."""


def subjects() -> list[Subject]:
    """Every file of losses, and those that all of them share."""
    found = []
    for file in FILES:
        module = f"{PACKAGE}.{file}"
        names = [name for name, loss in vars(importlib.import_module(module)).items() if _is_from(loss, module)]
        formulas = stated(module, [f"{name}.{key}" for name in names for key in FORMULAS])
        others = tuple(f"{PACKAGE}.{f}" for f in ROW_FILES[1:]) if file == "class_loss" else ()
        known = {cls.name for cls in LOSSES.values()} if others else {loss for loss in _names_of(module)}
        found.append(_subject(module, (*formulas, *FURTHER.get(file, ())), known, others))
    for file, (formulas, dependents) in SHARED.items():
        everything = {cls.name for cls in LOSSES.values()}
        module = f"{PACKAGE}.{file}"
        found.append(_subject(module, formulas, everything, tuple(f"{PACKAGE}.{d}" for d in dependents)))
    dependents = tuple(f"{PACKAGE}.{file}" for file in ROW_FILES)
    found.append(_subject(WORDS, ROW_WORDS, everything, dependents))
    found += contrastive.subjects() + chunks.subjects()
    penalties = ("gradient_penalty", "r1_penalty", "_mean")
    found.append(Subject(f"{PACKAGE}.penalties", penalties, _check_penalties, (), EQUIVALENT["piste.losses.penalties"]))
    on_tensors = (*(f"_{word}" for word in ROW_WORDS), "_listed_against_others")
    found.append(_subject("piste.formula.operations", on_tensors, everything, (WORDS, *dependents)))
    return found


def _subject(module: str, formulas: tuple[str, ...], names: set[str], dependents: tuple[str, ...]) -> Subject:
    check = partial(_check, RecentFirst(lambda modules: _checks(names)))
    return Subject(module, formulas, check, dependents, EQUIVALENT.get(module, {}))


def _check_penalties(modules: Mapping[str, ModuleType]) -> str | None:
    made = modules[f"{PACKAGE}.penalties"]
    return find_penalty_mismatch(made.gradient_penalty, made.r1_penalty)


def _is_from(loss: object, module: str) -> bool:
    return isinstance(loss, type) and issubclass(loss, losses.Loss) and loss.__module__ == module


def _names_of(module: str) -> set[str]:
    return {cls.name for cls in LOSSES.values() if cls.__module__ == module}


def _function(name: str) -> Callable[..., torch.Tensor]:
    """A loss as it is now, with the mutant in place."""
    cls = losses.named(name)
    module = sys.modules[cls.__module__]
    if name == "nll2d":
        return lambda *operands, **options: module.NLLLoss2d(**options)(*operands)
    return sys.modules["piste.losses.function_form"].make_function(getattr(module, cls.__name__))


def _check(check: Callable[..., str | None], modules: Mapping[str, ModuleType]) -> str | None:
    """The first fault, without kernels."""
    with Eager():
        return check(modules)


class Eager(TorchFunctionMode):
    """Disable the kernels, which decline calls under a function mode."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def _checks(names: set[str]) -> Iterator[Check]:
    """The checks of these losses."""
    for judge, table in ((find_elementwise_mismatch, ELEMENTS), (find_rowwise_mismatch, ROWS)):
        for points in table:
            if points.name in names:
                yield partial(judge, _function(points.name), points)
    for points in (*AT_CORNERS, *ROWS_AT_CORNERS):
        if points.name in names:
            name = losses.named(points.name).functional_name
            yield partial(find_torch_mismatch, _function(points.name), reference(name), points)
    for extreme in EXTREMES:
        if extreme.name in names:
            yield partial(find_extreme_mismatch, _function(extreme.name), extreme)
    for domain in DOMAINS:
        if domain.name in names:
            yield partial(find_domain_mismatch, _function, domain)
            yield partial(find_guard_mismatch, _function, domain)
    for shapes in SHAPES:
        if shapes.name in names:
            yield partial(find_shape_mismatch, _function, shapes)
    yield partial(find_mean_mismatch, _function)
    if "dice" in names:
        yield partial(find_region_mismatch, _function)
    yield _fault_of_words
    yield partial(find_wrong_words, sys.modules[f"{PACKAGE}.value_checks"])


def _fault_of_words() -> str | None:
    """Words over rows are symbols of symbols, which `explain` reads."""
    a, b = Expr("input", "a"), Expr("input", "b")
    rows = sys.modules["piste.formula.row_functions"]
    reads = {f"{word}(a)": getattr(rows, word)(a) for word in ("log_softmax", "total", "size", "index", "each")}
    reads |= {f"{word}(a, b)": getattr(rows, word)(a, b) for word in ("pick", "hinges")}
    reads["norm(a, 2)"] = rows.norm(a, 2)
    reads["distance(a, b)"] = sys.modules[f"{PACKAGE}.embeddings"].distance(None, a, b)
    picked = sys.modules["piste.formula.operations"].apply("pick", -2.5, torch.tensor([0, 1]))
    if not (isinstance(picked, float) and picked == -2.5):
        return f"of a number for every class {picked} is picked"
    wrong = (f"{expected} reads as {symbol}" for expected, symbol in reads.items() if repr(symbol) != expected)
    return next(wrong, None)
