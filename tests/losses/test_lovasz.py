"""The Lovasz losses extend the Jaccard loss, count what they say, and reject calls that do not fit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import piste
from piste.errors import InvalidType
from piste.explain import explain
from tests.losses.test_rejections import rejects

nn, F = piste.losses, piste.losses.functional
X = torch.tensor([[[2.0, -1.0], [0.5, -3.0]], [[-0.25, 1.0], [4.0, 0.0]]], dtype=torch.float64)
Y = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 1]]])
P = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]], dtype=torch.float64)


def test_at_hard_predictions_the_losses_are_the_jaccard_loss() -> None:
    for truth, predicted in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
        y, z = torch.tensor([truth]), torch.tensor([predicted])
        either = int((y | z).sum())
        share = int((y & z).sum()) / either if either else 1.0
        p = torch.stack([1 - z, z], 1).double()
        classes = [1 - share, 1 - (int(((1 - y) & (1 - z)).sum()) / max(int(((1 - y) | (1 - z)).sum()), 1))]
        present = [loss for loss, c in zip(classes, (1, 0), strict=True) if (y == c).any()]
        found = F.lovasz_softmax_loss(p, y, activation=None)
        assert found.item() == pytest.approx(sum(present) / len(present))
        if int(y.sum()):
            hinge = F.lovasz_hinge_loss((2 * z - 1).double(), y)
            assert hinge.item() == pytest.approx(2 * (1 - share))  # a hinge of 2 at each wrong place


def test_the_worked_regions_have_their_values_by_hand() -> None:
    hinges = F.lovasz_hinge_loss(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1, 1, 0]]))
    assert hinges.item() == pytest.approx(2 * (1 / 2) + 1.5 * (2 / 3 - 1 / 2))
    assert "(0 if [2, 1.5, -1] <= 0" in str(explain("lovasz_hinge", [[2.0, -1.0, 0.5]], torch.tensor([[1, 1, 0]])))
    assert F.lovasz_softmax_loss(P, torch.zeros(1, 2).long(), activation=None).item() == pytest.approx(0.25)
    all_classes = F.lovasz_softmax_loss(P, torch.zeros(1, 2).long(), activation=None, classes="all")
    assert all_classes.item() == pytest.approx((0.25 + 0.5) / 2)  # of an absent class, the largest error
    assert "over the number of classes" in str(explain("lovasz_softmax", X.transpose(0, 1), Y[:, 0]))


def test_a_region_is_a_sample_or_the_batch() -> None:
    each = F.lovasz_hinge_loss(X, Y, reduction="none")
    assert each.shape == (2,)
    for i in range(2):
        torch.testing.assert_close(each[i], F.lovasz_hinge_loss(X[i : i + 1], Y[i : i + 1]))
    whole = F.lovasz_hinge_loss(X, Y, per_image=False, reduction="none")
    assert whole.shape == (1,) and whole[0] == F.lovasz_hinge_loss(X.reshape(1, 8), Y.reshape(1, 8))
    logits = torch.stack([X, -X, X / 2], 1)
    of_samples = F.lovasz_softmax_loss(logits, Y, per_image=True, reduction="none")
    for i in range(2):
        torch.testing.assert_close(of_samples[i], F.lovasz_softmax_loss(logits[i : i + 1], Y[i : i + 1]))
    assert F.lovasz_softmax_loss(logits, Y, per_image=True) == of_samples.mean()
    joined = logits.transpose(0, 1).reshape(1, 3, 8)
    torch.testing.assert_close(F.lovasz_softmax_loss(logits, Y), F.lovasz_softmax_loss(joined, Y.reshape(1, 8)))


def test_ignored_places_have_no_part() -> None:
    y = Y.clone()
    y[0, 0, 1] = y[1, 1] = 7
    expected = F.lovasz_hinge_loss(X[0].reshape(1, 4)[:, [0, 2, 3]], Y[0].reshape(1, 4)[:, [0, 2, 3]])
    x = X.clone()
    x[0, 0, 1] = 100.0
    x.requires_grad_()
    assert F.lovasz_hinge_loss(x, y, ignore_index=7, reduction="none")[0] == expected
    logits = torch.stack([x, -x], 1)
    loss = F.lovasz_softmax_loss(logits, y, ignore_index=7)
    kept = logits.transpose(0, 1)[:, y != 7].unsqueeze(0)
    torch.testing.assert_close(loss, F.lovasz_softmax_loss(kept, y[y != 7].unsqueeze(0)))
    (slope,) = torch.autograd.grad(loss + F.lovasz_hinge_loss(x, y, ignore_index=7), x)
    assert (slope[y == 7] == 0).all() and slope[y != 7].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_at_an_ignored_place_reaches_no_loss_and_no_gradient(value: float) -> None:
    y = Y.clone()
    y[0, 0, 1] = -100
    spoilt = X.clone()
    spoilt[0, 0, 1] = value
    for x in (X, spoilt):
        logits = torch.stack([x, x / 2], 1).requires_grad_()
        hinges = x.clone().requires_grad_()
        results = [F.lovasz_hinge_loss(hinges, y)]
        results += [F.lovasz_softmax_loss(logits, y, per_image=flag) for flag in (True, False)]
        results += torch.autograd.grad(sum(results), (hinges, logits))
        if x is X:
            expected = results
    torch.testing.assert_close(results, expected)
    spoilt[0, 1, 0] = math.nan
    assert F.lovasz_hinge_loss(spoilt, y, reduction="none").isnan().tolist() == [True, False]


def test_samples_that_are_ignored_as_a_whole_are_not_counted() -> None:
    y = Y.clone()
    y[1] = -100
    logits = torch.stack([X, -X], 1)
    for call in (
        lambda **s: F.lovasz_hinge_loss(X, y, **s),
        lambda **s: F.lovasz_softmax_loss(logits, y, per_image=True, **s),
        lambda **s: F.lovasz_softmax_loss(logits, y, per_image=True, classes="all", **s),
    ):
        each = call(reduction="none")
        assert each[0] > 0 and each[1] == 0 and call() == each[0] == call(normalizer="count")
    ignored = torch.full_like(y, -100)
    for call in (F.lovasz_hinge_loss, lambda x, y, **s: F.lovasz_softmax_loss(logits, y, **s)):
        assert call(X, ignored).isnan() and call(X, ignored, empty="zero") == 0
        rejects(lambda call=call: call(X, ignored, empty="raise"), "there is nothing to take the mean of")
    assert F.lovasz_softmax_loss(logits[:0], y[:0]).isnan()
    assert F.lovasz_softmax_loss(logits[:0], y[:0], reduction="none").tolist() == [0]


def test_a_right_place_at_the_margin_has_no_gradient() -> None:
    x = torch.tensor([[1.0, -1.0, 3.0]], requires_grad=True)
    F.lovasz_hinge_loss(x, torch.tensor([[1, 0, 1]])).backward()
    assert torch.equal(x.grad, torch.zeros(1, 3))


def test_labels_and_probabilities_out_of_range_are_rejected() -> None:
    words = "`target` must hold whole numbers in [0, 1], or ignore_index=-100; received 2 at (0, 1)"
    rejects(lambda: F.lovasz_hinge_loss(X[0], torch.tensor([[0, 2], [1, 0]])), words, "a place of the region is 1")
    rejects(lambda: F.lovasz_hinge_loss(X[0], torch.tensor([[0, -1], [1, 0]])), "received -1 at (0, 1)")
    rejects(lambda: F.lovasz_hinge_loss(X[0], torch.full((2, 2), 0.5)), "received 0.5 at (0, 0)")
    F.lovasz_hinge_loss(X[0], torch.full((2, 2), 0.5), check="off")
    F.lovasz_hinge_loss(X[0], torch.tensor([[False, True], [True, False]]))
    rejects(lambda: F.lovasz_softmax_loss(P, torch.tensor([[0, 2]])), "received 2 at (0, 1)", "numbered from 0")
    rejects(lambda: F.lovasz_softmax_loss(P, torch.tensor([[0, -1]]), ignore_index=5), "or ignore_index=5")
    words = "`input` must be in [0, 1] with activation=None; received 1.02 at (0, 0, 1)"
    wrong = P.clone()
    wrong[0, 0, 1] = 1.02
    rejects(lambda: F.lovasz_softmax_loss(wrong, Y[0, :1], activation=None), words, 'activation="softmax" takes logits')
    F.lovasz_softmax_loss(wrong, Y[0, :1])
    F.lovasz_softmax_loss(wrong, Y[0, :1], activation=None, check="off")
    for value, is_right in ((-0.01, True), (1.01, True), (-0.0101, False)):
        wrong[0, 0, 1] = value
        if is_right:
            F.lovasz_softmax_loss(wrong, Y[0, :1], activation=None)
        else:
            rejects(lambda: F.lovasz_softmax_loss(wrong, Y[0, :1], activation=None), "must be in [0, 1]")
    rejects(lambda: F.lovasz_softmax_loss(P * math.nan, Y[0, :1], check="nan"), "`input` holds nan at (0, 0, 0)")
    rejects(lambda: F.lovasz_hinge_loss(X * math.nan, Y, check="nan"), "`input` holds nan at (0, 0, 0)")


def test_shapes_and_dtypes_that_do_not_fit_are_rejected() -> None:
    rejects(lambda: F.lovasz_hinge_loss(X, Y[0]), "`input` and `target` must have the same shape")
    rejects(lambda: F.lovasz_hinge_loss(X[0, 0], Y[0, 0]), "must be (N, d1, ...); received (2,). Help: input.unsqueeze")
    rejects(lambda: F.lovasz_hinge_loss(Y, Y), "received torch.int64. Help: input.float()", kind=InvalidType)
    rejects(lambda: F.lovasz_hinge_loss(Y, X), "the arguments look exchanged", kind=InvalidType)
    rejects(lambda: F.lovasz_hinge_loss(X, Y.to("meta")), "must be on one device")
    rejects(lambda: F.lovasz_hinge_loss(X, 1), "`target` must be a torch.Tensor", kind=InvalidType)
    rejects(lambda: F.lovasz_softmax_loss(P, P), "of an integer dtype; received torch.float64", kind=InvalidType)
    rejects(lambda: F.lovasz_softmax_loss(Y, P), "the arguments look exchanged", kind=InvalidType)
    rejects(lambda: F.lovasz_softmax_loss(Y, Y), "Help: input.float()", kind=InvalidType)
    rejects(
        lambda: F.lovasz_softmax_loss(P, Y[0]), "`target` must have shape (1, 2) for an input (1, 2, 2)", "argmax(1)"
    )
    rejects(lambda: F.lovasz_softmax_loss(P[:, :1], Y[:1, 0]), "at least 2 classes; received (1, 1, 2)", "LovaszHinge")
    rejects(lambda: F.lovasz_softmax_loss(P[0], Y[0, 0]), "must be (N, C, d1, ...)")
    rejects(lambda: F.lovasz_softmax_loss(P, Y[:1, 0].to("meta")), "must be on one device")
    rejects(lambda: F.lovasz_softmax_loss(P, None), "`target` must be a torch.Tensor", kind=InvalidType)
    rejects(lambda: F.lovasz_softmax_loss(P, Y[:1, 0], classes="some"), '`classes` must be one of "present", "all"')
    rejects(lambda: F.lovasz_softmax_loss(P, Y[:1, 0], activation="sigmoid"), "`activation` must be")
    said = nn.LovaszHingeLoss().explain_backend(X, Y)
    assert (
        said.partition(". Under")[0]
        == "LovaszHingeLoss: by the eager backend: the errors are sorted by torch operations"
    )
