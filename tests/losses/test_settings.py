"""The settings that Piste adds to every loss: check, normalizer, empty; and torch's old flags."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import piste
from tests.losses.cases import MODULES, Case, seeded

F = piste.losses.functional
W = torch.tensor([0.5, 2.0, 1.0])


@pytest.mark.parametrize("case", [c for c in MODULES if not c.options], ids=str)
def test_a_number_as_normalizer_divides_the_sum(case: Case) -> None:
    operands = seeded(case)
    total = case.function(*operands, reduction="sum")
    assert case.function(*operands, normalizer=5).item() == pytest.approx(total.item() / 5)
    assert case.loss(normalizer=torch.tensor(5.0))(*operands).item() == pytest.approx(total.item() / 5)


def test_accumulated_parts_add_up_to_the_whole_batch() -> None:
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, -100, 2, -100, 0])
    whole = F.cross_entropy(x, y, weight=W.double())
    weight = W[y[y >= 0]].sum().item()
    parts = sum(F.cross_entropy(x[i : i + 2], y[i : i + 2], weight=W.double(), normalizer=weight) for i in (0, 2, 4))
    assert parts.item() == pytest.approx(whole.item())


def test_weights_and_count_as_denominators() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, -100, 2])
    total = F.cross_entropy(x, y, weight=W, reduction="sum").item()
    assert F.cross_entropy(x, y, weight=W).item() == pytest.approx(total / 3.5)
    assert F.cross_entropy(x, y, weight=W, normalizer="weights").item() == pytest.approx(total / 3.5)
    assert F.cross_entropy(x, y, weight=W, normalizer="count").item() == pytest.approx(total / 3)
    soft = x.softmax(1)
    total = F.cross_entropy(x, soft, weight=W, reduction="sum").item()
    assert F.cross_entropy(x, soft, weight=W).item() == pytest.approx(total / 4)
    assert F.cross_entropy(x, soft, weight=W, normalizer="weights").item() == pytest.approx(
        total / (soft * W).sum().item()
    )
    p, t = torch.rand(4, 3), torch.rand(4, 3)
    total = F.binary_cross_entropy(p, t, weight=W, reduction="sum").item()
    assert F.binary_cross_entropy(p, t, weight=W).item() == pytest.approx(total / 12)
    assert F.binary_cross_entropy(p, t, weight=W, normalizer="weights").item() == pytest.approx(total / 14)
    assert F.mse_loss(p, t, weight=W, normalizer="count").item() == pytest.approx(
        F.mse_loss(p, t, weight=W, reduction="sum").item() / 12
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda **s: F.l1_loss(torch.empty(0, requires_grad=True), torch.empty(0), **s),
        lambda **s: F.cross_entropy(torch.zeros(2, 3, requires_grad=True), torch.full((2,), -100), **s),
        lambda **s: F.nll_loss(torch.zeros(0, 3, requires_grad=True), torch.empty(0, dtype=torch.int64), **s),
        lambda **s: F.mse_loss(torch.ones(2, requires_grad=True), torch.zeros(2), weight=torch.zeros(2), **s),
        lambda **s: F.cross_entropy(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3), **s),
    ],
)
def test_the_mean_of_an_empty_batch_follows_the_setting(call) -> None:
    assert call().isnan()
    loss = call(empty="zero")
    assert loss.item() == 0
    loss.backward()
    with pytest.raises(ValueError, match=r"there is nothing to take the mean of.*skip such a batch"):
        call(empty="raise")
    assert call(reduction="sum").item() == 0


def test_empty_zero_leaves_zero_gradients() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    F.cross_entropy(x, torch.full((2,), -100), empty="zero").backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_nan_is_propagated_unless_check_is_nan() -> None:
    for case in MODULES:
        if case.options:
            continue
        x, *rest = seeded(case)
        x.reshape(-1)[:] = math.nan
        assert math.isnan(case.function(x, *rest))
        with pytest.raises(ValueError, match=f'`{case.loss.arguments[0]}` holds nan at .*check="nan"'):
            case.function(x, *rest, check="nan")
    with pytest.raises(ValueError, match=r"`target` holds nan at \(1,\)"):
        F.mse_loss(torch.ones(2), torch.tensor([1.0, math.nan]), check="nan")


def test_the_old_flags_of_torch_choose_the_reduction() -> None:
    x, y = torch.rand(4, 3), torch.rand(4, 3)
    for flags in ({"size_average": False}, {"reduce": False}, {"size_average": True}, {"reduce": True}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = torch.nn.functional.mse_loss(x, y, **flags)
        with pytest.warns(UserWarning, match="size_average and reduce are deprecated in torch"):
            ours = F.mse_loss(x, y, **flags)
        torch.testing.assert_close(ours, expected)
        with pytest.warns(UserWarning, match='write reduction="'):
            torch.testing.assert_close(piste.losses.MSELoss(**flags)(x, y), expected)


def test_positional_arguments_are_those_of_torch() -> None:
    x, y = torch.rand(4, 3), torch.rand(4, 3)
    k = torch.tensor([0, 2, 1, 0])
    assert torch.equal(
        F.cross_entropy(x, k, W, None, 1, None, "sum", 0.1),
        piste.losses.CrossEntropyLoss(W, None, 1, None, "sum", 0.1)(x, k),
    )
    torch.testing.assert_close(
        F.cross_entropy(x, k, W, None, 1, None, "sum", 0.1),
        torch.nn.functional.cross_entropy(x, k, W, None, 1, None, "sum", 0.1),
    )
    assert torch.equal(F.huber_loss(x, y, "sum", 0.5), piste.losses.HuberLoss("sum", 0.5)(x, y))
    torch.testing.assert_close(
        F.smooth_l1_loss(x, y, None, None, "sum", 0.3),
        torch.nn.functional.smooth_l1_loss(x, y, None, None, "sum", 0.3),
    )
    torch.testing.assert_close(
        piste.losses.BCEWithLogitsLoss(W, None, None, "sum", W)(x, y),
        torch.nn.BCEWithLogitsLoss(W, None, None, "sum", W)(x, y),
    )
