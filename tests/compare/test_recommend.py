"""The recommendation: only from the group, for the reason it gives, and with a line that runs."""

import math

import torch

import piste
from piste.compare import compare_task
from piste.compare.analysis.recommendation import code_to_paste, recommend
from piste.compare.results import Row
from tests.compare.small import task


def row(name, lr=0.1, width=math.nan, state=100, metric=0.9):
    return Row(name, name, "mse", lr, metric, 0, 0, 0, 0, 0, 5, 0, "", 0.0, state, state, 1.0, 1.0, math.nan, width)


def told(rows, group=None, defaults=None, **bound):
    chosen, reason = recommend(rows, group or [r.name for r in rows], defaults or {}, **bound)
    return chosen.name, reason


def test_a_clear_winner_is_recommended():
    assert told([row("a"), row("b", state=1)], ["a"]) == ("a", "every other candidate is significantly worse.")


def test_a_clearly_wider_range_comes_first():
    name, reason = told([row("a", width=0.5, state=1), row("b", width=2.0), row("c", width=1.4)])
    assert name == "b"
    assert (
        reason == "among the candidates without a significant difference, good learning rates range over 2.0 decades."
    )


def test_the_range_that_is_told_is_its_own():
    name, reason = told([row("a", width=1.2), row("b", width=1.6), row("c", width=0.3)])
    assert name == "a"  # the better mean of two that are about as wide
    assert (
        reason == "among the candidates without a significant difference, good learning rates range over 1.2 decades."
    )


def test_then_a_default_that_does_as_well():
    name, reason = told([row("a", 0.3, 1.0, state=1), row("b", 0.1, 1.2)], defaults={"a": 0.1, "b": 0.1})
    assert name == "b"
    assert "its default learning rate does as well as any" in reason


def test_then_the_least_memory_then_the_mean():
    assert told([row("a"), row("b", state=50)]) == (
        "b", "among the candidates without a significant difference, its optimizer state is the smallest."
    )  # fmt: skip
    assert told([row("a"), row("b")]) == ("a", "it has the best mean, and no practical advantage decides for another.")


def test_one_outside_the_group_is_never_recommended():
    assert told([row("a"), row("b", state=50), row("c", state=0)], ["a", "b"])[0] == "b"


def test_one_that_stays_far_behind_is_not_recommended_however_little_it_takes():
    rows = [row("a", metric=0.97), row("b", metric=0.95, state=50), row("c", metric=0.2, state=0)]
    assert told(rows, threshold=0.9)[0] == "b"
    assert told(rows, threshold=0.96) == (
        "a", "no other mean comes near, although not every difference is significant; add seeds to decide."
    )  # fmt: skip
    errors = [row("a", metric=0.1), row("b", metric=0.15, state=50), row("c", metric=2.0, state=0)]
    assert told(errors, threshold=0.3, higher_is_better=False)[0] == "b"


def test_a_comparison_with_few_seeds_does_not_recommend_what_learned_nothing():
    rates = {"SGD": 1e-9, "Adam": 0.1, "AdamW": 0.1}
    found = compare_task(task(epochs=8), optimizers=list(rates), lr=rates, seeds=2, progress=False)
    assert "SGD" in found.verdict.group  # two seeds tell nothing apart
    assert found.verdict.recommendation.startswith("Recommended: Adam")


def test_the_line_runs():
    text = code_to_paste(row("Adam", lr=0.01234), ["Adam"])
    assert text == "optimizer = piste.optim.Adam(model.parameters(), lr=0.0123)"
    namespace = {"piste": piste, "model": torch.nn.Linear(1, 1)}
    exec(text, namespace)
    assert namespace["optimizer"].param_groups[0]["lr"] == 0.0123
    assert code_to_paste(row("Mine", lr=None), ["Adam"]) == "optimizer = Mine(model.parameters())"
    text = code_to_paste(row("Adam-full-batch", lr=0.5), ["Adam"])
    exec(text, {**namespace, "optimizers": {"Adam-full-batch": torch.optim.Adam}})


def test_a_comparison_says_it():
    found = compare_task(task(epochs=8), optimizers=["SGD", "Adam"], lr=0.1, seeds=3, progress=False)
    assert found.verdict.recommendation.startswith("Recommended: ")
    assert found.verdict.code in str(found)
    assert found.verdict.code in found._repr_markdown_()
    alone = compare_task(task(), optimizers=["SGD"], seeds=2, progress=False)
    assert alone.verdict.code == ""
