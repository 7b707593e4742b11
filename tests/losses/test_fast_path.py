"""The fast path of small losses: compiled code validates the operands and falls back for all others."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest
import torch
from torch._subclasses import FakeTensorMode

import piste
from piste.engine import loss_dispatch
from piste.engine.cpu import fast_loss, is_one, loss_kernel, loss_lines
from piste.engine.cpu.loss_kernel import CpuLossKernel
from piste.engine.native import openmp

F, T = piste.losses.functional, torch.nn.functional


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record whether the fast path computed each call."""
    assert fast_loss.native_guard(), "the self-test of the native guard fails on this machine"
    seen: list[bool] = []
    original = CpuLossKernel.compute_fast

    def watched(self, given, rest):
        made = original(self, given, rest)
        seen.append(made is not None)
        return made

    monkeypatch.setattr(CpuLossKernel, "compute_fast", watched)
    return seen


class Own(torch.Tensor):
    pass


def warm(loss: Callable[..., torch.Tensor], *operands: torch.Tensor) -> None:
    """Call a loss twice, so that the next call takes the fast path."""
    for _ in range(2):
        loss(*operands)


def check(loss, theirs, x: torch.Tensor, *rest: torch.Tensor) -> None:
    """Assert that value and gradients match torch's."""
    a, b = (x.detach().clone().requires_grad_(x.requires_grad) for _ in range(2))
    ours, want = loss(a, *rest), theirs(b, *rest)
    torch.testing.assert_close(ours, want)
    if x.requires_grad:
        ours.sum().backward()
        want.sum().backward()
        torch.testing.assert_close(a.grad, b.grad)


def test_unchanged_operands_take_the_fast_path(quick: list[bool]) -> None:
    loss, theirs = piste.losses.MSELoss(), torch.nn.MSELoss()
    x, y = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    warm(loss, x, y)
    quick.clear()
    for again in (x, torch.nn.Parameter(x.detach())):
        check(loss, theirs, again, y)
    assert quick == [True, True]
    quick.clear()
    others = [
        (x.detach(), y.clone().requires_grad_()),
        (x.double(), y.double()),
        (x.T, y.T),
        (x[:, ::2], y[:, ::2]),
        (x[0, 0], y[0, 0]),
        (x.detach().requires_grad_(), y.clone().requires_grad_()),
        (x, y.double()),
        (x, y.conj()),
        (x.detach().as_subclass(Own), y),
        (x, y.as_subclass(Own)),
    ]
    for operands in others:
        torch.testing.assert_close(loss(*operands), theirs(*operands))
        check(loss, theirs, x, y)  # and back
    with torch.no_grad():
        assert not loss(x, y).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(loss(x, y), theirs(x, y))
    check(loss, theirs, x, y)
    torch.testing.assert_close(loss(x, y.to(torch.int64)), theirs(x, y.to(torch.int64).float()))


@pytest.mark.parametrize(
    "operands", [(), (0,), (0, 1, 1), (0, None), (0, 2.0), (0, [1.0]), ("a", 1), (None, 1)], ids=str
)
def test_invalid_operands_get_the_message_of_the_first_call(operands: tuple) -> None:
    def explained(loss) -> str:
        given = [(x, y)[k] if isinstance(k, int) else k for k in operands]
        with pytest.raises((TypeError, ValueError)) as caught:
            loss(*given)
        return str(caught.value)

    x, y = torch.randn(5, requires_grad=True), torch.randn(5)
    loss = piste.losses.MSELoss()
    at_first = explained(loss)
    warm(loss, x, y)
    assert explained(loss) == at_first and "MSELoss" in at_first


