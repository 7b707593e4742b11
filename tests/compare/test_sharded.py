"""The worked example of a sharded model: it runs, goes on after an interruption, and finds what a whole one finds."""

import importlib.util
import json
from pathlib import Path

import pytest
from torch import nn

import piste
from tests.torchrun import torchrun

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sharded.py"


def run(folder):
    torchrun(EXAMPLE, folder)
    return json.loads((folder / "rank0" / "results.json").read_text())


def test_a_sharded_model_gives_the_table_of_a_whole_one(tmp_path):
    spec = importlib.util.spec_from_file_location("sharded", EXAMPLE)
    sharded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sharded)

    def whole():
        return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    found = piste.compare(
        whole, (sharded.data(1024, 0), sharded.data(512, 1)), optimizers=["SGD", "Adam"],
        lr={"SGD": 0.1, "Adam": 0.01}, seeds=3, epochs=5, progress=False,
    )  # fmt: skip
    spread = run(tmp_path)
    for mine, theirs in zip(found.results, spread["results"], strict=True):
        assert (theirs["candidate"], theirs["seed"], theirs["steps"]) == (mine.candidate, mine.seed, mine.steps)
        assert theirs["losses"] == pytest.approx(mine.losses, rel=1e-3)
        assert theirs["metrics"] == pytest.approx(mine.metrics, abs=0.01)
    (tmp_path / "rank1" / "runs.db").unlink()  # the one that fell behind goes on from the other's runs
    again = run(tmp_path)
    assert [r["seconds"] for r in again["results"]] == [r["seconds"] for r in spread["results"]]
