"""The rules and losses of docs/extending.md are short, and compute what their papers state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import piste
from piste.losses import LOSSES
from tools.docs.blocks import python_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = [block for block in python_blocks(PAGE) if "piste.compare(" not in block]


@pytest.fixture(scope="module")
def page() -> Any:
    """The names that the blocks of the page define."""
    before, scope = dict(LOSSES), dict[str, Any]()
    for block in BLOCKS:
        exec(block, scope)
    yield scope
    LOSSES.clear()
    LOSSES.update(before)


@pytest.mark.parametrize(("name", "most"), [("MyLAMB", 12), ("MyMuon", 20)])
def test_a_rule_has_few_lines_of_its_own(name: str, most: int) -> None:
    (text,) = re.findall(rf"^class {name}\(.*\n(?:(?:    .*)?\n)*", PAGE, re.MULTILINE)
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[-1].lstrip().startswith("return")
    assert 5 < len(lines) <= most


def train(make: Any, dtype: torch.dtype) -> list[Tensor]:
    """Return parameters of several shapes after steps with gradients of several sizes."""
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((4, 4), (6, 3), (2, 7))]
    optimizer = make(params)
    for step in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, dtype=dtype) * 10.0 ** (step - 2)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("fused", [None, False])
def test_lamb_steps_as_the_built_in_one(page: dict[str, Any], fused: bool | None) -> None:
    options = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1}
    expected = train(lambda params: piste.optim.LAMB(params, **options, fused=False), torch.float64)
    found = train(lambda params: page["MyLAMB"](params, **options, fused=fused), torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert page["MyLAMB"].options.keys() < piste.optim.LAMB.options.keys()


@pytest.mark.parametrize("fused", [None, False])
def test_muon_steps_as_the_built_in_one(page: dict[str, Any], fused: bool | None) -> None:
    expected = train(lambda params: piste.optim.Muon(params, lr=0.1, ns_dtype="float32"), torch.float32)
    found = train(lambda params: page["MyMuon"](params, lr=0.1, fused=fused), torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_normalized_step_has_the_length_of_the_rate(page: dict[str, Any]) -> None:
    w, b = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    optimizer = page["NormalizedSGD"]([{"params": [w]}, {"params": [b]}], lr=0.5)
    for p, g in ((w, [3.0, 4.0]), (b, [12.0])):
        p.grad = torch.tensor(g)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([3.0 - 0.5 * 3 / 13, 4.0 - 0.5 * 4 / 13]))
    torch.testing.assert_close(b.detach(), torch.tensor([1.0 - 0.5 * 12 / 13]))


def check_loss(loss: Any, expected: Tensor, operands: tuple[Tensor, ...]) -> None:
    """Compare a loss and its gradient by its first operand with a formula of torch."""
    found = loss(*operands)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, operands[0]), torch.autograd.grad(expected, operands[0]))


def test_the_cauchy_loss_is_its_formula(page: dict[str, Any]) -> None:
    x, y = torch.randn(50, dtype=torch.float64, requires_grad=True), torch.randn(50, dtype=torch.float64)
    check_loss(page["Cauchy"](), torch.log(1 + (x - y) ** 2 / 2).mean(), (x, y))
    assert "log(1 + d * d / 2)" in str(piste.explain(page["Cauchy"], x[:2], y[:2]))


def test_the_relative_error_is_its_formula(page: dict[str, Any]) -> None:
    x, y = torch.randn(50, dtype=torch.float64, requires_grad=True), torch.randn(50, dtype=torch.float64)
    expected = ((x - y).abs() / y.abs().clamp(min=0.5)).mean()
    check_loss(page["RelativeErrorLoss"](floor=0.5), expected, (x, y))


def test_the_poly_loss_is_its_formula(page: dict[str, Any]) -> None:
    x, k = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randint(4, (6,))
    log_p = torch.log_softmax(x, 1)[torch.arange(6), k]
    check_loss(page["PolyLoss"](), (-log_p + 2 * (1 - log_p.exp())).mean(), (x, k))
    log_p = torch.log_softmax(x, 1)[torch.arange(6), k]
    weight, kept = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64), k != k[0]
    w = weight[k] * kept
    expected = (w * (-log_p + 2 * (1 - log_p.exp()))).sum() / w.sum()
    check_loss(page["PolyLoss"](weight=weight, ignore_index=int(k[0])), expected, (x, k))


def test_the_soft_triplet_loss_is_its_formula(page: dict[str, Any]) -> None:
    a, b, c = (torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    z = (a - b).square().sum(1) - (a - c).square().sum(1)
    check_loss(page["SoftTripletLoss"](), torch.nn.functional.softplus(z).mean(), (a, b, c))
    far = torch.full((1, 4), 100.0, dtype=torch.float64)
    assert page["SoftTripletLoss"]()(far, -far, far) == 160000  # no overflow
