"""The losses of pairs and the Lovasz losses: formulas, scores, sorting and refusals.

They are judged by the statements of the papers for a whole matrix or region, since their values are those of a batch.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from piste import losses
from piste.errors import PisteError
from tests.losses.cases import CASES, Case, seeded

from .contrastive_calls import DTYPES, FLAT, REFUSALS, TAKEN, VALUES
from .subject import Check, RecentFirst, Subject

PACKAGE = "piste.losses"
FORMULAS = {
    "pairs": (
        "PairLoss.vectors",
        "PairLoss.factor",
        "PairLoss.check_has_negatives",
        "PairLoss.call_of",
        "as_rows",
        "own_column",
    ),
    "contrastive": (
        "InfoNCELoss.formula",
        "InfoNCELoss.derivatives",
        "InfoNCELoss.prepare",
        "InfoNCELoss._check_negatives",
        "NTXentLoss.formula",
        "NTXentLoss.derivatives",
        "NTXentLoss.prepare",
    ),
    "supcon": ("SupConLoss.formula", "SupConLoss.prepare", "_mean_score_of_class"),
    "image_text": (
        "CLIPLoss.formula",
        "CLIPLoss.derivatives",
        "CLIPLoss.prepare",
        "SigLIPLoss.formula",
        "SigLIPLoss.derivatives",
        "SigLIPLoss.prepare",
    ),
    "lovasz": (
        "sort_errors",
        "LovaszLoss.check_labels",
        "LovaszHingeLoss.formula",
        "LovaszHingeLoss.prepare",
        "LovaszSoftmaxLoss.formula",
        "LovaszSoftmaxLoss.prepare",
        "LovaszSoftmaxLoss._check_shapes",
        "_check_probabilities",
    ),
}
PAIRS = ("info_nce", "nt_xent", "supcon", "clip", "siglip")
LOVASZ = ("lovasz_hinge", "lovasz_softmax")
ALIKE = "both have the same shape, dtype and device"
CHUNKED = "the size of a chunk changes no value"
CLAMPED = "only where all places are ignored, and the result is masked there"
EQUIVALENT: dict[str, dict[str, str]] = {
    f"{PACKAGE}.pairs": {
        "PairLoss.call_of: 0 -> 1": "both have the same length",
        "PairLoss.factor: value -> like (number 4)": "a scale that can't be read is refused with vectors of the CPU",
        "PairLoss.factor: value -> like (number 5)": "a scale that can't be read is refused with vectors of the CPU",
    },
    f"{PACKAGE}.contrastive": {
        **{f"{name}.prepare: -1 -> 1": ALIKE for name in ("InfoNCELoss", "NTXentLoss")},
        "InfoNCELoss.prepare: 0 -> 1": ALIKE,
        "InfoNCELoss._check_negatives: negatives -> query (number 6)": "both can be read, or neither",
    },
    f"{PACKAGE}.supcon": {
        "SupConLoss.prepare: 0 -> 1 (number 3)": ALIKE,
        "_mean_score_of_class: z -> y (number 3)": "the number of positives is whole",
        "_mean_score_of_class: z -> y (number 4)": ALIKE,
        "_mean_score_of_class: -1 -> 1": ALIKE,
    },
    f"{PACKAGE}.image_text": {
        **{f"{name}.prepare: chunk_size -> normalize": CHUNKED for name in ("CLIPLoss", "SigLIPLoss")},
        **{f"{name}.prepare: -1 -> 1": ALIKE for name in ("CLIPLoss", "SigLIPLoss")},
        "SigLIPLoss.derivatives: n -> p": "both have the same dtype",
    },
    f"{PACKAGE}.lovasz": {
        "sort_errors: True -> False (number 2)": "the growth with equal errors has the same sum",
        "sort_errors: (size + (keep - y).cumsum(-1)).clamp_min(1) -> size + (keep - y).cumsum(-1)": CLAMPED,
        "sort_errors: 1 -> 0 (number 7)": CLAMPED,
        "sort_errors: 1 -> 2 (number 7)": "no place is left to hit where the union has one",
        "sort_errors: 0 -> 1 (number 2)": "its weight is 0",
        "LovaszLoss.check_labels: y % 1 -> -(y % 1)": "both are 0 at once",
        "LovaszHingeLoss.prepare: x * (2 * y.to(x.dtype) - 1) -> x / (2 * y.to(x.dtype) - 1)": "the sign is 1 or -1",
        "LovaszHingeLoss.prepare: -1 -> 1 (number 2)": ALIKE,
        "LovaszSoftmaxLoss.prepare: 0 -> 1": "the error of an ignored place is not used",
        **{f"LovaszSoftmaxLoss.prepare: -1 -> 1 (number {k})": ALIKE for k in (2, 4, 6)},
        "LovaszSoftmaxLoss.prepare: share.sum(-1, keepdim=True).clamp_min(1) -> share.sum(-1, keepdim=True)": CLAMPED,
        "LovaszSoftmaxLoss.prepare: 1 -> 0 (number 14)": CLAMPED,
    },
}
"""By module: changes that change nothing, and why."""


def subjects() -> list[Subject]:
    """The files of these losses."""
    names = {"pairs": PAIRS, "contrastive": PAIRS[:2], "supcon": PAIRS[2:3], "image_text": PAIRS[3:], "lovasz": LOVASZ}
    found = []
    for file, formulas in FORMULAS.items():
        module = f"{PACKAGE}.{file}"
        dependents = tuple(f"{PACKAGE}.{f}" for f in ("contrastive", "supcon", "image_text")) if file == "pairs" else ()
        check = RecentFirst(lambda modules, names=names[file]: _checks(names))
        found.append(Subject(module, formulas, check, dependents, EQUIVALENT.get(module, {})))
    return found


def _function(name: str) -> Callable[..., torch.Tensor]:
    """A loss as it is now, with the mutant in place."""
    cls = losses.named(name)
    return sys.modules[f"{PACKAGE}.function_form"].make_function(getattr(sys.modules[cls.__module__], cls.__name__))


def _checks(names: tuple[str, ...]) -> Iterator[Check]:
    """The checks of these losses."""
    for number, case in enumerate(CASES):
        if case.name in names:
            for shape in case.shapes:
                yield partial(_find_mismatch, _function(case.name), number, shape)
    for find, calls in (
        (_find_other_value, VALUES),
        (_find_acceptance, REFUSALS),
        (_find_refusal, TAKEN),
        (_find_other_dtype, DTYPES),
        (_find_slope, FLAT),
    ):
        for name, *call in calls:
            if name in names:
                yield partial(find, _function(name), *call)


def _find_mismatch(loss: Any, number: int, shape: tuple[int, ...]) -> str | None:
    """Return the first value or derivative of a case that differs, also one that can be differentiated again."""
    for reduction, again in (("none", False), ("none", True), ("mean", False)):
        found, exact = _results(loss, CASES[number], shape, reduction, again), _exact(number, shape, reduction)
        for ours, theirs in zip(found, exact, strict=True):
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12):
                return f"{CASES[number]} with {reduction}: {ours.tolist()}, expected {theirs.tolist()}"
    return None


@functools.cache
def _exact(number: int, shape: tuple[int, ...], reduction: str) -> list[torch.Tensor]:
    return _results(CASES[number].torchs, CASES[number], shape, reduction, False)


def _results(loss: Any, case: Case, shape: tuple[int, ...], reduction: str, again: bool) -> list[torch.Tensor]:
    """Return the value and the gradients; of an anchor without positives, which is NaN in the papers, 0."""
    operands = [o.clone().requires_grad_() if o.is_floating_point() else o for o in seeded(case, shape)]
    value = loss(*operands, **case.options, reduction=reduction)
    upstream = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    upstream = torch.where(value.isnan(), 0, upstream)
    wanted = [o for o in operands if o.requires_grad]
    slopes = torch.autograd.grad(value.nan_to_num(0), wanted, upstream, create_graph=again)
    return [value.detach().nan_to_num(0), *(s.detach() for s in slopes)]


def _find_other_value(loss: Any, operands: tuple[Any, ...], options: dict[str, Any], expected: float) -> str | None:
    found = loss(*operands, **options).sum().item()
    is_same = math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-30) or (math.isnan(expected) and math.isnan(found))
    return None if is_same else f"{options}: {found}, expected {expected}"


def _find_acceptance(loss: Any, operands: tuple[Any, ...], options: dict[str, Any], words: str) -> str | None:
    try:
        loss(*operands, **options)
    except PisteError as refusal:
        return None if words in str(refusal) else f"{options}: another refusal: {refusal}"
    return f"{options}: taken"


def _find_refusal(loss: Any, operands: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    try:
        loss(*operands, **options)
    except PisteError as refusal:
        return f"{options} is refused: {refusal}"
    return None


def _find_other_dtype(loss: Any, operands: tuple[Any, ...], options: dict[str, Any], dtype: torch.dtype) -> str | None:
    found = loss(*operands, **options)
    return None if found.dtype == dtype else f"the loss of {operands[0].dtype} is {found.dtype}"


def _find_slope(loss: Any, operands: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """The gradient by the first operand of a call that has none."""
    x = operands[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x, *operands[1:], **options).sum(), x)
    return None if (slope.abs() < 1e-9).all() else f"{options} has the gradient {slope.tolist()}"
