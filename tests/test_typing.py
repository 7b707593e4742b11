"""Type checkers know every optimizer and loss, and the committed stubs are those that the declarations make."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import piste
from piste.losses import LOSSES
from tools.stubs import ROOT, stubs

USER = """
import torch
from piste import losses, optim
from piste.losses import functional as F

model = torch.nn.Linear(2, 1)
optimizer: torch.optim.Optimizer = optim.Adam(model.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
criterion = losses.CrossEntropyLoss(label_smoothing=0.1, check="off")
value: torch.Tensor = criterion(torch.zeros(2, 3), torch.tensor([0, 1]))
other: torch.Tensor = F.mse_loss(value, value, reduction="sum")
losses.InfoNCELoss()(value, value, negatives=value)
losses.InfoNCELoss()(value, value, value)
losses.SigLIPLoss()(value, value, 10.0, logit_bias=-10.0)
losses.CTCLoss()(value, value, (3,), [1])
F.gaussian_nll_loss(value, value, 0.5)
"""
WRONG = {
    "optim.Nope(model.parameters())": 'Module has no attribute "Nope"',
    "optim.Adam(model.parameters(), lrr=0.1)": 'Unexpected keyword argument "lrr"',
    'optim.Adam(model.parameters(), lr="0.1")': 'has incompatible type "str"',
    "losses.MSELos()": 'Module has no attribute "MSELos"',
    'losses.MSELoss(reduction="avg")': "incompatible type",
    "losses.InfoNCELoss()(value, value, positives=value)": 'Unexpected keyword argument "positives"',
    "F.mse_loss(value)": 'Missing positional argument "target"',
}


@pytest.mark.parametrize("path", stubs(), ids=lambda path: "/".join(path.parts[-2:]))
def test_the_committed_stub_is_the_generated_one(path):
    assert path.read_text() == stubs()[path], "run `python -m tools.stubs`"


STUB = {
    node.name: {f.name: f.args for f in node.body if isinstance(f, ast.FunctionDef)}
    for node in ast.parse((ROOT / "losses" / "__init__.pyi").read_text()).body
    if isinstance(node, ast.ClassDef)
}
EXTRA_OPERANDS = {"InfoNCELoss": {"negatives": torch.randn(2, 8)}}
NUMBERS = {"logit_scale": 14.3, "logit_bias": -10.0, "var": 0.5, "input_lengths": (6, 5), "target_lengths": [2, 1]}


@pytest.mark.parametrize("name", STUB)
@pytest.mark.parametrize("method", ["forward", "__call__"])
def test_the_stub_has_the_operands_that_a_loss_takes(name, method):
    assert set(STUB) == {n for n in LOSSES if hasattr(piste.losses, n)}
    loss, (_, *parameters) = LOSSES[name](), STUB[name][method].args
    operands = eval(f"({loss.example},)", {"torch": torch})
    optional = EXTRA_OPERANDS.get(name, {})
    named = dict(zip([p.arg for p in parameters], operands, strict=False))
    assert [p.arg for p in parameters] == [*named, *optional], "the stub lacks an operand"
    assert len(STUB[name][method].defaults) == len(optional)
    assert [*inspect.signature(loss.forward).parameters] == [p.arg for p in parameters]
    torch.testing.assert_close(loss(**named), loss(*operands))
    torch.testing.assert_close(loss(**named, **optional), loss(*operands, *optional.values()))
    numbers = {
        p.arg: NUMBERS[p.arg] for p in parameters if ast.unparse(p.annotation) not in ("Tensor", "Tensor | None")
    }
    assert numbers.keys() == {p.arg for p in parameters if p.arg in NUMBERS}
    assert torch.isfinite(loss(**(named | numbers)))


def test_mypy_accepts_a_users_file_and_names_what_is_wrong(tmp_path):
    (tmp_path / "right.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(USER + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--ignore-missing-imports", "--cache-dir", "cache"]
    environment = {"MYPYPATH": str(ROOT.parent), "PATH": str(Path(sys.executable).parent)}
    result = subprocess.run(
        [*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    lines = [line for line in result.stdout.splitlines() if "error:" in line]
    assert not [line for line in lines if not line.startswith("wrong.py")], result.stdout + result.stderr
    first = USER.count("\n") + 1
    for k, message in enumerate(WRONG.values()):
        assert any(line.startswith(f"wrong.py:{first + k}:") and message in line for line in lines), result.stdout
