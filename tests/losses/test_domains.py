"""Values and shapes are accepted and rejected exactly at the bounds, and means have the stated denominators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from piste import losses
from piste.losses import value_checks
from tests.losses.denominators import find_mean_mismatch
from tests.losses.domains import DOMAINS, Domain, find_domain_mismatch, find_guard_mismatch
from tests.losses.shapes import SHAPES, Shapes, find_shape_mismatch
from tests.losses.violations import find_wrong_words


def function(name: str) -> Callable[..., torch.Tensor]:
    loss = losses.named(name)
    if name == "nll2d":  # torch has no function of that name
        return lambda *operands, **options: loss(**options)(*operands)
    return getattr(losses.functional, loss.functional_name)


@pytest.mark.sample(1, per="domain.name", of=8)
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_values_from_the_bound_on_are_rejected(domain: Domain, reduction: str) -> None:
    assert find_domain_mismatch(function, domain, reduction) is None


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_range_guards_agree_with_the_exact_check_at_the_bound(domain: Domain) -> None:
    assert find_guard_mismatch(function, domain) is None


@pytest.mark.sample(8)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matching_shapes_are_accepted_and_others_rejected(shapes: Shapes) -> None:
    assert find_shape_mismatch(function, shapes) is None


def test_means_match_denominators_computed_by_hand() -> None:
    assert find_mean_mismatch(function) is None


def test_a_message_states_the_first_violation_their_number_and_the_farthest() -> None:
    assert find_wrong_words(value_checks) is None