def test_rows_of_other_dimensions_miss_the_fast_path(quick: list[bool]) -> None:
    loss, theirs = piste.losses.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    x, k = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 3, -100])
    warm(loss, x, k)
    quick.clear()
    check(loss, theirs, x, k)
    assert quick == [True]
    # classes are the second dimension, also where the last would fit the target
    check(loss, theirs, torch.randn(6, 4, 4, requires_grad=True), torch.randint(4, (6, 4)))
    check(loss, theirs, torch.randn(4, requires_grad=True), torch.tensor(2))
    check(loss, theirs, x, k.int().long())
    check(loss, theirs, x, x.detach().softmax(1))
    with pytest.raises(ValueError, match="`input` must have at least 2 classes"):
        loss(x[:, :1], k)
    with pytest.raises(ValueError, match=r"received 4 at \(1,\)"):
        loss(x, torch.tensor([0, 4, 2, 3, 3, 1]))
    check(loss, theirs, x, k)


@pytest.mark.parametrize("classes", [10, fast_loss.MAX_SCRATCH_CLASSES, fast_loss.MAX_SCRATCH_CLASSES + 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_scratch_rows_fit_in_the_buffer_of_each_thread(classes: int, threads: int, quick: list[bool]) -> None:
    """A 16-bit gradient is accumulated in float32, in scratch rows of each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = 3 * loss_lines.PARALLEL_MIN_ELEMENTS // (2 * classes)
        x, k = torch.randn(rows, classes).bfloat16().requires_grad_(), torch.randint(classes, (rows,))
        loss = piste.losses.CrossEntropyLoss()
        warm(loss, x, k)
        quick.clear()
        found = loss(x, k)
        assert quick == [classes * threads <= fast_loss.MAX_SCRATCH_CLASSES]
        wide = x.detach().float().requires_grad_()
        want = T.cross_entropy(wide, k)
        torch.testing.assert_close(found, want.bfloat16(), rtol=2**-7, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(found, x)[0],
            torch.autograd.grad(want, wide)[0].bfloat16(),
            rtol=2**-7,
            atol=1e-9,
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    "rows",
    [3, loss_lines.BLOCK // 8 + 1, loss_lines.PARALLEL_MIN_ELEMENTS // 8 + 1, loss_lines.FAST_MAX_ELEMENTS // 8 - 1],
)
def test_every_path_to_the_kernel_gives_the_same_bits(
    name: str, rows: int, quick: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call, later calls, and calls with another number of threads."""
    x = torch.randn(rows, 8, requires_grad=True)
    y = torch.randn(rows, 8) if name == "mse" else torch.randint(8, (rows,))
    loss = piste.losses.named(name)()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for _ in range(3):
                found = loss(x, y)
                results.append((found, *torch.autograd.grad(found, x)))
        monkeypatch.setattr(CpuLossKernel, "compute_fast", lambda *_: None)
        found = loss(x, y)
        results.append((found, *torch.autograd.grad(found, x)))
    finally:
        torch.set_num_threads(before)
    assert sum(quick) >= 4
    first = results[0]
    assert all(torch.equal(a, b) for other in results for a, b in zip(first, other, strict=True))


def test_a_forked_child_runs_without_the_thread_pool(quick: list[bool]) -> None:
    x, y = (
        torch.randn(loss_lines.FAST_MAX_ELEMENTS // 2, requires_grad=True),
        torch.randn(loss_lines.FAST_MAX_ELEMENTS // 2),
    )
    loss = piste.losses.MSELoss()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        warm(loss, x, y)
        want = loss(x, y).item()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if loss(x.detach(), y).item() == want and openmp.parallel_address() == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


def test_compiled_functions_keep_their_memory_alive() -> None:
    loss = piste.losses.L1Loss()
    x, y = torch.randn(5, requires_grad=True), torch.randn(5)
    warm(loss, x, y)
    kernel = loss._validated_settings[0].last_hit[0].latest[1]
    run_fast, rest = kernel.run_fast, loss._validated_settings[0].last_hit[1]
    out, slope = torch.empty(()), torch.empty(5)
    del loss, kernel
    for cached in (piste.engine.cpu.loss_kernel.kernel_of, is_one.make_is_one):
        cached.cache_clear()
    gc.collect()
    [torch.randn(64) for _ in range(100)]
    assert run_fast(rest.packed, out, (x, y), (slope,)) is True
    torch.testing.assert_close(out, T.l1_loss(x, y).detach())
    assert run_fast(rest.packed, out, [x, y], (slope,)) is False
    assert run_fast(rest.packed, out, (x, y, y), (slope,)) is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_is_one_recognises_gradients_of_one_alone(dtype: torch.dtype) -> None:
    is_unit = is_one.make_is_one()
    one = torch.ones((), dtype=dtype)
    assert [is_unit(x) for x in (one, one.expand(1), one.expand(3, 2), torch.ones(1, 1, dtype=dtype))] == [True] * 4
    others = [0 * one, -one, one + torch.finfo(dtype).eps, one / 0, one * torch.nan, one.to_sparse(), 2 * one.expand(3)]
    others += [torch.ones(3, dtype=dtype), torch.ones(1, 2, dtype=dtype), one.expand(3, 0)]
    others += [torch.ones((), dtype=torch.int32), torch.ones((), dtype=torch.complex64), one.to("meta")]
    with FakeTensorMode():
        fake = torch.ones((), dtype=dtype)
    others += [torch._neg_view(one), fake]
    assert [is_unit(x) for x in others] == [False] * len(others)
    assert torch.vmap(lambda g: one if is_unit(g) else 0 * one)(torch.ones(2, dtype=dtype)).tolist() == [0, 0]


@pytest.mark.parametrize("has_guard", [True, False])
def test_an_operand_changed_after_the_loss_keeps_the_first_gradient(monkeypatch, has_guard) -> None:
    if not has_guard:  # Python then tells that the incoming gradient is 1
        original = CpuLossKernel.__init__

        def without_guard(self, *arguments):
            original(self, *arguments)
            self.is_one = lambda grad: False

        monkeypatch.setattr(CpuLossKernel, "__init__", without_guard)
        loss_kernel.kernel_of.cache_clear()
        loss_dispatch._dispatcher.cache_clear()
        monkeypatch.setattr("piste.losses.call._cached_settings", {})
    leaf, y = torch.randn(5, requires_grad=True), torch.randn(5)
    loss = piste.losses.MSELoss()
    for _ in range(2):
        x = leaf * 1.0
        made = loss(x, y)
        want = 2 * (x - y).detach() / 5
        again = loss(x, y)
        with torch.no_grad():
            x.add_(1)
        made.backward()
        torch.testing.assert_close(leaf.grad, want)
        leaf.grad = None
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(again, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        made.backward()
    loss_kernel.kernel_of.cache_clear()
    loss_dispatch._dispatcher.cache_clear()


def test_value_and_gradient_share_one_exponential() -> None:
    from piste.engine.cpu import elementwise_kernel as element_source

    for name in ("bce_with_logits", "soft_margin"):
        loss = piste.losses.named(name)()
        x, y = torch.randn(5, requires_grad=True), torch.ones(5)
        warm(loss, x, y)
        source = element_source.source(loss._validated_settings[0].last_hit[0].latest[1].spec)
        assert source.count("exp32_nonpositive(") == 1 and source.count("log1p32_unit_interval(") == 1, source


@pytest.mark.parametrize("name", ["l1", "cross_entropy"])
def test_gradients_of_unreduced_losses_are_scaled_by_the_incoming_gradient(name: str, quick: list[bool]) -> None:
    loss, theirs = (
        m(reduction="none") for m in (piste.losses.named(name), getattr(torch.nn, piste.losses.named(name).__name__))
    )
    x = torch.randn(6, 4, requires_grad=True)
    y = torch.randn(6, 4) if name == "l1" else torch.randint(4, (6,))
    warm(loss, x, y)
    for weigh in (
        torch.sum,
        torch.mean,
        lambda v: (v * torch.arange(v.numel()).view_as(v)).sum(),
        lambda v: v.flatten()[1],
    ):
        (ours,), (want,) = (torch.autograd.grad(weigh(f(x, y)), x) for f in (loss, theirs))
        torch.testing.assert_close(ours, want)
    assert all(quick)
