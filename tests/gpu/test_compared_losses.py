"""Comparisons on a GPU, whose kernels report rejected values late: each run answers for its own."""

from __future__ import annotations

import pytest
import torch

import piste
from piste.errors import InvalidValue

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
pytest.importorskip("optuna", reason="the packages of comparisons are not installed")
from .interpreter import interpreting


class Line(torch.nn.Module):
    """Its outputs begin in [0, 1], the range of BCE, and leave it when the learning rate is large."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        torch.nn.init.constant_(self.layer.weight, 0.05)
        torch.nn.init.constant_(self.layer.bias, 0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_value_that_a_run_causes_fails_that_run_and_no_other():
    x = torch.rand(256, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1, keepdim=True) > 2).float()
    with interpreting():
        found = piste.compare(
            Line, ((x, y), (x[:64], y[:64])), loss="bce", optimizers=["SGD", "Adam"], metric="rmse",
            lr={"SGD": 0.3, "Adam": 1e-4}, epochs=1, seeds=1, batch_size=16,
        )  # fmt: skip
        piste.check()
    bad, good = found.results
    assert (bad.optimizer, bad.status, good.status) == ("SGD", "failed", "done")
    assert "InvalidValue: BCELoss: `input` must be in [0, 1]; received -0." in bad.note


def test_a_target_out_of_range_is_refused_before_the_first_run():
    x, k = torch.randn(256, 4), torch.arange(256) % 3
    k[200] = 7
    with interpreting():
        with pytest.raises(InvalidValue, match=r"`cross_entropy` failed on the model's output: .* received 7 at") as e:
            piste.compare(
                lambda: torch.nn.Linear(4, 3), ((x, k), (x[:64], k[:64])), loss="cross_entropy", optimizers=["SGD"],
                metric="accuracy", lr=0.01, epochs=1, seeds=1,
            )  # fmt: skip
        assert "raised late" not in str(e.value)
        piste.check()
