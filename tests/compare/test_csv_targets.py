"""The column to predict: classes or numbers, and the refusals of columns that are neither."""

import numpy as np
import pytest
import torch

from piste.compare import compare_task, table
from piste.compare.plan import make_plan
from piste.errors import InvalidValue

from .tables import PRICE, X, column, lines


def test_the_rmse_is_in_the_units_of_the_target(write_table):
    task = table(write_table(lines(X, PRICE)), column="price")
    mean = task.metric.value(torch.zeros_like(task.validation[1]), task.validation[1])
    assert task.about == (
        f"`price` as a number, from `x`: 30 training rows, 10 validation rows. "
        f"Predicting the mean gives an rmse of {mean:.3g}."
    )
    assert task.name == "data"
    (x, y), (x_validation, y_validation) = task.train, task.validation
    assert x.shape == (30, 1)
    assert y.shape == (30, 1)
    assert x.dtype == y.dtype == torch.float32
    np.testing.assert_allclose(y.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(correction=0), 1, rtol=1e-5)
    # The whole table is there once, and comes back with one map.
    raw = np.array([float(price) for price in PRICE[1:]])
    both = torch.cat([y, y_validation]).flatten().double().numpy()
    deviation = np.ptp(raw) / np.ptp(both)
    np.testing.assert_allclose(
        np.sort(both * deviation), np.sort(raw) - (raw.max() - both.max() * deviation), atol=1e-5
    )
    assert len(x_validation) == 10
    # One off by one unit of the price everywhere is an rmse of one.
    off = y_validation + 1 / deviation
    assert task.metric.value(off, y_validation) == pytest.approx(1, rel=1e-5)
    assert task.metric.name == "rmse"
    assert not task.metric.higher_is_better


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda i: ["no", "yes"][i % 2], ["no", "yes"]),
        (lambda i: i % 2 == 0, ["False", "True"]),
        (lambda i: i % 2, ["0", "1"]),
        (lambda i: float(10 + i % 2), ["10", "11"]),
        (lambda i: [10, 9, "n/a"][i % 3], ["9", "10"]),
        (lambda i: 1 + i % 4, ["1", "2", "3", "4"]),
        (lambda i: [1, 2, "A"][i % 3], ["1", "2", "A"]),
    ],
)
def test_text_and_few_whole_numbers_are_classes(write_table, make, labels):
    task = table(write_table(lines(X, column("kind", make))), column="kind")
    assert f"`kind` as one of {len(labels)} classes ({', '.join(labels)}), from `x`" in task.about
    whole = all(label.isdigit() for label in labels)
    said = f"The {len(labels)} different whole numbers in `kind` are taken as classes (--kind number: as a number)."
    assert (said in task.about) == whole
    assert task.metric.name == "accuracy"
    assert task.loss == "cross_entropy"
    for _, y in (task.train, task.validation):
        assert set(y.tolist()) == set(range(len(labels)))
    assert task.new_model(0)(task.train[0]).shape == (len(task.train[0]), len(labels))


@pytest.mark.parametrize(
    ("make", "rows", "kind"),
    [
        (lambda i: i % 4 + 0.5, 40, "as a number"),
        (lambda i: i % 2 + 0.5, 40, "as a number"),
        (lambda i: i % 2, 20, "as one of 2 classes (0, 1)"),
        (lambda i: i % 2, 21, "as one of 2 classes (0, 1)"),
        (lambda i: i % 3, 29, "as a number"),
        (lambda i: i % 10, 99, "as a number"),
        (lambda i: i % 10, 100, "as one of 10 classes (0, 1, 2, 3, 4 and 5 more)"),
        (lambda i: i % 11, 300, "as a number"),
    ],
)
def test_many_numbers_and_fractions_are_predicted_as_numbers(write_table, make, rows, kind):
    text = lines(column("x", lambda i: 7 * i % 13, rows), column("y", make, rows))
    assert f"`y` {kind}, from" in table(write_table(text), column="y").about


def test_rows_of_rare_classes_are_left_out_and_reported(write_table):
    kind = column("kind", lambda i: "odd" if i < 2 else "ab"[i % 2])
    task = table(write_table(lines(X, kind)), column="kind")
    assert "Left out as classes with fewer than 4 rows: odd (2)." in task.about
    assert "2 classes (a, b)" in task.about
    assert len(task.train[0]) + len(task.validation[0]) == 38


