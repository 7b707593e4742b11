"""The outcomes for made-up results, and the sentences of the verdict."""

import math

import numpy as np
import pytest

from piste.compare.analysis.differences import compare_with_best
from piste.compare.analysis.evidence import Evidence
from piste.compare.analysis.verdict import _needed, decide
from piste.compare.results import Difference, Verdict


def hits(*, share, count=300, seeds=5, disagreement=0.02, seed=0):
    """Correct answers (seeds, count): nearly the same examples with every seed."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).random(count)
    right = np.tile(difficulty < share, (seeds, 1))
    return (right ^ (rng.random((seeds, count)) < disagreement)).astype(float)


def evidence_of(scores):
    return Evidence({n: s.mean(1) for n, s in scores.items()}, scores, count=next(iter(scores.values())).shape[1])


def over_seeds(std=0.01, seeds=5, **means):
    rng = np.random.default_rng(3)
    return Evidence({name: mean + std * rng.normal(size=seeds) for name, mean in means.items()})


def titanic():
    """Adagrad is 2 of 329 examples behind RMSprop in all five seeds, as in a table of the Titanic's passengers."""
    right = np.random.default_rng(0).permutation(329) < 261
    rmsprop = np.tile(right, (5, 1)).astype(float)
    adagrad = rmsprop.copy()
    adagrad[:, np.flatnonzero(right)[:2]] = 0.0
    assert rmsprop.mean() == pytest.approx(0.7933, abs=1e-4) and adagrad.mean() == pytest.approx(0.7872, abs=1e-4)
    return evidence_of({"RMSprop": rmsprop, "Adagrad": adagrad})


def test_two_of_329_examples_in_every_seed_are_not_called_worse():
    verdict = decide(titanic(), "accuracy", True)
    assert [d.outcome for d in verdict.differences] == ["equal"]
    assert verdict.sentence == "All candidates are practically equal in accuracy; RMSprop has the best mean."
    assert verdict.practical == pytest.approx(math.sqrt(0.7933 * 0.2067 / 328), rel=0.01)
    assert "at most 0.022 (one standard error of the validation set) is practically equal" in verdict.test
    assert "over new validation examples (329 were used)" in verdict.test
    assert "Every seed gave the same results" in verdict.limits
    strict = decide(titanic(), "accuracy", True, practical=0.001)
    assert [d.outcome for d in strict.differences] == ["undecided"]
    assert "A difference of at most 0.001 is practically equal." in strict.test


def test_the_margin_of_a_perfect_candidate_is_one_example():
    scores = {name: np.ones((3, 64)) for name in "abc"}
    scores["b"][:, 5] = 0.0
    scores["c"][:, :40] = 0.0
    verdict = decide(evidence_of(scores), "accuracy", True)
    assert verdict.best == "a" and verdict.practical == 1 / 64
    assert "A difference of at most 0.016 (one validation example) is practically equal." in verdict.test
    assert verdict.outcome("c") == "worse"
    same = decide(evidence_of({name: np.ones((3, 64)) for name in "ab"}), "accuracy", True)
    assert same.sentence == "All candidates are practically equal in accuracy; a has the best mean."


def test_seeds_that_change_nothing_without_scores_by_example_cover_nothing():
    verdict = decide(Evidence({"a": np.full(3, 0.7), "b": np.full(3, 0.6)}), "val_acc", True, fixed_weights=True)
    assert verdict.sentence == (
        "Undecided in val_acc: every seed gave the same results, and there is one number for all examples. "
        "a has the best result."
    )
    assert verdict.limits == "A function that makes the model gives each seed its own initial weights."


def test_a_verdict_prints_as_paragraphs_with_the_code_last():
    verdict = Verdict(
        "a is best.", test="(tested.)", limits="Here alone.", recommendation="Take a.", code="x = 1\ny = 2"
    )
    assert str(verdict) == "a is best.\n(tested.) Here alone.\nTake a.\n\n    x = 1\n    y = 2"
    assert str(Verdict("Nothing finished.")) == "Nothing finished."


def test_a_planted_winner_is_found():
    verdict = decide(over_seeds(a=0.5, b=0.9, c=0.6), "accuracy", True)
    assert verdict.sentence == "b has the best accuracy; every other candidate is worse."
    assert verdict.group == ["b"]
    assert "over new seeds (5 ran), at a level of 5%, corrected for all pairs of candidates" in verdict.test
    assert "other validation examples are not covered" in verdict.test
    assert "No practical margin is known" in verdict.test
    assert decide(over_seeds(a=0.5, b=0.9, c=0.6), "rmse", False).best == "a"


def test_the_three_outcomes_are_named():
    scores = {
        "a": hits(share=0.9, seed=1), "b": hits(share=0.9, seed=2), "c": hits(share=0.5, seed=3),
        "d": hits(share=0.88, seed=4),
    }  # fmt: skip
    verdict = decide(evidence_of(scores), "accuracy", True, practical=0.03)
    assert verdict.sentence == "a has the best accuracy. Practically equal: b. Undecided: d. Worse: c."
    assert verdict.group == ["a", "b", "d"]
    assert [verdict.outcome(name) for name in "abcde"] == ["best", "equal", "worse", "undecided", ""]
    assert "over new seeds and new validation examples (5 and 300 were used)" in verdict.test
    worse = next(d for d in verdict.differences if d.name == "c")
    assert 0.3 < worse.low < 0.4 < worse.high < 0.55


