"""Splits by seed: every seed draws its own training and validation data, and the verdict knows the shared examples."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from piste.compare import Task, compare_task, diff, table
from piste.compare.analysis.evidence import scores_of
from piste.compare.analysis.statistics import estimate_spread
from piste.compare.class_metrics import f1
from piste.compare.csv.predictor import Predictor
from piste.compare.metrics import METRICS, Metric
from piste.compare.plan import make_plan
from piste.compare.results import Result
from piste.compare.tasks import task as built_in
from piste.compare.training.example_scores import example_scores
from piste.errors import InvalidValue
from tests.compare.small import model, task

from .tables import column, lines

X = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] > 0).long()
OPTIONS = {"optimizers": ["SGD", "Adam"], "lr": 0.1, "progress": False}


def of_seed(seed):
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    train, held_out = order[20:], order[:20]
    return Task(
        model, (X[train], Y[train]), (X[held_out], Y[held_out]), examples=held_out, epochs=4, batch_size=16, name="pool"
    )


def splitting(**options):
    return dataclasses.replace(of_seed(0), resplit=of_seed, **options)


def numbers(seed):
    return torch.randperm(80, generator=torch.Generator().manual_seed(seed))[:20].tolist()


def prices(count=80):
    return lines(
        column("shop", lambda i: f"s{i // 5}", count), column("x", lambda i: i * 7 % 11, count),
        column("y", lambda i: 10 * (i * 7 % 11) + i % 3, count),
    )  # fmt: skip


def test_every_seed_has_its_own_split_which_its_candidates_share():
    found = compare_task(splitting(), **OPTIONS, seeds=3)
    for run in found.results:
        assert run.examples == numbers(run.seed)
        assert len(run.scores) == 20
        assert np.mean(run.scores) == pytest.approx(run.metrics[-1])
    assert "Every seed drew its own training and validation data from the same examples." in found.verdict.limits
    assert found.settings["split"] == "seeds"


def test_one_split_is_kept_on_request():
    found = compare_task(splitting(), **OPTIONS, seeds=3, split="fixed")
    given = compare_task(dataclasses.replace(of_seed(0), examples=None), **OPTIONS, seeds=3)
    assert [r.metrics for r in found.results] == [r.metrics for r in given.results]
    assert all(not run.examples for run in found.results)
    assert "drew its own" not in found.verdict.limits
    assert found.settings["split"] == "fixed"


def test_an_unknown_split_and_splits_of_given_data_are_rejected():
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(), **OPTIONS, split="each")
    assert str(caught.value) == "`split` must be one of seeds, fixed; received 'each'."
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(name="mine"), **OPTIONS, split="seeds")
    assert str(caught.value) == (
        "`split` must be fixed for mine, whose training and validation data are given; received 'seeds'. Help: omit it."
    )


def test_data_that_replaced_that_of_the_split_is_rejected():
    changed = splitting()
    changed.train = (X, Y)
    with pytest.raises(InvalidValue) as caught:
        compare_task(changed, **OPTIONS)
    assert str(caught.value) == (
        "`train` of the task pool was replaced, and every seed would replace it by its own split. Help: set `resplit` "
        "of the task to None."
    )


def test_a_split_that_fails_is_told_with_its_seed():
    def failing(seed):
        if seed == 2:
            raise InvalidValue("no row is left.")
        return of_seed(seed)

    with pytest.raises(InvalidValue) as caught:
        compare_task(dataclasses.replace(of_seed(0), resplit=failing), **OPTIONS, seeds=3)
    assert str(caught.value) == (
        "the split of seed 2 is not possible: no row is left. Help: keep one split with --split fixed (split=)."
    )


def test_processes_split_alike():
    here, there = (compare_task(splitting(), **OPTIONS, seeds=2, jobs=jobs) for jobs in (1, 2))
    order = ("candidate", "seed")
    for one, other in zip(*(sorted(f.results, key=lambda r: [getattr(r, n) for n in order]) for f in (here, there)),
                          strict=True):  # fmt: skip
        assert (one.metrics, one.scores, one.examples) == (other.metrics, other.scores, other.examples)


def test_a_folder_is_extended_by_seeds_and_refuses_another_kind_of_split(tmp_path):
    compare_task(splitting(), **OPTIONS, seeds=2, out=tmp_path)
    extended = compare_task(splitting(), **OPTIONS, seeds=3, out=tmp_path)
    fresh = compare_task(splitting(), **OPTIONS, seeds=3)
    assert [r.metrics for r in extended.results] == [r.metrics for r in fresh.results]
    assert [r.examples for r in extended.results] == [r.examples for r in fresh.results]
    assert extended.verdict == fresh.verdict
    with pytest.raises(InvalidValue, match="holds another comparison: split was seeds, now fixed"):
        compare_task(splitting(), **OPTIONS, seeds=2, out=tmp_path, split="fixed")


def test_two_comparisons_are_paired_by_the_examples_of_each_seed(tmp_path):
    first, second = (compare_task(splitting(), optimizers="SGD", lr=lr, seeds=3, progress=False) for lr in (0.01, 0.5))
    assert "paired" in str(diff(first, second))
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    (one,), (other,) = diff(first, second).changes, diff(tmp_path / "a", tmp_path / "b").changes
    assert (one.low, one.high) == (other.low, other.high)


def test_a_search_has_splits_of_its_own():
    plan = make_plan(splitting(), optimizers=["SGD"], trials=3, seeds=2)
    plan.check_splits()
    parts = [plan.part(seed) for seed in (*plan.seeds, *map(plan.seed_of_search, range(2)))]
    assert len({tuple(part.task.examples.tolist()) for part in parts}) == 4


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes", "digits", "digits-rnn", "redundant"])
def test_built_in_tasks_split_by_seeds(name):
    first = built_in(name)
    second = first.of_seed(1)
    assert torch.equal(first.validation[0], first.of_seed(0).validation[0])
    assert set(first.examples.tolist()) != set(second.examples.tolist())
    assert len(second.train[1]) == len(first.train[1])
    if not first.validation[1].is_floating_point():  # the share of each class stays
        assert abs(first.validation[1].bincount() - second.validation[1].bincount()).max() <= 1
    assert (second.name, second.about) == (first.name, first.about)


def test_no_page_of_characters_is_in_both_parts():
    from piste.compare.tasks.characters import of_seed, windows_by_page

    (x, _), page = windows_by_page()
    drawn = of_seed(3)
    held_out = torch.isin(page, page[drawn.examples])
    assert torch.equal(x[drawn.examples], drawn.validation[0])
    trained, inside, outside = (
        {tuple(row.tolist()) for row in rows} for rows in (drawn.train[0], x[held_out], x[~held_out])
    )
    assert len(inside - outside) > 100  # some lines are on several pages
    assert not (inside - outside) & trained


def test_a_table_is_fitted_to_the_training_rows_of_each_seed(write_table):
    task = table(write_table(prices()), "y", drop="shop")
    for seed in (0, 1, 2**31):
        drawn = task.of_seed(seed)
        held_out = set(drawn.examples.tolist())
        assert len(held_out) == 20
        assert drawn.table_target.mean == pytest.approx(
            np.mean([10 * (i * 7 % 11) + i % 3 for i in range(80) if i not in held_out])
        )
        assert drawn.metric is drawn.own_metrics["rmse"]
    assert task.of_seed(0).table_target.mean == task.table_target.mean != drawn.table_target.mean


def test_scores_of_a_table_are_in_units_that_all_seeds_share(write_table):
    found = compare_task(table(write_table(prices()), "y", drop="shop"), **OPTIONS, seeds=3, epochs=3)
    for run in found.results:
        assert np.sqrt(np.mean(run.scores)) == pytest.approx(run.metrics[-1], rel=1e-6)


def test_the_latest_rows_are_the_same_for_every_seed(write_table):
    task = table(write_table(prices()), "y", drop="shop", time="x")
    assert task.resplit is None
    found = compare_task(task, **OPTIONS, seeds=2, epochs=2)
    assert found.settings["split"] == "fixed"


def test_groups_of_different_sizes_leave_scores_of_different_lengths(write_table):
    text = lines(
        column("shop", lambda i: f"s{int(i**0.5)}", 120), column("x", lambda i: i * 7 % 11, 120),
        column("y", lambda i: 10 * (i * 7 % 11) + i % 3, 120),
    )  # fmt: skip
    found = compare_task(table(write_table(text), "y", group="shop"), **OPTIONS, seeds=4, epochs=3)
    assert len({len(run.scores) for run in found.results}) > 1
    assert all(len(run.scores) == len(run.examples) for run in found.results)
    assert "over new seeds and new validation examples" in found.verdict.test
    assert all(np.isfinite([d.low, d.high]).all() for d in found.verdict.differences)


def test_the_fitted_model_has_the_split_of_its_seed(write_table):
    task = table(write_table(prices()), "y", drop="shop")
    found = compare_task(task, optimizers="Adam", lr=0.05, seeds=3, epochs=20, progress=False)
    predictor = Predictor.fit(task, found, optimizers="Adam")
    drawn = task.of_seed(predictor.training["seed"])
    assert [where for where, *_ in predictor.validation] == list(drawn.validation_lines)


def test_examples_that_splits_share_are_estimated_without_bias():
    rng, found = np.random.default_rng(0), []
    seeds, n, pool = 4, 40, 120
    for _ in range(3000):
        picked = np.stack([rng.permutation(pool)[:n] for _ in range(seeds)])
        scores = 0.3 * rng.normal(size=(seeds, 1)) + rng.normal(size=pool)[picked] + rng.normal(size=(seeds, n))
        spread = estimate_spread(scores.mean(1)[None], scores[None], picked)
        found.append((spread.seeds[0], spread.examples[0], spread.example_df))
    # over seeds: the seed, the residual, and the part of the examples that two seeds do not share
    expected = [(0.3**2 + 1 / n + (1 / n) * (1 - n / pool)) / seeds, 1 / pool]
    assert np.mean(found, 0)[:2] == pytest.approx(expected, rel=0.08)
    assert min(df for *_, df in found) > 10


def test_seeds_with_fewer_examples_are_filled_up():
    rng, found = np.random.default_rng(1), []
    sizes, pool = (30, 40, 20, 40), 100
    for _ in range(3000):
        effects, rows, picked = rng.normal(size=pool), [], []
        for size in sizes:
            chosen = rng.permutation(pool)[:size]
            picked.append([*chosen, *[-1] * (40 - size)])
            rows.append([*(effects[chosen] + rng.normal(size=size)), *[np.nan] * (40 - size)])
        scores = np.array(rows)[None]
        found.append(estimate_spread(np.nanmean(scores, 2), scores, np.array(picked)).examples[0])
    assert np.mean(found) == pytest.approx(1 / pool, rel=0.1)


def test_scores_of_runs_with_other_examples_are_no_evidence():
    def run(examples):
        return Result("a", "a", "l", 0, None, metrics=[0.5], scores=[0.0, 1.0], examples=examples)

    assert scores_of({"a": [run([1, 2])], "b": [run([1, 3])]}, float) == ({}, None)
    scores, examples = scores_of({"a": [run([1, 2])], "b": [run([1, 2])]}, float)
    assert list(scores) == ["a", "b"]
    assert examples.tolist() == [[1, 2]]


def test_an_example_is_in_the_same_group_of_the_jackknife_in_every_split():
    logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    target = torch.arange(400) % 2
    metric = Metric("f1", functools.partial(f1), "max")
    order = torch.randperm(400)
    first, examples = example_scores(metric, logits, target, torch.arange(400))
    again, _ = example_scores(metric, logits[order], target[order], torch.arange(400)[order])
    assert first == pytest.approx(again)
    assert (len(first), examples) == (50, [])
    assert np.std(first) / 50**0.5 == pytest.approx(
        np.std(example_scores(metric, logits, target)[0]) / 50**0.5, rel=0.5
    )


def test_classes_are_weighted_by_the_training_rows_of_the_seed(write_table):
    text = lines(
        column("g", lambda i: f"g{int(i**0.5)}", 120), column("x", lambda i: i * 7 % 13, 120),
        column("kind", lambda i: "ab"[i * 7 % 13 > 8], 120),
    )  # fmt: skip
    task = table(write_table(text), "kind", group="g", class_weights="balanced")
    plan = make_plan(task, optimizers=["SGD"], seeds=3)
    (candidate,) = plan.candidates
    for seed in plan.seeds:
        part = plan.part(seed)
        counts = part.task.train[1].bincount()
        weight = part.candidate(candidate, plan.task).loss_function.weight
        assert weight.tolist() == pytest.approx((counts.sum() / (2 * counts)).tolist())


def test_a_replaced_model_is_kept_in_every_split():
    class Other(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)

    changed = splitting()
    changed.model = Other
    assert changed.of_seed(1).model is Other


def test_metrics_of_the_library_are_the_same_in_every_split():
    plan = make_plan(splitting(metric=["accuracy", "f1"]), optimizers=["SGD"], seeds=2)
    assert plan.part(1).metric is METRICS["accuracy"]
    assert [metric.name for metric in plan.part(1).also] == ["f1"]
