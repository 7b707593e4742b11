"""The conventions of Keras and optax, step by step against the versions that are installed."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "jax")
for package in ("jax", "keras", "optax"):
    pytest.importorskip(
        package, reason=f"{package} is not installed: conventions are compared with recorded steps alone"
    )
from .record_trajectories import keras_runs, optax_runs
from .test_conventions import path_of


@pytest.mark.parametrize(("framework", "runs"), [("keras", keras_runs), ("optax", optax_runs)])
def test_steps_are_those_of_the_installed_framework(framework, runs):
    for run in runs():
        expected = torch.tensor(run["path"], dtype=torch.float64)
        found = path_of(framework, run, fused=False)
        torch.testing.assert_close(
            found, expected, rtol=1e-12, atol=1e-12, msg=lambda text, run=run: f"{run['name']} {run['options']}: {text}"
        )
