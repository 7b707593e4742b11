"""The losses of regions reject probabilities, labels and shapes that do not fit, and say what they count."""

from __future__ import annotations

import pytest
import torch

import piste
from piste import losses
from piste.errors import PisteError
from piste.explain import explain

from .region_checks import find_region_mismatch

F = piste.losses.functional
FUNCTIONS = (F.dice_loss, F.jaccard_loss, F.tversky_loss, F.focal_tversky_loss)
X, Y = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]]), torch.tensor([[[0, 1], [1, 0]]])
LOGITS, CLASSES = torch.tensor([[[3.0, -2.0], [0.5, 1.0]]]), torch.tensor([[0, 1]])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_probabilities_and_labels_from_the_bound_on_are_rejected(function) -> None:
    for value in (-0.01, 1.01, float("nan")):
        function(X.double().clamp(value, 2) if value < 1 else X * value, Y)
    off = X.clone()
    off[0, 0, 1] = 1.0102
    with pytest.raises(PisteError) as refusal:
        function(off, Y)
    assert "`input` must be in [0, 1]; received 1.01" in str(refusal.value)
    assert 'at (0, 0, 1). Help: give logits with activation="sigmoid"' in str(refusal.value)
    function(off, Y, check="off")
    function(LOGITS, Y, activation="sigmoid")
    with pytest.raises(PisteError, match=r"`target` must be in \[0, 1\]; received 2 at \(0, 0, 1\)"):
        function(X, Y * 2)
    with pytest.raises(PisteError, match="`target` must be in"):
        function(LOGITS, Y * 2, activation="sigmoid")


def test_class_indices_out_of_range_are_rejected() -> None:
    with pytest.raises(PisteError, match=r"class indices in \[0, 1\] for 2 classes; received 2 at \(0, 1\)"):
        F.dice_loss(LOGITS, CLASSES * 2, activation="softmax")
    with pytest.raises(PisteError, match="received -1"):
        F.dice_loss(LOGITS, CLASSES - 1, activation="softmax")
    one_hot = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert F.dice_loss(X, CLASSES) == F.dice_loss(X, one_hot)


def test_shapes_and_dtypes_that_do_not_fit_are_rejected() -> None:
    for operands, words in (
        ((X[0], Y[0]), r"must be \(N, C, d1, ...\); received \(2, 2\). Help: input.unsqueeze\(1\)"),
        ((X, Y[..., :1]), r"hold class indices of shape \(1, 2\); received torch.int64 of shape \(1, 2, 1\)"),
        ((X[:, :1], CLASSES), "must have the shape of `input`"),
        ((Y, X), "received torch.int64. Help: the arguments look exchanged"),
        ((Y, Y), "Help: input.float()"),
    ):
        with pytest.raises(PisteError, match=words):
            F.dice_loss(*operands)
    with pytest.raises(PisteError, match=r"`gamma` must be in \(0, inf\); received gamma=0"):
        F.focal_tversky_loss(X, Y, gamma=0)
    with pytest.raises(PisteError, match="`activation` must be None or"):
        F.dice_loss(X, Y, activation="relu")


def test_skipped_regions_do_not_count_in_the_mean() -> None:
    target = torch.tensor([[[0, 0], [1, 0]]])
    each = F.dice_loss(X, target, absent="skip", reduction="none")
    assert each.tolist() == [[0.0, pytest.approx(0.0)]] and F.dice_loss(X, target, absent="skip") == each[0, 1]
    assert F.dice_loss(X, target) == F.dice_loss(X, target, reduction="none").sum() / 2
    assert F.dice_loss(X, target * 0, absent="skip").isnan()
    assert F.dice_loss(X, target * 0, absent="skip", empty="zero") == 0
    said = piste.losses.DiceLoss(absent="skip").explain_backend(X, target)
    assert (
        said.partition(". Under")[0]
        == "DiceLoss: by the eager backend: regions without target are counted by torch operations"
    )
    assert "ignored: 1 of 2" in str(explain("dice", X, target, absent="skip"))


def test_samples_of_a_batch_are_one_region_for_each_class() -> None:
    x, y = torch.rand(3, 2, 4, 5), torch.randint(2, (3, 2, 4, 5))
    together = F.jaccard_loss(x, y, batch=True, reduction="none")
    assert together.shape == (2,)
    for c in range(2):
        p, t = x[:, c], y[:, c]
        overlap = (p * t).sum()
        torch.testing.assert_close(together[c], 1 - (overlap + 1) / (p.sum() + t.sum() - overlap + 1))


def test_the_worked_region_has_its_value_by_hand() -> None:
    assert "= 0.111111" in str(explain("dice", [[[0.5, 1.0, 0.0]]], [[[1, 1, 0]]]))  # 1 - (2 * 1.5 + 1) / (1.5 + 2 + 1)


def test_indices_empty_regions_and_powers_at_0_are_as_stated() -> None:
    assert find_region_mismatch(lambda name: getattr(F, losses.named(name).functional_name)) is None


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kind", ["labels", "indices"])
def test_further_calls_have_the_values_of_the_first_and_reject_what_it_rejects(kind, batch) -> None:
    """The kernel takes operands of known dtypes and numbers of dimensions at once, in any shape."""
    activation = {"labels": "sigmoid", "indices": "softmax"}[kind]
    loss = losses.DiceLoss(activation=activation, batch=batch)
    for shape in ((2, 3, 4, 5), (2, 3, 4, 5), (1, 2, 3, 4), (3, 4, 2, 2)):
        x = torch.randn(shape, dtype=torch.float64).float().requires_grad_()
        rows = shape[:1] + shape[2:]
        y = torch.rand(shape) if kind == "labels" else torch.randint(shape[1], rows)
        wide = x.detach().double().requires_grad_()
        labels = y.double() if kind == "labels" else y
        expected = F.dice_loss(wide, labels, activation=activation, batch=batch)
        loss(x, y).backward()
        expected.backward()
        torch.testing.assert_close(loss(x, y), expected.float())
        torch.testing.assert_close(x.grad, wide.grad.float())
    assert [*filter(None, loss._validated_settings[0].kernels.values())]
    x, y = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) if kind == "labels" else torch.zeros(2, 4, 5).long()
    for wrong, words in (
        ((x, y[:1]), "must have the shape of `input`"),
        ((x[:, :1], y[:, :1, :1]), "must have the shape of `input`"),
        ((x[0, 0], y[0, 0]), r"must be \(N, C, d1, ...\); received \(4, 5\)"),
        ((x, y + 3), "`target` must (be in|hold class indices)"),
    ):
        with pytest.raises(PisteError, match=words):
            loss(*wrong)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_mask_leaves_out_places_as_the_error_about_their_label_says(function) -> None:
    logits, classes = torch.randn(2, 3, 6, dtype=torch.float64), torch.randint(3, (2, 6))
    classes[:, 4:] = 255
    with pytest.raises(PisteError, match="both times a mask of the places that count, leave out the others"):
        function(logits, classes, activation="softmax")
    keep = (classes != 255).unsqueeze(1)
    labels = torch.nn.functional.one_hot(classes.where(classes != 255, 0), 3).movedim(-1, 1)
    expected = function(logits[..., :4].contiguous(), classes[:, :4].contiguous(), activation="softmax")
    torch.testing.assert_close(function(logits.softmax(1) * keep, labels * keep), expected)
    assert function(logits.softmax(1), labels * keep) > expected + 1e-3
