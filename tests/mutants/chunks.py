"""Reductions over the scores of all pairs: chunks, values and gradients, compared with torch's of the whole matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch

from .contrastive_calls import EYE, SCALE, A, B
from .subject import Subject

MODULE = "piste.engine.eager.pairs"
FORMULAS = (
    "PairReduction.chunks",
    "_reduce_whole",
    "_softplus",
    "_InChunks.forward",
    "_scores",
    "_gradients",
    "_gradients_of_whole",
)
ALIKE = "both have the same shape, dtype and device"
EQUIVALENT = {
    "_InChunks.forward: a -> b": ALIKE,
    "_InChunks.forward: a -> b (number 3)": ALIKE,
    **{
        f"_InChunks.forward: {kept} if how.both else columns -> {kept}": "the columns are not asked for"
        for kept in ("torch.logaddexp(columns, s.logsumexp(0))", "columns + s.sum(0)")
    },
    "_gradients: torch.zeros_like(b) if wants_b else None -> torch.zeros_like(b)": "autograd drops it",
    "_gradients: wants_b -> operands": "autograd drops it",
    "_gradients: 0 -> 1": "exp(-inf - 1) is 0 too",
}
"""Changes that change nothing, and why."""


def subjects() -> list[Subject]:
    """The reductions in chunks."""
    return [Subject(MODULE, FORMULAS, _check, (), EQUIVALENT)]


def _check(modules: Mapping[str, ModuleType]) -> str | None:
    """The first fault of reductions over pairs, against torch's of the whole matrix."""
    return next(filter(None, _faults_of_chunks(modules[MODULE])), None)


def _faults_of_chunks(module: Any) -> Iterator[str | None]:
    how = module.PairReduction
    chunks = [[(c.start, c.stop) for c in h.chunks(5, n)] for h, n in ((how(chunk=2), 3), (how(), 2**20), (how(), 0))]
    yield None if chunks == [[(0, 2), (2, 4), (4, 6)], [(0, 4), (4, 8)], [(0, 2**22)]] else f"the chunks are {chunks}"
    wide = [(c.start, c.stop) for c in how().chunks(2, 2**23)]
    yield None if wide == [(0, 1), (1, 2)] else f"the chunks of many columns are {wide}"
    excluded = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [3, 3]])
    bias = torch.tensor(-0.5, dtype=torch.float64)
    for kind, both, size, left_out, by in (
        ("log_sum_exp", False, 2, excluded, bias),
        ("log_sum_exp", True, 2, excluded, None),
        ("log_sum_exp", True, None, None, bias),
        ("softplus", False, 3, excluded, bias),
        ("softplus", True, 2, None, bias),
        ("softplus", True, None, excluded, None),
    ):
        yield _find_reduction_mismatch(module, how(kind, both, size), left_out, by)
    x, all_columns = A[:2].clone().requires_grad_(), torch.tensor([[0], [0]])
    for both in (False, True):
        nothing = module.reduce_pairs(x, B[:1], SCALE, None, all_columns, how(both=both))
        yield None if all(bool((r == -math.inf).all()) for r in nothing) else "of no scores it is not -inf"
        (slope,) = torch.autograd.grad(nothing, x, [torch.ones_like(r) for r in nothing])
        yield None if torch.equal(slope, torch.zeros_like(x)) else f"no scores have the gradient {slope.tolist()}"
    large = module.reduce_pairs(100 * EYE, EYE, SCALE.new_tensor(1.0), None, None, how("softplus"))[0]
    yield None if torch.allclose(large, large.new_tensor(100 + 2 * math.log(2)), rtol=1e-14) else "softplus is rounded"


def _find_reduction_mismatch(module: Any, how: Any, excluded: Any, bias: torch.Tensor | None) -> str | None:
    operands = [x.clone().requires_grad_() for x in (A, B[:4], SCALE, *([] if bias is None else [bias]))]
    given = operands if bias is not None else [*operands, None]
    scores = operands[2] * operands[0] @ operands[1].T + (0 if bias is None else operands[3])
    scores = scores if excluded is None else scores.scatter(1, excluded, -math.inf)
    reduced = scores.logsumexp if how.kind == "log_sum_exp" else torch.nn.functional.softplus(scores).sum
    expected = [reduced(dim) for dim in ((1, 0) if how.both else (1,))]
    upstream = [torch.linspace(-1, 2, len(x), dtype=torch.float64) for x in expected]
    slopes = torch.autograd.grad(expected, operands, upstream)
    found = module.reduce_pairs(*given, excluded, how)
    whole = module._reduce_whole(how, *given, excluded)
    for value in (found, whole):
        if len(value) != len(expected) or not all(map(torch.allclose, value, expected)):
            return f"{how}: {value}, expected {expected}"
    for again in (False, True):
        ours = torch.autograd.grad(found, operands, upstream, create_graph=again, retain_graph=True)
        if not all(torch.allclose(a, b) for a, b in zip(ours, slopes, strict=True)):
            return f"{how}: the gradients are {ours}, expected {slopes}"
        if ours[0].requires_grad != again:
            return f"{how}: the gradients can be differentiated: {not again}"
    frozen = module.reduce_pairs(operands[0], B[:4], *given[2:], excluded, how)
    (alone,) = torch.autograd.grad(frozen, operands[0], upstream)
    if not torch.allclose(alone, slopes[0]):
        return f"{how}: the gradient by one operand is {alone}, expected {slopes[0]}"
    same = A.clone().requires_grad_()
    of_itself = [module.reduce_pairs(same, same, SCALE, None, None, how) for _ in range(2)]
    first, second = (
        torch.autograd.grad(r, same, [torch.ones_like(x) for x in r], create_graph=again)[0]
        for r, again in zip(of_itself, (False, True), strict=True)
    )
    return None if torch.allclose(first, second) else f"{how} of one tensor: {first}, and {second} otherwise"
