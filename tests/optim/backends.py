"""The same training run, by the kernel and by the eager backend."""

from __future__ import annotations

import copy

import torch

from piste.optim import OPTIMIZERS

from .reference import model, train

EPS = {torch.float64: 2e-16, torch.float32: 1.2e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def assert_close(ours, theirs, ulps=8.0):
    """Assert equality within a few units in the last place of the largest number."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.numel():
            a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a.detach(), b.detach()))
            eps = EPS.get(a.dtype, 0.0) * ulps
            torch.testing.assert_close(a, b, rtol=eps, atol=eps * float(b.double().abs().max()), equal_nan=True)


def states(optimizer):
    return [v for s in optimizer.state_dict()["state"].values() for _, v in sorted(s.items())]


class BackendPair:
    """One training run, by the kernel and by the eager backend."""

    def __init__(self, name, net=None, **options):
        self.nets = [copy.deepcopy(net or model()) for _ in range(2)]
        self.optimizers = [
            OPTIMIZERS[name](n.parameters(), **options, fused=fused)
            for n, fused in zip(self.nets, (True, False), strict=True)
        ]

    def __iter__(self):
        return iter(zip(self.nets, self.optimizers, strict=True))

    def train(self, ts):
        for t in ts:
            for net, optimizer in self:
                train(net, optimizer, [t])
            self.assert_agree()

    def assert_agree(self):
        assert_close(self.nets[0].parameters(), self.nets[1].parameters(), ulps=64)
        assert self.optimizers[0].state_dict()["state"].keys() == self.optimizers[1].state_dict()["state"].keys()
        assert_close(states(self.optimizers[0]), states(self.optimizers[1]), ulps=64)
