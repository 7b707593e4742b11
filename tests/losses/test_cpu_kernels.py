"""Kernels of elementwise losses against the eager backend: values, gradients, value checks, threads and layouts."""

from __future__ import annotations

import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import piste
from piste.engine import LossArguments
from piste.engine.cpu import elementwise_kernel as element_source
from piste.engine.cpu import loss_lines
from piste.engine.cpu import memory as buffers
from piste.engine.eager import loss as eager_loss
from piste.engine.eager.loss import values
from piste.losses.elementwise import ElementwiseLoss
from tests.losses.cases import CASES, Case, seeded

F = piste.losses.functional


KERNELS = [c for c in CASES if issubclass(c.loss, ElementwiseLoss)]


pytestmark = pytest.mark.usefixtures("fast_path_on_and_off")


def eager(case: Case, operands, reduction: str) -> torch.Tensor:
    """Return the loss, computed by the eager backend."""
    call = case.loss.prepare(tuple(operands), "off", **case.loss(**options_of(case))._buffers, **rest_of(case))
    made = values(call.formula, call.derivatives, call.operands, call.options)
    made = made if call.weight is None else made * call.weight
    return made.sum() if reduction == "sum" else made.sum() / made.numel()


def options_of(case: Case) -> dict:
    return {} if case.function_only else case.options


def rest_of(case: Case) -> dict:
    loss = case.loss(**options_of(case))
    given = {name: getattr(loss, name) for name in loss._options if name not in loss._buffers}
    return given | ({"weight": case.options["weight"]} if case.function_only else {})


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_kernels_match_the_eager_backend(case: Case, dtype: torch.dtype, computed_by_kernel: list[bool]) -> None:
    shape = (41, 3) if any(isinstance(v, torch.Tensor) for v in case.options.values()) else (53, 7)
    is_weighted_mean = "weight" in case.options and case.loss.denominator == "weights"
    reduction = "sum" if is_weighted_mean or case.function_only or case.name == "kl_div" else "mean"
    operands = [o.to(dtype) if o.is_floating_point() else o for o in seeded(case, shape, dtype)]
    x = operands[0].clone().requires_grad_()
    loss = case.function(x, *operands[1:], reduction=reduction, **case.options)
    assert any(computed_by_kernel)
    twin = operands[0].clone().requires_grad_()
    expected = eager(case, [twin, *operands[1:]], reduction)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-14}
    torch.testing.assert_close(loss, expected.to(dtype), **tolerance)
    for gradient in (1.0, 0.5):
        mine = torch.autograd.grad(loss * gradient, x, retain_graph=True)
        torch.testing.assert_close(mine, torch.autograd.grad(expected * gradient, twin, retain_graph=True), **tolerance)
    alone = case.function(*operands, reduction=reduction, **case.options)  # without a gradient
    torch.testing.assert_close(alone, loss.detach(), **tolerance)


@pytest.mark.parametrize(
    "size", [1, element_source.TILE + 1, loss_lines.BLOCK, loss_lines.BLOCK + 7, 3 * loss_lines.BLOCK - 1]
)
def test_every_element_counts_once_at_any_size(size: int, computed_by_kernel: list[bool]) -> None:
    x = torch.arange(size, dtype=torch.float64, requires_grad=True)
    loss = F.mse_loss(x, torch.zeros(size, dtype=torch.float64), reduction="sum")
    assert loss.item() == pytest.approx((size - 1) * size * (2 * size - 1) / 6, rel=1e-14)
    loss.backward()
    assert torch.equal(x.grad, 2 * x.detach()) and computed_by_kernel == [True]


def test_the_same_bits_on_any_number_of_threads() -> None:
    x, y = torch.randn(300_000), torch.rand(300_000)
    before = torch.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            results.add(F.binary_cross_entropy_with_logits(x, y).item())
    finally:
        torch.set_num_threads(before)
    assert len(results) == 1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x.double(), y.double())
    assert results.pop() == pytest.approx(expected.item(), rel=2e-7)


def test_an_invalid_value_is_found_at_any_position(computed_by_kernel: list[bool]) -> None:
    for place in (0, 1, element_source.TILE, loss_lines.BLOCK - 1, loss_lines.BLOCK, 2 * loss_lines.BLOCK + 3):
        y = torch.zeros(2 * loss_lines.BLOCK + 4)
        y[place] = 2.0
        with pytest.raises(ValueError, match=rf"received 2\.0 at \({place},\)"):
            F.binary_cross_entropy_with_logits(torch.zeros_like(y), y)
        assert F.binary_cross_entropy_with_logits(torch.zeros_like(y), y, check="off").isfinite()
    x = torch.full((10,), math.nan)
    assert F.binary_cross_entropy_with_logits(x, torch.zeros(10)).isnan()
    assert F.mse_loss(torch.tensor([math.inf, 1.0]), torch.zeros(2)).item() == math.inf


def test_second_backward_and_batched_gradients_go_through_the_formula(computed_by_kernel: list[bool]) -> None:
    x, y = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.rand(5, dtype=torch.float64)
    loss = F.binary_cross_entropy_with_logits(x, y)
    assert computed_by_kernel == [True]
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(first, again)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(slope, first)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    s = torch.sigmoid(x.detach())
    torch.testing.assert_close(curvature, s * (1 - s) / 5)
    loss = F.binary_cross_entropy_with_logits(x, y)
    gradients = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (both,) = torch.autograd.grad(loss, x, gradients, is_grads_batched=True)
    torch.testing.assert_close(both, torch.stack([first, -2 * first]))


