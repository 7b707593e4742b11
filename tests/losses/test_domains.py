"""What is taken and what is refused, to the border, and what a mean divides by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from piste import losses
from tests.losses.domains import (
    DOMAINS,
    SHAPES,
    Domain,
    Shapes,
    fault_of_bound,
    fault_of_domain,
    fault_of_means,
    fault_of_shapes,
)


def function(name: str) -> Callable[..., torch.Tensor]:
    loss = losses.named(name)
    if name == "nll2d":  # torch has no function of that name
        return lambda *operands, **options: loss(**options)(*operands)
    return getattr(losses.functional, loss.functional_name)


@pytest.mark.sample(1, per="domain.name")
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_values_are_refused_from_the_border_on(domain: Domain, reduction: str) -> None:
    assert fault_of_domain(function, domain, reduction) is None


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_the_cheap_look_reaches_to_the_border(domain: Domain) -> None:
    assert fault_of_bound(function, domain) is None


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes_that_go_together(shapes: Shapes) -> None:
    assert fault_of_shapes(function, shapes) is None


def test_means_are_of_what_was_counted_by_hand() -> None:
    assert fault_of_means(function) is None
