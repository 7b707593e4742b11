"""The default dtype is that of new tensors of the user: it changes no loss, whose dtype is that of its operands."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from tests.isolation import default_dtype
from tests.losses.cases import CASES, Case

HALVES = (torch.bfloat16, torch.float16)


def results(function: Any, operands: tuple[Any, ...], **options: Any) -> list[torch.Tensor]:
    """Return a loss and its gradients."""
    given = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in operands]
    loss = function(*given, **options)
    by = [x for x in given if x.requires_grad]
    return [loss.detach(), *(x for x in torch.autograd.grad(loss, by, allow_unused=True) if x is not None)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.sample(1, per="case.name")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_default_dtype_changes_no_bit(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, backends_not_chosen: None
) -> None:
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    operands = case.operands(case.shapes[0], dtype)
    options = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in case.options.items()
    }
    expected = results(case.function, operands, **options)
    for default in HALVES:
        with default_dtype(default):
            assert same(results(case.function, operands, **options), expected), default


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 40, 50)])
def test_the_default_dtype_changes_no_bit_of_the_kernel_of_regions(shape: tuple[int, ...]) -> None:
    loss = piste.losses.DiceLoss(activation="softmax")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    y = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    expected = results(loss, (x, y))
    for default in HALVES:
        with default_dtype(default):
            assert same(results(loss, (x, y)), expected), default


def test_a_softcap_of_float64_has_all_digits(monkeypatch: pytest.MonkeyPatch, backends_not_chosen: None) -> None:
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    k = torch.tensor([0, 2, 1, 1])
    expected = torch.nn.functional.cross_entropy(0.3 * torch.tanh(x / 0.3), k)
    found = piste.losses.CrossEntropyLoss(softcap=0.3)(x, k)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
