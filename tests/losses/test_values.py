"""Values and gradients against torch's losses and against the oracle."""

from __future__ import annotations

import itertools

import pytest
import torch

import piste
from tests.losses.assertions import (
    find_elementwise_mismatch,
    find_rowwise_mismatch,
)
from tests.losses.cases import CASES, MODULES, Case, expand_weight, seeded
from tests.losses.samples import ELEMENTS, ROWS, Points
from tests.oracle import losses as oracle

F = piste.losses.functional
REGRESSION = ("l1", "mse", "smooth_l1", "huber")


def gradients(result: torch.Tensor, operands) -> list[torch.Tensor]:
    wanted = [o for o in operands if o.requires_grad]
    return list(torch.autograd.grad(result, wanted, torch.ones_like(result) * 1.5))


def tracked(operands):
    return tuple(o.clone().requires_grad_() if o.is_floating_point() else o for o in operands)


@pytest.mark.sample(1, per="case.name")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_functions_give_the_values_and_gradients_of_torch(case: Case, reduction: str) -> None:
    for shape in case.shapes:
        operands = tracked(seeded(case, shape))
        options = expand_weight(case.options, operands[0]) if case.name in REGRESSION else case.options
        expected = case.torchs(*operands, reduction=reduction, **options)
        result = case.function(*operands, reduction=reduction, **case.options)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(gradients(result, operands), gradients(expected, operands), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_modules_equal_their_functions(case: Case) -> None:
    for reduction, shape in itertools.product(("mean", "sum", "none"), case.shapes):
        operands = seeded(case, shape)
        module = case.loss(reduction=reduction, **case.options)
        expected = case.function(*operands, reduction=reduction, **case.options)
        assert torch.equal(module(*operands), expected)
        assert torch.equal(module(**dict(zip(case.loss.arguments, operands, strict=True))), expected)


@pytest.mark.sample(1, per="points.name")
@pytest.mark.parametrize("points", ELEMENTS, ids=str)
def test_elementwise_losses_match_the_oracle_to_the_second_derivative(points: Points) -> None:
    loss = piste.losses.named(points.name)
    assert find_elementwise_mismatch(getattr(F, loss.functional_name), points) is None


@pytest.mark.sample(1, per="points.name")
@pytest.mark.parametrize("points", ROWS, ids=str)
def test_row_losses_match_the_oracle(points: Points) -> None:
    loss = piste.losses.named(points.name)
    assert find_rowwise_mismatch(getattr(F, loss.functional_name), points) is None


@pytest.mark.sample(1, per="points.name", of=8)
@pytest.mark.parametrize("points", [p for p in ELEMENTS if p.last is None], ids=str)
def test_kernels_of_single_elements_match_the_oracle(points: Points) -> None:
    exact = getattr(oracle, points.name)
    function = getattr(F, piste.losses.named(points.name).functional_name)
    for point in points.operands:
        operands = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in point]
        result = function(*operands, **points.options)
        assert result.item() == pytest.approx(float(exact(*point, **points.options)), rel=4e-16, abs=4e-16)
        result.backward()
        for by in range(len(point)) if points.by is None else points.by:
            if operands[by].grad is not None:  # a label of hinge_embedding has none
                slope = float(oracle.gradient(exact, *point, by=by, **points.options))
                assert operands[by].grad.item() == pytest.approx(slope, rel=1e-14, abs=1e-15), (point, by)


@pytest.mark.sample(6)
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("target", [0, 2, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], ids=str)
def test_cross_entropy_matches_the_oracle(target, label_smoothing: float, weight) -> None:
    for row in ([0.5, -1.0, 2.0], [3.0, 3.0, 3.0], [-20.0, 10.0, 0.0]):
        x = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        y = torch.tensor([target], dtype=torch.int64 if isinstance(target, int) else torch.float64)
        result = F.cross_entropy(x, y, weight=w, label_smoothing=label_smoothing, reduction="sum")
        options = {"weight": weight, "label_smoothing": label_smoothing}
        assert result.item() == pytest.approx(float(oracle.cross_entropy(row, target, **options)), rel=1e-14)
        result.backward()
        slopes = oracle.gradient(oracle.cross_entropy, row, target, **options)
        assert x.grad.squeeze().tolist() == pytest.approx([float(s) for s in slopes], rel=1e-12, abs=1e-14)


def test_nll_matches_the_oracle() -> None:
    row = [-0.5, -1.5, -2.5]
    x = torch.tensor([row], dtype=torch.float64)
    for k, weight in itertools.product(range(3), (None, [0.5, 2.0, 1.0])):
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        result = F.nll_loss(x, torch.tensor([k]), weight=w, reduction="sum")
        assert result.item() == float(oracle.nll(row, k, weight))


def test_nll_of_log_softmax_equals_cross_entropy() -> None:
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    both = piste.losses.NLLLoss()(torch.log_softmax(x, 1), y)
    assert both.item() == pytest.approx(piste.losses.CrossEntropyLoss()(x, y).item(), rel=1e-15)


def test_kl_div_of_masked_distributions_and_its_batchmean() -> None:
    x = torch.tensor([[0.0, -float("inf"), -1.0], [-0.5, -2.0, -float("inf")]])
    y = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"row 1 sums to 0\.5\..*takes a part of a distribution"):
        F.kl_div(x, y)
    loss = piste.losses.KLDivLoss(reduction="batchmean", check="off")(x, y)
    assert loss.item() == pytest.approx(0.5 * (0.5 * torch.tensor(0.5).log().item() + 0.25))
    x, y = seeded(next(c for c in CASES if c.name == "kl_div"))
    expected = torch.nn.functional.kl_div(x, y, reduction="batchmean")
    torch.testing.assert_close(F.kl_div(x, y, reduction="batchmean"), expected)
