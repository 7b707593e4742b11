"""`PISTE_DEBUG=source` shows each kernel with its formula and its cache key."""

from __future__ import annotations

import re

import pytest
import torch

import piste
from piste.engine.cpu import fast_loss, is_one, loss_kernel
from piste.engine.native import compiler, gradients
from tests.losses.cases import CASES, seeded
from tests.optim.cases import ELEMENTWISE


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run an action as a process that has loaded no kernel, and return what it prints, kernel by kernel."""

    def run(action) -> list[str]:
        monkeypatch.setattr(compiler, "_loaded", {})
        loss_kernel.kernel_of.cache_clear()
        action()
        out, err = capsys.readouterr()
        assert out == ""
        return err.split("# kernel ")[1:]

    for module in (fast_loss, gradients, is_one):
        monkeypatch.setattr(module, "native_guard", lambda: None)
    return run


def step(**options) -> None:
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    piste.optim.Adam([p], **options).step()


def loss() -> None:
    x = torch.ones(3, requires_grad=True)
    piste.losses.SmoothL1Loss(beta=0.5)(x, torch.zeros(3)).backward()


def test_a_step_is_printed_with_the_formula_of_its_buffers_and_its_parameter(printed, monkeypatch):
    monkeypatch.setenv("PISTE_DEBUG", "source")
    (text,) = printed(lambda: step(weight_decay=0.1))
    key, *lines = text.splitlines()
    assert re.fullmatch("[0-9a-f]{40}", key)
    assert (compiler.read_object(key) or b"")[:4] == b"\x7fELF"
    assert lines[:4] == [
        "# Adam",
        "# m' = beta1 * m + (1 - beta1) * (g + weight_decay * p)",
        "# v' = beta2 * v + (1 - beta2) * (g + weight_decay * p) * (g + weight_decay * p)",
        "# p' = p - lr * m' / (1 - beta1 ** t) / (sqrt(v' / (1 - beta2 ** t)) + eps)",
    ]
    assert lines[4] == "def prepare(table):" and "def body(table):" in lines


def test_a_loss_is_printed_with_its_formula_derivatives_and_operands(printed, monkeypatch):
    monkeypatch.setenv("PISTE_DEBUG", "source")
    finish, run = printed(loss)
    assert finish.splitlines()[1] == "# cpu/kernels/finish.py"
    assert run.splitlines()[1:8] == [
        "# d = |x - y|",
        "# loss = (0.5 * d * d / beta if d < beta else d - 0.5 * beta)",
        "# d = x - y",
        "# d loss / d x = (sign(d) if |d| >= beta else d / beta)",
        "# d loss / d y = -d loss / d x",
        "# x: element float32, y: element float32; gradients by x",
        "def run(table):",
    ]


def test_a_file_of_kernels_is_named_with_the_values_of_its_constants(printed, monkeypatch):
    monkeypatch.setenv("PISTE_DEBUG", "source")
    (text,) = printed(lambda: compiler.load_file("cpu/kernels/mean_divisor", ("prepare",), INDEX=15, WEIGHT="float64"))
    assert text.splitlines()[1:4] == ["# cpu/kernels/mean_divisor.py", "# INDEX = 15", "# WEIGHT = float64"]


@pytest.mark.parametrize("value", [None, "", "other"])
def test_kernels_are_printed_only_on_request(printed, monkeypatch, value):
    monkeypatch.delenv("PISTE_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("PISTE_DEBUG", value)
    assert printed(step) == [] and printed(loss) == []


def test_a_kernel_is_printed_once_in_a_process(printed, monkeypatch):
    monkeypatch.setenv("PISTE_DEBUG", "source")
    assert len(printed(lambda: (step(), step(), step()))) == 1


def test_every_optimizer_has_a_formula_to_print(printed, monkeypatch):
    monkeypatch.setenv("PISTE_DEBUG", "source")

    def all_of_them() -> None:
        for cls in ELEMENTWISE.values():
            p = torch.zeros(3, requires_grad=True)
            p.grad = torch.ones(3)
            cls([p]).step()

    texts = printed(all_of_them)
    assert len(texts) == len(ELEMENTWISE)
    assert all(any(line.startswith("# p' = p ") for line in text.splitlines()) for text in texts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_loss_has_a_formula_to_print(printed, monkeypatch, case):
    monkeypatch.setenv("PISTE_DEBUG", "source")
    kernels = [text.splitlines() for text in printed(lambda: case.function(*seeded(case), **case.options))]
    for lines in kernels:
        assert lines[1].startswith("# cpu/kernels/") or any(line.startswith("# loss = ") for line in lines)
