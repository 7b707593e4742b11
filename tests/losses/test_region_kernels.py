"""The kernel of regions with a softmax over the classes: equal to torch operations in float64, wherever tiles end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import piste
from piste.engine.cpu import region_kernel
from piste.engine.cpu.region_source import BLOCK_PLACES, TILE

F = piste.losses.functional
CLOSE = {"rtol": 4e-6, "atol": 2e-7}


def labels_of(y: Tensor, x: Tensor) -> Tensor:
    return y if y.dim() == x.dim() else torch.nn.functional.one_hot(y.long(), x.shape[1]).movedim(-1, 1).to(x.dtype)


def dice(x: Tensor, y: Tensor, *, squared: bool = False, batch: bool = False, smooth: float = 1.0) -> Tensor:
    """Return the Dice loss of each region, in torch operations."""
    p, y = x.softmax(1), labels_of(y, x)
    over = (0, *range(2, x.dim())) if batch else tuple(range(2, x.dim()))
    sizes = (p * p).sum(over) + (y * y).sum(over) if squared else p.sum(over) + y.sum(over)
    return 1 - (2 * (p * y).sum(over) + smooth) / (sizes + smooth)


def compare(x: Tensor, y: Tensor, reduction: str = "mean", **options) -> None:
    """Compare a loss, and its gradient for incoming gradients other than 1, with torch operations.

    Sums over the classes cancel: the gradient is about as near to that of float64 as torch operations in float32 are.
    """
    found = x.clone().requires_grad_()
    ours = F.dice_loss(found, y, activation="softmax", reduction=reduction, **options)
    upstream = torch.linspace(0.5, -1.5, ours.numel()).reshape(ours.shape)
    (mine,) = torch.autograd.grad(ours, found, upstream)
    losses, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        leaf = x.to(dtype).requires_grad_()
        each = dice(leaf, y if y.dim() < x.dim() else y.to(dtype), **options)
        losses.append({"mean": each.mean, "sum": each.sum, "none": lambda each=each: each}[reduction]())
        gradients.append(torch.autograd.grad(losses[-1], leaf, upstream.to(dtype))[0])
    torch.testing.assert_close(ours.double(), losses[0], **CLOSE)
    wanted, near = gradients[0], gradients[1].double()
    slack = 2 * (near - wanted).abs().max() + 4e-7 * wanted.abs().max()
    torch.testing.assert_close(mine.double(), wanted, rtol=0, atol=slack.item())
    assert torch.equal(F.dice_loss(x, y, activation="softmax", reduction=reduction, **options), ours.detach())


SHAPES = [
    (1, 2, 2),
    (2, 5, 3),
    (3, 4, TILE - 1),
    (1, 3, TILE),
    (2, 3, BLOCK_PLACES + 1),
    (2, 21, 20, 50),
    (1, 300, 2, 9),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradients_are_those_of_torch_operations(shape, kernel_calls) -> None:
    torch.manual_seed(0)
    x, k = 4 * torch.randn(shape), torch.randint(shape[1], shape[:1] + shape[2:])
    compare(x, k)
    compare(x, torch.rand(shape), squared=True)
    compare(x, k.int(), "sum", batch=True, smooth=0.5)
    assert len(kernel_calls) == 6


def test_samples_of_several_turns_are_all_computed(monkeypatch, kernel_calls) -> None:
    x, k = torch.randn(7, 3, 50), torch.randint(3, (7, 50))
    for samples in (1, 3):
        monkeypatch.setattr(region_kernel, "TURN_BYTES", 4 * 3 * 50 * samples)
        compare(x, k, "sum")
    assert len(kernel_calls) == 4


def test_each_region_has_an_incoming_gradient(kernel_calls) -> None:
    x, k = torch.randn(2, 3, 40), torch.randint(3, (2, 40))
    compare(x, k, "none")
    compare(x, k, "none", batch=True)
    assert not kernel_calls


def test_the_same_bits_on_any_number_of_threads() -> None:
    x, k = torch.randn(3, 5, 9000).requires_grad_(), torch.randint(5, (3, 9000))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = F.jaccard_loss(x, k, activation="softmax")
            results.append((loss, torch.autograd.grad(loss, x)[0]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_logits_are_computed_in_float32_and_rounded_once(dtype, kernel_calls) -> None:
    x, k = torch.randn(2, 3, 40).to(dtype).requires_grad_(), torch.randint(3, (2, 40))
    loss = F.tversky_loss(x, k, activation="softmax")
    wide = x.detach().float().requires_grad_()
    expected = F.tversky_loss(wide, k, activation="softmax")
    assert loss.dtype == dtype and torch.equal(loss, expected.to(dtype)) and len(kernel_calls) == 2
    (mine,), (wanted,) = torch.autograd.grad(loss, x), torch.autograd.grad(expected, wide)
    assert torch.equal(mine, wanted.to(dtype))


def test_classes_that_lie_last_in_memory_are_copied(kernel_calls) -> None:
    x = torch.randn(2, 3, 6, 7).contiguous(memory_format=torch.channels_last)
    compare(x, torch.randint(3, (2, 6, 7)))
    assert len(kernel_calls) == 2


def test_labels_can_have_a_gradient() -> None:
    x, y = torch.randn(2, 3, 40), torch.rand(2, 3, 40)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    found = torch.autograd.grad(F.dice_loss(a, b, activation="softmax"), (a, b))
    c, d = x.double().requires_grad_(), y.double().requires_grad_()
    for mine, wanted in zip(found, torch.autograd.grad(dice(c, d).mean(), (c, d)), strict=True):
        torch.testing.assert_close(mine.double(), wanted, **CLOSE)
    (alone,) = torch.autograd.grad(F.dice_loss(x, b, activation="softmax"), b)
    torch.testing.assert_close(alone, found[1], **CLOSE)


def test_the_second_gradient_is_that_of_torch_operations(kernel_calls) -> None:
    x, k = torch.randn(2, 3, 8), torch.randint(3, (2, 8))
    seconds = []
    for leaf, loss in (
        (x.clone(), lambda x: F.dice_loss(x, k, activation="softmax")),
        (x.double(), lambda x: dice(x, k).mean()),
    ):
        leaf.requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), leaf)[0].double())
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-7)
    assert len(kernel_calls) == 1


@pytest.mark.parametrize("wrong", [-1, 3, 1 << 40])
@pytest.mark.parametrize("place", [0, TILE, 2 * BLOCK_PLACES + 1])
def test_an_index_out_of_range_is_named(wrong: int, place: int, kernel_calls) -> None:
    x, k = torch.zeros(2, 3, 2 * BLOCK_PLACES + 2), torch.zeros(2, 2 * BLOCK_PLACES + 2, dtype=torch.int64)
    k[1, place] = wrong
    with pytest.raises(ValueError, match=rf"received {wrong} at \(1, {place}\)"):
        F.dice_loss(x, k, activation="softmax")
    assert not kernel_calls
    unlabelled = F.dice_loss(x, k, activation="softmax", check="off")
    y = labels_of(torch.where(k == wrong, 0, k), x)
    y[1, :, place] = 0
    torch.testing.assert_close(unlabelled, F.dice_loss(x, y, activation="softmax"))
    assert len(kernel_calls) == 2


@pytest.mark.parametrize("wrong", [1.02, -0.5, 7.0])
def test_a_label_out_of_range_is_named(wrong: float, kernel_calls) -> None:
    x, y = torch.zeros(1, 2, BLOCK_PLACES + 2), torch.zeros(1, 2, BLOCK_PLACES + 2)
    F.dice_loss(x, y, activation="softmax")
    y[0, 1, BLOCK_PLACES] = wrong
    with pytest.raises(
        ValueError, match=rf"`target` must be in \[0, 1\]; received {wrong}.*at \(0, 1, {BLOCK_PLACES}\)"
    ):
        F.dice_loss(x, y, activation="softmax")
    F.dice_loss(x, y, activation="softmax", check="off")
    assert len(kernel_calls) == 2


@pytest.mark.parametrize(
    "column",
    [[800.0, 801.0, 799.0], [-800.0, -801.0, -799.0], [-math.inf, 0.0, 1.0], [3e38, -3e38, 0.0], [1e-45, -1e-45, 0.0]],
    ids=str,
)
def test_extreme_logits_have_the_softmax_of_torch(column: list[float], kernel_calls) -> None:
    x = torch.randn(1, 3, 20)
    x[0, :, 7] = torch.tensor(column)
    compare(x, torch.randint(3, (1, 20)))
    assert len(kernel_calls) == 2


def test_logits_that_are_not_numbers_are_no_numbers_in_the_loss(kernel_calls) -> None:
    for column in ([math.nan, 0.0, 1.0], [math.inf, 0.0, 1.0], [-math.inf] * 3):
        x = torch.randn(1, 3, 20)
        x[0, :, 7] = torch.tensor(column)
        x.requires_grad_()
        loss = F.dice_loss(x, torch.randint(3, (1, 20)), activation="softmax")
        loss.backward()
        assert loss.isnan() and x.grad[0, :, 7].isnan().all()
    assert len(kernel_calls) == 3


def test_other_devices_and_float64_take_the_softmax_of_torch(kernel_calls) -> None:
    x, k = torch.randn(2, 3, 8, dtype=torch.float64), torch.randint(3, (2, 8))
    torch.testing.assert_close(F.dice_loss(x, k, activation="softmax"), dice(x, k).mean())
    assert F.dice_loss(x.to("meta"), k.to("meta"), activation="softmax").is_meta
    assert not kernel_calls
