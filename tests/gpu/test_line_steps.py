"""Rules that reduce over rows and columns, by GPU kernels: the interpreter against formulas and the eager backend."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu.backend import why_not
from piste.engine.gpu.line_finish import finish_source
from piste.engine.gpu.line_source import LARGE, SMALL, add_source, line_step_source
from piste.engine.gpu.step_kernel import Layout
from piste.engine.gpu.step_split import split
from piste.engine.specs import ParamState
from piste.optim.composition import step_spec
from tests.optim.test_line_reductions import Lined, expected, first_state

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from piste.engine.gpu.compiler import compiled

from .interpreter import interpreting
from .test_compiled_kernels import GFX942, SM_80, SM_90, WIDE, spilled_bytes

SHAPES = [(3, 4), (1, 5), (5, 1), (2, 3, 4), (70, 300), (3, 1100), (1100, 3), (20, 5, 3, 3)]
CLOSE = {torch.float32: 3e-6, torch.float64: 1e-13, torch.float16: 2**-10}


def given(seed: int, shapes: Any, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_values_of_every_extent_are_those_of_the_formula(on_device):
    """Of small matrices, and of larger ones that take several tiles down and across."""
    params = [x.requires_grad_() for x in given(0, SHAPES)]
    states = [first_state(p) for p in params]
    with interpreting(on_device) as backend:
        optimizer = Lined(params)
        for step in range(2):
            before = [p.detach().clone() for p in params]
            for p, g in zip(params, given(1 + step, SHAPES), strict=True):
                p.grad = g
            optimizer.step()
            for i, p in enumerate(params):
                new, *kept = expected(before[i], p.grad, *states[i])
                states[i] = [optimizer.state[p][key].clone() for key in Lined.buffers]
                torch.testing.assert_close(p.detach(), new.float(), rtol=1e-5, atol=2e-6)
                for buffer, value in zip(states[i], kept, strict=True):
                    torch.testing.assert_close(buffer, value.float(), rtol=1e-5, atol=2e-6)
        assert optimizer.explain_backend().endswith("by the fused GPU kernel, all together, in 4 passes")
    names = ["begin", "reduce0", "add0", "finish0", "reduce1", "add1", "reduce2", "add2", "finish2", "step"]
    entries = [name for name, _ in backend.device.launches if name != "prepare"]
    assert entries == names * 4  # for tensors with small matrices, and for the others


def stepped(shapes: Any, dtype: torch.dtype = torch.float32, steps: int = 2, **options: Any) -> list[torch.Tensor]:
    params = [x.requires_grad_() for x in given(3, shapes, dtype)]
    optimizer = piste.optim.Adafactor(params, lr=0.1, **options)
    for step in range(steps):
        for p, g in zip(params, given(4 + step, shapes, dtype), strict=True):
            p.grad = g
        optimizer.step()
    state = [optimizer.state[p][key] for p in params for key in sorted(optimizer.state[p])]
    return [*(p.detach() for p in params), *state]


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "beta1": 0.5, "d": 2.0, "eps": (1e-8, 1e-2), "maximize": True},
        {"relative_step": False, "scale_parameter": False, "d": None, "min_dim_size_to_factor": 4},
        {"cautious": True},
    ],
    ids=str,
)
def test_adafactor_equals_the_eager_backend(options, on_device):
    with interpreting(on_device) as backend:
        ours = stepped(SHAPES[3:6], **options)
    assert any(name == "step" for name, _ in backend.device.launches)
    torch.testing.assert_close(ours, stepped(SHAPES[3:6], fused=False, **options), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_adafactor_of_other_dtypes_equals_the_eager_backend(dtype):
    with interpreting():
        ours = stepped(SHAPES[:4], dtype)
    theirs = stepped(SHAPES[:4], dtype, fused=False)
    torch.testing.assert_close(ours, theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def test_every_run_gives_the_same_bits():
    with interpreting():
        first, second = stepped(SHAPES[4:6], steps=1), stepped(SHAPES[4:6], steps=1)
    assert all(map(torch.equal, first, second))


def test_rows_that_are_not_aligned_are_reduced():
    def run(**options: Any) -> torch.Tensor:
        p, g = (x[1:].view(8, 16) for x in given(5, [(129,)] * 2))
        assert p.data_ptr() % 16 != 0
        p.requires_grad_().grad = g
        piste.optim.Adafactor([p], lr=0.1, **options).step()
        return p.detach()

    with interpreting():
        ours = run()
    torch.testing.assert_close(ours, run(fused=False), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (torch.zeros(3), "it has fewer than two dimensions"),
        (torch.zeros(0, 3), "it has no elements"),
        (torch.zeros(4, 3).t(), "it is not contiguous"),
        (torch.zeros(4, 3, dtype=torch.complex64), "it is complex"),
    ],
)
def test_other_parameters_state_the_reason(p, reason):
    optimizer = Lined([torch.zeros(2, 2, requires_grad=True)])
    state = ParamState(p, torch.zeros_like(p), [], [])
    assert str(why_not(step_spec(Lined, optimizer.param_groups[0]), state)).startswith(reason)


def spec_of(cls: Any) -> Any:
    optimizer = cls([torch.nn.Parameter(torch.zeros(3, 3))])
    return step_spec(cls, optimizer.param_groups[0])


def sources(spec: Any, layout: Layout, rows: bool) -> list[Any]:
    plan = split(spec, layout.columns).plan
    assert plan is not None
    numbers = range(len(plan.passes))
    made = [line_step_source(spec, layout, rows, number) for number in (*numbers, None)]
    made += [add_source(spec, layout, rows, number) for number in numbers if plan.passes[number].over(3)]
    return made + [x for number in (-1, *numbers) if (x := finish_source(spec, layout, rows, number)) is not None]


@pytest.mark.parametrize("cls", [piste.optim.Adafactor, Lined])
@pytest.mark.parametrize(
    ("target", "dtype", "tile"),
    [(SM_90, "float32", LARGE), (SM_90, "bfloat16", SMALL), (SM_80, "float64", LARGE), (GFX942, "float16", LARGE)],
    ids=str,
)
def test_kernels_compile_and_read_16_bytes_at_a_time(cls, target, dtype, tile, tmp_path):
    spec = spec_of(cls)
    layout = Layout((dtype,) * (2 + len(spec.buffers)), "float32", tile=tile)
    for source in sources(spec, layout, target is not SM_90):
        kernel = compiled(source, target)
        if target is SM_90 and tile == LARGE and source.entry.startswith(("reduce", "step")):
            assert re.search(rf"ld\.global\.{WIDE[dtype]}", kernel.asm["ptx"])
            assert spilled_bytes(kernel, tmp_path) <= 16
