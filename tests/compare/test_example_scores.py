"""The scores by example that every final run keeps."""

import json
import math

import numpy as np
import pytest
import torch

from piste.compare import compare_task
from piste.compare.metrics import METRICS, Metric
from piste.compare.records import pack, record_of, result_of, unpack
from piste.compare.results import Result
from piste.compare.training.example_scores import (
    JACKKNIFE_GROUPS,
    MAX_SCORES,
    example_scores,
)
from tests.compare.small import data, task


def f1(output, target):
    predicted = output.argmax(1) == 1
    hits = (predicted & (target == 1)).sum()
    return 2 * hits / (predicted.sum() + (target == 1).sum())


def auc(output, target):
    positive, negative = output[target == 1, 1], output[target == 0, 1]
    if not len(positive) or not len(negative):
        raise ValueError("one class alone")
    return (positive[:, None] > negative).double().mean()


def noisy_logits(count, seed):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(count, generator=generator) < 0.4).long()
    signal = target + torch.randn(count, generator=generator)
    return torch.stack([0.5 - signal, signal - 0.5], 1), target


def test_a_mean_over_examples_keeps_the_score_of_each():
    logits, target = noisy_logits(200, 0)
    assert example_scores(METRICS["accuracy"], logits, target) == ((logits.argmax(1) == target).double().tolist(), [])


def test_a_large_validation_set_keeps_a_fixed_sample():
    logits, target = noisy_logits(MAX_SCORES + 5000, 0)
    hits = Metric("index", lambda output, target: torch.arange(len(target)), "max")
    kept, _ = example_scores(hits, logits, target)
    assert len(kept) == MAX_SCORES == len(set(kept))
    assert kept == example_scores(hits, logits, target)[0] == sorted(kept)
    assert max(kept) > MAX_SCORES


@pytest.mark.parametrize("function", [f1, auc])
def test_pseudo_values_vary_as_the_metric_does_over_new_examples(function):
    metric = Metric("m", function, "max")
    values, errors = [], []
    for seed in range(300):
        output, target = noisy_logits(250, seed)
        pseudo, _ = example_scores(metric, output, target)
        assert len(pseudo) == JACKKNIFE_GROUPS
        values.append(metric.value(output, target))
        errors.append(np.std(pseudo, ddof=1) / JACKKNIFE_GROUPS**0.5)
    # the standard deviation over 300 validation sets, known to about 4 %
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)


def test_a_metric_that_fails_without_a_group_keeps_nothing():
    output, target = noisy_logits(4, 1)
    target = torch.tensor([1, 0, 0, 0])
    assert example_scores(Metric("auc", auc, "max"), output, target) == ([], [])
    assert example_scores(Metric("f1", f1, "max"), output[:1], target[:1]) == ([], [])


def test_packing_keeps_every_float32():
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32).tolist()
    assert unpack(pack(scores, "<f4"), "<f4") == scores
    assert unpack(pack([], "<f4"), "<f4") == []
    assert len(pack([1.0, 0.0] * 500, "<f4")) < 200


def test_a_record_holds_a_run_as_it_is():
    run = Result("Adam", "Adam", "mse", 3, 0.1, losses=[2.0, math.inf], metrics=[math.nan, 0.5], seconds=1.5)
    run.scores, run.examples, run.options = [0.5, 1.0], [7, 2], {"betas": (0.9, 0.99)}
    text = json.dumps(record_of(run))
    assert repr(result_of(json.loads(text))) == repr(run)
    strict = text.replace("Infinity", "null").replace("NaN", "null")
    run.losses = [2.0, math.nan]
    assert repr(result_of({**json.loads(strict), "of a later version": 1})) == repr(run)


def test_every_final_run_keeps_scores_and_a_resumed_comparison_the_same(tmp_path):
    arguments = {"optimizers": ["SGD", "Adam"], "seeds": 2, "trials": 2, "progress": False, "out": tmp_path}
    found = compare_task(task(), **arguments)
    assert all(len(r.scores) == 40 for r in (*found.results, *found.defaults))
    assert not any(r.scores for r in found.tries)
    for r in found.results:
        assert r.metrics[-1] == pytest.approx(sum(r.scores) / 40)
    again = compare_task(task(), **arguments)
    assert [r.scores for r in again.results] == [r.scores for r in found.results]
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert [unpack(r["scores"], "<f4") for r in numbers["results"]] == [r.scores for r in found.results]


def test_scores_of_a_number_are_pseudo_values():
    found = compare_task(task(metric=(f1, "max"), validation=data(200, 1)), optimizers=["SGD"], seeds=1, progress=False)
    assert len(found.results[0].scores) == JACKKNIFE_GROUPS
