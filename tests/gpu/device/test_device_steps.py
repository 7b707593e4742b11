"""Every optimizer on a CUDA device: the fused kernel against the eager backend on the same device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from tests.optim.cases import OPTIONS, fullest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SIZES = ((5, 3), (4096,), (1,), (70_001,), (0,), (64, 64))
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3, torch.complex64: 2e-6}


def random_gradient(p: torch.Tensor, generator: torch.Generator, options: dict[str, Any]) -> torch.Tensor:
    """A gradient that the weight decay doesn't cancel: the rounding of a difference near 0 has no bound.

    Centered RMSprop divides g by its own size, so any difference in the rounding of `g + weight_decay * p` reaches the
    step in full there. The kernel may fuse product and sum, which is the likely difference; it was not isolated.
    """
    g = torch.randn(p.shape, generator=generator, dtype=p.dtype, device="cuda")
    if not options.get("weight_decay"):
        return g
    parts, weights = (torch.view_as_real(x) if x.is_complex() else x for x in (g, p.detach()))
    parts.copy_(weights.sign() * (parts.abs() + 0.1) * (-1 if options.get("maximize") else 1))
    return g


def stepped(name: str, options: dict[str, Any], dtype: torch.dtype, steps: int, late: bool) -> tuple[Any, Any]:
    generator = torch.Generator("cuda").manual_seed(1)
    weights = [torch.randn(size, generator=generator, dtype=dtype, device="cuda").requires_grad_() for size in SIZES]
    optimizer = getattr(piste.optim, name)(weights, **options)
    for k in range(steps):
        for i, p in enumerate(weights):
            p.grad = random_gradient(p, generator, options)
            if late and k == 0 and i == 1:
                p.grad = None
        optimizer.step()
    return weights, optimizer


def compare(name: str, options: dict[str, Any], dtype: torch.dtype, *, late: bool = False) -> None:
    steps = 1 if dtype == torch.bfloat16 else 3
    ours, optimizer = stepped(name, options | {"fused": True}, dtype, steps, late)
    assert "6 of 6 parameters by the fused GPU kernel" in optimizer.explain()
    theirs, reference = stepped(name, options | {"fused": False}, dtype, steps, late)
    tolerance = TOLERANCE[dtype]
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        mine, wanted = optimizer.state[p], reference.state[q]
        assert mine.keys() == wanted.keys()
        for key in wanted:
            near = tolerance if wanted[key].dim() else 1e-6
            torch.testing.assert_close(mine[key], wanted[key], rtol=near, atol=near)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_equal_those_of_the_eager_backend(name, dtype):
    compare(name, fullest(name), dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_parameters_may_differ_in_their_step_counts(name):
    compare(name, fullest(name), torch.float32, late=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_step_counts_on_the_device_are_advanced_there(name):
    compare(name, fullest(name) | {"capturable": True}, torch.float32, late=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_step_follows_the_learning_rate_in_a_tensor(name):
    def run(captured: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        p = torch.randn(5000, device="cuda").requires_grad_()
        p.grad = torch.randn_like(p)
        lr = torch.tensor(0.01, device="cuda")
        optimizer = getattr(piste.optim, name)([p], lr=lr, capturable=True, fused=captured)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        step = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for value in (0.01, 0.001, 0.02):
            lr.fill_(value)
            p.grad.mul_(-0.5)
            step()
        return [p.detach(), *(x for x in optimizer.state[p].values())]

    for mine, wanted in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-6, atol=2e-6)
