"""Values and gradients at corners, of infinite and huge operands, and near zero."""

from __future__ import annotations

import math

import pytest
import torch

import piste
from piste.losses import corners
from tests.losses.assertions import (
    find_extreme_mismatch,
    find_torch_mismatch,
)
from tests.losses.extremes import EXTREMES, Extreme
from tests.losses.operands import Own
from tests.losses.samples import AT_CORNERS, ROWS_AT_CORNERS, Points
from tests.oracle.reference import reference

F = piste.losses.functional


@pytest.mark.sample(1, per="points.name", of=8)
@pytest.mark.parametrize("points", AT_CORNERS + ROWS_AT_CORNERS, ids=str)
def test_gradients_at_corners_match_torch(points: Points) -> None:
    function = piste.losses.named(points.name).functional_name
    assert find_torch_mismatch(getattr(F, function), reference(function), points) is None


@pytest.mark.parametrize("difference", [1e-3, 1e-6])
def test_small_differences_cost_half_their_square(difference: float) -> None:
    d, zero = torch.tensor([difference], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    near = {"rel": max(difference**2, 1e-15 / difference)}  # of the next term, and of the rounding of 1 - exp(-2 d)
    for kind in (torch.Tensor, Own):  # by the kernel, and by the eager backend
        for loss in (F.log_cosh_loss, F.general_robust_loss):
            assert loss(d.as_subclass(kind), zero).item() == pytest.approx(difference**2 / 2, **near)


def test_hinges_have_the_slope_of_the_installed_clamp_at_their_corner() -> None:
    z = torch.zeros((), requires_grad=True)
    z.clamp_min(0).backward()
    assert z.grad is not None and z.grad.item() in (0, 1)
    assert corners.above(0.0, 0) == bool(z.grad) and corners.below(0.0, 0) == (not z.grad)


@pytest.mark.parametrize("is_flat", [True, False])
def test_only_the_corner_of_a_hinge_depends_on_torch(monkeypatch: pytest.MonkeyPatch, is_flat: bool) -> None:
    monkeypatch.setattr(corners, "CLAMP_IS_FLAT_AT_ITS_BOUND", is_flat)
    assert [corners.below(z, 0.5) for z in (0.25, 0.5, 0.75, math.nan)] == [True, is_flat, False, False]
    assert [corners.above(z, 0.5) for z in (0.25, 0.5, 0.75, math.nan)] == [False, not is_flat, True, False]


@pytest.mark.sample(1, per="extreme.name", of=8)
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_infinite_and_huge_values_are_exact(extreme: Extreme, reduction: str) -> None:
    function = getattr(F, piste.losses.named(extreme.name).functional_name)
    for dtype in (torch.float64, torch.float32)[: 2 - extreme.is_double]:
        assert find_extreme_mismatch(function, extreme, dtype, reduction) is None


@pytest.mark.parametrize("tensor", [torch.Tensor, Own])  # by the kernel, and by the eager backend
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-5])
@pytest.mark.parametrize("alpha", [1.5, 1.0, 0.5, 0.0, -0.5])
@pytest.mark.parametrize(("dtype", "x"), [(torch.float32, 1e24), (torch.float64, 1e180)])
def test_the_general_robust_loss_of_a_difference_whose_square_is_infinite(
    dtype: torch.dtype, x: float, alpha: float, scale: float, sign: int, tensor: type[torch.Tensor]
) -> None:
    largest = torch.finfo(dtype).max
    b, root = 2 - alpha, x / scale  # z / b + 1 has the bits of z / b
    value = 2 * math.log(root / math.sqrt(b)) if alpha == 0 else (root**alpha / b ** (alpha / 2) - 1) * b / alpha
    slope = root ** (alpha - 1) * b ** (1 - alpha / 2) / scale
    operand = torch.tensor(sign * x, dtype=dtype, requires_grad=True)
    target = torch.zeros((), dtype=dtype)
    loss = F.general_robust_loss(operand.as_subclass(tensor), target, alpha=alpha, scale=scale)
    (found,) = torch.autograd.grad(loss, operand, create_graph=True)
    (second,) = torch.autograd.grad(found, operand)
    # the value is the exponential of a number with the rounding of its dtype
    rounding = 4 * torch.finfo(dtype).eps * max(1, abs(alpha)) * math.log(root)
    if value < largest:
        assert loss.item() == pytest.approx(value, rel=rounding)
    assert found.item() == pytest.approx(sign * slope, rel=rounding)
    assert second.isfinite()


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tensor", [torch.Tensor, Own])  # by the kernel, and by the eager backend
def test_a_class_that_student_and_teacher_exclude_is_as_absent(
    divergence: str, dtype: torch.dtype, tensor: type[torch.Tensor]
) -> None:
    student = torch.tensor([[1.0, -math.inf, 2.0], [0.0, -math.inf, -1.0]], dtype=dtype)
    teacher = torch.tensor([[0.0, -math.inf, 1.0], [1.0, -math.inf, 0.0]], dtype=dtype)
    found = []
    for classes in ([0, 1, 2], [0, 2]):
        operands = [x[:, classes].clone().requires_grad_() for x in (student, teacher)]
        given = [x.as_subclass(tensor) for x in operands]
        loss = F.distillation_loss(*given, temperature=2.0, divergence=divergence)
        first = torch.autograd.grad(loss, operands, create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in first), operands)
        found.append([loss.detach(), *(x.detach() for x in (*first, *second))])
    for masked, absent in zip(*found, strict=True):
        if masked.dim():
            assert not masked[:, 1].any()
            masked = masked[:, [0, 2]]
        torch.testing.assert_close(masked.as_subclass(torch.Tensor), absent.as_subclass(torch.Tensor))


