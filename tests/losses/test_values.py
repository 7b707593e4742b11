"""Values and gradients against torch's losses and against the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import piste
from piste.losses import corners
from tests.losses.assertions import (
    find_elementwise_mismatch,
    find_extreme_mismatch,
    find_rowwise_mismatch,
    find_torch_mismatch,
)
from tests.losses.cases import CASES, MODULES, Case, expand_weight, seeded
from tests.losses.extremes import EXTREMES, Extreme
from tests.losses.samples import AT_CORNERS, ELEMENTS, ROWS, ROWS_AT_CORNERS, Points
from tests.oracle import losses as oracle
from tests.oracle.reference import reference

F = piste.losses.functional
REGRESSION = ("l1", "mse", "smooth_l1", "huber")


class Own(torch.Tensor):
    """A tensor subclass, which the eager backend computes."""


def gradients(result: torch.Tensor, operands) -> list[torch.Tensor]:
    wanted = [o for o in operands if o.requires_grad]
    return list(torch.autograd.grad(result, wanted, torch.ones_like(result) * 1.5))


def tracked(operands):
    return tuple(o.clone().requires_grad_() if o.is_floating_point() else o for o in operands)


@pytest.mark.sample(1, per="case.name")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_functions_give_the_values_and_gradients_of_torch(case: Case, reduction: str) -> None:
    for shape in case.shapes:
        operands = tracked(seeded(case, shape))
        options = expand_weight(case.options, operands[0]) if case.name in REGRESSION else case.options
        expected = case.torchs(*operands, reduction=reduction, **options)
        result = case.function(*operands, reduction=reduction, **case.options)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(gradients(result, operands), gradients(expected, operands), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_modules_equal_their_functions(case: Case) -> None:
    for reduction, shape in itertools.product(("mean", "sum", "none"), case.shapes):
        operands = seeded(case, shape)
        module = case.loss(reduction=reduction, **case.options)
        expected = case.function(*operands, reduction=reduction, **case.options)
        assert torch.equal(module(*operands), expected)
        assert torch.equal(module(**dict(zip(case.loss.arguments, operands, strict=True))), expected)


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


@pytest.mark.sample(1, per="points.name")
@pytest.mark.parametrize("points", ELEMENTS, ids=str)
def test_elementwise_losses_match_the_oracle_to_the_second_derivative(points: Points) -> None:
    loss = piste.losses.named(points.name)
    assert find_elementwise_mismatch(getattr(F, loss.functional_name), points) is None


@pytest.mark.sample(1, per="points.name")
@pytest.mark.parametrize("points", ROWS, ids=str)
def test_row_losses_match_the_oracle(points: Points) -> None:
    loss = piste.losses.named(points.name)
    assert find_rowwise_mismatch(getattr(F, loss.functional_name), points) is None


@pytest.mark.sample(1, per="points.name", of=8)
@pytest.mark.parametrize("points", AT_CORNERS + ROWS_AT_CORNERS, ids=str)
def test_gradients_at_corners_match_torch(points: Points) -> None:
    function = piste.losses.named(points.name).functional_name
    assert find_torch_mismatch(getattr(F, function), reference(function), points) is None


@pytest.mark.parametrize("difference", [1e-3, 1e-6])
def test_small_differences_cost_half_their_square(difference: float) -> None:
    d, zero = torch.tensor([difference], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    near = {"rel": max(difference**2, 1e-15 / difference)}  # of the next term, and of the rounding of 1 - exp(-2 d)
    for kind in (torch.Tensor, Own):  # by the kernel, and by the eager backend
        for loss in (F.log_cosh_loss, F.general_robust_loss):
            assert loss(d.as_subclass(kind), zero).item() == pytest.approx(difference**2 / 2, **near)


def test_hinges_have_the_slope_of_the_installed_clamp_at_their_corner() -> None:
    z = torch.zeros((), requires_grad=True)
    z.clamp_min(0).backward()
    assert z.grad is not None and z.grad.item() in (0, 1)
    assert corners.above(0.0, 0) == bool(z.grad) and corners.below(0.0, 0) == (not z.grad)


@pytest.mark.parametrize("is_flat", [True, False])
def test_only_the_corner_of_a_hinge_depends_on_torch(monkeypatch: pytest.MonkeyPatch, is_flat: bool) -> None:
    monkeypatch.setattr(corners, "CLAMP_IS_FLAT_AT_ITS_BOUND", is_flat)
    assert [corners.below(z, 0.5) for z in (0.25, 0.5, 0.75, math.nan)] == [True, is_flat, False, False]
    assert [corners.above(z, 0.5) for z in (0.25, 0.5, 0.75, math.nan)] == [False, not is_flat, True, False]


@pytest.mark.sample(1, per="extreme.name", of=8)
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_infinite_and_huge_values_are_exact(extreme: Extreme, reduction: str) -> None:
    function = getattr(F, piste.losses.named(extreme.name).functional_name)
    for dtype in (torch.float64, torch.float32)[: 2 - extreme.is_double]:
        assert find_extreme_mismatch(function, extreme, dtype, reduction) is None


@pytest.mark.parametrize("tensor", [torch.Tensor, Own])  # by the kernel, and by the eager backend
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-5])
@pytest.mark.parametrize("alpha", [1.5, 1.0, 0.5, 0.0, -0.5])
@pytest.mark.parametrize(("dtype", "x"), [(torch.float32, 1e24), (torch.float64, 1e180)])
def test_the_general_robust_loss_of_a_difference_whose_square_is_infinite(
    dtype: torch.dtype, x: float, alpha: float, scale: float, sign: int, tensor: type[torch.Tensor]
) -> None:
    largest = torch.finfo(dtype).max
    b, root = 2 - alpha, x / scale  # z / b + 1 has the bits of z / b
    value = 2 * math.log(root / math.sqrt(b)) if alpha == 0 else (root**alpha / b ** (alpha / 2) - 1) * b / alpha
    slope = root ** (alpha - 1) * b ** (1 - alpha / 2) / scale
    operand = torch.tensor(sign * x, dtype=dtype, requires_grad=True)
    target = torch.zeros((), dtype=dtype)
    loss = F.general_robust_loss(operand.as_subclass(tensor), target, alpha=alpha, scale=scale)
    (found,) = torch.autograd.grad(loss, operand, create_graph=True)
    (second,) = torch.autograd.grad(found, operand)
    # the value is the exponential of a number with the rounding of its dtype
    rounding = 4 * torch.finfo(dtype).eps * max(1, abs(alpha)) * math.log(root)
    if value < largest:
        assert loss.item() == pytest.approx(value, rel=rounding)
    assert found.item() == pytest.approx(sign * slope, rel=rounding)
    assert second.isfinite()


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tensor", [torch.Tensor, Own])  # by the kernel, and by the eager backend
def test_a_class_that_student_and_teacher_exclude_is_as_absent(
    divergence: str, dtype: torch.dtype, tensor: type[torch.Tensor]
) -> None:
    student = torch.tensor([[1.0, -math.inf, 2.0], [0.0, -math.inf, -1.0]], dtype=dtype)
    teacher = torch.tensor([[0.0, -math.inf, 1.0], [1.0, -math.inf, 0.0]], dtype=dtype)
    found = []
    for classes in ([0, 1, 2], [0, 2]):
        operands = [x[:, classes].clone().requires_grad_() for x in (student, teacher)]
        given = [x.as_subclass(tensor) for x in operands]
        loss = F.distillation_loss(*given, temperature=2.0, divergence=divergence)
        first = torch.autograd.grad(loss, operands, create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in first), operands)
        found.append([loss.detach(), *(x.detach() for x in (*first, *second))])
    for masked, absent in zip(*found, strict=True):
        if masked.dim():
            assert not masked[:, 1].any()
            masked = masked[:, [0, 2]]
        torch.testing.assert_close(masked.as_subclass(torch.Tensor), absent.as_subclass(torch.Tensor))


@pytest.mark.sample(1, per="points.name", of=8)
@pytest.mark.parametrize("points", [p for p in ELEMENTS if p.last is None], ids=str)
def test_kernels_of_single_elements_match_the_oracle(points: Points) -> None:
    exact = getattr(oracle, points.name)
    function = getattr(F, piste.losses.named(points.name).functional_name)
    for point in points.operands:
        operands = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in point]
        result = function(*operands, **points.options)
        assert result.item() == pytest.approx(float(exact(*point, **points.options)), rel=4e-16, abs=4e-16)
        result.backward()
        for by in range(len(point)) if points.by is None else points.by:
            if operands[by].grad is not None:  # a label of hinge_embedding has none
                slope = float(oracle.gradient(exact, *point, by=by, **points.options))
                assert operands[by].grad.item() == pytest.approx(slope, rel=1e-14, abs=1e-15), (point, by)


@pytest.mark.sample(6)
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("target", [0, 2, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], ids=str)
def test_cross_entropy_matches_the_oracle(target, label_smoothing: float, weight) -> None:
    for row in ([0.5, -1.0, 2.0], [3.0, 3.0, 3.0], [-20.0, 10.0, 0.0]):
        x = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        y = torch.tensor([target], dtype=torch.int64 if isinstance(target, int) else torch.float64)
        result = F.cross_entropy(x, y, weight=w, label_smoothing=label_smoothing, reduction="sum")
        options = {"weight": weight, "label_smoothing": label_smoothing}
        assert result.item() == pytest.approx(float(oracle.cross_entropy(row, target, **options)), rel=1e-14)
        result.backward()
        slopes = oracle.gradient(oracle.cross_entropy, row, target, **options)
        assert x.grad.squeeze().tolist() == pytest.approx([float(s) for s in slopes], rel=1e-12, abs=1e-14)


def test_nll_matches_the_oracle() -> None:
    row = [-0.5, -1.5, -2.5]
    x = torch.tensor([row], dtype=torch.float64)
    for k, weight in itertools.product(range(3), (None, [0.5, 2.0, 1.0])):
        w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        result = F.nll_loss(x, torch.tensor([k]), weight=w, reduction="sum")
        assert result.item() == float(oracle.nll(row, k, weight))


def test_nll_of_log_softmax_equals_cross_entropy() -> None:
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    both = piste.losses.NLLLoss()(torch.log_softmax(x, 1), y)
    assert both.item() == pytest.approx(piste.losses.CrossEntropyLoss()(x, y).item(), rel=1e-15)


def test_bce_at_exactly_zero_and_one_matches_torch() -> None:
    x = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    ours = piste.losses.BCELoss(reduction="none")(x, y)
    assert ours.tolist() == [0, 100, 100, 0, 50]
    mine = torch.autograd.grad(ours.sum(), (x, y))
    (torchs,) = torch.autograd.grad(torch.nn.BCELoss(reduction="sum")(x, y), x)
    torch.testing.assert_close(mine[0], torchs, rtol=1e-7, atol=0)  # torch's 1e-12 is a float32, in float64 too
    assert mine[1].tolist() == [100, 100, -100, -100, 100]  # the slope of the bounded value; torch says infinity
    assert mine[0].tolist() == [0, -1e12, 1e12, 0, -5e11]


def test_infinite_and_huge_logits_are_exact() -> None:
    inf = float("inf")
    x = torch.tensor([-inf, inf, inf, -inf, 1e4, -1e4, 0.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    loss = piste.losses.BCEWithLogitsLoss(reduction="none")(x, y)
    assert loss.tolist() == [0, 0, inf, inf, 0, 1e4, pytest.approx(0.6931472)]
    loss.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, -1, 0, -1, -0.5]
    rows = torch.tensor([[1e4, 0.0, -1e4], [-inf, 0.0, 0.0]], requires_grad=True)
    loss = piste.losses.CrossEntropyLoss(reduction="none")(rows, torch.tensor([0, 1]))
    assert loss.tolist() == [0, pytest.approx(0.6931472)]
    loss.sum().backward()
    assert rows.grad.tolist() == [[0, 0, 0], [0, -0.5, 0.5]]
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    assert piste.losses.CrossEntropyLoss(reduction="none")(rows, soft).tolist()[1] == pytest.approx(0.6931472)


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


def test_the_gradient_of_a_variance_passes_its_bound_as_in_torch() -> None:
    x, y = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    var = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    ours = F.gaussian_nll_loss(x, y, var, eps=0.5)
    theirs = torch.nn.functional.gaussian_nll_loss(x, y, var, eps=0.5)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, var) for loss in (ours, theirs)))
    one = F.gaussian_nll_loss(x, y, 0.75)
    torch.testing.assert_close(one, torch.nn.functional.gaussian_nll_loss(x, y, torch.full_like(x, 0.75)))


def test_kl_div_of_masked_distributions_and_its_batchmean() -> None:
    x = torch.tensor([[0.0, -float("inf"), -1.0], [-0.5, -2.0, -float("inf")]])
    y = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"row 1 sums to 0\.5\..*takes a part of a distribution"):
        F.kl_div(x, y)
    loss = piste.losses.KLDivLoss(reduction="batchmean", check="off")(x, y)
    assert loss.item() == pytest.approx(0.5 * (0.5 * torch.tensor(0.5).log().item() + 0.25))
    x, y = seeded(next(c for c in CASES if c.name == "kl_div"))
    expected = torch.nn.functional.kl_div(x, y, reduction="batchmean")
    torch.testing.assert_close(F.kl_div(x, y, reduction="batchmean"), expected)


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
