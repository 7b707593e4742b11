"""Rules that reduce over a tensor: layouts, levels, threads, and the backends that step them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.engine.cpu.step_reductions import first_items, stages
from piste.formula import maximum, mean, norm, sqrt, total
from piste.optim.options import rate

LARGE = 300_000  # elements; more than one item of work


class Balanced(piste.optim.Optimizer):
    """Divides by the norm, and then by the largest root mean square of what is left: two levels."""

    options = {"lr": rate(0.5)}
    buffers = {"size": "s"}

    def update(p: Any, g: Any, s: Any) -> Any:
        u = g / norm(g)
        return u / maximum(sqrt(mean(u * u)), 0.25 * total(abs(p))), s + u * mean(u)


def expected(p: torch.Tensor, g: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p, g, s = (x.double() for x in (p, g, s))
    u = g / (g**2).sum() ** 0.5
    scale = max((u**2).mean() ** 0.5, 0.25 * p.abs().sum())
    return p - 0.5 * u / scale, s + u * u.mean()


def transposed(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape[::-1]).mT


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [torch.randn, transposed])
def test_levels_follow_each_other_for_every_tensor_of_a_group(fused: bool, make: Any) -> None:
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in [(3, 4), (600, LARGE // 600), (1, 1), (0, 2)]]
    optimizer = Balanced(params, fused=fused)
    sizes = [torch.zeros_like(p) for p in params]
    for _ in range(3):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = make(p.shape)
        optimizer.step()
        for i, p in enumerate(params):
            new, size = expected(before[i], p.grad, sizes[i])
            sizes[i] = optimizer.state[p]["size"].clone()
            torch.testing.assert_close(p.detach(), new.float(), rtol=2e-6, atol=1e-7)
            torch.testing.assert_close(sizes[i], size.float(), rtol=1e-5, atol=1e-9)


def test_complex_parameters_reduce_over_both_parts() -> None:
    for fused in (False, True):
        p = torch.tensor([3 + 4j], requires_grad=True)
        p.grad = torch.tensor([0.6 - 0.8j])
        piste.optim.LARS([p], lr=1.0, momentum=0.0, trust_coefficient=0.5, fused=fused).step()
        torch.testing.assert_close(p.detach(), torch.tensor([1.5 + 6j]))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            params = [torch.randn(n).requires_grad_() for n in (LARGE, 70_000, 5)]
            optimizer = piste.optim.LAMB(params, weight_decay=0.1, fused=True)
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn(p.shape)
                optimizer.step()
            found.append([p.detach() for p in params])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_items_of_a_tensor_follow_each_other() -> None:
    assert first_items([0, 0, 2, 3, 3, 3], 4) == [0, 2, 2, 3, 6]
    assert stages(0) == [("prepare", "body")]
    assert stages(2) == [("prepare", "reduce0"), ("finish0", "reduce1"), ("finish1", "body")]


def test_explain_backend_states_the_passes() -> None:
    p = torch.randn(3).requires_grad_()
    assert piste.optim.LAMB([p]).explain_backend() == (
        "LAMB, group 0: 1 of 1 parameters by the fused CPU kernel, all together, in 2 passes"
    )
    assert Balanced([p]).explain_backend().endswith("in 3 passes")
    assert piste.optim.Adam([p]).explain_backend().endswith("all in one pass")


@pytest.mark.parametrize("precision", ["stochastic", "kahan", "master"])
def test_16_bit_parameters_reduce_in_every_precision(precision: str) -> None:
    paths = []
    for fused in (False, True):
        torch.manual_seed(0)
        p = torch.randn(1000, dtype=torch.bfloat16).requires_grad_()
        optimizer = piste.optim.LAMB([p], lr=0.01, weight_decay=0.1, precision=precision, fused=fused)
        for _ in range(3):
            p.grad = torch.randn(1000).bfloat16()
            optimizer.step()
        paths.append(p.detach().float())
    torch.testing.assert_close(*paths, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_a_tensor_of_zeros_moves_by_the_plain_update(name: str) -> None:
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.tensor([1.0, -1.0, 1.0])
    getattr(piste.optim, name)([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5, 0.5, -0.5]), rtol=1e-5, atol=0)


def test_nesterov_lars_requires_a_momentum() -> None:
    with pytest.raises(piste.errors.InvalidValue, match=r"requires a momentum; received momentum=0\."):
        piste.optim.LARS([torch.zeros(1, requires_grad=True)], momentum=0.0, nesterov=True)
