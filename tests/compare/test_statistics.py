"""The statistics of the verdict, against closed forms, SciPy, and simulated comparisons with known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from piste.compare.analysis.statistics import (
    Spread,
    contributions,
    estimate_spread,
    moderate,
    step_down,
    step_levels,
)
from piste.compare.results import LEVEL
from tests.compare.simulation import (
    Scenario,
    power,
    scenarios,
    shown_worse_over_seeds,
    wrong_verdicts,
)

COMPARISONS = 100


@pytest.mark.sample(1, per="scenario.kind")
@pytest.mark.parametrize("scenario", list(scenarios()), ids=str)
def test_equal_candidates_differ_in_at_most_five_percent_of_verdicts(scenario):
    comparisons = COMPARISONS if scenario.examples <= 300 else COMPARISONS // 4
    assert wrong_verdicts(scenario, comparisons) <= stats.binom.ppf(0.999, comparisons, LEVEL)


@pytest.mark.parametrize("kind", ["accuracy", "own splits, accuracy"])
@pytest.mark.parametrize("examples", [30, 300])
def test_two_seeds_whose_accuracies_agree_by_chance_tell_no_equals_apart(kind, examples):
    assert wrong_verdicts(Scenario(kind, 7, 2, examples), 200) <= stats.binom.ppf(0.999, 200, LEVEL)


def test_a_seed_test_is_wrong_about_new_examples_and_the_crossed_one_is_not():
    scenario = Scenario("normal", 2, 10, 300)
    before = wrong_verdicts(scenario, 200, test=shown_worse_over_seeds)
    assert before > stats.binom.ppf(0.999, 200, LEVEL)
    assert wrong_verdicts(scenario, 200) <= stats.binom.ppf(0.999, 200, LEVEL)


def test_power_exceeds_that_of_the_test_over_seeds():
    scenario = Scenario("seeds alone", 7, 5, 30)
    assert power(scenario, 2, 100) > power(scenario, 2, 100, shown_worse_over_seeds) + 0.1
    few = Scenario("seeds alone", 7, 3, 30)
    assert power(few, 10, 50) > 0.9 > 0.3 > power(few, 10, 50, shown_worse_over_seeds)


def test_the_spread_over_seeds_alone_is_student_s():
    values = np.random.default_rng(0).normal(size=(3, 7))
    spread = estimate_spread(values, None)
    for row, half, p in zip(values, spread.half_widths(0.05), spread.p_values(values.mean(1)), strict=True):
        low, high = stats.t.interval(0.95, 6, loc=row.mean(), scale=stats.sem(row))
        assert half == pytest.approx((high - low) / 2)
        assert p == pytest.approx(stats.ttest_1samp(row, 0).pvalue, rel=1e-6)


def test_the_spread_over_examples_alone_is_student_s():
    scores = np.random.default_rng(1).normal(size=40)
    spread = estimate_spread(np.full((1, 3), scores.mean()), np.tile(scores, (1, 3, 1)))
    low, high = stats.t.interval(0.95, 39, loc=scores.mean(), scale=stats.sem(scores))
    assert spread.half_widths(0.05)[0] == pytest.approx((high - low) / 2)


def test_both_parts_are_estimated_without_bias():
    rng = np.random.default_rng(2)
    seeds, n, found = 4, 50, []
    for _ in range(2000):
        over_seeds, over_examples = 0.3 * rng.normal(size=(seeds, 1)), rng.normal(size=(1, n))
        scores = over_seeds + over_examples + 2 * rng.normal(size=(seeds, n))
        spread = estimate_spread(scores.mean(1)[None], scores[None])
        found.append((spread.seeds[0], spread.examples[0]))
    # S / J holds the seed effect and the residual, the rest the effect of examples that all seeds share
    expected = [(0.3**2 + 2**2 / n) / seeds, 1 / n]
    assert np.mean(found, 0) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("has_splits", [False, True], ids=["one set", "own splits"])
def test_the_part_of_the_variance_over_seeds_that_scores_show_is_estimated_without_bias(has_splits):
    rng = np.random.default_rng(3)
    own, shared = 2 * rng.normal(size=(2000, 3, 20)), rng.normal(size=(2000, 1, 20))
    scores = own if has_splits else own + shared
    spread = estimate_spread(scores.mean(2), scores, np.arange(60).reshape(3, 20) if has_splits else None)
    assert spread.least.mean() == pytest.approx(4 / 20 / 3, rel=0.03)
    assert spread.seeds.mean() == pytest.approx(4 / 20 / 3, rel=0.05)
    larger = estimate_spread(scores.mean(2), scores, None, size=80)
    assert larger.least == pytest.approx(estimate_spread(scores.mean(2), scores).least / 4)


def test_an_interval_is_at_least_that_of_the_scores_where_seeds_agree_by_chance():
    scores = np.random.default_rng(4).normal(size=(1, 2, 50))
    scores -= scores.mean(2, keepdims=True) - 0.3  # both seeds have the same result
    spread = estimate_spread(scores.mean(2), scores)
    assert spread.seeds == pytest.approx(0.0)
    interaction = scores.var(1, ddof=1).sum() / 49 / 50 / 2
    shared = max(np.cov(*scores[0])[0, 1], 0.0) / 50
    expected = np.hypot(1.959964 * interaction**0.5, stats.t.ppf(0.975, 49) * shared**0.5)
    assert spread.half_widths(0.05) == pytest.approx(expected, rel=1e-4)


def test_examples_that_seeds_do_not_share_add_nothing_and_half_shared_ones_half():
    rng = np.random.default_rng(3)
    effects, n, found = rng.normal(size=(3000, 200)), 100, []
    for effect in effects:
        examples = np.stack([np.arange(100), np.arange(50, 150)])
        scores = effect[examples] + 0.1 * rng.normal(size=(2, n))
        found.append(estimate_spread(scores.mean(1)[None], scores[None], examples).examples[0])
    assert np.mean(found) == pytest.approx(0.5 / n, rel=0.1)
    apart = np.stack([np.arange(100), np.arange(100, 200)])
    assert estimate_spread(np.ones((1, 2)), rng.normal(size=(1, 2, 100)), apart).examples[0] == 0
    same = np.stack([np.arange(100)] * 2)
    scores = rng.normal(size=(1, 2, 100))
    assert estimate_spread(np.ones((1, 2)), scores, same).examples == pytest.approx(
        estimate_spread(np.ones((1, 2)), scores).examples
    )


def test_contributions_of_a_square_root_have_its_mean_and_spread():
    rng = np.random.default_rng(4)
    errors, spreads = [], []
    for _ in range(500):
        squares = np.square(rng.normal(size=400))
        part = contributions(squares[None], lambda mean: mean**0.5)[0]
        assert part.mean() == pytest.approx(np.sqrt(squares.mean()))
        errors.append(np.sqrt(squares.mean()))
        spreads.append(part.std(ddof=1) / 20)
    assert np.mean(spreads) == pytest.approx(np.std(errors), rel=0.1)
    assert contributions(np.ones((2, 3)), float) is not None


def test_moderation_pulls_variances_together_and_never_with_fewer_than_four():
    variances = np.array([0.5, 1.0, 2.0, 1.2, 0.8, 1.5])
    spread = Spread(variances, np.full(6, 4.0), np.zeros(6), 1.0)
    shrunk = moderate(spread)
    assert np.ptp(shrunk.seeds) < np.ptp(variances)
    assert (np.argsort(shrunk.seeds) == np.argsort(variances)).all()
    assert (shrunk.seed_df > 4).all() and (shrunk.seed_df <= 8).all()
    assert moderate(spread[:3]).seeds.tolist() == variances[:3].tolist()
    apart = Spread(10.0 ** np.arange(-6, 6, 2), np.full(6, 4.0), np.zeros(6), 1.0)
    assert moderate(apart).seeds == pytest.approx(apart.seeds, rel=0.5)  # so different that little is shared


def test_steps_multiply_by_the_pairs_that_remain():
    p = np.array([0.2, 0.001, 0.02])
    assert step_down(p) == pytest.approx([0.2, 6 * 0.001, 3 * 0.02])
    assert step_down(np.array([0.04, 0.001, 0.01])) == pytest.approx([0.04, 0.006, 0.03])
    assert step_levels(p, 0.05) == pytest.approx([0.05 / 3, 0.05 / 6, 0.05 / 3])


def test_an_interval_excludes_zero_exactly_where_the_step_shows_a_difference():
    rng = np.random.default_rng(5)
    for _, count in itertools.product(range(100), (1, 2, 6)):
        spread = Spread(rng.random(count), np.full(count, 4.0), rng.random(count), 20.0)
        means = np.abs(rng.normal(size=count)) * 4
        p = spread.p_values(means)
        excluded = means > spread.half_widths(step_levels(p, LEVEL)) * (1 + 1e-9)
        assert (excluded == (step_down(p) < LEVEL)).all()
