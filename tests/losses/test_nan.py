"""A NaN reaches its own element, its gradient and the mean, and no ignored row."""

from __future__ import annotations

import pytest
import torch

import piste
from piste.losses.pairs import PairLoss
from tests.losses.cases import CASES, Case, seeded
from tests.losses.operands import Own

F = piste.losses.functional


@pytest.mark.parametrize("name", ["smooth_l1", "huber", "mse", "bce_with_logits", "soft_margin"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_the_gradient_of_a_nan_is_nan(name: str, reduction: str) -> None:
    x = torch.tensor([torch.nan, 3.0], requires_grad=True)
    function = getattr(F, piste.losses.named(name).functional_name)
    (slope,) = torch.autograd.grad(function(x, torch.tensor([1.0, 1.0]), reduction=reduction).sum(), x)
    assert slope.isnan().tolist() == [True, False]


def has_nan_tests(case: Case) -> bool:
    """Return whether another test states which losses a NaN reaches."""
    is_region = "absent" in case.options or ("ignore_index" in case.options and "lovasz" in case.name)
    return is_region or issubclass(case.loss, PairLoss)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.loss.functional_name != "nll_loss" and not has_nan_tests(c)], ids=str
)
def test_a_nan_affects_its_own_element_alone(case: Case) -> None:
    operands = seeded(case)
    for a, operand in enumerate(operands):
        for i in range(operand.numel() if operand.is_floating_point() else 0):
            spoilt = [o.clone() for o in operands]
            spoilt[a].reshape(-1)[i] = torch.nan
            values = case.function(*spoilt, **case.options, reduction="none")
            is_ignored = "ignore_index" in case.options and operands[1][i // 3] == case.options["ignore_index"]
            is_ignored |= case.name == "corn" and i % 3 > operands[1][i // 3]  # a step that does not count
            shared = values.shape[-1] if values.numel() > operand.numel() else 1  # one variance for a whole row
            if case.options.get("activation") == "softmax":
                shared = operand.shape[1]  # a region of each class
            assert int(values.isnan().sum()) == (0 if is_ignored else shared)
            assert case.function(*spoilt, **case.options).isnan() == (not is_ignored)


def test_nll_ignores_a_nan_at_another_class() -> None:
    x = torch.tensor([[-1.0, torch.nan], [torch.nan, -2.0], [torch.nan, -1.0]])
    losses = piste.losses.NLLLoss(reduction="none", ignore_index=1)(x, torch.tensor([0, 1, 0]))
    assert losses[:2].tolist() == [1, 0] and losses[2].isnan()


@pytest.mark.parametrize("is_formula", [False, True])
@pytest.mark.parametrize("function", [F.cross_entropy, F.nll_loss])
def test_an_ignored_row_has_the_gradient_zero(function, is_formula: bool) -> None:
    """By the kernel and by the eager backend; torch gives NaN for cross entropy and 0 for NLL."""
    x = torch.randn(3, 4).log_softmax(1)
    x[1] = torch.nan
    x = x.requires_grad_()
    given = x.as_subclass(Own) if is_formula else x
    function(given, torch.tensor([0, -100, 2])).backward()
    assert (x.grad[1] == 0).all() and x.grad.isfinite().all() and x.grad[0].any()
