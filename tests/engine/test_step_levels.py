"""Which new buffers the first pass of a reducing step stores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.engine.hoisting import trace_step
from piste.engine.step_levels import early_buffers
from piste.formula import mean, norm
from piste.optim.composition import step_spec
from piste.optim.options import rate


class Trusted(piste.optim.Optimizer):
    """A step as long as the parameter, along an average of the gradients."""

    options = {"lr": rate(0.5)}
    buffers = {"average": "m"}

    def update(p: Any, g: Any, m: Any) -> Any:
        m = 0.5 * m + 0.5 * g
        return norm(p) / norm(m) * m, m


class Extrapolated(Trusted):
    """The last pass needs the old average too."""

    def update(p: Any, g: Any, m: Any) -> Any:
        new = 0.5 * m + 0.5 * g
        return norm(p) / norm(new) * (2 * new - m), new


class Nesterov(Trusted):
    """The last pass needs the gradient too."""

    def update(p: Any, g: Any, m: Any) -> Any:
        m = 0.5 * m + 0.5 * g
        return norm(p) / norm(m) * (0.5 * m + 0.5 * g), m


class Centered(Trusted):
    """The second of three passes reads the new average, and the last one too."""

    def update(p: Any, g: Any, m: Any) -> Any:
        m = 0.5 * m + 0.5 * g
        u = m - mean(m)
        return norm(p) / norm(u) * u, m


class Unread(Trusted):
    """The first pass does not compute the new average."""

    def update(p: Any, g: Any, m: Any) -> Any:
        return norm(p) * m, 0.5 * m + 0.5 * g


STORED = {Trusted: ["m"], Extrapolated: [], Nesterov: [], Centered: ["m"], Unread: []}


def stored_early(optimizer: piste.optim.Optimizer, exact: str) -> list[str]:
    step = trace_step(step_spec(type(optimizer), optimizer.param_groups[0]))
    return list(early_buffers(step, step.hoisted(), exact).values())


@pytest.mark.parametrize("rule", STORED)
def test_the_first_pass_stores_buffers_where_no_later_pass_needs_the_gradient_or_the_old_ones(rule: Any) -> None:
    assert stored_early(rule([torch.ones(2, requires_grad=True)]), "pgm") == STORED[rule]


def test_lamb_stores_both_averages_early_and_stable_adamw_none() -> None:
    w = torch.ones(2, requires_grad=True)
    assert stored_early(piste.optim.LAMB([w]), "pgmv") == ["m", "v"]
    assert stored_early(piste.optim.LAMB([w]), "pg") == []  # averages of other dtypes are rounded once, at the end
    assert stored_early(piste.optim.LAMB([w], cautious=True), "pgmv") == []  # the mask needs the gradient
    assert stored_early(piste.optim.StableAdamW([w]), "pgmv") == []


def expected(rule: Any, p: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    new = 0.5 * m + 0.5 * g
    if rule is Unread:
        return p - 0.5 * p.norm() * m, new
    u = new - new.mean() if rule is Centered else new
    along = {Extrapolated: 2 * new - m, Nesterov: 0.5 * new + 0.5 * g}.get(rule, u)
    return p - 0.5 * p.norm() / u.norm() * along, new


@pytest.mark.parametrize("rule", STORED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_buffers_stored_early_do_not_change_the_step(rule: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    p = torch.randn(300, 4).to(dtype).requires_grad_()
    optimizer = rule([p], fused=True)
    exact = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.01}[dtype]
    m = torch.zeros_like(p).double()
    for _ in range(3):
        before = p.detach().double().clone()
        p.grad = torch.randn(300, 4).to(dtype)
        optimizer.step()
        new, wanted = expected(rule, before, p.grad.double(), m)
        m = optimizer.state[p]["average"].double().clone()
        torch.testing.assert_close(m, wanted, rtol=exact, atol=exact)
        torch.testing.assert_close(p.detach().double(), new, rtol=exact, atol=exact)
