"""Kernels of row losses against the eager backend and torch: every option, dtype and reduction."""

from __future__ import annotations

import math

import pytest
import torch

import piste
from piste.engine.cpu import loss_kernel
from piste.engine.cpu.tile_lines import LANES
from piste.engine.specs import MANY_ELEMENTS, SHORT_ROWS
from piste.formula import row_functions
from piste.formula.differentiate import differentiate
from piste.formula.evaluate import evaluate_gradient
from piste.formula.expression import Expr
from piste.losses.rowwise import RowwiseLoss
from tests.losses.cases import CASES, Case, seeded

F = piste.losses.functional
ROWS = [
    c
    for c in CASES
    if issubclass(c.loss, RowwiseLoss) and "distance" not in c.name and c.options.get("absent") != "skip"
]
"""Cases that a kernel computes."""
TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 4e-6, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2**-8 + 4e-6, "atol": 1e-5},  # of float32 values, rounded once
    torch.float16: {"rtol": 2**-11 + 4e-6, "atol": 1e-6},
}


def by_formula(case: Case, operands, **settings):
    """Return the same call by the eager backend, which computes tensor subclasses."""

    class Own(torch.Tensor):
        pass

    return case.function(operands[0].as_subclass(Own), *operands[1:], **case.options, **settings).as_subclass(
        torch.Tensor
    )


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_kernels_match_the_eager_backend(case: Case, dtype: torch.dtype, computed_by_kernel: list[bool]) -> None:
    shape = case.shapes[0] if len(case.shapes[0]) < 3 else (2, 3, 2, 2)
    compare_with_eager(case, dtype, shape, computed_by_kernel)


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [c for c in ROWS if len(c.shapes[0]) == 2], ids=str)
def test_kernels_of_many_short_rows_match_the_eager_backend(
    case: Case, dtype: torch.dtype, computed_by_kernel: list[bool]
) -> None:
    classes = case.shapes[0][-1]
    compare_with_eager(case, dtype, (MANY_ELEMENTS // classes + LANES + 9, classes), computed_by_kernel)


def compare_with_eager(case: Case, dtype: torch.dtype, shape: tuple[int, ...], computed_by_kernel: list[bool]) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    operands = [o.to(dtype) if o.is_floating_point() else o for o in seeded(case, shape, wide)]
    for reduction in ("mean", "none") if dtype == wide else ("sum",):
        inputs = [o.clone().requires_grad_() if o.is_floating_point() else o for o in operands]
        inputs[0].requires_grad_()
        by = [x for x in inputs if x.requires_grad]
        twins = [o.to(wide).requires_grad_(o.is_floating_point()) if o.is_floating_point() else o for o in operands]
        computed_by_kernel.clear()
        ours = case.function(*inputs, reduction=reduction, **case.options)
        assert any(computed_by_kernel) and ours.dtype == dtype
        theirs = by_formula(case, twins, reduction=reduction, check="off")
        assert torch.is_tensor(theirs)
        torch.testing.assert_close(ours.to(wide), theirs, **TOLERANCES[dtype])
        upstream = torch.linspace(0.5, -1.5, ours.numel(), dtype=dtype).reshape(ours.shape)
        expected = torch.autograd.grad(theirs, [x for x in twins if x.requires_grad], upstream.to(wide))
        found = torch.autograd.grad(ours, by, upstream, retain_graph=True)
        slack = TOLERANCES[dtype] if reduction != "none" or dtype in (torch.float32, torch.float64) else {
            key: 2 * value for key, value in TOLERANCES[dtype].items()  # rounded as it is left, and times the upstream
        }  # fmt: skip
        for mine, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.to(wide), wanted, **slack)
        again = torch.autograd.grad(ours, by, upstream)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


PLACED = [c for c in ROWS if "2d" not in c.name and not {"weight", "activation"} & c.options.keys()]
"""Cases whose kernel reads the input itself and writes its gradient."""


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("case", PLACED, ids=str)
def test_the_memory_layout_changes_no_bit(
    case: Case, computed_by_kernel: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel with run-time overlap checks would add in another order where arrays are adjacent."""
    operands = seeded(case, (6, 21) if len(case.shapes[0]) == 2 else (6, 3, 7), torch.float32)
    results = []
    for gap in (0, 4096):
        memory = torch.zeros(2 * operands[0].numel() + gap)
        x = memory[: operands[0].numel()].view_as(operands[0]).copy_(operands[0])
        place = memory[operands[0].numel() + gap :].view_as(x)
        monkeypatch.setattr(loss_kernel.CpuLossKernel, "compute_fast", lambda *_: None)  # as many elements go
        monkeypatch.setattr(loss_kernel, "gradient_like", lambda x, place=place: place.view(x.shape))
        loss = case.function(x.requires_grad_(), *operands[1:], **case.options)
        results.append((loss, *torch.autograd.grad(loss, x)))
        assert results[-1][1].data_ptr() == place.data_ptr() and any(computed_by_kernel)
    assert all(torch.equal(near, far) for near, far in zip(*results, strict=True))


@pytest.mark.sample(8)
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (300, 37), (3, 40_000), (4099, 10)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight": True}, {"label_smoothing": 0.1}, {"weight": True, "label_smoothing": 0.3, "reduction": "none"}],
    ids=str,
)
def test_cross_entropy_of_any_size_equals_that_of_torch(
    shape: tuple[int, int], options: dict, computed_by_kernel: list[bool]
) -> None:
    torch.manual_seed(0)
    x, k = (torch.randn(shape) * 4).requires_grad_(), torch.randint(shape[1], shape[:1])
    k[1::5] = -100
    given = options | ({"weight": torch.rand(shape[1])} if "weight" in options else {})
    exact = {key: v.double() if torch.is_tensor(v) else v for key, v in given.items()}
    for target, expected in ((k, k), (x.detach().softmax(1), x.detach().softmax(1).double())):
        computed_by_kernel.clear()
        ours = F.cross_entropy(x, target, **given)
        assert computed_by_kernel == [True]
        theirs = torch.nn.functional.cross_entropy(x.double(), expected, **exact)
        torch.testing.assert_close(ours, theirs.float(), rtol=2e-6, atol=2e-6)
        mine, torchs = (torch.autograd.grad(loss.sum(), x)[0] for loss in (ours, theirs))
        torch.testing.assert_close(mine, torchs, rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("classes", [2, 7, 8, 9, SHORT_ROWS, SHORT_ROWS + 1])
@pytest.mark.parametrize("left", [0, 1, 7, 9, LANES - 1])
def test_rows_around_the_size_of_a_tile_equal_those_of_torch(
    left: int, classes: int, computed_by_kernel: list[bool]
) -> None:
    rows = -(-MANY_ELEMENTS // classes // LANES) * LANES + left
    torch.manual_seed(0)
    x, k = (torch.randn(rows, classes) * 4).requires_grad_(), torch.randint(classes, (rows,))
    k[::5] = -100
    for reduction in ("sum", "none"):
        computed_by_kernel.clear()
        ours = F.cross_entropy(x, k, reduction=reduction)
        assert computed_by_kernel == [True]
        theirs = torch.nn.functional.cross_entropy(x.double(), k, reduction=reduction)
        torch.testing.assert_close(ours, theirs.float(), rtol=2e-6, atol=2e-6)
        mine, torchs = (torch.autograd.grad(loss.sum(), x)[0] for loss in (ours, theirs))
        torch.testing.assert_close(mine, torchs, rtol=3e-6, atol=3e-7)
        assert not mine[k == -100].any()


@pytest.mark.parametrize("row", [0, 70, 599])
def test_a_value_out_of_range_is_named_among_many_short_rows(row: int) -> None:
    x, k = torch.randn(600, 10, requires_grad=True), torch.randint(10, (600,))
    k[row] = 10
    with pytest.raises(piste.errors.InvalidValue, match=rf"received 10 at \({row},\)"):
        F.cross_entropy(x, k)
    k[row] = -100
    soft = torch.full((600, 10), 0.1)
    F.cross_entropy(x, soft)
    soft[row, 9] = -0.1
    with pytest.raises(piste.errors.InvalidValue, match=rf"at \({row}, 9\)"):
        F.cross_entropy(x, soft)


def test_the_number_of_threads_changes_no_bit_of_short_rows() -> None:
    torch.manual_seed(0)
    x, k = torch.randn(5000, 10, requires_grad=True), torch.randint(10, (5000,))
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            loss = F.focal_loss(x, k)
            results.append((loss, *torch.autograd.grad(loss, x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for found in results[1:] for a, b in zip(results[0], found, strict=True))


def test_other_class_dimensions_and_strided_rows(computed_by_kernel: list[bool]) -> None:
    x, k, w = torch.randn(4, 5, 6, requires_grad=True), torch.randint(5, (4, 6)), torch.rand(5)
    for call in (
        lambda f, x: f(x, k, weight=w),
        lambda f, x: f(x[:, :, ::2], k[:, ::2], label_smoothing=0.1),
        lambda f, x: f(x[:, :, 0], k[:, 0], reduction="none").sum(),
    ):
        computed_by_kernel.clear()
        ours, theirs = call(F.cross_entropy, x), call(torch.nn.functional.cross_entropy, x)
        assert any(computed_by_kernel)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x))
    last = x.detach().movedim(1, -1).contiguous().requires_grad_()
    ours = F.cross_entropy(last, k, weight=w, class_dim=-1)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(x, k, weight=w))


def test_denominators_of_a_mean(computed_by_kernel: list[bool]) -> None:
    x, k, w = torch.randn(6, 3), torch.tensor([0, 1, -100, 2, 2, -100]), torch.tensor([0.5, 2.0, 1.0])
    total = F.cross_entropy(x, k, weight=w, reduction="sum").item()
    for normalizer, divisor in ((None, 4.5), ("weights", 4.5), ("count", 4), (10, 10), (torch.tensor(8.0), 8)):
        computed_by_kernel.clear()
        found = F.cross_entropy(x, k, weight=w, normalizer=normalizer)
        assert computed_by_kernel == [True] and found.item() == pytest.approx(total / divisor, rel=1e-6)
    nothing = torch.full((6,), -100)
    assert F.cross_entropy(x, nothing).isnan()
    assert F.cross_entropy(x, nothing, empty="zero").item() == 0
    with pytest.raises(ValueError, match="there is nothing to take the mean of"):
        F.cross_entropy(x, nothing, weight=w, empty="raise")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.nll_loss(torch.tensor([[0.0, 0.2]]), torch.tensor([1])), "never above 0; received 0.2"),
        (lambda: F.nll_loss(torch.zeros(2, 3), torch.tensor([0, 3])), r"in \[0, 2\] for 3 classes"),
        (lambda: F.cross_entropy(torch.zeros(2, 3), torch.tensor([[0.5, 0.5, 0], [0.5, 1, 0]])), "row 1 sums to 1.5"),
        (lambda: F.cross_entropy(torch.zeros(1, 2), torch.tensor([[1.5, -0.5]])), "must be at least 0; received -0.5"),
        (lambda: F.multi_margin_loss(torch.zeros(2, 3), torch.tensor([0, -1])), "received -1"),
        (lambda: F.multilabel_margin_loss(torch.zeros(1, 3), torch.tensor([[0, -1, 3]])), "received 3"),
        (lambda: F.multilabel_margin_loss(torch.zeros(1, 3), torch.tensor([[0, -2, 1]])), "received -2"),
        (lambda: F.multilabel_soft_margin_loss(torch.zeros(1, 3), torch.tensor([[0, 2.0, 1]])), "received 2.0"),
        (lambda: F.cosine_embedding_loss(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([1, 0])), "received 0"),
    ],
)
def test_an_invalid_value_is_found_on_the_second_call_too(call, words: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_wrong_shape_is_rejected_after_a_right_one() -> None:
    F.cross_entropy(torch.randn(3), torch.tensor(1))
    F.cross_entropy(torch.randn(4, 3), torch.tensor([1, 2, 0, 0]))
    for x, k in ((torch.randn(3), torch.tensor([0, 1, 2])), (torch.randn(4, 3), torch.tensor([0, 1]))):
        with pytest.raises((ValueError, TypeError), match="`target` must hold class indices"):
            F.cross_entropy(x, k)
    large = torch.randn(300, 300)
    F.triplet_margin_loss(large, large, large)
    with pytest.raises(ValueError, match="same shape"):
        F.triplet_margin_loss(large, large, large[1:])


def test_a_scaled_loss_keeps_its_smallest_gradients() -> None:
    x = (torch.randn(4096, 10) * 3).half().requires_grad_()
    k = torch.randint(10, (4096,))
    (plain,) = torch.autograd.grad(F.cross_entropy(x, k).float() * 1024, x)
    (wanted,) = torch.autograd.grad(torch.nn.functional.cross_entropy(x.float(), k) * 1024, x)
    torch.testing.assert_close(plain, wanted.half(), rtol=2**-10, atol=1e-7)


def test_row_losses_have_second_derivatives_and_batched_gradients() -> None:
    x, k = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, -100, 2, 1])
    w = torch.rand(3, dtype=torch.float64)
    loss = F.cross_entropy(x, k, weight=w, label_smoothing=0.2)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    both = torch.autograd.grad(
        loss, x, torch.tensor([1.0, -2.0], dtype=torch.float64), is_grads_batched=True, retain_graph=True
    )[0]
    torch.testing.assert_close(both, torch.stack([first, -2 * first]))
    slope = torch.autograd.grad(loss, x, create_graph=True)[0]
    twin = torch.nn.functional.cross_entropy(x, k, weight=w, label_smoothing=0.2)
    wanted = torch.autograd.grad(twin, x, create_graph=True)[0]
    torch.testing.assert_close(
        torch.autograd.grad(slope.square().sum(), x), torch.autograd.grad(wanted.square().sum(), x)
    )


def test_the_norm_of_zero_has_the_gradient_zero() -> None:
    for p in (1.0, 2.0, 3.0):
        a, b = torch.ones(1, 3, requires_grad=True), torch.ones(1, 3)
        F.triplet_margin_loss(a, b, b + 1, p=p, eps=0.0, margin=9.0).backward()
        assert a.grad is not None and a.grad.isfinite().all()
    far = F.triplet_margin_loss(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 5.5]]), p=math.inf)
    assert far.item() == 0  # by the formula: no kernel sums the largest entry


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, y: row_functions.total(x * y) / row_functions.size(x),
        lambda x, y: row_functions.total(piste.formula.maximum(x, y) * piste.formula.minimum(x, 0.5)),
        lambda x, y: row_functions.norm(x - y, 3.0) - row_functions.norm(x, 2.0) + row_functions.norm(x * y, 1.0),
        lambda x, y: row_functions.total(piste.formula.exp(x) / (1 + y * y) - piste.formula.log1p(x * x)),
        lambda x, y: row_functions.total(x**3 - abs(y) + piste.formula.sqrt(x * x + 1) * piste.formula.log(y * y + 2)),
        lambda x, y: row_functions.total(
            piste.formula.where(x > y, x * x, -y) * row_functions.each(row_functions.total(x))
        ),
        lambda x, y: row_functions.total(row_functions.log_softmax(x * y) * y),
    ],
)
def test_symbolic_gradients_match_autograd(formula) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x, y = Expr("input", "x"), Expr("input", "y")
    slopes = differentiate(formula(x, y), [x, y], {"x", "y"})
    expected = torch.autograd.grad(formula(*tensors).sum(), tensors)
    for slope, tensor, wanted in zip(slopes, tensors, expected, strict=True):
        found = evaluate_gradient(slope, dict(zip("xy", tensors, strict=True)), tensor)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
