"""Steps and checkpoints of models that are spread over two processes, against one process (sharded_run.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import piste
from tests.torchrun import torchrun

SCRIPT = Path(__file__).with_name("sharded_run.py")


EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "train_sharded.py"


def run(*command):
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch has no distributed package here")
def test_two_processes_step_and_save_as_one(tmp_path):
    assert torchrun(SCRIPT, tmp_path).count("done") == 2
    assert run(SCRIPT, tmp_path).count("done") == 1


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch has no distributed package here")
def test_the_example_of_the_docs_trains_and_goes_on(tmp_path):
    outputs = [torchrun(EXAMPLE, tmp_path / "checkpoint") for _ in range(2)]
    found = [re.search(r"step (\d+): loss ([\d.]+), norm [\d.]+, 0 skipped", text).groups() for text in outputs]
    assert [int(step) for step, _ in found] == [100, 200]
    assert float(found[1][1]) < float(found[0][1]) < 0.3
    assert all("4 of 4 parameters by the fused CPU kernel" in text for text in outputs)


def test_an_optimizer_without_parameters_steps_in_silence():
    optimizer = piste.optim.Adam([{"params": []}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_an_empty_group_is_accepted_and_round_trips():
    p = torch.ones(2, requires_grad=True)
    optimizer = piste.optim.Adam([{"params": [p]}, {"params": [], "lr": 0.5}])
    p.grad = torch.ones(2)
    optimizer.step()
    again = piste.optim.Adam([{"params": [p]}, {"params": []}])
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[1]["lr"] == 0.5 and again.param_groups[1]["params"] == []
    again.step()
    assert again.state[p]["step"] == 2
