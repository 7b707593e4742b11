"""First steps: each loss on 2 x 2 tensors, as in a tutorial."""

from __future__ import annotations

import pytest
import torch

import piste.losses as nn
from piste.errors import InvalidValue

F = nn.functional

SAMPLE = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
TARGET = torch.tensor([[0.0, 1.0], [2.0, 3.0]])


@pytest.mark.parametrize(
    ("loss", "function", "expected"),
    [(nn.L1Loss, F.l1_loss, 1), (nn.SmoothL1Loss, F.smooth_l1_loss, 0.625), (nn.MSELoss, F.mse_loss, 1.5)],
)
def test_values_of_the_regression_losses(loss, function, expected: float) -> None:
    criterion = loss()
    assert criterion(SAMPLE, TARGET).item() == expected
    assert function(SAMPLE, TARGET).item() == expected
    variables = torch.autograd.Variable(SAMPLE), torch.autograd.Variable(TARGET)
    assert criterion(*variables).item() == expected


def test_bce_rejects_targets_above_one() -> None:
    with pytest.raises(InvalidValue) as refusal:
        nn.BCELoss()(SAMPLE, TARGET)
    assert str(refusal.value) == (
        "BCELoss: `target` must be in [0, 1]; received 2.0 at (1, 0), the first of 2; the farthest off is 3.0 at "
        "(1, 1). Help: a target is a 0/1 label or a probability; divide pixel values by 255, and use "
        "CrossEntropyLoss for class indices."
    )
    assert nn.BCELoss(check="off")(SAMPLE, TARGET).item() == -50


def test_cross_entropy_rejects_rows_that_do_not_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"row 1 sums to 5\. Help: class indices look like torch\.tensor\(\[0, 2, 1\]"):
        nn.CrossEntropyLoss()(SAMPLE, TARGET)
    loss = nn.CrossEntropyLoss(check="off")(SAMPLE, TARGET)
    assert loss.item() == pytest.approx(3 * torch.tensor(2.0).log().item())


def test_the_message_of_nll_has_a_line_that_works() -> None:
    with pytest.raises(TypeError) as refusal:
        nn.NLLLoss()(SAMPLE, TARGET)
    assert str(refusal.value) == (
        "NLLLoss: `target` must hold class indices of dtype int64 and shape (2,); received torch.float32 of shape "
        "(2, 2) for an input (2, 2). Help: if it is one-hot or holds scores, target.argmax(1) gives the class "
        "indices. It takes log-probabilities (N, C), or (N, C, d1, ...), and class indices (N), or (N, d1, ...), of "
        "dtype int64. A line that works: piste.losses.NLLLoss()(torch.log_softmax(torch.randn(3, 5), dim=1), "
        "torch.tensor([1, 0, 4]))"
    )
    with pytest.raises(TypeError, match=r"nll_loss\(\): missing a required argument: 'input'.*A line that works"):
        F.nll_loss()


def test_nll2d_takes_images_under_both_names() -> None:
    with pytest.raises(
        ValueError, match=r"`input` must be \(N, C, H, W\) and `target` \(N, H, W\), one class for each "
    ):
        nn.NLLLoss2d()(SAMPLE, TARGET)
    x = torch.log_softmax(torch.randn(2, 3, 4, 5), dim=1)
    y = torch.randint(3, (2, 4, 5))
    expected = torch.nn.functional.nll_loss(x, y)
    torch.testing.assert_close(nn.NLLLoss2d()(x, y), expected)
    torch.testing.assert_close(nn.NLLLoss()(x, y), expected)


@pytest.mark.parametrize("loss", [nn.named(n) for n in ("l1", "bce", "cross_entropy", "nll", "huber")])
def test_a_constructor_rejects_tensors_with_a_line_that_works(loss) -> None:
    with pytest.raises(TypeError, match=r"tensors where its options belong\. Help: build the loss first, then call it"):
        loss(SAMPLE, TARGET)


@pytest.mark.sample(16)
@pytest.mark.parametrize("loss", sorted(set(nn.LOSSES.values()), key=lambda c: c.name))
def test_every_line_that_works_runs(loss) -> None:
    import piste

    result = eval(loss.line_that_works(), {"torch": torch, "piste": piste})
    assert result.dim() == 0 and result.isfinite()
