"""The statistics against SciPy and by simulation, and the sentences."""

import math

import numpy as np
import pytest
from scipy import stats

from piste.compare.analysis.verdict import (
    LEVEL,
    compare_with_best,
    confidence_interval,
    decide,
    friedman_p_value,
    paired_p_value,
)


def test_interval_and_paired_test_are_student_s():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=7), rng.normal(size=7)
    expected = stats.t.interval(0.95, 6, loc=a.mean(), scale=stats.sem(a))
    assert confidence_interval(list(a)) == pytest.approx(expected)
    assert paired_p_value(list(a), list(b)) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert all(map(math.isnan, confidence_interval([1.0])))


def test_no_difference_and_one_difference_repeated():
    assert paired_p_value([1, 2, 3], [1, 2, 3]) == 1.0
    assert paired_p_value([1.1, 2.1, 3.1], [1, 2, 3]) == 0.0
    assert paired_p_value([2.0], [1.0]) == 1.0
    assert friedman_p_value([[1, 2], [1, 2], [1, 2]]) == 1.0


@pytest.mark.parametrize(("count", "seeds"), [(2, 5), (3, 5), (12, 5), (12, 10)])
def test_equal_candidates_are_told_apart_in_at_most_five_percent(count, seeds):
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        values = {str(i): list(rng.normal(size=seeds)) for i in range(count)}
        _, p = compare_with_best(values, True)
        wrong += any(value < LEVEL for value in p.values())
    assert wrong <= stats.binom.ppf(0.999, 200, LEVEL)


def test_the_truly_best_is_left_out_in_at_most_five_percent():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        shared = rng.normal(size=5)  # what a seed does to all
        values = {str(i): list(shared - 0.05 * i + 0.3 * rng.normal(size=5)) for i in range(6)}
        best, p = compare_with_best(values, True)
        wrong += best != "0" and p["0"] < LEVEL
    assert wrong <= stats.binom.ppf(0.999, 200, LEVEL)


def seeds_of(**means):
    rng = np.random.default_rng(3)
    return {name: list(mean + 0.01 * rng.normal(size=5)) for name, mean in means.items()}


def test_a_planted_winner_is_found():
    verdict = decide(seeds_of(a=0.5, b=0.9, c=0.6), {}, "accuracy", True)
    assert verdict.sentence == "b has the best accuracy; every other candidate is significantly worse."
    assert verdict.group == ["b"]
    assert "Paired t-tests against the best over 5 seeds, Bonferroni-corrected for 2 comparisons" in verdict.test
    assert "level 5%" in verdict.test
    verdict = decide(seeds_of(a=0.5, b=0.9, c=0.6), {}, "rmse", False)
    assert verdict.best == "a"


def test_a_group_that_can_t_be_told_apart():
    verdict = decide(seeds_of(a=0.9, b=0.9, c=0.2), {}, "accuracy", True)
    assert set(verdict.group) == {"a", "b"}
    assert "not significantly worse" in verdict.sentence
    assert verdict.sentence.endswith("c is significantly worse.")


def test_no_difference_is_said_as_readily():
    verdict = decide(seeds_of(a=0.9, b=0.9, c=0.9), {}, "accuracy", True)
    assert verdict.sentence.startswith("No significant difference in accuracy")
    assert len(verdict.group) == 3


def test_one_seed_is_judged_by_examples_and_says_what_that_leaves_out():
    rng = np.random.default_rng(4)
    scores = {"good": list((rng.random(300) < 0.95) * 1.0), "bad": list((rng.random(300) < 0.5) * 1.0)}
    by_seed = {name: [float(np.mean(values))] for name, values in scores.items()}
    verdict = decide(by_seed, scores, "accuracy", True)
    assert verdict.group == ["good"]
    assert "over 300 validation examples" in verdict.test
    assert "One seed says nothing about other initial weights" in verdict.limits


def test_one_seed_with_one_number_shows_nothing():
    verdict = decide({"a": [0.9], "b": [0.1]}, {}, "f1", True)
    assert verdict.sentence.startswith(
        "No significance test is possible: there is one seed and one number for each candidate"
    )
    assert verdict.group == ["a", "b"]


def test_seeds_that_change_nothing_are_not_counted_as_evidence():
    verdict = decide({"a": [0.9] * 5, "b": [0.8] * 5}, {"a": [1.0, 0.8], "b": [0.7, 0.9]}, "accuracy", True)
    assert "over 2 validation examples" in verdict.test
    assert "Every seed gave the same results" in verdict.limits
    assert verdict.group == ["a", "b"]


def test_few_seeds_are_said_to_show_little():
    verdict = decide({"a": [0.9, 0.91], "b": [0.8, 0.85]}, {}, "accuracy", True)
    assert "With 2 seeds only large differences can be detected; use 5 or more." in verdict.limits


def test_one_candidate_and_none():
    assert "nothing to compare" in decide({"a": [1.0]}, {}, "accuracy", True).sentence
    assert decide({}, {}, "accuracy", True).best is None


def test_a_module_handed_in_is_mentioned():
    assert "changed only the order of batches" in decide(seeds_of(a=1, b=2), {}, "r2", True, True).limits
