"""The machine code of the losses for GPUs of NVIDIA and AMD: 16-byte accesses, and every kernel compiles."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from piste.engine.gpu.compiler import compiled
from piste.engine.gpu.loss_divisor import divisor_source
from piste.engine.gpu.loss_elements import elements_source
from piste.engine.gpu.loss_factor import factor_source
from piste.engine.gpu.loss_lines import OF_FEW
from piste.engine.gpu.loss_rows import row_layout, rows_source
from tests.losses.cases import CASES, Case, seeded

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting
from .test_compiled_kernels import GFX942, SM_80, SM_90, WIDE, wide_on_amd
from .test_interpreted_losses import EAGER

SERVED = [
    case for case in CASES if case.name not in EAGER and not case.function_only and case.options.get("absent") != "skip"
]


def spec_of(case: Case, dtype: torch.dtype) -> Any:
    """The spec of the kernel of all calls but the first, which converts 16-bit elements before they reach a kernel."""
    with interpreting() as backend:
        for _ in range(2):
            first, *others = seeded(case, None, dtype)
            options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
            case.function(first.requires_grad_(), *others, **options)
        return backend.kernels[-1].spec


def sources(spec: Any, classes: int, unit: int, classes_last: bool = True) -> list[Any]:
    if spec.derivatives is not None:
        return [elements_source(spec), elements_source(spec, True)]
    layout = row_layout(classes, unit, classes_last)
    return [rows_source(spec, layout), rows_source(spec, layout, True)]


def accesses(ptx: str, word: str, dtype: str) -> int:
    return len(re.findall(rf"{word}\.global(?:\.\w+)*\.{WIDE[dtype]}", ptx))


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SERVED, ids=str)
def test_aligned_operands_are_read_and_written_16_bytes_at_a_time(case, dtype):
    spec = spec_of(case, dtype)
    for classes in (1024, 128256):
        ptx = compiled(sources(spec, classes, 16 // dtype.itemsize)[0], SM_90).asm["ptx"]
        # The gradient of NLL is 0 but at the target, so the row is not read.
        rows = (
            [c for c in spec.operands if c.kind in ("element", "weight", "row")]
            if not case.name.startswith("nll")
            else []
        )
        assert accesses(ptx, "ld", spec.storage) >= len(rows)
        assert accesses(ptx, "st", spec.storage) >= 1


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("case", SERVED, ids=str)
def test_losses_compile_for_other_gpus_and_dtypes(case):
    for target, dtype in ((SM_80, torch.float64), (SM_80, torch.float16), (GFX942, torch.float32)):
        spec = spec_of(case, dtype)
        for classes, classes_last in ((10, True), (1000, True), (50257, True), (21, False)):
            for source in sources(spec, classes, 1, classes_last):
                compiled(source, target)
            if spec.derivatives is not None:
                break


@pytest.mark.parametrize("classes", [1000, 128256])
def test_kernels_whose_gradient_replaces_the_logits_have_a_barrier_before_they_write(classes):
    case = next(case for case in CASES if case.name == "cross_entropy")
    layout = row_layout(classes, 8, True)
    assert layout is not None
    spec = spec_of(case, torch.bfloat16)
    source = rows_source(spec, layout._replace(in_place=True))
    for target in (SM_80, SM_90):
        ptx = compiled(source, target).asm["ptx"]
        before, wide, _ = ptx.partition("st.global.v4")
        assert wide
        assert "bar.sync" in before.rpartition("ld.global")[2]
    compiled(source, GFX942)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_elements_are_read_and_written_in_wide_accesses_on_amd(dtype):
    spec = spec_of(next(case for case in SERVED if case.name == "mse"), dtype)
    assert spec.storage == str(dtype).removeprefix("torch.")
    for source in sources(spec, 1, 1):
        assembly = compiled(source, GFX942).asm["amdgcn"]
        assert wide_on_amd(assembly, "load", spec.storage) >= 2
        assert wide_on_amd(assembly, "store", spec.storage) >= 1


@pytest.mark.parametrize("storage", WIDE)
def test_factors_are_applied_16_bytes_at_a_time(storage):
    for target in (SM_80, SM_90):
        ptx = compiled(factor_source(storage), target).asm["ptx"]
        assert accesses(ptx, "ld", storage) >= 1 and accesses(ptx, "st", storage) >= 1
    assembly = compiled(factor_source(storage), GFX942).asm["amdgcn"]
    assert wide_on_amd(assembly, "load", storage) >= 4 and wide_on_amd(assembly, "store", storage) >= 4


@pytest.mark.parametrize("kind", ["count", "weights"])
def test_denominators_compile(kind):
    for target in (SM_80, SM_90, GFX942):
        compiled(divisor_source(kind, "float32"), target)


@pytest.mark.parametrize("kind", ["count", "weights"])
def test_kernels_that_find_the_denominator_compile(kind):
    case = next(
        case for case in CASES if case.name == "cross_entropy" and ("weight" in case.options) == (kind == "weights")
    )
    spec = spec_of(case, torch.float32)
    assert spec.divisor == kind
    for target in (SM_80, SM_90, GFX942):
        for how in (spec._replace(divisor=OF_FEW + kind), spec._replace(rejects_nothing=True)):
            for source in sources(how, 10, 1):
                compiled(source, target)
