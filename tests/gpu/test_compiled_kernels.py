"""The machine code of every kernel for GPUs of NVIDIA and AMD: 16-byte accesses, and registers that suffice."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu.compiler import compiled
from piste.engine.gpu.step_kernel import Layout, reduce_source, step_source
from piste.engine.gpu.step_scalars import finish_source, prepare_source
from piste.engine.gpu.step_split import split
from piste.optim.composition import step_spec
from tests.optim.cases import OPTIONS, fullest

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

SM_80, SM_90, GFX942 = GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)
WIDE = {"float32": "v4.b32", "float64": "v2.b64", "bfloat16": "v4.b32", "float16": "v4.b32"}


def wide_on_amd(assembly: str, word: str, dtype: str) -> int:
    """Count the accesses of a thread to all its elements of a block: 4, of which two of float64 fill an access."""
    words = 2 if dtype in ("bfloat16", "float16") else 4
    return len(re.findall(rf"^\s+(?:buffer|global)_{word}_dwordx{words}\b", assembly, re.MULTILINE))


def spec_of(name: str) -> Any:
    optimizer = getattr(piste.optim, name)([torch.nn.Parameter(torch.zeros(3))], **fullest(name))
    return step_spec(type(optimizer), optimizer.param_groups[0])


def layout_of(spec: Any, dtype: str) -> Layout:
    return Layout((dtype,) * (2 + len(spec.buffers)), "float32")


def spilled_bytes(kernel: Any, folder: Path) -> int:
    """Assemble the PTX again, and read the report of the assembler."""
    ptx, source = kernel.asm["ptx"], folder / "kernel.ptx"
    source.write_text(ptx)
    (target,) = re.findall(r"\.target (\w+)", ptx)
    assembler = get_ptxas(kernel.metadata.target.arch).path  # Triton has several, which take different versions of PTX
    command = [assembler, "-v", "--gpu-name", target, source, "-o", folder / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "bytes spill stores" in report
    return sum(map(int, re.findall(r"(\d+) bytes spill", report)))


def passes(spec: Any, layout: Layout, rows: bool) -> list[tuple[Any, int, int]]:
    """Return the kernels that walk the elements, each with the numbers of columns that it reads and writes."""
    levels = range(len(split(spec, layout.columns).levels))
    made = [*(reduce_source(spec, layout, rows, k) for k in levels), step_source(spec, layout, rows)]
    return [(source, *columns_of(source.text)) for source in made]


def columns_of(text: str) -> tuple[int, int]:
    """Return the numbers of columns that a kernel reads, where the work of an element names them, and writes."""
    work = text.partition("def element(")[2].partition("@triton.jit")[0].partition("\n")[2]
    reads = set(re.findall(r"to_(\w+) = ", text)) & set(re.findall(r"\b(\w+)_\b", work))
    return len(reads), len(set(re.findall(r"tl\.store\(to_(\w+), ", text)))


@pytest.mark.parametrize("rows", [False, True], ids=["arguments", "rows"])
@pytest.mark.parametrize("name", OPTIONS)
def test_whole_chunks_are_read_and_written_16_bytes_at_a_time(name, rows, tmp_path):
    spec = spec_of(name)
    for dtype in ("float32", "bfloat16"):
        for source, reads, writes in passes(spec, layout_of(spec, dtype), rows):
            kernel = compiled(source, SM_90)
            ptx = kernel.asm["ptx"]
            vectors = 2 if dtype == "float32" else 1  # a thread has eight elements of a block
            loads, stores = (len(re.findall(rf"{word}\.global\.{WIDE[dtype]}", ptx)) for word in ("ld", "st"))
            assert loads >= vectors * reads > 0
            assert stores >= vectors * writes
            # The rare branch of a correctly rounded division or root is a call, which may save two registers.
            assert spilled_bytes(kernel, tmp_path) <= 16


def test_sums_over_all_tensors_compile_and_read_16_bytes_at_a_time():
    optimizer = piste.optim.Prodigy([torch.nn.Parameter(torch.zeros(3))])
    spec = step_spec(piste.optim.Prodigy, optimizer.param_groups[0]).sums
    kinds = ("float32",) * (2 + len(spec.buffers))
    layout = Layout(kinds, "float32", counts_on_device=True)
    source = reduce_source(spec, layout, True, 0)
    for target in (SM_80, SM_90, GFX942):
        kernel = compiled(source, target)
        if target is not GFX942:
            assert len(re.findall(r"ld\.global\.v4\.b32", kernel.asm["ptx"])) >= 2 * 4  # p, g, s and p0
        compiled(finish_source(spec, layout, True, 0), target)
        numbers = tuple("float64" if name == "d" else "value" for name in spec.numbers)
        compiled(prepare_source(spec, layout, numbers, "float32", "float32"), target)


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_compile_for_other_gpus_and_dtypes(name):
    spec = spec_of(name)
    for target, dtype in ((SM_80, "float64"), (SM_80, "float16"), (GFX942, "float32")):
        layout = layout_of(spec, dtype)
        for source, reads, writes in passes(spec, layout, rows=False):
            kernel = compiled(source, target)
            if target is SM_80:
                assert f"ld.global.{WIDE[dtype]}" in kernel.asm["ptx"]
            else:
                assert wide_on_amd(kernel.asm["amdgcn"], "load", dtype) >= reads
                assert wide_on_amd(kernel.asm["amdgcn"], "store", dtype) >= writes
        for k in range(len(split(spec, layout.columns).levels)):
            compiled(finish_source(spec, layout, target is GFX942, k), target)
    numbers = ("float32", *("value" for _ in spec.numbers[1:]))
    for target in (SM_90, GFX942):
        compiled(prepare_source(spec, layout_of(spec, "float32"), numbers, "float64", "float32"), target)
