"""The examples of CONTRIBUTING.md run, and compute their formulas."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from piste.cli import app
from piste.losses import LOSSES

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def registered_losses():
    """Forget the losses of the examples, which other tests would count among those of Piste."""
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


def load(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_the_optimizer_steps_in_its_kernel_by_its_formula():
    w = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    optimizer = load("optimizer.py")["Signum"]([w], lr=0.1, momentum=0.5)
    expected, m = w.detach().clone(), torch.zeros(3)
    for g in ([1.0, -2.0, 0.0], [-3.0, 1.0, 1.0]):
        w.grad = torch.tensor(g)
        optimizer.step()
        m = 0.5 * m + 0.5 * w.grad
        expected -= 0.1 * m.sign()
        torch.testing.assert_close(w.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_elementwise_loss_is_the_cauchy_loss_with_its_gradient(dtype):
    x = torch.tensor([0.0, 1.0, -2.0, 30.0], dtype=dtype, requires_grad=True)
    y = torch.tensor([0.0, 0.5, 1.0, 0.0], dtype=dtype)
    loss = load("elementwise_loss.py")["CauchyLoss"]()(x, y)
    loss.backward()
    d = (x - y).detach().double()
    torch.testing.assert_close(loss.double(), (1 + d**2 / 2).log().mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), d / (1 + d**2 / 2) / 4, rtol=1e-6, atol=1e-6)


def test_the_row_wise_loss_is_the_poly_loss_with_its_gradient():
    torch.manual_seed(0)
    x, classes = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randint(4, (6,))
    loss = load("rowwise_loss.py")["PolyLoss"]()(x, classes)
    (gradient,) = torch.autograd.grad(loss, x)
    log_p = torch.log_softmax(x, 1)[torch.arange(6), classes]
    expected = (-log_p + 2 * (1 - log_p.exp())).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])


def test_the_task_runs_with_its_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", f"{EXAMPLES / 'task.py'}:make", "--optimizers", "sgd,adam", "--seeds", "2", "--lr", "0.05"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "within 0.1 (higher is better)" in done.output


def test_contributing_names_files_and_targets_that_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", CONTRIBUTING):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:src|tests|docs)/[\w./]+)`", CONTRIBUTING):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)", CONTRIBUTING):
        assert re.search(rf"^{target}:", makefile, re.M), target