def test_bce_at_exactly_zero_and_one_matches_torch() -> None:
    x = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    ours = piste.losses.BCELoss(reduction="none")(x, y)
    assert ours.tolist() == [0, 100, 100, 0, 50]
    mine = torch.autograd.grad(ours.sum(), (x, y))
    (torchs,) = torch.autograd.grad(torch.nn.BCELoss(reduction="sum")(x, y), x)
    torch.testing.assert_close(mine[0], torchs, rtol=1e-7, atol=0)  # torch's 1e-12 is a float32, in float64 too
    assert mine[1].tolist() == [100, 100, -100, -100, 100]  # the slope of the bounded value; torch says infinity
    assert mine[0].tolist() == [0, -1e12, 1e12, 0, -5e11]


def test_infinite_and_huge_logits_are_exact() -> None:
    inf = float("inf")
    x = torch.tensor([-inf, inf, inf, -inf, 1e4, -1e4, 0.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    loss = piste.losses.BCEWithLogitsLoss(reduction="none")(x, y)
    assert loss.tolist() == [0, 0, inf, inf, 0, 1e4, pytest.approx(0.6931472)]
    loss.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, -1, 0, -1, -0.5]
    rows = torch.tensor([[1e4, 0.0, -1e4], [-inf, 0.0, 0.0]], requires_grad=True)
    loss = piste.losses.CrossEntropyLoss(reduction="none")(rows, torch.tensor([0, 1]))
    assert loss.tolist() == [0, pytest.approx(0.6931472)]
    loss.sum().backward()
    assert rows.grad.tolist() == [[0, 0, 0], [0, -0.5, 0.5]]
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert piste.losses.CrossEntropyLoss(reduction="none")(rows, soft).tolist()[1] == pytest.approx(0.6931472)


def test_the_gradient_of_a_variance_passes_its_bound_as_in_torch() -> None:
    x, y = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    var = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    ours = F.gaussian_nll_loss(x, y, var, eps=0.5)
    theirs = torch.nn.functional.gaussian_nll_loss(x, y, var, eps=0.5)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, var) for loss in (ours, theirs)))
    one = F.gaussian_nll_loss(x, y, 0.75)
    torch.testing.assert_close(one, torch.nn.functional.gaussian_nll_loss(x, y, torch.full_like(x, 0.75)))
