"""The norm of gradients on a GPU: kernels that read the gradients once, against torch's norm."""

from __future__ import annotations

import re

import pytest
import torch

import piste
from piste.engine import DeviceGradientSums, GradientSquares
from piste.engine.gpu.step_kernel import CHUNK, WARPS, Layout, reduce_source
from piste.engine.gpu.step_scalars import finish_source
from piste.engine.gradient_sums import SUMS
from piste.optim import clipping
from piste.optim.clipping import GradientNorm

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from piste.engine.gpu.compiler import compiled

from .interpreter import interpreting
from .test_compiled_kernels import GFX942, SM_80, SM_90, WIDE, spilled_bytes

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
SIZES = ((5, 3), (4096,), (1,), (9000,), (0,), (2, 2))


def with_gradients(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.zeros(size, dtype=dtype, requires_grad=True) for size in SIZES]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
    return params


def norm_of(params: list[torch.Tensor]) -> float:
    wide = [p.grad.to(torch.promote_types(p.dtype, torch.float64)).flatten() for p in params if p.grad is not None]
    return torch.cat(wide).abs().square().sum().sqrt().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_launches_add_the_squares_of_all_gradients(dtype):
    params = with_gradients(dtype)
    params[2].grad = None
    with interpreting() as backend:
        sums = DeviceGradientSums.of(params)
        squares, nonfinite = sums(params)
        assert [entry for entry, _ in backend.device.launches] == ["reduce0", "finish0"]
    assert squares.sqrt().item() == pytest.approx(norm_of(params), rel=1e-6)
    assert nonfinite.item() == 0
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_gradients_of_several_dtypes_have_one_sum():
    params = [p for dtype in DTYPES[:4] for p in with_gradients(dtype)]
    with interpreting():
        squares, nonfinite = DeviceGradientSums.of(params)(params)
    assert squares.sqrt().item() == pytest.approx(norm_of(params), rel=1e-6)
    assert nonfinite.item() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_that_are_not_finite_are_counted(dtype):
    params = with_gradients(dtype)
    params[0].grad[1, 2], params[3].grad[0], params[3].grad[-1] = torch.nan, torch.inf, -torch.inf
    with interpreting():
        assert DeviceGradientSums.of(params)(params)[1].item() == 3


def test_large_gradients_are_finite_where_their_squares_are_not():
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.full((3,), 1e30)
    with interpreting():
        assert DeviceGradientSums.of([p])([p]).tolist() == [torch.inf, 0]


def test_sums_decline_gradients_that_are_missing_or_of_another_layout():
    params = with_gradients(torch.float32)
    with interpreting():
        sums = DeviceGradientSums.of(params)
        params[0].grad = torch.ones(3, 5).T
        assert sums(params) is None
        params[0].grad = None
        assert sums(params) is None
        params[0].grad = torch.ones(5, 3).to_sparse()
        assert DeviceGradientSums.of(params) is None
        assert DeviceGradientSums.of([torch.zeros(2, requires_grad=True)]) is None


def test_sums_are_captured_in_a_graph():
    params = with_gradients(torch.float32)
    with interpreting() as backend:
        sums = DeviceGradientSums.of(params)
        backend.device.capturing = True
        assert sums(params)[0].sqrt().item() == pytest.approx(norm_of(params), rel=1e-6)


@pytest.mark.parametrize("capturable", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "LAMB", "Adafactor"])
def test_clipped_and_left_out_steps_equal_those_of_the_eager_backend(name, capturable, monkeypatch):
    """The second gradient has an infinity, and the third is large, but finite.

    Where a GPU has counted the values that are not finite, no parameter is asked for its device.
    """

    def run() -> tuple[list[torch.Tensor], list[torch.Tensor | None], int]:
        params = with_gradients(torch.float32)
        groups = [{"params": params[:2], "max_norm": 0.5}, {"params": params[2:]}]
        optimizer = getattr(piste.optim, name)(groups, lr=0.1, max_norm=2.0, nonfinite="skip", capturable=capturable)
        norms = []
        for k in range(4):
            gradients = with_gradients(torch.float32)
            for p, like in zip(params, gradients, strict=True):
                p.grad = like.grad * (1e15 if k == 2 else 1)
            if k == 1:
                params[3].grad[7] = torch.inf
            optimizer.step()
            norms.append(optimizer.grad_norm)
        return params, norms, optimizer.skipped

    with interpreting(capturable) as backend, monkeypatch.context() as patch:
        patch.setattr(clipping, "steps_on_gpu", lambda optimizer: pytest.fail("asked"))
        patch.setattr(GradientSquares, "of", lambda params: None)  # kernels of the CPU take the same tensors
        ours, norms, skipped = run()
        assert [entry for entry, _ in backend.device.launches[:2]] == ["reduce0", "finish0"]
    monkeypatch.setattr(clipping, "steps_on_gpu", lambda optimizer: True)
    theirs, expected, skipped_there = run()
    assert skipped == skipped_there == 1
    torch.testing.assert_close(norms, expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_gradients_alone_are_read_16_bytes_at_a_time(dtype, tmp_path):
    layout = Layout((dtype, dtype), "float32", counts_on_device=True)
    reduce, finish = reduce_source(SUMS, layout, False, 0), finish_source(SUMS, layout, False, 0)
    for target in (SM_80, SM_90, GFX942):
        kernel = compiled(reduce, target)
        assert compiled(finish, target)
        if target is not GFX942:
            ptx = kernel.asm["ptx"]
            vectors = CHUNK // WARPS // 32 * torch.finfo(getattr(torch, dtype)).bits // 128  # of a thread, for a column
            assert len(re.findall(rf"ld\.global\.{WIDE[dtype]}", ptx)) == vectors
            assert "st.global.v" not in ptx
            assert spilled_bytes(kernel, tmp_path) == 0


def test_a_graph_captures_no_tables_of_new_sums(monkeypatch):
    """The copy of a table to the device would be part of the graph, and its memory on the host another's then."""
    norm_of_step, params = GradientNorm(), with_gradients(torch.float32)
    with interpreting() as backend, monkeypatch.context() as patch:
        patch.setattr(GradientSquares, "of", lambda params: None)
        patch.setattr(clipping, "is_captured", lambda tensors: True)
        norm, nonfinite = norm_of_step(params)
        assert norm.item() == pytest.approx(norm_of(params), rel=1e-6) and nonfinite is None
        assert backend.device.launches == []
        patch.setattr(clipping, "is_captured", lambda tensors: False)
        assert norm_of_step(params)[1].item() == 0
        assert [entry for entry, _ in backend.device.launches] == ["reduce0", "finish0"]