def test_an_undecided_difference_names_the_seeds_or_examples_that_would_decide():
    scores = {"a": hits(share=0.9, seed=1), "b": hits(share=0.88, seed=2)}
    evidence = evidence_of(scores)
    _, (difference,) = compare_with_best(evidence, True, 0.0)
    assert difference.outcome == "undecided" and difference.examples > 300
    assert "b takes about" in decide(evidence, "accuracy", True, 0.0).limits
    tiled = {n: np.tile(s, 2 * math.ceil(difference.examples / 300)) for n, s in scores.items()}
    assert compare_with_best(evidence_of(tiled), True, 0.0)[1][0].outcome == "worse"
    seeds = over_seeds(std=0.03, a=0.93, b=0.9)
    _, (difference,) = compare_with_best(seeds, True, 0.0)
    assert difference.outcome == "undecided"
    assert f"b takes about {difference.seeds} seeds." in decide(seeds, "accuracy", True).limits
    more = Evidence({n: np.tile(v, math.ceil(2 * difference.seeds / 5)) for n, v in seeds.values.items()})
    assert compare_with_best(more, True, 0.0)[1][0].outcome == "worse"


def test_a_difference_that_nothing_realistic_decides_says_so():
    verdict = decide(over_seeds(std=0.03, a=0.9, b=0.9, c=0.9), "accuracy", True)
    assert verdict.sentence.startswith("Undecided in accuracy: ")
    assert "more than 200 seeds" in verdict.limits


def test_one_seed_does_not_separate():
    scores = {"good": hits(share=0.95, seeds=1), "bad": hits(share=0.3, seeds=1)}
    verdict = decide(evidence_of(scores), "accuracy", True)
    assert verdict.sentence == (
        "Undecided in accuracy: one seed can't separate the candidates. good has the best result."
    )
    assert verdict.group == ["good", "bad"]
    assert "One seed says nothing about other initial weights" in verdict.limits
    assert verdict.test == ""
    assert decide(Evidence({"a": np.array([0.9]), "b": np.array([0.1])}), "f1", True).group == ["a", "b"]


def test_two_seeds_show_a_large_difference_or_name_what_is_missing():
    far = decide(Evidence({"a": np.array([0.90, 0.89]), "b": np.array([0.10, 0.10])}), "accuracy", True)
    assert far.sentence == "a has the best accuracy; every other candidate is worse."
    assert "With 2 seeds only large differences can be detected; use 5 or more." in far.limits
    near = decide(Evidence({"a": np.array([0.9, 0.7]), "b": np.array([0.3, 0.5])}), "accuracy", True)
    assert near.sentence.startswith("Undecided in accuracy: a has the best mean")
    assert "b takes about 5 seeds." in near.limits


def test_seeds_that_change_nothing_are_not_counted_as_evidence():
    right = np.random.default_rng(1).random(40) < 0.5
    scores = {"a": np.tile(right, (5, 1)) * 1.0, "b": np.tile(np.roll(right, 7), (5, 1)) * 1.0}
    scores["b"][:, :2] = 0.0
    verdict = decide(evidence_of(scores), "accuracy", True)
    assert set(verdict.group) == {"a", "b"}
    assert "verdict covers other validation examples alone" in verdict.limits
    none = decide(Evidence({"a": np.full(5, 0.9), "b": np.full(5, 0.8)}), "f1", True)
    assert "every seed gave the same results, and there is one number for all examples" in none.sentence


def test_a_noisy_candidate_does_not_hide_a_difference_between_others():
    rng = np.random.default_rng(6)
    values = {
        "Adam": 605 + 7 * rng.normal(size=5), "Adagrad": 660 + 7 * rng.normal(size=5),
        "RMSprop": 754 + 121 * np.array([-1.6, -0.5, 0.2, 0.6, 1.3]),
    }  # fmt: skip
    verdict = decide(Evidence(values), "rmse", False, practical=15.0)
    assert [verdict.outcome(n) for n in values] == ["best", "worse", "undecided"]


def test_one_candidate_and_none():
    assert "nothing to compare" in decide(Evidence({"a": np.ones(1)}), "accuracy", True).sentence
    assert decide(Evidence({}), "accuracy", True).best is None


def test_conditions_of_the_comparison_are_named():
    evidence = over_seeds(a=1, b=2)
    assert "changed only the order of batches" in decide(evidence, "r2", True, fixed_weights=True).limits
    assert "includes the variation between searches" in decide(evidence, "r2", True, searched=True).limits
    assert "It is about the default learning rates" in decide(evidence, "r2", True, at_defaults=True).limits
    assert "default learning rates" not in decide(evidence, "r2", True).limits


def test_many_undecided_candidates_are_summed_up_by_the_fewest_and_the_most_seeds():
    found = [
        Difference(name, 0.1, -0.1, 0.3, 0.2, "undecided", seeds)
        for name, seeds in zip("bcde", (9, 4, 60, 7), strict=True)
    ]
    assert _needed(found[:3]) == (
        "To decide, if the differences are as observed: b takes about 9 seeds; c takes about 4 seeds; "
        "d takes about 60 seeds."
    )
    assert _needed(found) == (
        "To decide, if the differences are as observed: c takes about 4 seeds, d about 60, the others between them."
    )
    hopeless = [Difference(name, 0.1, -0.1, 0.3, 0.2, "undecided") for name in "fghi"]
    assert _needed([*found, *hopeless]) == (
        "To decide, if the differences are as observed: c takes about 4 seeds, d about 60, the others between them; "
        "4 candidates take more than 200 seeds, or more of both."
    )
