"""Rules that reduce over a tensor, by GPU kernels in Triton's interpreter: levels, chunks, order and launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu import step_scalars
from tests.optim.test_reductions import Balanced, expected

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting

SHAPES = ((3, 4), (5, 4099), (1, 1), (0, 2))


def given(seed: int, shapes: Any = SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_levels_follow_each_other_for_every_tensor_of_a_group(on_device):
    params = [x.requires_grad_() for x in given(0)]
    sizes = [torch.zeros_like(p) for p in params]
    with interpreting(on_device) as backend:
        optimizer = Balanced(params)
        for step in range(2):
            before = [p.detach().clone() for p in params]
            for p, g in zip(params, given(1 + step), strict=True):
                p.grad = g
            optimizer.step()
            for i, p in enumerate(params):
                new, size = expected(before[i], p.grad, sizes[i])
                sizes[i] = optimizer.state[p]["size"].clone()
                torch.testing.assert_close(p.detach(), new.float(), rtol=2e-6, atol=1e-7)
                torch.testing.assert_close(sizes[i], size.float(), rtol=1e-5, atol=1e-9)
        assert optimizer.explain_backend().endswith(
            "4 of 4 parameters by the fused GPU kernel, all together, in 3 passes"
        )
    # A block for each chunk of 4096 elements adds or steps, and one for each tensor finishes.
    passes = [("reduce0", 8), ("finish0", 4), ("reduce1", 8), ("finish1", 4), ("step", 8)]
    assert backend.device.launches == [*[("prepare", 1)] * on_device, *passes] * 2


def stepped(name: str, **options: Any) -> list[torch.Tensor]:
    params = [x.requires_grad_() for x in given(3)]
    optimizer = getattr(piste.optim, name)(params, lr=0.1, **options)
    for step in range(2):
        for p, g in zip(params, given(4 + step), strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ["LAMB", "LARS", "StableAdamW", "Prodigy"])
def test_every_run_gives_the_same_bits(name):
    with interpreting():
        first, second = stepped(name), stepped(name)
    assert all(map(torch.equal, first, second))


def test_chunks_are_added_some_at_a_time(monkeypatch):
    with interpreting():
        wanted = stepped("LAMB")
    step_scalars.finish_source.cache_clear()
    monkeypatch.setattr(step_scalars, "SUMS", 2)
    try:
        with interpreting():
            ours = stepped("LAMB")
    finally:
        step_scalars.finish_source.cache_clear()
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_sums_over_all_tensors_of_each_group_take_three_launches(on_device):
    def run(**options: Any) -> list[torch.Tensor]:
        params = [x.requires_grad_() for x in given(8)]
        groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]
        optimizer = piste.optim.Prodigy(groups, d0=0.1, beta3=0.5, **options)
        for step in range(3):
            for p, g in zip(params, given(9 + step), strict=True):
                p.grad = g
            optimizer.step()
        return [*(p.detach() for p in params), *(groups[1][name] for name in ("d", "d_numerator"))]

    with interpreting(on_device) as backend:
        ours = run()
    sums = [("prepare", 1), ("reduce0", 7), ("finish0", 1), ("prepare", 1), ("reduce0", 1), ("finish0", 1)]
    steps = [*[("prepare", 1)] * on_device, ("step", 7), *[("prepare", 1)] * on_device, ("step", 1)]
    assert backend.device.launches == [*sums, *steps] * 3
    torch.testing.assert_close(ours, run(fused=False), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", ["LAMB", "LARS", "StableAdamW", "Prodigy"])
def test_tensors_that_are_not_aligned_are_reduced(name):
    def run(**options: Any) -> torch.Tensor:
        p, g = (x[1:] for x in given(5, [(8200,)] * 2))
        assert p.data_ptr() % 16 != 0
        p.requires_grad_().grad = g
        getattr(piste.optim, name)([p], lr=0.1, **options).step()
        return p.detach()

    with interpreting():
        ours = run()
    torch.testing.assert_close(ours, run(fused=False), rtol=2e-6, atol=2e-6)


def test_adafactor_steps_vectors_by_the_kernel():
    def run(**options: Any) -> list[torch.Tensor]:
        params = [x.requires_grad_() for x in given(6, [(4100,), (3, 5)])]
        optimizer = piste.optim.Adafactor(params, eps=(None, 1e-3), **options)
        for step in range(2):
            for p, g in zip(params, given(7 + step, [(4100,), (3, 5)]), strict=True):
                p.grad = g
            optimizer.step()
        return [p.detach() for p in params]

    with interpreting() as backend:
        ours = run()
    assert [entry for entry, _ in backend.device.launches][-1] == "step"
    torch.testing.assert_close(ours, run(fused=False), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_cautious_steps_count_their_elements_in_the_kernel(name):
    with interpreting() as backend:
        ours = stepped(name, cautious=True)
    assert backend.device.launches[0][0] == "reduce0"
    torch.testing.assert_close(ours, stepped(name, cautious=True, fused=False), rtol=2e-6, atol=2e-6)
