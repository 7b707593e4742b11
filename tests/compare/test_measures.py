"""The measures against their definitions, computed again here, and their bounds and invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piste.compare.training.smoothness import WeightTrace, descent_share, evenness, steps_to_target

numbers = st.floats(-1e6, 1e6)
curve = st.lists(numbers, min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("values", "share"),
    [([3, 2, 1], 1.0), ([1, 2, 3], -1.0), ([2, 1, 2], 0.0), ([10, 0, 5], 5 / 15)],
)
def test_descent_share_of_known_curves(values, share):
    assert descent_share(values) == pytest.approx(share, rel=1e-12)


@given(curve)
def test_descent_share_is_between_minus_one_and_one(values):
    share = descent_share(values)
    assert math.isnan(share) or -1 - 1e-12 <= share <= 1 + 1e-12


# A number that is lost when it is scaled is another curve's: 5e-324 / 2 is 0.
@given(
    curve.filter(lambda values: all(v == 0 or abs(v) > 1e-200 for v in values)),
    st.sampled_from([2.0**k for k in (-8, -1, 1, 3, 10)]),
)
def test_descent_share_ignores_the_scale_of_the_loss(values, factor):
    assert descent_share([factor * v for v in values]) == pytest.approx(descent_share(values), rel=1e-12, nan_ok=True)


def test_descent_share_ignores_how_often_a_straight_piece_is_evaluated():
    assert descent_share([4, 2, 3, 0]) == pytest.approx(descent_share([4, 3, 2, 2.5, 3, 1.5, 0]), rel=1e-12)


@pytest.mark.parametrize("values", [[1, 1, 1], [1, math.nan, 0], [1, math.inf]])
def test_descent_share_of_no_movement_or_no_number_is_nan(values):
    assert math.isnan(descent_share(values))


def test_evenness_of_known_distances():
    assert evenness([0, 5, 10], [4, 2, 0]) == 1.0
    assert evenness([0, 1, 10], [4, 0, 0]) == pytest.approx(0.1, rel=1e-12)  # all at once
    assert evenness([0, 9, 10], [4, 4, 0]) == pytest.approx(0.1, rel=1e-12)  # nothing until the end
    assert evenness([0, 5, 10], [4, 9, 0]) == 0.5  # farther off than the start counts as nothing covered


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(1e-3, 1e6), st.floats(1e-3, 1e3))
def test_evenness_is_in_the_unit_interval_and_ignores_scale_and_length(middle, first, factor):
    distances = [first, *middle, 0.0]
    steps = list(range(len(distances)))
    value = evenness(steps, distances)
    assert 0 <= value <= 1
    assert evenness([7 * s for s in steps], [factor * d for d in distances]) == pytest.approx(value, abs=1e-9)


def test_evenness_of_weights_that_end_where_they_began_is_nan():
    assert math.isnan(evenness([0, 1, 2], [0.0, 3.0, 0.0]))


def test_steps_to_a_target():
    assert steps_to_target(0.5, [0, 10, 20], [0.1, 0.5, 0.4], True) == 10
    assert steps_to_target(0.5, [0, 10, 20], [0.9, 0.6, 0.5], False) == 20
    assert steps_to_target(2.0, [0, 10], [0.1, 0.5], True) is None


def test_the_trace_keeps_distances_to_the_end():
    weight = torch.tensor([0.0, 0.0])
    trace = WeightTrace([weight])
    for point in ([0.0, 0.0], [3.0, 0.0], [3.0, 4.0]):
        weight.copy_(torch.tensor(point))
        trace.record()
    assert trace.distances() == [5.0, 4.0, 0.0]


def test_a_large_model_is_traced_by_a_sample_with_nearly_the_same_evenness():
    weights = [torch.randn(300, 100), torch.randn(50)]
    whole, sampled = WeightTrace(weights), WeightTrace(weights, limit=3000)
    for _ in range(6):
        for w in weights:
            w.add_(torch.randn_like(w))
        whole.record()
        sampled.record()
    assert sampled.points[0].numel() < 3200
    steps = list(range(6))
    assert evenness(steps, sampled.distances()) == pytest.approx(evenness(steps, whole.distances()), abs=0.02)
