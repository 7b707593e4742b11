"""Penalties of a discriminator's gradient: their values, what they have a gradient by, and refusals."""

from __future__ import annotations

import math

import pytest
import torch

from piste import losses
from piste.errors import InvalidType, InvalidValue
from piste.losses import gradient_penalty, r1_penalty

from .penalty_checks import FAKE, REAL, find_penalty_mismatch, line

BOTH = [
    pytest.param(lambda d, x, **options: gradient_penalty(d, x, x, **options), id="gradient_penalty"),
    pytest.param(r1_penalty, id="r1_penalty"),
]


def discriminator(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(
        dtype
    )


def test_penalties_match_those_of_known_gradients() -> None:
    assert find_penalty_mismatch(gradient_penalty, r1_penalty) is None


def test_the_interpolation_is_of_pairs_and_between_them() -> None:
    seen = []

    def record(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return line(x)

    torch.manual_seed(0)
    gradient_penalty(record, REAL, FAKE)
    shares = (seen[0] - FAKE) / (REAL - FAKE)
    assert ((shares >= 0) & (shares <= 1)).all()
    torch.testing.assert_close(shares, shares[:, :1, :1].expand_as(shares))
    assert len(shares[:, 0, 0].unique()) == 3


@pytest.mark.parametrize("penalty", BOTH)
def test_a_penalty_trains_the_discriminator_alone(penalty) -> None:
    model, real = discriminator(), REAL.clone().requires_grad_()
    penalty(model, real).backward()
    assert real.grad is None
    assert all(p.grad is not None for p in model[1].parameters())
    assert float(model[1].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("penalty", BOTH)
def test_the_gradient_by_parameters_is_that_of_differences(penalty) -> None:
    model = discriminator()
    value = penalty(model, REAL)
    (slope,) = torch.autograd.grad(value, model[1].weight)
    step = 1e-6
    with torch.no_grad():
        model[1].weight[3, 1] += step
        above = penalty(model, REAL)
        model[1].weight[3, 1] -= 2 * step
        below = penalty(model, REAL)
    assert not above.requires_grad
    assert float(slope[3, 1]) == pytest.approx(float(above - below) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("penalty", BOTH)
def test_a_flat_discriminator_has_a_finite_gradient(penalty) -> None:
    weight = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    penalty(lambda x: x.flatten(1) @ weight, REAL).backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("penalty", BOTH)
def test_16_bit_norms_are_computed_in_float32(penalty) -> None:
    model = discriminator(torch.bfloat16)
    value = penalty(model, torch.full((2, 2), 3.0, dtype=torch.bfloat16))
    assert value.dtype is torch.bfloat16
    wide = penalty(discriminator(torch.float32), torch.full((2, 2), 3.0))
    assert value.item() == pytest.approx(wide.item(), rel=0.05)
    huge = penalty(lambda x: x * 1000, torch.ones(2, 2, dtype=torch.float16), weight=0.01)  # 2e6 * 0.01
    assert huge.isfinite()


@pytest.mark.parametrize("penalty", BOTH)
def test_no_samples_have_the_mean_nan(penalty) -> None:
    assert math.isnan(float(penalty(line, REAL[:0])))


def rejects(call, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as refusal:
        call()
    for word in words:
        assert word in str(refusal.value)


def test_samples_that_do_not_fit_are_rejected() -> None:
    rejects(
        lambda: gradient_penalty(line, REAL, FAKE[:2]),
        InvalidValue,
        "gradient_penalty: `real` and `fake` must have the same shape; received (3, 1, 2) and (2, 1, 2).",
    )
    rejects(
        lambda: gradient_penalty(line, REAL, FAKE.to("meta")), InvalidValue, "`real` and `fake` must be on one device"
    )
    rejects(lambda: r1_penalty(line, [1.0]), InvalidType, "r1_penalty: `real` must be a torch.Tensor; received list.")
    rejects(
        lambda: r1_penalty(line, torch.ones(3, 1, 2, dtype=torch.int64)),
        InvalidType,
        "r1_penalty: `real` must hold floating-point numbers; received torch.int64. Help: real.float().",
    )
    rejects(
        lambda: r1_penalty(line, torch.tensor(1.0)),
        InvalidValue,
        "r1_penalty: `real` must be samples (N, ...); received a 0-dimensional tensor. Help: real.unsqueeze(0).",
    )


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("penalty", BOTH)
def test_a_weight_out_of_range_is_rejected(penalty, weight: float) -> None:
    rejects(lambda: penalty(line, REAL, weight=weight), InvalidValue, "_penalty: `weight` must be in [0, inf)")


def test_scores_that_do_not_fit_are_rejected() -> None:
    rejects(
        lambda: r1_penalty(lambda x: line(x).mean(), REAL),
        InvalidValue,
        "r1_penalty: `discriminator` must return a row of scores for each of 3 samples; received ().",
        "Help: leave the mean to the loss.",
    )
    rejects(
        lambda: r1_penalty(lambda x: [line(x)], REAL),
        InvalidType,
        "r1_penalty: `discriminator` must return a floating tensor of scores; received list.",
    )
    rejects(lambda: r1_penalty(lambda x: line(x).long(), REAL), InvalidType, "scores; received torch.int64.")
    independent = (
        "r1_penalty: the scores of `discriminator` must depend on the samples; received scores without a gradient by "
        "them. Help: leave out .detach() and torch.no_grad() in it."
    )
    weight = torch.ones(3, requires_grad=True)
    rejects(lambda: r1_penalty(lambda x: line(x).detach(), REAL), InvalidValue, independent)
    rejects(lambda: r1_penalty(lambda x: weight * 2, REAL), InvalidValue, independent)


def test_penalties_are_names_of_the_package() -> None:
    assert {"gradient_penalty", "r1_penalty"} <= set(losses.__all__)
