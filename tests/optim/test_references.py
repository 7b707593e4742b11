"""Optimizers that torch.optim lacks, against recorded trajectories of reference implementations."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from piste.optim import OPTIMIZERS

from .record_references import OF_MATRICES, STEPS, shape_of, trajectory

RUNS = json.loads(Path(__file__).with_name("references.json").read_text(encoding="utf-8"))["runs"]

pytestmark = pytest.mark.usefixtures("double_scalars")


@pytest.mark.sample(20)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['optimizer']}-{len(run['options'])}")
def test_the_trajectory_is_that_of_the_reference(run, fused):
    make = partial(OPTIMIZERS[run["optimizer"]], fused=fused)
    ours = torch.tensor(trajectory(make, run["options"], run["rates"], shape_of(run["optimizer"])))
    tolerance = 1e-12
    if run["optimizer"] in OF_MATRICES and run["options"].get("ns_steps") != 0:  # products in bfloat16
        tolerance = STEPS * run["options"].get("lr", 0.02) * 2**-8
    if run["optimizer"] == "SOAP":  # the authors compute eigenbases in float32
        tolerance = 1e-5
    torch.testing.assert_close(ours, torch.tensor(run["trajectory"]), rtol=1e-12, atol=tolerance)
