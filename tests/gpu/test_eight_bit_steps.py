"""State in 8 bits on a GPU: the kernels in Triton's interpreter against the eager backend, and their machine code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu.step_kernel import Layout, reduce_source, step_source
from piste.engine.gpu.step_scalars import prepare_source
from piste.optim.composition import step_spec
from tests.optim.cases import fullest
from tests.optim.test_eight_bits import WITH_STATE

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from piste.engine.gpu.compiler import compiled

from .interpreter import interpreting
from .test_compiled_kernels import GFX942, SM_80, SM_90, WIDE, spilled_bytes, wide_on_amd
from .test_interpreted_steps import ULPS

SIZES = ((5, 3), (4096,), (1,), (4100,), (0,), (2, 300))  # whole chunks, and ends of less than a block
NAMES = [*WITH_STATE, "Prodigy", "Muon"]


def options_of(name: str) -> dict[str, Any]:
    return {"lr": 0.01} if name in ("Prodigy", "Muon") else fullest(name)


def stepped(name: str, dtype: torch.dtype, steps: int, **options: Any) -> tuple[list[torch.Tensor], Any]:
    make = torch.Generator().manual_seed(1)
    sizes = [size for size in SIZES if len(size) == 2] if name == "Muon" else SIZES
    params = [torch.randn(size, generator=make).to(dtype).requires_grad_() for size in sizes]
    optimizer = getattr(piste.optim, name)(params, **{**options_of(name), **options}, state_dtype="int8")
    for k in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=make).to(dtype)
            if k == 0 and i == 1:
                p.grad = None
        optimizer.step()
    return params, optimizer


def compare(name: str, dtype: torch.dtype, on_device: bool, steps: int = 3, **options: Any) -> None:
    with interpreting(on_device) as backend:
        ours, optimizer = stepped(name, dtype, steps, **options)
        explanation = optimizer.explain_backend()
        assert "by the fused GPU kernel" in explanation and "eager" not in explanation
        assert {entry for entry, _ in backend.device.launches} >= {"step"}
    theirs, reference = stepped(name, dtype, steps, fused=False, **options)
    near = ULPS[dtype]
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=near, atol=near)
        mine, wanted = optimizer.state[p], reference.state[q]
        assert mine.keys() == wanted.keys()
        for key, value in wanted.items():
            if value.dtype == torch.int8:  # rounding of the last bit before may move a number to the next code
                apart = (mine[key].int() - value.int()).abs()
                assert apart.numel() == 0 or (apart.max() <= 1 and (apart > 0).float().mean() < 0.01), key
            else:
                torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_those_of_the_eager_backend(name, on_device):
    compare(name, torch.float32, on_device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "SGD"])
def test_parameters_may_have_any_real_dtype(name, dtype):
    compare(name, dtype, False, steps=1 if dtype == torch.bfloat16 else 3)  # the interpreter truncates to bfloat16


@pytest.mark.parametrize("precision", ["kahan", "master", "stochastic"])
def test_precisions_keep_their_own_random_numbers(precision):
    compare("AdamW", torch.float16, False, precision=precision)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_block_with_a_bad_number_is_bad_and_its_neighbours_are_not(bad):
    def run(**options: Any) -> Any:
        p = torch.zeros(1000, requires_grad=True)
        optimizer = piste.optim.SGD([p], lr=0.1, momentum=0.9, state_dtype="int8", **options)
        for value in (1.0, bad, 1.0):
            p.grad = torch.ones(1000)
            p.grad[300] = value
            optimizer.step()
        return p, *(optimizer.state[p][key] for key in ("momentum_buffer", "momentum_buffer_scale"))

    with interpreting():
        p, codes, scales = run()
    for mine, wanted in zip((p, codes, scales), run(fused=False), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-6, atol=2e-6, equal_nan=True)
    assert scales.isfinite().tolist() == [True, False, True, True]
    assert p[:256].isfinite().all() and p[512:].isfinite().all() and not p[300].isfinite()


def spec_and_layout(name: str, dtype: str, **options: Any) -> tuple[Any, Layout]:
    p = torch.nn.Parameter(torch.zeros(3, dtype=getattr(torch, dtype)))
    optimizer = getattr(piste.optim, name)([p], state_dtype="int8", **options)
    spec = step_spec(type(optimizer), optimizer.param_groups[0]).of(p)
    return spec, Layout((dtype, dtype, *["int8"] * len(spec.buffers)), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), [("AdamW", {}), ("SGD", {"momentum": 0.9}), ("LAMB", {})], ids=str)
def test_kernels_read_parameters_in_16_bytes_and_codes_in_8(name, options, dtype, tmp_path):
    spec, layout = spec_and_layout(name, dtype, **options)
    passes = [step_source(spec, layout, False), *([reduce_source(spec, layout, False, 0)] if name == "LAMB" else [])]
    for source in passes:
        writes = source.entry == "step"
        for target in (SM_80, SM_90, GFX942):
            kernel = compiled(source, target)
            if target is GFX942:
                assert wide_on_amd(kernel.asm["amdgcn"], "load", dtype) >= 2
                assert wide_on_amd(kernel.asm["amdgcn"], "store", dtype) >= writes
                continue
            ptx = kernel.asm["ptx"]
            vectors = 2 if dtype == "float32" else 1  # a thread has eight elements of a block
            assert len(re.findall(rf"ld\.global\.{WIDE[dtype]}", ptx)) >= 2 * vectors
            assert len(re.findall(rf"st\.global\.{WIDE[dtype]}", ptx)) >= vectors * writes
            for word, count in (("ld", len(spec.buffers)), ("st", len(spec.buffers) * writes)):
                assert len(re.findall(rf"{word}\.global\.v2\.b32", ptx)) >= count
            assert spilled_bytes(kernel, tmp_path) <= 16
    compiled(prepare_source(spec, layout, ("value",) * len(spec.numbers), "float64", "float32"), SM_90)
