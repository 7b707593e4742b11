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
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from piste import losses
from piste.formula.expression import Expr
from piste.formula.row_functions import log_softmax, pick, total
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
from .equivalent_losses import EQUIVALENT
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
    yield _fault_of_operand_counts
    yield _fault_of_words
    yield partial(find_wrong_words, sys.modules[f"{PACKAGE}.value_checks"])


def _fault_of_operand_counts() -> str | None:
    """A formula without class weights takes none, next to one that takes them."""

    class OfIndices(sys.modules[f"{PACKAGE}.class_loss"].ClassLoss):
        def formula(x, k):
            return -pick(log_softmax(x), k)

        def soft_formula(x, y, w):
            return -total(y * log_softmax(x))

    x, k = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]]), torch.tensor([2, 1])
    for target in (k, functional.one_hot(k, 3).to(x.dtype)):
        if not torch.allclose(OfIndices()(x, target), functional.cross_entropy(x, target)):
            return "a loss of rows whose formulas differ in their operands"
    return None


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
