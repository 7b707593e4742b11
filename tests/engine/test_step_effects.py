"""The effects of a step: tensor versions, operations, memory, references and dtypes."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import piste
from piste.engine.cpu import step_kernel as cpu

from .reference import AgainstTorch, weights

pytestmark = pytest.mark.usefixtures("fast_path_on_and_off")


def test_a_step_counts_up_the_versions_of_the_parameters():
    (w,) = params = weights(4)
    optimizer = piste.optim.SGD(params, lr=0.1)
    loss = (w * w.exp()).sum()
    w.grad = torch.ones_like(w)
    version = w._version
    optimizer.step()
    assert w._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_step_dispatches_no_torch_operation():
    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    for name in ("Adam", "SGD", "NAdam", "Rprop"):
        pair = AgainstTorch(name, weights(5, 40_000))
        pair.step()
        pair.backward()
        called: list[str] = []
        with Log():
            pair.optimizer.step()
        assert called == []


def highest_memory(reset: bool = False) -> int:
    """Return the peak memory of this process since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_a_step_allocates_no_temporaries():
    n = 4_000_000
    p = nn.Parameter(torch.zeros(n))
    p.grad = torch.ones(n)
    optimizer = piste.optim.Adam([p])
    optimizer.step()
    before = highest_memory(reset=True)
    optimizer.step()
    assert highest_memory() - before < n  # bytes: a quarter of one tensor


def test_gradients_are_freed_after_the_step():
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    held = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert [ref() for ref in held] == [None, None]


def test_a_thousand_steps_with_new_gradients_leak_no_memory_and_make_one_plan(monkeypatch):
    made = []
    real = cpu.StepKernel.__init__

    def counted(self, *args):
        made.append(weakref.ref(self))
        real(self, *args)

    monkeypatch.setattr(cpu.StepKernel, "__init__", counted)
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)

    def steps(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()

    steps(20)
    before = highest_memory(reset=True)
    steps(1000)
    assert highest_memory() - before < 20_000_000  # the gradients of all steps are 240 MB
    assert len(made) == 1
    for t in range(50):  # parameters with gradients in turns: each set has one plan
        params[t % 2].grad = None
        optimizer.step()
        params[t % 2].grad = torch.zeros_like(params[t % 2])
    gc.collect()
    assert len(made) == 3
    for _ in range(50):  # parameters that move every time: their old plans are freed
        params[0].data = params[0].data.clone()
        optimizer.step()
    gc.collect()
    assert len(made) >= 50
    assert sum(ref() is not None for ref in made) <= 4


def test_an_optimizer_and_its_parameters_are_freed():
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = [weakref.ref(optimizer), *map(weakref.ref, params)]
    del optimizer, params, p
    gc.collect()
    assert [ref() for ref in held] == [None] * 3


def test_counters_have_torchs_default_dtype():
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            for name, keys in {
                "Adam": ["step"],
                "NAdam": ["step", "mu_product"],
                "ASGD": ["step", "eta", "mu"],
            }.items():
                pair = AgainstTorch(name, weights(5))
                pair.step(2)
                for key in keys:
                    assert pair.optimizer.state[pair.ours[0]][key].dtype == dtype, (name, key)
                    assert pair.optimizer.state[pair.ours[0]][key].shape == ()
                assert "eager" not in pair.optimizer.explain()
        finally:
            torch.set_default_dtype(torch.float32)
