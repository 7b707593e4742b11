"""The same training run twice: by Piste's optimizer and by PyTorch's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .cases import ELEMENTWISE

PAIRS: dict[str, tuple[type, type]] = {
    name: (cls, getattr(torch.optim, name)) for name, cls in ELEMENTWISE.items() if hasattr(torch.optim, name)
}
"""The class of Piste and that of PyTorch, by name; PyTorch has no Lion."""


def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a small network, the same on every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(t: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(100 + t)
    return (
        torch.randn(6, 4, generator=make, dtype=torch.float64).to(dtype),
        torch.randn(6, 3, generator=make, dtype=torch.float64).to(dtype),
    )


def backward(net: nn.Module, t: int) -> Tensor:
    """Compute the gradients of batch t, and return the loss."""
    net.zero_grad()
    x, y = batch(t, next(net.parameters()).dtype)
    loss = ((net(x) - y) ** 2).mean()
    loss.backward()
    return loss


def train(net: nn.Module, optimizer: torch.optim.Optimizer, ts: Iterable[int]) -> None:
    for t in ts:
        backward(net, t)
        optimizer.step()


def assert_same(ours: Iterable[Tensor], theirs: Iterable[Tensor], rtol: float = 1e-11, atol: float = 1e-13) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, i=i: f"parameter {i}: {text}"
        )


def assert_same_state(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, rtol: float = 1e-11, atol: float = 1e-13
) -> None:
    """Assert equal checkpoint keys, dtypes, shapes and values."""
    a, b = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert a.keys() == b.keys()
    for index in a:
        kept = {k: v for k, v in b[index].items() if v is not None}
        assert a[index].keys() == kept.keys()
        for key, value in kept.items():
            torch.testing.assert_close(
                a[index][key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
            )


def run(make: Callable[[nn.Module], Any], steps: Callable[[nn.Module, Any], None]) -> list[Tensor]:
    """Return the parameters of a new model after a run."""
    net = model()
    steps(net, make(net))
    return [p.detach() for p in net.parameters()]


def copies(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    return copy.deepcopy(net), copy.deepcopy(net)


def paired_with_torch(name, net=None, **options):
    """Return two equal models with their optimizers, of Piste and of PyTorch."""
    ours, theirs = copies(net or model())
    piste, torchs = PAIRS[name]
    return ours, piste(ours.parameters(), **options), theirs, torchs(theirs.parameters(), **options)


def assert_agree(ours, a, theirs, b):
    assert_same(ours.parameters(), theirs.parameters())
    assert_same_state(a, b)
