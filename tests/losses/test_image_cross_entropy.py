"""The kernel of images states cross entropy and the focal loss a second time: it agrees with their formulas.

The formula runs on rows in float64, and autograd differentiates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import piste
from piste.engine.cpu.image_cross_entropy import BLOCK, MAX_CLASSES, TILE, ImageCrossEntropy, _module
from piste.engine.cpu.kernels import image_cross_entropy as kernel
from piste.errors import InvalidValue

INF, NAN = math.inf, math.nan
IGNORED = -100


@pytest.fixture(autouse=True)
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ImageCrossEntropy]]:
    """The kernel of each call that the kernel of images computed."""
    calls: list[ImageCrossEntropy] = []
    original = ImageCrossEntropy.compute

    def compute(self, operands, arguments):
        computed = original(self, operands, arguments)
        calls.append(self)
        return computed

    monkeypatch.setattr(ImageCrossEntropy, "compute", compute)
    yield calls


def by_formula(x: Tensor, k: Tensor, reduction: str, gamma: float | None = None) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the formula of the loss, the focal one with a gamma, on the rows of an image."""
    rows = x.detach().double().movedim(1, -1).reshape(-1, x.shape[1]).requires_grad_()
    targets = k.reshape(-1)
    keep = targets != IGNORED
    targets = torch.where(keep, targets, 0)
    if gamma is None:
        values = piste.losses.CrossEntropyLoss.formula(rows, targets)
    else:
        values = piste.losses.FocalLoss.formula(rows, targets, gamma=gamma)
    total = torch.where(keep, values, 0).sum()
    loss = total / keep.sum() if reduction == "mean" else total
    (gradient,) = torch.autograd.grad(loss, rows)
    back = gradient.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
    return loss.detach(), back


def by_kernel(x: Tensor, k: Tensor, reduction: str, gamma: float | None = None) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    if gamma is None:
        criterion = piste.losses.CrossEntropyLoss(reduction=reduction)
    else:
        criterion = piste.losses.FocalLoss(reduction=reduction, gamma=gamma)
    loss = criterion(x, k)
    (gradient,) = torch.autograd.grad(loss, x)
    alone = criterion(x.detach(), k)
    torch.testing.assert_close(alone, loss.detach(), rtol=0, atol=0, equal_nan=True)
    return loss.detach(), gradient


@pytest.fixture
def agree(kernel_calls: list[ImageCrossEntropy]) -> Callable[[Tensor, Tensor], None]:
    def check(x: Tensor, k: Tensor, gamma: float | None = None) -> None:
        before = len(kernel_calls)
        compare(x, k, gamma)
        assert len(kernel_calls) == before + 4, "another kernel computed"

    return check


def compare(x: Tensor, k: Tensor, gamma: float | None = None) -> None:
    tolerance = {"rtol": 1e-13, "atol": 1e-15} if x.dtype == torch.float64 else {"rtol": 2e-6, "atol": 4e-7}
    for reduction in ("mean", "sum"):
        for ours, wanted in zip(by_kernel(x, k, reduction, gamma), by_formula(x, k, reduction, gamma), strict=True):
            torch.testing.assert_close(ours, wanted.to(x.dtype), equal_nan=True, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 2),
        (2, 5, 3),
        (3, 4, TILE - 1),
        (1, 3, TILE),
        (2, 3, TILE * BLOCK + 1),
        (2, 21, 20, 50),
        (1, 300, 2, 3, 4),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_formula(agree, shape, dtype):
    torch.manual_seed(0)
    x, k = 4 * torch.randn(shape, dtype=dtype), torch.randint(shape[1], shape[:1] + shape[2:])
    agree(x, k)
    k.reshape(-1)[1::3] = IGNORED
    agree(x, k)


GAMMAS = (2.0, 0.5, 1.0, 3.0)


@pytest.mark.sample(8)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 4, TILE - 1), (2, 3, TILE * BLOCK + 1), (2, 21, 20, 50)], ids=str)
def test_the_focal_loss_and_its_gradients_are_those_of_the_formula(agree, shape, dtype, gamma):
    torch.manual_seed(0)
    x, k = 4 * torch.randn(shape, dtype=dtype), torch.randint(shape[1], shape[:1] + shape[2:])
    agree(x, k, gamma)
    k.reshape(-1)[1::3] = IGNORED
    agree(x, k, gamma)


@pytest.mark.parametrize(("gamma", "focus"), [(None, 0), (2.0, 2), (0.5, 1)], ids=str)
def test_each_loss_runs_the_kernel_of_its_formula(kernel_calls, gamma, focus):
    """The kernel of the focal loss, with a gamma of 0, would compute cross entropy at twice the time."""
    by_kernel(torch.randn(1, 3, 2, 2), torch.randint(3, (1, 2, 2)), "sum", gamma)
    assert {id(call.module) for call in kernel_calls} == {id(_module(torch.float32, focus))}


