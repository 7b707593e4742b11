"""The kernels of cross entropy over rows and images against PyTorch."""

from __future__ import annotations

import math

import pytest
import torch

import piste

F = piste.losses.functional


pytestmark = pytest.mark.usefixtures("fast_path_on_and_off")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1, 2), (5, 3), (300, 37), (3, 40_000), (4099, 10), (2, 3, 5), (3, 21, 20, 50), (2, 4, 4097), (1, 5, 2, 3, 128)],
    ids=str,
)
@pytest.mark.sample(8)
def test_rows_and_images_equal_the_cross_entropy_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, k = (torch.randn(shape, dtype=dtype) * 4).requires_grad_(), torch.randint(shape[1], shape[:1] + shape[2:])
    k.reshape(-1)[1::7] = -100
    for reduction in ("mean", "sum"):
        ours = F.cross_entropy(x, k, reduction=reduction)
        assert type(ours.grad_fn).__name__ == "_LossBackward"
        theirs = torch.nn.functional.cross_entropy(x.double(), k, reduction=reduction)
        tolerance = {"rtol": 2e-6, "atol": 4e-7} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
        torch.testing.assert_close(ours, theirs.to(dtype), **tolerance)
        for factor in (1.0, -0.5):
            mine = torch.autograd.grad(ours * factor, x, retain_graph=True)
            torch.testing.assert_close(mine, torch.autograd.grad(theirs * factor, x, retain_graph=True), **tolerance)
        torch.testing.assert_close(F.cross_entropy(x.detach(), k, reduction=reduction), ours.detach(), **tolerance)


def test_rows_of_infinities_and_nan_and_ignored_rows_equal_those_of_torch() -> None:
    inf, nan = math.inf, math.nan
    rows = [
        [1e4, 0.0, -1e4],
        [-inf, 0.0, 0.0],
        [-3.0, -1.0, -2.0],
        [nan, 1.0, 2.0],
        [-inf, -inf, -inf],
        [inf, 0.0, 1.0],
    ]
    for row in rows:
        for k in range(3):
            x = torch.tensor([row], requires_grad=True)
            ours, theirs = (f(x, torch.tensor([k])) for f in (F.cross_entropy, torch.nn.functional.cross_entropy))
            torch.testing.assert_close(ours, theirs, equal_nan=True)
            mine, torchs = (torch.autograd.grad(loss, x) for loss in (ours, theirs))
            torch.testing.assert_close(mine, torchs, equal_nan=True)
            image = x.detach()[:, :, None, None].expand(1, 3, 2, 2).contiguous().requires_grad_()
            places = torch.full((1, 2, 2), k)
            both = [f(image, places) for f in (F.cross_entropy, torch.nn.functional.cross_entropy)]
            torch.testing.assert_close(*both, equal_nan=True)
            torch.testing.assert_close(*(torch.autograd.grad(loss, image) for loss in both), equal_nan=True)
    x = torch.randn(2, 3, requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor([-100, -100]))
    loss.backward()
    assert loss.isnan() and torch.equal(x.grad, torch.zeros(2, 3))


def test_row_kernels_reject_an_index_out_of_range() -> None:
    x, k = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    with pytest.raises(ValueError, match=r"received 3 at \(4,\)"):
        F.cross_entropy(x, torch.tensor([0, 1, 2, 1, 3]))
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        F.cross_entropy(x, torch.tensor([0, 1, 2, 1, 3]), check="off")
    loss = F.cross_entropy(x, k)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    expected = F.cross_entropy(x, k, reduction="none").mean()
    (wanted,) = torch.autograd.grad(expected, x, create_graph=True)
    torch.testing.assert_close(slope, wanted)
    torch.testing.assert_close(torch.autograd.grad((slope**2).sum(), x), torch.autograd.grad((wanted**2).sum(), x))
    torch.testing.assert_close(F.cross_entropy(x, k.to(torch.int32)), loss, rtol=1e-14, atol=0)  # by the formula
    torch.testing.assert_close(F.cross_entropy(x.T.contiguous().T, k), loss)


def test_image_kernels_reject_an_index_out_of_range_and_are_twice_differentiable() -> None:
    x, k = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True), torch.randint(3, (2, 4))
    wrong = k.clone()
    wrong[1, 2] = 3
    with pytest.raises(ValueError, match=r"received 3 at \(1, 2\)"):
        F.cross_entropy(x, wrong)
    (slope,) = torch.autograd.grad(F.cross_entropy(x, k), x, create_graph=True)
    (wanted,) = torch.autograd.grad(F.cross_entropy(x, k, reduction="none").mean(), x, create_graph=True)
    torch.testing.assert_close(slope, wanted)
    torch.testing.assert_close(torch.autograd.grad((slope**2).sum(), x), torch.autograd.grad((wanted**2).sum(), x))


@pytest.mark.parametrize("shape", [(3000, 50), (3, 7, 90, 100)], ids=str)
def test_the_same_bits_of_rows_on_any_number_of_threads(shape: tuple[int, ...]) -> None:
    x, k = torch.randn(shape, requires_grad=True), torch.randint(shape[1], shape[:1] + shape[2:])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            loss = F.cross_entropy(x, k)
            results.append((loss.item(), torch.autograd.grad(loss, x)[0].clone()))
    finally:
        torch.set_num_threads(before)
    assert len({value for value, _ in results}) == 1
    assert all(torch.equal(gradient, results[0][1]) for _, gradient in results)
