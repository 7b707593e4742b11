"""The command `piste`, run in a folder that has a task file."""

import pytest
from typer.testing import CliRunner

from piste.cli import app

TASK = """
import torch

def make():
    x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    model = lambda: torch.nn.Linear(2, 2)
    return {"model": model, "train": (x, y), "validation": (x, y), "epochs": 2, "batch_size": 16}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK)

    def call(*words):
        return CliRunner().invoke(app, list(words))

    return call
