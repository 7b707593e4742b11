"""The default dtype is that of new tensors of the user: it changes neither a step nor its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from piste import optim
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
RULES = [name for name in optim.OPTIMIZERS if name not in ("SparseAdam", "LBFGS")]


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
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


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
    for default in (torch.bfloat16, torch.float16):
        with default_dtype(default):
            assert same(trained(name, dtype, **options), expected), default


@pytest.mark.parametrize("name", ["Adam", "AdEMAMix"])
def test_the_default_dtype_changes_no_bit_of_a_kernel(name: str) -> None:
    expected = trained(name, torch.float32, fused=True, cautious=True)
    for default in (torch.bfloat16, torch.float16):
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
