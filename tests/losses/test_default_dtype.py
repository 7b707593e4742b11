"""The default dtype is that of new tensors of the user: it changes no loss, whose dtype is that of its operands."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.formula import where
from piste.losses.elementwise import ElementwiseLoss
from tests.isolation import default_dtype
from tests.losses.cases import CASES, Case

OTHERS = (torch.bfloat16, torch.float16, torch.float64)


class OfTwoNumbers(ElementwiseLoss):
    """A loss with a slope of 0.1 or 0.7, which no dtype has exactly."""

    def formula(x, y):
        return where(x > y, 0.1, 0.7) * abs(x - y) + where(x > 1, 0.3, where(x < -1, 0.6, 0.9))


class WithStatedSlopes(OfTwoNumbers):
    def derivatives(x, y):
        s = where(x > y, 0.1, 0.7) * where(x > y, 1, -1)
        return s, -s


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
    for default in OTHERS:
        with default_dtype(default):
            assert same(results(case.function, operands, **options), expected), default


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 40, 50)])
def test_the_default_dtype_changes_no_bit_of_the_kernel_of_regions(shape: tuple[int, ...]) -> None:
    loss = piste.losses.DiceLoss(activation="softmax")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    y = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    expected = results(loss, (x, y))
    for default in OTHERS:
        with default_dtype(default):
            assert same(results(loss, (x, y)), expected), default


@pytest.mark.parametrize("loss", [OfTwoNumbers, WithStatedSlopes])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_where_of_two_numbers_has_the_dtype_of_the_computation(
    loss: type[ElementwiseLoss],
    dtype: torch.dtype,
    is_compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
    backends_not_chosen: None,
) -> None:
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    x, y = torch.tensor([2.0, 0.5, -2.0], dtype=dtype), torch.zeros(3, dtype=dtype)
    wide = dtype if dtype == torch.float64 else torch.float32
    slopes, others = (torch.tensor(numbers, dtype=wide) for numbers in ([0.1, 0.1, 0.7], [0.3, 0.9, 0.6]))
    expected = [(slopes * x.abs() + others).to(dtype), (slopes * x.sign()).to(dtype)]
    for default in (torch.float32, *OTHERS):
        torch._dynamo.reset()
        function = loss(reduction="none")
        function = torch.compile(function, backend="eager", fullgraph=True) if is_compiled else function
        with default_dtype(default):
            given = x.clone().requires_grad_()
            found = function(given, y)
            assert same([found.detach(), *torch.autograd.grad(found.sum(), given)], expected), default


def test_a_softcap_of_float64_has_all_digits(monkeypatch: pytest.MonkeyPatch, backends_not_chosen: None) -> None:
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    k = torch.tensor([0, 2, 1, 1])
    expected = torch.nn.functional.cross_entropy(0.3 * torch.tanh(x / 0.3), k)
    found = piste.losses.CrossEntropyLoss(softcap=0.3)(x, k)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
