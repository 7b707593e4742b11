"""Type checkers know every optimizer and loss, and the committed stubs are those that the declarations make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
"""
WRONG = {
    "optim.Nope(model.parameters())": 'Module has no attribute "Nope"',
    "optim.Adam(model.parameters(), lrr=0.1)": 'Unexpected keyword argument "lrr"',
    'optim.Adam(model.parameters(), lr="0.1")': 'has incompatible type "str"',
    "losses.MSELos()": 'Module has no attribute "MSELos"',
    'losses.MSELoss(reduction="avg")': "incompatible type",
    "F.mse_loss(value)": 'Missing positional argument "target"',
}


@pytest.mark.parametrize("path", stubs(), ids=lambda path: "/".join(path.parts[-2:]))
def test_the_committed_stub_is_the_generated_one(path):
    assert path.read_text() == stubs()[path], "run `python -m tools.stubs`"


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
