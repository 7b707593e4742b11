"""The same parameters, stepped by the kernel and by torch.optim; and tensors with unusual strides."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import piste

KERNEL = "by the fused CPU kernel"


def weights(*sizes: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    make = torch.Generator().manual_seed(sum(sizes))
    return [nn.Parameter(torch.randn(n, generator=make, dtype=dtype)) for n in sizes]


def parameter(value: Tensor, grad: Tensor | None = None) -> nn.Parameter:
    """Return a parameter with a gradient, of ones unless given."""
    p = nn.Parameter(value)
    p.grad = torch.ones_like(p) if grad is None else grad
    return p


def ones(**kwargs) -> Tensor:
    return torch.ones(3, **kwargs)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def transposed(g: Tensor) -> Tensor:
    order = tuple(reversed(range(g.dim())))
    return g.permute(order).contiguous().permute(order)


def spread(g: Tensor) -> Tensor:
    out = torch.zeros(*g.shape, 2, dtype=g.dtype)[..., 0]
    return out.copy_(g)


class AgainstTorch:
    """The same parameters, stepped by the kernel and, independently, by torch.optim."""

    def __init__(self, name: str, params: list[nn.Parameter], **options) -> None:
        self.ours, self.theirs = params, [copy.deepcopy(p) for p in params]
        self.optimizers = [
            getattr(piste.optim, name)(self.ours, **options),
            getattr(torch.optim, name)(self.theirs, **options),
        ]
        self.make = torch.Generator().manual_seed(1)

    @property
    def optimizer(self):
        return self.optimizers[0]

    def change_both(self, change) -> None:
        change(self.optimizers[0], self.ours)
        change(self.optimizers[1], self.theirs)

    def backward(self) -> None:
        for a, b in zip(self.ours, self.theirs, strict=True):
            g = torch.randn(a.shape, generator=self.make, dtype=torch.float64).to(a.dtype)
            a.grad, b.grad = g.clone(), g.clone()

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.backward()
            self.step_both()

    def step_both(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        self.assert_same()

    def assert_same(self) -> None:
        for i, (a, b) in enumerate(zip(self.ours, self.theirs, strict=True)):
            torch.testing.assert_close(
                a, b, rtol=1e-11, atol=1e-12, msg=lambda text, i=i, a=a: f"parameter {i} of shape {a.shape}: {text}"
            )