ROWS = {
    "far apart": [1e4, 0.0, -1e4],
    "overflowing exponentials": [800.0, 801.0, 799.0],
    "underflowing exponentials": [-800.0, -801.0, -799.0],
    "equal": [1.5, 1.5, 1.5],
    "an impossible class": [-INF, 0.0, 0.0],
    "a certain class": [INF, 0.0, 1.0],
    "nothing possible": [-INF, -INF, -INF],
    "NaN": [0.5, NAN, 2.0],
    "signed zeros": [0.0, -0.0, 0.0],
    "largest numbers": [1.7e308, -1.7e308, 0.0],
    "smallest numbers": [5e-324, -5e-324, 0.0],
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("target", range(3))
def test_corner_cases_are_those_of_the_formula(agree, row, target):
    x = torch.tensor(ROWS[row], dtype=torch.float64)[None, :, None].expand(1, 3, 5).contiguous()
    agree(x, torch.full((1, 5), target))
    for gamma in GAMMAS:
        agree(x, torch.full((1, 5), target), gamma)


def test_pixels_are_independent(agree):
    """Each corner case in one image, next to ordinary places and ignored ones."""
    rows = [row for name, row in ROWS.items() if not {NAN, INF, -INF} & set(row) and name != "largest numbers"]
    x = torch.tensor(rows, dtype=torch.float64).T[None].contiguous()
    k = torch.arange(len(rows))[None] % 3
    agree(x, k)
    k[0, 1] = IGNORED
    agree(x, k)


def test_an_image_of_ignored_places_has_no_mean_and_no_gradient():
    x, k = torch.randn(1, 3, 4, dtype=torch.float64), torch.full((1, 4), IGNORED)
    loss, gradient = by_kernel(x, k, "mean")
    assert loss.isnan() and torch.equal(gradient, torch.zeros_like(x))
    loss, gradient = by_kernel(x, k, "sum")
    assert loss == 0 and torch.equal(gradient, torch.zeros_like(x))


def test_the_second_gradient_is_that_of_the_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randint(3, (2, 4))
    k[0, 1] = IGNORED
    loss = piste.losses.CrossEntropyLoss()(x, k)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    rows = x.movedim(1, -1).reshape(-1, 3)
    keep = k.reshape(-1) != IGNORED
    values = piste.losses.CrossEntropyLoss.formula(rows, torch.where(keep, k.reshape(-1), 0))
    wanted = torch.where(keep, values, 0).sum() / keep.sum()
    (wanted_first,) = torch.autograd.grad(wanted, x, create_graph=True)
    torch.testing.assert_close(first, wanted_first, rtol=1e-13, atol=1e-15)
    (wanted_second,) = torch.autograd.grad(wanted_first.square().sum(), x)
    torch.testing.assert_close(second, wanted_second, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("wrong", [-1, 3, 1 << 40])
def test_a_target_out_of_range_is_named(wrong):
    x, k = torch.randn(1, 3, 4), torch.zeros(1, 4, dtype=torch.int64)
    k[0, 2] = wrong
    with pytest.raises(InvalidValue, match=rf"must hold class indices in \[0, 2\].*received {wrong} at \(0, 2\)"):
        piste.losses.CrossEntropyLoss()(x, k)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"reduction": "sum"}, True),
        ({"empty": "zero"}, True),
        ({"ignore_index": 1}, True),
        ({"reduction": "none"}, False),
        ({"label_smoothing": 0.1}, False),
        ({"weight": torch.ones(3)}, False),
    ],
    ids=str,
)
def test_the_kernel_computes_the_plain_reduced_loss_alone(options, expected, kernel_calls):
    x, k = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    ours = piste.losses.CrossEntropyLoss(**options)(x, k)
    options.pop("empty", None)
    torch.testing.assert_close(ours, torch.nn.CrossEntropyLoss(**options)(x, k))
    assert bool(kernel_calls) == expected


@pytest.mark.parametrize(("empty", "expected"), [("nan", NAN), ("zero", 0.0)])
def test_the_mean_of_ignored_images_follows_the_setting(empty, expected):
    x, k = torch.randn(1, 3, 4, requires_grad=True), torch.full((1, 4), IGNORED)
    loss = piste.losses.CrossEntropyLoss(empty=empty)(x, k)
    torch.testing.assert_close(loss.detach(), torch.tensor(expected), equal_nan=True)


def test_python_and_the_kernel_agree_on_the_size_of_tiles_and_blocks():
    assert (kernel.TILE, kernel.BLOCK_PLACES) == (TILE, TILE * BLOCK)
    assert MAX_CLASSES < 1 << 24


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "multi_margin_loss"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_strided_sample_has_the_loss_of_a_contiguous_one(name, requires_grad, kernel_calls):
    x = torch.randn(5, 3, dtype=torch.float64).log_softmax(0)[:, 1].requires_grad_(requires_grad)
    y = x.detach().clone().requires_grad_(requires_grad)
    target = torch.tensor(2)
    loss, expected = getattr(piste.losses.functional, name)(x, target), getattr(torch.nn.functional, name)(y, target)
    torch.testing.assert_close(loss, expected)
    if requires_grad:
        loss.backward()
        expected.backward()
        torch.testing.assert_close(x.grad, y.grad)
    assert not kernel_calls


def test_strided_rows_have_the_focal_loss_of_contiguous_ones(kernel_calls):
    x, k = torch.randn(5, 6)[:, ::2], torch.tensor([0, 2, 1, 1, 0])
    focal = piste.losses.FocalLoss()
    torch.testing.assert_close(focal(x, k), focal(x.contiguous(), k))
    torch.testing.assert_close(focal(x[0], k[0]), focal(x[0].contiguous(), k[0]))
    assert not kernel_calls
