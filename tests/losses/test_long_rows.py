"""Few large regions, whose places threads share: equal to torch operations, and to the kernel of rows, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import piste
from piste.engine.specs import LONG_ROWS
from piste.errors import InvalidValue

NAMES = ["dice", "jaccard", "tversky", "focal_tversky"]
PLACES = LONG_ROWS + 5000  # several blocks, the last of which ends within a tile


def operands(classes: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(1, classes, PLACES).to(dtype), torch.rand(1, classes, PLACES).to(dtype)


def dice(x: Tensor, y: Tensor, activation: str | None) -> Tensor:
    p = x.sigmoid() if activation == "sigmoid" else x
    return (1 - (2 * (p * y).sum(-1) + 1) / (p.sum(-1) + y.sum(-1) + 1)).mean()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("classes", [1, 3])
def test_losses_and_gradients_are_those_of_torch_operations(classes, activation, kernel_calls) -> None:
    x, y = (z.requires_grad_() for z in operands(classes))
    loss = piste.losses.DiceLoss(activation=activation)(x, y)
    found = torch.autograd.grad(loss, (x, y))
    assert len(kernel_calls) == 1
    wide = [z.detach().double().requires_grad_() for z in (x, y)]
    wanted = dice(*wide, activation)
    torch.testing.assert_close(loss.double(), wanted, rtol=2e-6, atol=0)
    for mine, theirs in zip(found, torch.autograd.grad(wanted, wide), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_of_regions_has_the_values_of_the_kernel_of_rows_in_float64(name, activation, kernel_calls) -> None:
    loss = piste.losses.named(name)(activation=activation, reduction="sum")
    results = []
    for dtype in (torch.float32, torch.float64):
        x, y = (z.to(dtype) for z in operands())
        value = loss(x.requires_grad_(), y)
        results.append((value.detach().double(), torch.autograd.grad(3 * value, x)[0].double()))
    assert len(kernel_calls) == 1
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-11)


def test_the_same_bits_on_any_number_of_threads() -> None:
    x, y = operands(3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            loss = piste.losses.DiceLoss(activation="sigmoid")(leaf, y)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_and_more_rows_go_to_the_kernel_of_rows(dtype, kernel_calls) -> None:
    for x, y in (operands(dtype=dtype), operands(4)):
        loss = piste.losses.DiceLoss(activation="sigmoid")
        assert "kernel" in loss.explain_backend(x, y)
        near = 1e-2 if x.dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(loss(x, y).double(), dice(x.double(), y.double(), "sigmoid"), rtol=near, atol=0)
    assert not kernel_calls


def test_labels_in_another_layout_are_declined_to_the_kernel_of_rows(kernel_calls) -> None:
    x, _ = operands()
    y = torch.rand(1, 1, 2 * PLACES)[..., ::2]
    loss = piste.losses.DiceLoss(activation="sigmoid")(x, y)
    torch.testing.assert_close(loss.double(), dice(x.double(), y.double(), "sigmoid"), rtol=2e-6, atol=0)


@pytest.mark.parametrize(("operand", "activation"), [(0, None), (1, None), (1, "sigmoid")])
def test_values_out_of_range_are_named(operand, activation) -> None:
    given = operands()
    given[operand][0, 0, PLACES - 3] = 1.5
    name = ("input", "target")[operand]
    with pytest.raises(InvalidValue, match=rf"`{name}` must .*1\.5"):
        piste.losses.DiceLoss(activation=activation)(*given)
