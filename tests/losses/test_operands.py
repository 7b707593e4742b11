"""Operands of other dtypes, layouts and sizes: what they are converted to, and how sums of many are rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import piste
from tests.losses.cases import CASES, Case, seeded

F = piste.losses.functional


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lower_precisions_round_once(case: Case, dtype: torch.dtype) -> None:
    operands = seeded(case, dtype=dtype)
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    for reduction in ("mean", "none"):
        x = operands[0].clone().requires_grad_()
        result = case.function(x, *operands[1:], reduction=reduction, **options, check="off")
        wide = [o.double() if o.is_floating_point() else o for o in operands]
        wide[0].requires_grad_()
        expected = case.function(*wide, reduction=reduction, **case.options, check="off")
        assert result.dtype == dtype
        eps = torch.finfo(dtype).eps
        near = 2 * eps if dtype == torch.float32 else 0.51 * eps
        torch.testing.assert_close(result.double(), expected, rtol=near * 2, atol=near)
        result.sum().backward()
        expected.sum().backward()
        assert x.grad is not None and x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.double(), wide[0].grad, rtol=near * 4, atol=near)


def test_a_bfloat16_mean_of_many_accumulates_in_float32() -> None:
    x = torch.full((100_000,), 1.0, dtype=torch.bfloat16)
    assert piste.losses.L1Loss()(x, torch.zeros_like(x)).item() == 1.0
    assert piste.losses.MSELoss(reduction="sum")(x, torch.zeros_like(x)).item() == pytest.approx(1e5, rel=4e-3)


def test_l1_takes_complex_numbers_as_torch_does() -> None:
    x = torch.randn(5, dtype=torch.complex128, requires_grad=True)
    y = torch.randn(5, dtype=torch.complex128)
    ours, theirs = F.l1_loss(x, y), torch.nn.functional.l1_loss(x, y)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x))


def test_integer_and_bool_targets_and_mixed_dtypes_are_converted() -> None:
    x = torch.tensor([0.5, 0.25])
    labels = torch.tensor([1, 0])
    expected = torch.nn.functional.binary_cross_entropy(x, labels.float())
    for kind in (torch.int64, torch.bool, torch.uint8):
        assert torch.equal(piste.losses.BCELoss()(x, labels.to(kind)), expected)
        logits = piste.losses.BCEWithLogitsLoss()(torch.logit(x), labels.to(kind))
        torch.testing.assert_close(logits, expected)
    assert piste.losses.MSELoss()(x, labels.double()).dtype == torch.float64
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64)
    expected = piste.losses.CrossEntropyLoss()(logits, torch.tensor([0, 1, 3]))
    exact = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 3]))  # another order of operations
    torch.testing.assert_close(expected, exact, rtol=1e-14, atol=0)
    for kind in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(piste.losses.CrossEntropyLoss()(logits, torch.tensor([0, 1, 3], dtype=kind)), expected)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_strides_do_not_matter_and_operands_are_unchanged(case: Case) -> None:
    operands = seeded(case)
    strided = [torch.stack([o, o], -1)[..., 0] for o in operands]
    before = [o.clone() for o in strided]
    torch.testing.assert_close(
        case.function(*strided, **case.options), case.function(*operands, **case.options), rtol=1e-14, atol=0
    )
    assert all(torch.equal(a, b) for a, b in zip(before, strided, strict=True))


def test_class_dim_names_the_dimension_of_the_classes() -> None:
    x, y = torch.randn(2, 4, 4), torch.randint(4, (2, 4))
    assert torch.equal(F.cross_entropy(x, y, class_dim=-1), F.cross_entropy(x.transpose(1, 2), y))
    assert torch.equal(piste.losses.CrossEntropyLoss(class_dim=2)(x, y), F.cross_entropy(x, y, class_dim=-1))
    soft = x.softmax(-1)
    torch.testing.assert_close(
        F.cross_entropy(x, soft, class_dim=-1), F.cross_entropy(x.transpose(1, 2), soft.transpose(1, 2))
    )


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", [c for c in CASES if len(c.shapes) > 1 and not c.is_of_batch], ids=str)
def test_empty_operands_give_empty_losses(case: Case) -> None:
    shape = case.shapes[0]
    operands = [o[:0] if o.dim() else o for o in seeded(case, shape)]
    for reduction in ("none", "sum", "mean"):
        x = operands[0].clone().requires_grad_()
        loss = case.function(x, *operands[1:], **case.options, reduction=reduction)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        assert slope.shape == x.shape
        if reduction == "none":
            assert loss.numel() == 0
        else:
            assert loss.item() == 0 if reduction == "sum" else loss.isnan()


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if (4, 3) in c.shapes], ids=str)
def test_large_means_are_exact_and_deterministic(case: Case, dtype: torch.dtype) -> None:
    operands = seeded(case, (100_000, 3), dtype)
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    wide = [o.double() if o.is_floating_point() else o for o in operands]
    exact = case.function(*wide, **case.options, check="off").item()
    terms = case.function(*wide, **case.options, check="off", reduction="none").abs().mean().item()
    results = []
    for _ in range(3):
        x = operands[0].clone().requires_grad_()
        loss = case.function(x, *operands[1:], **options, check="off")
        results.append((loss.detach(), *torch.autograd.grad(loss, x)))
    # Terms of both signs, as those of kl_div, leave a mean that is small beside the roundings of its terms.
    rel, of_terms = (1e-6, 1e-8) if dtype == torch.float32 else (2**-8, 0)
    assert results[0][0].item() == pytest.approx(exact, rel=rel, abs=of_terms * terms)
    assert all(torch.equal(a, b) for again in results[1:] for a, b in zip(results[0], again, strict=True))


def test_ctc_takes_lengths_as_a_tensor_a_tuple_or_an_array() -> None:
    x, y = torch.randn(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 1]])
    expected = F.ctc_loss(x, y, torch.tensor([6, 5]), torch.tensor([2, 1]))
    for of in (tuple, list, np.array):
        assert torch.equal(F.ctc_loss(x, y, of([6, 5]), of([2, 1])), expected)


def test_ctc_of_an_empty_batch_is_empty() -> None:
    none = torch.zeros(3, 0, 4, requires_grad=True), torch.zeros(0, 2, dtype=torch.int64), (), ()
    assert F.ctc_loss(*none).isnan() and F.ctc_loss(*none, reduction="sum") == 0
    loss = F.ctc_loss(*none, empty="zero")
    loss.backward()
    assert loss == 0 and none[0].grad.shape == (3, 0, 4)
    with pytest.raises(ValueError, match="CTCLoss: there is nothing to take the mean of"):
        F.ctc_loss(*none, empty="raise")


def test_a_float32_mean_of_many_is_exact_to_a_few_ulps() -> None:
    """A float32 accumulator of 2^25 equal elements would stop growing at 2^24 of them."""
    x = torch.full((1 << 25,), 0.1)
    torch.testing.assert_close(F.l1_loss(x, torch.zeros_like(x)), x[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(F.l1_loss(x, torch.zeros_like(x), reduction="sum"), x[0] * x.numel(), rtol=1e-6, atol=0)
    rows = x.view(-1, 2).log_softmax(1)
    torch.testing.assert_close(
        F.nll_loss(rows, torch.zeros(len(rows), dtype=torch.int64)), -rows[0, 0], rtol=1e-6, atol=0
    )
