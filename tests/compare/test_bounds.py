"""Intervals of a metric with a least or a largest value end there, in tables, files and between two comparisons."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from piste.compare import Loop, Metric, compare_task, diff
from piste.compare.analysis.differences import compare_with_best
from piste.compare.analysis.evidence import Evidence
from piste.compare.formats import format_with_interval
from piste.compare.metrics import METRICS
from tests.compare.small import task

ACCURACY = METRICS["accuracy"]
RATES = {"optimizers": ["SGD", "Adam"], "lr": {"SGD": 0.3, "Adam": 0.03}, "seeds": 2, "progress": False}


def numbers(**options):
    def of(count, seed):
        x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
        return x, x.sum(1, keepdim=True)

    return task(model=lambda: nn.Linear(3, 1), train=of(48, 0), validation=of(40, 1), loss="mse", **options)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "loss"])
def test_intervals_of_every_metric_stay_in_its_range(name):
    ranges = {
        **dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "auc"), (0.0, 1.0)),
        **dict.fromkeys(("log_loss", "rmse", "mae"), (0.0, math.inf)),
        "r2": (-math.inf, 1.0),
    }
    least, most = ranges[name]
    make = numbers if name in ("rmse", "mae", "r2") else task
    found = compare_task(make(metric=name), **RATES)
    assert found.bounds == (least, most)
    for row in found.rows:
        assert least <= row.low <= row.metric <= row.high <= most
    for difference in found.verdict.differences:
        assert abs(difference.low) <= most - least and abs(difference.high) <= most - least


def test_an_interval_is_cut_at_the_bounds_alone(tmp_path):
    unbounded = compare_task(task(metric=dataclasses.replace(ACCURACY, bounds=(-math.inf, math.inf))), **RATES)
    bounded = compare_task(task(metric="accuracy"), **RATES)
    assert any(row.high > 1 for row in unbounded.rows)  # two seeds: a t quantile of 12.7
    for row, free in zip(bounded.rows, unbounded.rows, strict=True):
        assert (row.low, row.high) == (max(free.low, 0.0), min(free.high, 1.0))
    cut = next(row for row, free in zip(bounded.rows, unbounded.rows, strict=True) if free.high > 1)
    line = next(line for line in bounded.table().splitlines() if line.startswith(f"| {cut.name}"))
    assert "±" not in line and " to 1." in line
    bounded.save(tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["bounds"] == [0.0, 1.0]


def test_a_difference_is_at_most_the_whole_range():
    values = {"a": np.array([0.9, 0.8]), "b": np.array([0.1, 0.7])}
    (free,) = compare_with_best(Evidence(values), True, 0.01)[1]
    (cut,) = compare_with_best(Evidence(values), True, 0.01, (0.0, 1.0))[1]
    assert free.low < -1 and free.high > 1
    assert (cut.low, cut.high, cut.p_value, cut.outcome) == (-1.0, 1.0, free.p_value, free.outcome)


def test_a_change_between_two_comparisons_is_at_most_the_whole_range(tmp_path):
    before = compare_task(task(metric="accuracy"), **RATES)
    after = compare_task(task(metric="accuracy", loop=Loop(schedule="linear")), **{**RATES, "lr": 1e-3, "seed": 5})
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    changes = [c for c in diff(tmp_path / "before", tmp_path / "after").changes if not math.isnan(c.low)]
    assert len(changes) == 2
    assert all(-1 <= c.low <= c.size <= c.high <= 1 for c in changes)
    assert any(c.low == -1 or c.high == 1 for c in changes)


def test_a_metric_of_the_user_has_the_bounds_that_it_states():
    def share(output, target):
        return (output.argmax(1) == target).double()

    for bounds in ((0.0, 1.0), (-math.inf, math.inf)):
        found = compare_task(task(metric=Metric("share", share, "max", bounds=bounds)), **RATES)
        assert found.bounds == bounds
        assert any(row.high > 1 for row in found.rows) == (bounds[1] > 1)


def test_a_symmetric_interval_has_a_plus_minus_sign_and_any_other_its_ends():
    assert format_with_interval(0.5, 0.4, 0.6) == "0.50 ± 0.10"
    assert format_with_interval(123456.0, 123455.9999, 123456.0001) == "123456.00000 ± 0.00010"
    assert format_with_interval(0.95, 0.8, 1.0) == "0.95 (0.80 to 1.00)"
    assert format_with_interval(1.0, 1.0, 1.0) == "1.0000 ± 0.0000"
