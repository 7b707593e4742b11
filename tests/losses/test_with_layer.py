"""Losses that hold a layer, against the plain loss of the layer's output."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import piste
from piste.errors import InvalidType, InvalidValue
from piste.explain import explain
from tests.losses.test_rejections import rejects

F, nn = piste.losses.functional, piste.losses
has_linear = pytest.mark.skipif(
    not hasattr(torch.nn, "LinearCrossEntropyLoss"), reason="this torch has no LinearCrossEntropyLoss"
)
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
K = torch.tensor([0, 2, 1, 1, -100, 2])
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
W = torch.tensor([0.5, 2.0, 1.0])
SETTINGS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"normalizer": 7},
    {"normalizer": torch.tensor(2.5)},
    {"normalizer": "count"},
    {"normalizer": "weights"},
    {"empty": "zero"},
    {"empty": "zero", "reduction": "none"},
    {"check": "nan"},
    {"check": "off"},
]


@has_linear
@pytest.mark.sample(16)
@pytest.mark.parametrize(
    "options", [{}, {"weight": W}, {"label_smoothing": 0.2}, {"bias": True}], ids=lambda o: "".join(o)
)
@pytest.mark.parametrize("target", [K, SOFT], ids=["indices", "probabilities"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_linear_cross_entropy_is_cross_entropy_of_the_logits(options, target, settings) -> None:
    torch.manual_seed(0)
    loss = nn.LinearCrossEntropyLoss(4, 3, **options, **settings)
    given = {k: v for k, v in options.items() if k != "bias"} | settings
    expected = F.cross_entropy(loss.linear(X), target, **given)
    torch.testing.assert_close(loss(X, target), expected)
    weights = loss.linear.weight
    for ours, theirs in zip(
        torch.autograd.grad(loss(X, target).sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    if "bias" not in options:
        torch.testing.assert_close(F.linear_cross_entropy(X, weights, target, **given), expected)


@has_linear
def test_linear_cross_entropy_leaves_out_ignore_index() -> None:
    loss = nn.LinearCrossEntropyLoss(4, 3, ignore_index=1, normalizer="count")
    y = torch.tensor([0, 1, 2, 1, 0, 1])
    torch.testing.assert_close(loss(X, y), F.cross_entropy(loss.linear(X), y, ignore_index=1))
    nothing = torch.ones(6, dtype=torch.int64)
    assert loss(X, nothing).isnan()
    loss.empty = "zero"
    assert loss(X, nothing) == 0
    loss.empty = "raise"
    rejects(lambda: loss(X, nothing), "LinearCrossEntropyLoss: there is nothing to take the mean of")


@has_linear
def test_linear_cross_entropy_rejects_the_targets_that_cross_entropy_rejects() -> None:
    loss, y = nn.LinearCrossEntropyLoss(4, 3), torch.tensor([0, 2])
    x = torch.randn(2, 4)
    said = "LinearCrossEntropyLoss: `target` must hold class indices in [0, 2] for 3 classes"
    rejects(lambda: loss(x, torch.tensor([0, 3])), said, "received 3 at (1,)")
    line = "piste.losses.LinearCrossEntropyLoss(4, 3)(torch.randn(2, 4), torch.tensor([0, 2]))"
    for check in ("raise", "off"):
        loss.check = check
        rejects(lambda: loss(x, torch.tensor([0])), f"A line that works: {line}")
    assert eval(line, {"torch": torch, "piste": piste}).isfinite()
    weights = loss.linear.weight
    rejects(lambda: F.linear_cross_entropy(x, weights, torch.ones(2, 3)), "row 0 sums to 3")
    rejects(
        lambda: F.linear_cross_entropy(x, weights, y, weight=torch.ones(2)), "one number for each class, shape (3,)"
    )
    rejects(lambda: F.linear_cross_entropy(x, weights, y, label_smoothing=2.0), "`label_smoothing` must be in [0, 1]")
    rejects(lambda: F.linear_cross_entropy(x.tolist(), weights, y), "`input` must be a torch.Tensor", kind=InvalidType)
    rejects(
        lambda: F.linear_cross_entropy(x, weights * math.nan, y, check="nan"), "`linear_weight` holds nan at (0, 0)"
    )
    rejects(lambda: F.linear_cross_entropy(x * math.nan, weights, y, check="nan"), "`input` holds nan at (0, 0)")
    rejects(lambda: nn.LinearCrossEntropyLoss(4, 3, check="no"), '`check` must be one of "raise", "nan", "off"')
    rejects(
        lambda: nn.LinearCrossEntropyLoss(4, 3, reduction="sum", normalizer=2), "`normalizer` is what a mean divides"
    )


@pytest.fixture
def adaptive() -> nn.AdaptiveLogSoftmaxWithLoss:
    torch.manual_seed(0)
    return nn.AdaptiveLogSoftmaxWithLoss(16, 10, cutoffs=[3, 6])


def test_adaptive_softmax_is_nll_of_its_log_probabilities(adaptive) -> None:
    x, y = torch.randn(5, 16), torch.tensor([0, 9, 4, 2, 7])
    expected = F.nll_loss(adaptive.log_prob(x), y)
    for settings, by in (({}, 5), ({"normalizer": 3}, 3), ({"normalizer": "count"}, 5), ({"normalizer": "weights"}, 5)):
        for name, value in settings.items():
            setattr(adaptive, name, value)
        found = adaptive(x, y)
        torch.testing.assert_close(found.loss, expected * 5 / by)
        torch.testing.assert_close(found.output, adaptive.log_prob(x)[torch.arange(5), y])
    torch.testing.assert_close(adaptive(x[0], y[0]).loss, -adaptive.log_prob(x)[0, 0])


def test_adaptive_softmax_of_an_empty_batch(adaptive) -> None:
    nothing = torch.zeros(0, 16), torch.zeros(0, dtype=torch.int64)
    assert adaptive(*nothing).loss.isnan()
    adaptive.empty = "zero"
    assert adaptive(*nothing).loss == 0
    adaptive.empty = "raise"
    rejects(lambda: adaptive(*nothing), "AdaptiveLogSoftmaxWithLoss: there is nothing to take the mean of")


def test_adaptive_softmax_checks_its_target(adaptive) -> None:
    x = torch.randn(2, 16)
    rejects(lambda: adaptive(x, torch.tensor([0, 10])), "class indices in [0, 9]; received 10 at (1,)")
    rejects(lambda: adaptive(x, torch.tensor([0.0, 1.0])), "received torch.float32 of shape (2,)", kind=InvalidType)
    rejects(lambda: adaptive(x, torch.tensor([0])), "received torch.int64 of shape (1,) for (2, 16)", kind=InvalidType)
    adaptive.check = "nan"
    rejects(lambda: adaptive(x * math.nan, torch.tensor([0, 1])), "`input` holds nan at (0, 0)")
    adaptive.check = "off"
    assert adaptive(x * math.nan, torch.tensor([0, 1])).loss.isnan()
    rejects(lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3], empty="no"), "`empty` must be one of")


def test_adaptive_softmax_is_explained_by_its_nll(adaptive) -> None:
    x, y = torch.randn(3, 16), torch.tensor([0, 5, 9])
    told = explain(adaptive, x, y)
    assert told.value == adaptive(x, y).loss
    assert "then NLLLoss of those" in str(told) and f"{adaptive(x, y).loss:.5f}"[:6] in str(told)


@has_linear
def test_linear_cross_entropy_is_explained_by_its_cross_entropy() -> None:
    loss = nn.LinearCrossEntropyLoss(4, 3, weight=W, normalizer=5.0)
    told = explain(loss, X, K)
    assert told.value == loss(X, K)
    plain = explain(nn.CrossEntropyLoss(W, normalizer=5.0), loss.linear(X).detach(), K)
    assert str(told).endswith(str(plain)) and "logits = linear(input)" in str(told)
    refusal = explain(loss, X, K + 1)
    assert isinstance(refusal.refusal, InvalidValue) and "Refused" in str(refusal)
    rejects(lambda: explain(loss, X, K, check="off"), "holds a layer", "received check", kind=InvalidType)
