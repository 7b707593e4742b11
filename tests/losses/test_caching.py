"""Cached settings, kernels and weights are not used after a change of settings, weights or operands."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import piste
from piste.engine import loss_dispatch
from piste.losses import call as call_module

from .cases import CASES, seeded

F, T = piste.losses.functional, torch.nn.functional
X, K, Y = (
    torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),
    torch.tensor([0, 1, 2, 2, 1, 0]),
    torch.rand(6, 3),
)
W = torch.tensor([0.5, 2.0, 1.0])


def twice(call) -> torch.Tensor:
    """Return the result of a second call, which finds the kernel in the cache."""
    first, again = call(), call()
    assert torch.equal(first, again)
    return again


def test_changed_settings_of_a_module_apply_to_the_next_call() -> None:
    loss = piste.losses.MSELoss()
    twice(lambda: loss(X, Y))
    loss.reduction = "sum"
    torch.testing.assert_close(twice(lambda: loss(X, Y)), T.mse_loss(X, Y, reduction="sum"))
    loss.normalizer, loss.reduction = 9, "mean"
    torch.testing.assert_close(twice(lambda: loss(X, Y)), T.mse_loss(X, Y, reduction="sum") / 9)
    loss.normalizer, loss.check = None, "nan"
    with pytest.raises(ValueError, match=r"`input` holds nan at \(0, 0\)"):
        loss(X.clone().index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan)), Y)
    loss.reduction = "total"
    with pytest.raises(ValueError, match='MSELoss: `reduction` must be one of "mean", "sum", "none"; received'):
        loss(X, Y)


def test_a_changed_option_of_a_module_is_validated() -> None:
    loss = piste.losses.HuberLoss()
    twice(lambda: loss(X, Y))
    loss.delta = 0.25
    torch.testing.assert_close(twice(lambda: loss(X, Y)), T.huber_loss(X, Y, delta=0.25))
    loss.delta = -1
    with pytest.raises(ValueError, match="HuberLoss: `delta` must be "):
        loss(X, Y)


def test_a_bool_is_rejected_where_an_equal_number_is_cached() -> None:
    twice(lambda: F.huber_loss(X, Y, delta=1))
    words = r"HuberLoss: `delta` must be a number in \(0, inf\); received delta=True of type bool"
    with pytest.raises(TypeError, match=words):
        F.huber_loss(X, Y, delta=True)
    twice(lambda: F.mse_loss(X, Y, normalizer=1))
    with pytest.raises(ValueError, match="MSELoss: `normalizer` must be a number above 0"):
        F.mse_loss(X, Y, normalizer=True)


@pytest.mark.parametrize(
    "make", [lambda w: piste.losses.CrossEntropyLoss(w), lambda w: piste.losses.BCEWithLogitsLoss(pos_weight=w)]
)
def test_changed_weights_apply_to_the_next_call(make) -> None:
    def torchs(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        is_classes = isinstance(loss, nn.CrossEntropyLoss | piste.losses.CrossEntropyLoss)
        return (
            T.cross_entropy(x, K, w)
            if is_classes
            else T.binary_cross_entropy_with_logits(x, Y.to(x.dtype), pos_weight=w)
        )

    loss = make(W.clone())
    target = K if isinstance(loss, piste.losses.CrossEntropyLoss) else Y
    name = "weight" if isinstance(loss, piste.losses.CrossEntropyLoss) else "pos_weight"
    torch.testing.assert_close(twice(lambda: loss(X, target)), torchs(X, W))
    getattr(loss, name).mul_(3.0).add_(1)  # in place
    torch.testing.assert_close(twice(lambda: loss(X, target)), torchs(X, W * 3 + 1))
    loss.load_state_dict({name: W + 2})
    torch.testing.assert_close(twice(lambda: loss(X, target)), torchs(X, W + 2))
    loss.double()
    wide = target.double() if target.is_floating_point() else target
    torch.testing.assert_close(twice(lambda: loss(X.double(), wide)), torchs(X.double(), (W + 2).double()))
    loss.float()
    swapped = torch.func.functional_call(loss, {name: W * 5}, (X, target))
    torch.testing.assert_close(swapped, torchs(X, W * 5))
    setattr(loss, name, W * 7)
    torch.testing.assert_close(twice(lambda: loss(X, target)), torchs(X, W * 7))
    setattr(loss, name, torch.ones(4))
    with pytest.raises(ValueError, match=f"`{name}` must "):
        loss(X, target)


def test_the_function_form_uses_the_weights_of_the_call() -> None:
    for w in (W, W * 2, torch.ones(3)):
        torch.testing.assert_close(twice(lambda w=w: F.cross_entropy(X, K, w)), T.cross_entropy(X, K, w))
        torch.testing.assert_close(twice(lambda w=w: F.binary_cross_entropy(Y, Y, w)), T.binary_cross_entropy(Y, Y, w))
    with pytest.raises(ValueError, match="`weight` must have one number for each class"):
        F.cross_entropy(X, K, torch.ones(4))
    with pytest.raises(ValueError, match="`weight` must have the shape of `input` or one that can be broadcast to it"):
        F.binary_cross_entropy(Y[:, :2], Y[:, :2], W)
    with pytest.raises(ValueError, match=r"`pos_weight` must be in \[0, inf\); received"):
        twice(lambda: F.binary_cross_entropy_with_logits(X, Y, pos_weight=W))
        F.binary_cross_entropy_with_logits(X, Y, pos_weight=-W)


def test_trainable_weights_get_a_gradient_on_every_call() -> None:
    for _ in range(3):
        w = W.clone().requires_grad_()
        F.cross_entropy(X, K, w, reduction="sum").backward()
        each = T.cross_entropy(X, K, reduction="none")
        torch.testing.assert_close(w.grad, torch.stack([each[k == K].sum() for k in range(3)]))


def test_a_called_module_can_be_copied_and_pickled() -> None:
    loss = piste.losses.CrossEntropyLoss(W.clone(), label_smoothing=0.1)
    expected = twice(lambda: loss(X, K))
    for made in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twice(lambda made=made: made(X, K)), expected)
        made.reduction = "sum"
        assert not torch.equal(made(X, K), expected)
    assert torch.equal(loss(X, K), expected)


def test_a_full_settings_cache_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(1, call_module.MAX_CACHED_SETTINGS + 100):
        F.mse_loss(X, Y, normalizer=n)
        assert len(call_module._cached_settings) <= call_module.MAX_CACHED_SETTINGS
    expected = twice(lambda: F.mse_loss(X, Y, normalizer=0.5))
    monkeypatch.setattr(piste.losses.MSELoss, "prepare", lambda *_, **__: pytest.fail("went step by step"))
    assert torch.equal(F.mse_loss(X, Y, normalizer=0.5), expected)
    torch.testing.assert_close(expected, 2 * T.mse_loss(X, Y, reduction="sum"))


def test_operands_of_another_dtype_or_shape_miss_the_cache() -> None:
    loss = piste.losses.CrossEntropyLoss()
    soft = X.softmax(1)
    images, places = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    for _ in range(2):
        for x, y in ((X, K), (X, soft), (X[0], K[0]), (images, places), (X.double(), K), (X.double(), soft.double())):
            torch.testing.assert_close(loss(x, y), T.cross_entropy(x, y))
        with pytest.raises(ValueError, match="`target` must hold class indices in"):
            loss(X, K + 5)
        with pytest.raises(TypeError, match="CrossEntropyLoss"):
            loss(X, [0, 1])
        with pytest.raises(TypeError, match="CrossEntropyLoss"):
            loss(X)


def test_batchmean_divides_by_the_batch_of_each_call() -> None:
    loss = piste.losses.KLDivLoss(reduction="batchmean")
    for shape in ((4, 3), (6, 3), (4, 3), (2, 5, 3), (3,)):
        x, y = torch.randn(shape).log_softmax(-1), torch.randn(shape).softmax(-1)
        expected = (y * (y.log() - x)).sum() / shape[0]
        torch.testing.assert_close(twice(lambda x=x, y=y: loss(x, y)), expected)
        torch.testing.assert_close(twice(lambda x=x, y=y: F.kl_div(x, y, reduction="batchmean")), expected)
    torch.testing.assert_close(twice(lambda: loss(torch.tensor(-1.0), torch.tensor(1.0))), torch.tensor(1.0))
    for _ in range(2):
        assert loss(torch.zeros(0, 3), torch.zeros(0, 3)).isnan()


@pytest.mark.sample(1, per="case.name", of=12)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_second_call_finds_the_kernels_of_the_first(case) -> None:
    """The options and the value checks of a loss make the same key in every call."""
    operands, call = seeded(case), case.function
    call(*operands, **case.options, check="raise")
    known = loss_dispatch._dispatcher.cache_info().misses
    call(*operands, **case.options, check="raise")
    assert loss_dispatch._dispatcher.cache_info().misses == known
