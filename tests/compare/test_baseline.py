"""The metric of a constant prediction."""

import math

import pytest
import torch

from piste.compare.analysis.baseline import find_baseline
from piste.compare.metrics import METRICS, Metric


def baseline(metric, targets):
    return find_baseline(METRICS[metric], targets)


def test_classes_have_the_share_of_the_most_frequent_class():
    assert baseline("accuracy", torch.tensor([0, 0, 0, 2])) == (0.75, "the most frequent class")


def test_a_class_for_each_pixel():
    targets = torch.zeros(3, 4, 4, dtype=torch.long)
    targets[0] = 1
    assert baseline("accuracy", targets)[0] == pytest.approx(2 / 3)


def test_labels_and_one_hot_classes():
    labels = torch.tensor([[1.0], [1.0], [0.0]])
    assert baseline("accuracy", labels)[0] == pytest.approx(2 / 3)
    one_hot = torch.eye(3)[torch.tensor([1, 1, 2])]
    assert baseline("accuracy", one_hot)[0] == pytest.approx(2 / 3)


def test_bool_targets_are_classes_or_labels():
    assert baseline("accuracy", torch.tensor([True, False, True])) == (
        pytest.approx(2 / 3), "the most frequent class",
    )  # fmt: skip
    assert baseline("accuracy", torch.tensor([[True], [True], [False]]))[0] == pytest.approx(2 / 3)


def test_numbers_have_the_error_of_the_mean_or_the_median():
    targets = torch.tensor([[0.0], [0.0], [9.0]])
    assert baseline("rmse", targets) == (pytest.approx(math.sqrt(18)), "the mean of the targets")
    assert baseline("mae", targets) == (3.0, "the median of the targets")
    assert baseline("r2", targets)[0] == pytest.approx(0.0)


def test_the_r2_of_the_mean_is_zero_without_rounding_and_small_errors_stay():
    targets = torch.tensor([0.1, 0.7, 0.3, 0.9])[:, None]
    assert baseline("r2", targets)[0] == 0.0
    assert 0 < baseline("rmse", 1e-14 * targets)[0] < 1e-13


def test_a_metric_of_a_user_s_own_has_none():
    mine = Metric("mine", lambda output, target: 1.0, "max")
    value, meaning = find_baseline(mine, torch.ones(3))
    assert math.isnan(value) and meaning == ""