def test_a_changed_option_reuses_the_kernel() -> None:
    x, y = torch.randn(10), torch.randn(10)
    kernels = set()
    for delta in (0.5, 0.75, 1.25):
        F.huber_loss(x, y, delta=delta)
        made = piste.losses.HuberLoss._dispatcher(("element",) * 2, (("delta", delta),), True, "sum")
        kernels.update(id(kernel.code) for kernel in made.kernels.values())
    assert len(kernels) == 1
    torch.testing.assert_close(F.huber_loss(x, y, delta=0.3), torch.nn.functional.huber_loss(x, y, delta=0.3))


@pytest.mark.parametrize("size", [10, 3 * loss_lines.BLOCK])
def test_operands_are_freed_after_the_backward(size: int) -> None:
    loss_function = piste.losses.MSELoss()
    for _ in range(2):  # the second call takes the fast path
        leaf, y = torch.randn(size, requires_grad=True), torch.randn(size)
        x = leaf * 1.0
        loss = loss_function(x, y)
        seen = weakref.ref(x), weakref.ref(y)
        del x, y
        gc.collect()
        assert all(ref() is not None for ref in seen)
        loss.backward()
        assert all(ref() is None for ref in seen)  # as in torch, although `loss` still exists


def test_a_target_changed_in_place_fails_the_second_backward() -> None:
    for _ in range(2):
        x, y = torch.randn(4, requires_grad=True), torch.rand(4)
        loss = F.mse_loss(x, y)
        y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, x, create_graph=True)


def test_negated_views_are_computed_eagerly() -> None:
    y = torch.complex(torch.zeros(5), torch.arange(5.0)).conj().imag
    assert y.is_neg()
    for _ in range(2):
        assert F.mse_loss(torch.zeros(5), y).item() == 6.0
        assert F.l1_loss(torch.zeros(5), y, reduction="sum").item() == 10.0
        assert F.l1_loss(y[::2], torch.zeros(3), reduction="sum").item() == 6.0


def test_losses_run_in_several_threads() -> None:
    operands = [(torch.full((50 + k,), float(k)), torch.zeros(50 + k)) for k in range(8)]

    def many(k: int) -> bool:
        return all(F.mse_loss(*operands[k]).item() == k * k for _ in range(500))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(many, range(8)))


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("mode", ["sum", "none"])
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_the_memory_layout_changes_no_bit(case: Case, mode: str) -> None:
    """A kernel with run-time overlap checks would add in another order where arrays are adjacent."""
    operands = seeded(case, (5, 9))
    options = tuple((k, v) for k, v in rest_of(case).items() if v is not None and not isinstance(v, torch.Tensor))
    dispatcher = case.loss._dispatcher(("element",) * len(operands), options, True, mode)
    results = []
    for gap in (0, 4096):
        memory = torch.zeros((len(operands) + 1) * (45 + gap))
        *given, slope = (memory[k * (45 + gap) :][:45].view(5, 9).detach() for k in range(len(operands) + 1))
        for place, operand in zip(given, operands, strict=True):
            place.copy_(operand)
        kernel = dispatcher._make_kernel([given[0].requires_grad_(), *given[1:]])
        assert kernel is not None
        out = torch.zeros(() if mode == "sum" else (5, 9))
        kernel.fill(out, [slope], given, LossArguments.of(0.0))
        results.append((out, slope))
    (near, near_slope), (far, far_slope) = results
    assert torch.equal(near, far) and torch.equal(near_slope, far_slope)


def test_strided_operands_are_copied_for_the_kernel(computed_by_kernel: list[bool]) -> None:
    weights = torch.rand(3)
    for x, y in ((torch.rand(3, 40).T, torch.rand(3, 40).T), (torch.rand(40, 6)[:, ::2], torch.rand(40, 3))):
        twin, x = x.clone().requires_grad_(), x.requires_grad_()
        for reduction in ("mean", "sum"):
            ours = F.binary_cross_entropy_with_logits(x, y, pos_weight=weights, reduction=reduction)
            theirs = torch.nn.functional.binary_cross_entropy_with_logits(
                twin, y, pos_weight=weights, reduction=reduction
            )
            assert computed_by_kernel.pop()
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, twin))


def test_calls_without_a_kernel_run_eagerly(computed_by_kernel: list[bool]) -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    for a, b in ((x.T, y.T), (x, y.clone().requires_grad_()), (x.half(), y.half()), (x, y.double())):
        torch.testing.assert_close(F.mse_loss(a, b), torch.nn.functional.mse_loss(a, b))
    x = x.requires_grad_()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(F.mse_loss(dual, y)).tangent
    torch.testing.assert_close(tangent, 2 * (x - y).mean())


def test_memory_of_large_gradients_is_reused_once_it_is_free() -> None:
    size = buffers.LARGE // 4
    x, y = torch.randn(size, requires_grad=True), torch.randn(size)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(F.mse_loss(x, y), x)[0]

    first = gradient()
    held = gradient()
    assert first.data_ptr() != held.data_ptr()
    address = held.data_ptr()
    copy = held.clone()
    view = held[:3]
    del held
    other = gradient()
    assert other.data_ptr() != address and torch.equal(view, copy[:3])
    address = other.data_ptr()
    del other, view
    assert gradient().data_ptr() == address
    torch.testing.assert_close(first, 2 * (x - y).detach() / size)


def test_16_bit_results_are_rounded_once() -> None:
    assert eager_loss.compute_dtype(torch.bfloat16) == torch.float32
    x = torch.rand(1000).bfloat16().requires_grad_()
    loss = F.mse_loss(x, torch.zeros(1000, dtype=torch.bfloat16))
    loss.backward()
    assert loss.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, (2 * x.detach().float() / 1000).bfloat16())
