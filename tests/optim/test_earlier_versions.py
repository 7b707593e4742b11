"""Checkpoints that earlier versions of Piste wrote."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from piste.optim import OPTIMIZERS

from . import record_checkpoints

RECORDED = [
    (file.stem, run)
    for file in sorted(Path(__file__).with_name("checkpoints").glob("*.pt"))
    for run in torch.load(file, weights_only=True)["runs"]
]


@pytest.mark.sample(10)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("version", "run"), RECORDED, ids=lambda x: x if isinstance(x, str) else x["optimizer"])
def test_a_checkpoint_of_an_earlier_version_loads_and_goes_on(version, run, fused):
    """Recorded by `record_checkpoints`; the run that goes on ends where the recorded one did."""
    params = [p.clone().requires_grad_() for p in run["middle"]]
    optimizer = OPTIMIZERS[run["optimizer"]](params)
    optimizer.load_state_dict(copy.deepcopy(run["checkpoint"]))
    for group in optimizer.param_groups:
        group["fused"] = fused
    record_checkpoints.run(optimizer, params, range(record_checkpoints.STEPS, record_checkpoints.STEPS + 2))
    for p, expected in zip(params, run["end"], strict=True):
        if fused:
            torch.testing.assert_close(p.detach(), expected)
        else:
            assert torch.equal(p.detach(), expected)
