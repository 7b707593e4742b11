"""The built-in tasks: found by being there, each trains, and the line's picture is drawn from the run."""

import pytest
import torch

from piste.compare import compare_task, tasks
from piste.errors import InvalidValue


def test_they_are_listed_with_what_they_are_for():
    assert {"digits", "digits-cnn", "digits-deep", "digits-rnn", "breast-cancer", "diabetes", "line"} <= set(
        tasks.names()
    )
    assert all(20 < len(tasks.about(name)) <= 120 for name in tasks.names())


def test_an_unknown_one_names_the_nearest():
    with pytest.raises(InvalidValue, match=r"unknown task `digit`\. Did you mean `digits`"):
        tasks.task("digit")


@pytest.mark.parametrize("name", tasks.names())
def test_each_learns_a_little_and_is_the_same_each_time(name):
    task = tasks.task(name)
    assert (task.name, task.about) == (name, tasks.about(name))
    task.epochs = 2
    found = compare_task(task, optimizers=["Adam"], lr=0.002, seeds=1, progress=False)
    for result in found.results:
        assert result.losses[-1] < result.losses[0]
    again = tasks.task(name)
    assert all(torch.equal(a, b) for a, b in zip(task.train, again.train, strict=True))


def test_diabetes_compares_losses_by_one_metric():
    task = tasks.task("diabetes")
    task.epochs = 1
    found = compare_task(task, optimizers=["Adam"], seeds=1, progress=False)
    assert {row.loss for row in found.rows} == {"mse", "l1", "smooth_l1", "huber(0.5)"}
    assert found.metric == "mae"
    assert len({row.training_loss for row in found.rows}) == 4


def test_the_line_draws_its_guesses_from_the_run(tmp_path):
    task = tasks.task("line")
    task.epochs = 30
    found = compare_task(task, optimizers=["SGD", "Adam"], lr=0.05, seeds=1, progress=False, out=tmp_path)
    drawn = (tmp_path / "picture.svg").read_text()
    assert "w1 (step 0)" in drawn
    assert "w4 (step" in drawn
    assert "truth: the loss" in drawn
    assert (tmp_path / "picture.png").exists()
    best = next(r for r in found.results if r.candidate == found.rows[0].name)
    w, b = best.path[-1]
    assert w == pytest.approx(0.8, abs=0.15)
    assert b == pytest.approx(0.3, abs=0.15)


def test_the_line_s_picture_with_every_run_diverged(tmp_path):
    task = tasks.task("line")
    task.epochs = 10
    compare_task(task, optimizers=["SGD"], lr=1e5, seeds=1, progress=False, out=tmp_path)
    assert "every run diverged" in (tmp_path / "picture.svg").read_text()
