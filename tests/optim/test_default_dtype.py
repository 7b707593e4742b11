"""The default dtype is that of new tensors of the user: it changes neither a step nor its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from piste import optim
from piste.formula import mean, where
from piste.optim.options import rate
from tests.isolation import default_dtype

from .cases import OPTIONS, fullest

SHARED: list[dict[str, Any]] = [
    {},
    {"cautious": True},
    {"max_norm": 0.5, "nonfinite": "skip"},
    {"state_dtype": "int8"},
    {"precision": "stochastic"},
    {"precision": "kahan"},
]
OTHERS = (torch.bfloat16, torch.float16, torch.float64)
WITH_WIDE_PRODUCTS = ("ASGD", "NAdam")  # in float64 with that default, as in torch.optim: their bits may differ
RULES = [name for name in optim.OPTIMIZERS if name not in ("SparseAdam", "LBFGS")]


class OfTwoNumbers(optim.Optimizer):
    """A rule of numbers that no dtype has exactly, chosen for each step, row and element."""

    options = {"lr": rate(1.0)}
    buffers = {"momentum_buffer": "m"}
    per_step = {"f": lambda t: where(t == 1, 0.3, 0.6)}

    def update(g, m, *, f):
        m = m + where(g > 0, 0.1, 0.7)
        return f * m * where(mean(g) > 0, 0.9, 1.1), m


def trained(name: str, dtype: torch.dtype, **options: Any) -> list[torch.Tensor]:
    """Return parameters and state after a few steps."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    shapes = [(4, 3), (6, 8), *([] if name in ("Muon", "NorMuon") else [(70,), ()])]
    parameters = [random(shape).requires_grad_() for shape in shapes]
    optimizer = getattr(optim, name)(parameters, **options)
    for _ in range(4):
        for p in parameters:
            p.grad = random(tuple(p.shape))
        optimizer.step()
    state = optimizer.state_dict()["state"].values()
    return [*parameters, *(x for held in state for x in held.values() if isinstance(x, torch.Tensor))]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if x.dtype == y.dtype else is_wider_count(x, y) for x, y in zip(a, b, strict=True)
    )


def is_wider_count(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Return whether a number has the value of another in float64, as torch.optim's counts do with this default."""
    is_wide = {x.dtype, y.dtype} == {torch.float32, torch.float64}
    return is_wide and x.dim() == y.dim() == 0 and torch.equal(x.double(), y.double())


@pytest.mark.filterwarnings("ignore:.*rounded:UserWarning")
@pytest.mark.sample(2, per="name")
@pytest.mark.parametrize("shared", SHARED, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_the_default_dtype_changes_no_bit(name: str, dtype: torch.dtype, shared: dict[str, Any]) -> None:
    options = {**(fullest(name) if name in OPTIONS else {}), **shared, "fused": False}
    try:
        expected = trained(name, dtype, **options)
    except (ValueError, NotImplementedError) as refusal:
        with default_dtype(torch.bfloat16), pytest.raises(type(refusal)):
            trained(name, dtype, **options)
        return
    for default in OTHERS[:2] if name in WITH_WIDE_PRODUCTS else OTHERS:
        with default_dtype(default):
            assert same(trained(name, dtype, **options), expected), default


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"differentiable": True}], ids=str)
def test_where_of_two_numbers_has_the_dtype_of_the_step(dtype: torch.dtype, options: dict[str, Any]) -> None:
    g = torch.tensor([2.0, -1.0, 3.0], dtype=dtype)
    exact = -0.9 * 1.5 * torch.tensor([0.1, 0.7, 0.1], dtype=torch.float64)  # 0.3 + 2 * 0.6 of each 0.1 or 0.7
    found = []
    for default in (torch.float32, *OTHERS):
        with default_dtype(default):
            p = torch.zeros(3, dtype=dtype, requires_grad=True)
            p = p.clone() if options.get("differentiable") else p
            optimizer = OfTwoNumbers([p], fused=False, **options)
            for _ in range(2):
                p.grad = g.clone()
                optimizer.step()
            found.append(p.detach().clone())
    assert all(torch.equal(x, found[0]) for x in found)
    torch.testing.assert_close(found[0], exact.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", ["Adam", "AdEMAMix"])
def test_the_default_dtype_changes_no_bit_of_a_kernel(name: str) -> None:
    expected = trained(name, torch.float32, fused=True, cautious=True)
    for default in OTHERS:
        with default_dtype(default):
            assert same(trained(name, torch.float32, fused=True, cautious=True), expected), default


@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_counted_beyond_256_with_a_default_dtype_of_16_bits(fused: bool) -> None:
    ours, theirs = (torch.ones(3, requires_grad=True) for _ in range(2))
    with default_dtype(torch.bfloat16):
        optimizers = optim.Adam([ours], lr=0.125, fused=fused), torch.optim.Adam([theirs], lr=0.125)
        for t in range(300):
            for p, optimizer in zip((ours, theirs), optimizers, strict=True):
                p.grad = torch.full_like(p, t + 1.0)
                optimizer.step()
    assert optimizers[0].state[ours]["step"] == 300
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_cautious_step_of_float64_has_all_digits() -> None:
    g = torch.arange(-300.0, 700.0, dtype=torch.float64)
    w = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([w], lr=1.0, momentum=0.75, cautious=True, fused=False)
    first, second = g, 0.25 * g + 10  # some of the momentum has the sign of the last gradient, some has not
    for w.grad in (first, second):
        before = w.detach().clone()
        optimizer.step()
    step = 0.75 * first + second
    agrees = step * second > 0
    expected = torch.where(agrees, step * (1000 / (int(agrees.sum()) + 1)), 0)
    assert 0 < agrees.sum() < 1000
    torch.testing.assert_close(before - w.detach(), expected, rtol=1e-14, atol=1e-12)