def test_kind_overrides_the_cells(write_table):
    stars = write_table(lines(X, column("stars", lambda i: 1 + i % 4)))
    assert "`stars` as a number" in table(stars, "stars", kind="number").about
    many = write_table(lines(column("x", str, 60), column("count", lambda i: i % 12, 60)))
    assert "`count` as a number" in table(many, "count").about
    assert "`count` as one of 12 classes (0, 1, 2, 3, 4 and 7 more)" in table(many, "count", kind="classes").about
    assert "taken as classes" not in table(many, "count", kind="classes").about


def test_kind_number_refuses_text_with_its_line(write_table):
    path = write_table(lines(X, column("stars", lambda i: "many" if i == 3 else 1 + i % 4)))
    with pytest.raises(InvalidValue) as caught:
        table(path, "stars", kind="number")
    assert str(caught.value) == (
        f"`stars` must be a number in every row with kind='number'; received 'many' in line 5 of {path}. "
        "Help: leave the cell empty where there is none, or omit --kind."
    )
    with pytest.raises(InvalidValue, match="`kind` must be 'classes' or 'number'; received 'count'"):
        table(path, "stars", kind="count")


def test_a_date_as_target_is_rejected_with_the_way_out(write_table):
    path = write_table(lines(X, column("sold", lambda i: f"2023-{1 + i % 12:02}-{1 + i % 28:02}")))
    with pytest.raises(InvalidValue, match=r"'2023-01-01' in line 2 of .*; write a date as a number of days"):
        table(path, "sold")


def test_minus_999_in_the_target_counts_as_missing(write_table):
    path = write_table(lines(X, column("y", lambda i: -999 if i % 10 == 0 else i % 7 + 0.5)))
    task = table(path, "y")
    assert (
        "`y` is -999 in 4 rows, far from all other numbers (0.5 to 6.5): counted as missing. "
        "4 rows without a `y` are left out."
    ) in task.about
    assert len(task.train[1]) + len(task.validation[1]) == 36


def test_metrics_by_name_are_in_the_units_of_the_target(write_table):
    task = table(write_table(lines(X, PRICE)), column="price")
    default = compare_task(task, optimizers=["SGD"], seeds=1, epochs=3, progress=False)
    task.metric = ["rmse", "mae", "r2"]
    found = compare_task(task, optimizers=["SGD"], seeds=1, epochs=3, progress=False)
    assert found.rows[0].metric == default.rows[0].metric
    plan = make_plan(task, optimizers=["SGD"], epochs=3)
    mae = next(metric for metric in plan.also if metric.name == "mae")
    y = task.validation[1]
    raw = np.ptp([float(price) for price in PRICE[1:]]) / np.ptp(torch.cat([task.train[1], y]).numpy())
    assert mae.value(y + 2 / raw, y) == pytest.approx(2, rel=1e-5)  # off by two units of the price


def test_balanced_class_weights_are_the_inverse_of_the_shares_of_the_training_rows(write_table):
    rare = column("kind", lambda i: "rare" if i % 4 == 0 else "common")
    task = table(write_table(lines(X, rare)), column="kind", class_weights="balanced")
    (name, loss), *others = task.loss.items()
    counts = torch.bincount(task.train[1])
    assert (name, others) == ("balanced cross_entropy", [])
    torch.testing.assert_close(loss.weight * counts, torch.full((2,), len(task.train[1]) / 2))
    assert not compare_task(task, optimizers=["SGD"], seeds=1, epochs=1, progress=False).failed
    for target, weights, words in [
        (rare, "even", "`class_weights` must be balanced, or not given; received 'even'."),
        (PRICE, "balanced", "`class_weights` is for classes; `price` is a number. Help: omit it."),
    ]:
        with pytest.raises(InvalidValue) as caught:
            table(write_table(lines(X, target)), column=target[0], class_weights=weights)
        assert str(caught.value) == words


def test_the_weighted_loss_of_a_table_is_compared_with_others_by_its_name(write_table):
    rare = column("kind", lambda i: "rare" if i % 4 == 0 else "common")
    task = table(write_table(lines(X, rare)), column="kind", class_weights="balanced")
    plan = make_plan(task, optimizers=["SGD"], loss=["balanced cross_entropy", "focal"])
    assert [candidate.loss for candidate in plan.candidates] == ["balanced cross_entropy", "focal"]
    shares = torch.bincount(plan.task.train[1]) / len(plan.task.train[1])
    torch.testing.assert_close(plan.candidates[0].loss_function.weight, 1 / (2 * shares))
    assert plan.candidates[1].loss_function.weight is None
