"""Every loss on a CUDA device: the GPU kernel against the eager backend there, its bits, and rejected values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

import piste
from piste.engine import LossDispatcher
from piste.engine.gpu import workspaces
from piste.errors import InvalidValue
from piste.losses import functional
from tests.gpu.interpreter import forget_kernels
from tests.gpu.test_interpreted_losses import EAGER
from tests.gpu.test_loss_checks import BAD
from tests.losses.cases import CASES, Case, expand_weight, seeded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def on_device(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to("cuda", dtype if value.is_floating_point() else value.dtype)


def outcome(case: Case, operands: Any, **settings: Any) -> list[torch.Tensor]:
    wants = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in operands]
    result = case.function(*wants, **settings)
    wanted = [x for x in wants if x.requires_grad]
    found = torch.autograd.grad(result.sum() * 3, wanted, allow_unused=True)
    return [result.detach(), *(x for x in found if x is not None)]


@contextmanager
def served_calls() -> Iterator[list[bool]]:
    """Record, for each call of a loss that a kernel may serve, whether one did."""
    seen: list[bool] = []
    original = LossDispatcher.loss

    def watched(*args: Any) -> Any:
        result = original(*args)
        seen.append(result is not None)
        return result

    with mock.patch.object(LossDispatcher, "loss", watched):
        yield seen


def compare(case: Case, shape: Any, dtype: torch.dtype, monkeypatch: Any, **settings: Any) -> None:
    operands = [on_device(x, dtype) for x in seeded(case, shape, torch.float64)]
    options = {k: on_device(v, dtype) for k, v in case.options.items()}
    if case.function_only:
        options = expand_weight(options, operands[0])
    found = []
    for forced in ("", "eager"):
        monkeypatch.setenv("PISTE_BACKEND", forced)
        forget_kernels()  # a loss keeps the backend that it has chosen
        with served_calls() as served:  # the first call converts 16-bit elements before they reach a kernel
            found += [outcome(case, operands, **options, **settings) for _ in range(1 if forced else 2)]
        has_kernel = case.name not in EAGER and case.options.get("absent") != "skip"
        assert any(served) == (has_kernel and not forced)
    monkeypatch.delenv("PISTE_BACKEND")
    forget_kernels()
    *ours, wanted = found
    for values in ours:
        for a, b in zip(values, wanted, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_gradients_equal_those_of_the_eager_backend(case, dtype, monkeypatch):
    compare(case, None, dtype, monkeypatch)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reductions_and_shapes_equal_those_of_the_eager_backend(case, reduction, monkeypatch):
    for shape in case.shapes:
        compare(case, shape, torch.float32, monkeypatch, reduction=reduction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(33, 7), (17, 1000), (9, 8192), (9, 8193), (5, 50257), (4, 128256)], ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": True}], ids=str)
def test_cross_entropy_equals_that_of_torch_in_double_precision(shape, dtype, options):
    torch.manual_seed(1)
    x = (torch.randn(shape, device="cuda") * 4).to(dtype).requires_grad_()
    k = torch.randint(shape[1], shape[:1], device="cuda")
    k[2] = -100
    options = dict(options)
    if "weight" in options:
        options["weight"] = torch.rand(shape[1], device="cuda") + 0.5
    loss = functional.cross_entropy(x, k, **options)
    loss.backward()
    exact = x.detach().double().requires_grad_()
    options = {key: v.double() if isinstance(v, torch.Tensor) else v for key, v in options.items()}
    wanted = torch.nn.functional.cross_entropy(exact, k, **options)
    wanted.backward()
    half_ulp = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(loss.double(), wanted.detach(), rtol=half_ulp, atol=0)
    # The entry at the target is a difference from 1, and is rounded once too.
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=half_ulp, atol=1e-7)
    picked = x.grad.double().gather(1, k.clamp_min(0)[:, None]), exact.grad.gather(1, k.clamp_min(0)[:, None])
    # The difference of 1 and a probability near it has the rounding of both, each divided by the number of rows.
    torch.testing.assert_close(*picked, rtol=half_ulp, atol=2 * torch.finfo(torch.float32).eps / shape[0])


def test_images_and_views_equal_those_of_torch():
    torch.manual_seed(1)
    for shape in ((2, 21, 65, 33), (3, 5, 40), (2, 200, 7, 9)):
        k = torch.randint(shape[1], shape[:1] + shape[2:], device="cuda")
        x = torch.randn(shape, device="cuda", requires_grad=True)
        y = x.detach().clone().requires_grad_()
        loss, wanted = functional.cross_entropy(x, k), torch.nn.functional.cross_entropy(y, k)
        loss.backward()
        wanted.backward()
        torch.testing.assert_close((loss, x.grad), (wanted, y.grad), rtol=1e-5, atol=1e-8)
        assert x.grad.is_contiguous()


def test_runs_have_the_same_bits():
    def run(name: str, *operands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = operands[0].clone().requires_grad_()
        loss = getattr(functional, name)(x, *operands[1:])
        loss.backward()
        return loss.detach(), x.grad

    torch.manual_seed(1)
    x, y = torch.randn(3_000_001, device="cuda"), torch.rand(3_000_001, device="cuda")
    rows, k = torch.randn(4000, 1001, device="cuda"), torch.randint(1001, (4000,), device="cuda")
    k[::7] = -100
    torch.use_deterministic_algorithms(True)
    try:
        for case in (("mse_loss", x, y), ("cross_entropy", rows, k)):
            first = run(*case)
            for _ in range(99):
                assert all(map(torch.equal, run(*case), first))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("name", "operands", "rows"), BAD, ids=[f"{k}-{case[0]}" for k, case in enumerate(BAD)])
def test_rejected_values_give_the_error_of_the_cpu_and_the_process_lives(name, operands, rows):
    function = getattr(functional, name)
    with pytest.raises(InvalidValue) as caught:
        function(*operands)
    expected = str(caught.value)
    x, *others = (operand.cuda() for operand in operands)
    x.requires_grad_()
    loss = function(x, *others)
    loss.backward()
    with pytest.raises(InvalidValue) as caught:
        piste.check()
    assert str(caught.value).startswith(expected)
    assert loss.isnan()
    assert x.grad.isfinite().all()
    with pytest.raises(InvalidValue) as caught:
        function(x, *others, check="sync")
    assert str(caught.value) == expected
    piste.check()
    assert (torch.ones(3, device="cuda") * 2).sum().item() == 6


def test_none_of_many_rejected_calls_is_missed():
    good, bad = torch.arange(8, device="cuda") % 4, torch.arange(8, device="cuda") % 5
    x = torch.randn(8, 4, device="cuda")
    generator = torch.Generator().manual_seed(1)
    expected = found = 0
    for _ in range(20_000):
        is_bad = bool(torch.rand((), generator=generator) < 0.05)
        while True:
            try:
                functional.cross_entropy(x, bad if is_bad else good)
                break
            except InvalidValue:
                found += 1  # of an earlier call; this one did nothing
        expected += is_bad
    for _ in range(expected - found):
        with pytest.raises(InvalidValue):
            piste.check()
    piste.check()


def test_losses_do_not_wait_for_the_device():
    x = torch.randn(64, 100, device="cuda", requires_grad=True)
    k = torch.randint(100, (64,), device="cuda")
    y = torch.rand(64, 100, device="cuda")

    def run() -> None:
        functional.cross_entropy(x, k).backward()
        functional.binary_cross_entropy_with_logits(x, y).backward()
        functional.cross_entropy(x, k, label_smoothing=0.1).backward()

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_loss_reports_its_replays():
    x = torch.randn(64, 100, device="cuda")
    k = torch.randint(100, (64,), device="cuda")
    functional.cross_entropy(x, k)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = functional.cross_entropy(x, k)
    graph.replay()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x, k))
    piste.check()
    k[3] = 100
    for _ in range(2):
        graph.replay()
        with pytest.raises(InvalidValue, match="received 100 at \\(3,\\)"):
            piste.check()
    assert loss.isnan()


@pytest.mark.parametrize("rows", [64, 5000])
def test_compiled_graphs_hold_no_memory_of_a_loss(rows):
    """PyTorch rejects memory of its pool for CUDA graphs that is no result of the compiled function."""
    torch.manual_seed(1)
    inputs = [torch.randn(rows, 20, device="cuda") for _ in range(5)]
    k = torch.randint(30, (rows,), device="cuda")
    k[0] = -100
    model = torch.nn.Linear(20, 30, device="cuda")

    def step(x: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(x), k)

    found = []
    for run in (torch.compile(step, backend="cudagraphs"), step):  # which needs no C compiler, unlike Inductor
        forget_kernels()
        workspaces._workspaces.clear()
        for x in inputs:  # the first call warms up, the second one is captured, and the others are replayed
            torch.compiler.cudagraph_mark_step_begin()
            model.zero_grad()
            loss = run(x)
            loss.backward()
            found.append([loss.detach().clone(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(found[:5], found[5:], rtol=1e-5, atol=1e-5)
    piste.check()


def test_streams_have_workspaces_of_their_own():
    torch.manual_seed(1)
    x, y = torch.randn(4_000_000, device="cuda"), torch.rand(4_000_000, device="cuda")
    wanted = functional.mse_loss(x, y)
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in range(4)], []
    for _ in range(20):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(functional.mse_loss(x, y))
    torch.cuda.synchronize()
    assert all(torch.equal(loss, wanted) for loss in found)


def test_offsets_are_of_64_bits():
    x = torch.zeros(2**31 // 32768 + 3, 32768, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    k = torch.full(x.shape[:1], 5, device="cuda")
    loss = functional.cross_entropy(x, k)
    loss.backward()
    torch.testing.assert_close(loss.float(), torch.tensor(32768.0, device="cuda").log(), rtol=4e-3, atol=0)
    assert bool((x.grad[:, 5] < 0).all())
    assert bool((x.grad[-1, 6:] > 0).all())
