"""The source text of every kernel that the test cases make, recorded where it would be compiled."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch

import piste
from piste.engine.native import compiler
from tests.losses.cases import CASES, Case, seeded
from tests.optim import cases as optim_cases

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def kernel_sources() -> dict[str, str]:
    """Every distinct kernel source, named by the first case that asks for it."""
    sources: dict[str, str] = {}
    with recorded() as texts, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label in run_cases():
            for text in texts:
                if text not in sources.values():
                    sources[f"{label}-{len(sources):03}"] = text
            texts.clear()
    return sources


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the generated text of the kernels that are loaded, without the paths of imports.

    No generated kernel is compiled: the entries of a recorded one do nothing. The files in kernels/ are loaded as
    always, since the fast paths and the self-test of the native guard need them.
    """
    texts: list[str] = []
    load = compiler._load

    def record(key: tuple[str, ...], entries: tuple[str, ...], *rest: Any) -> compiler.CompiledModule:
        if len(key) > 1:  # a file and its constants
            return load(key, entries, *rest)
        texts.append(normalised(*key))
        address = ctypes.cast(do_nothing, ctypes.c_void_p).value
        return compiler.CompiledModule(dict.fromkeys(entries, address), do_nothing)

    compiler._load = record
    try:
        yield texts
    finally:
        compiler._load = load


@ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
def do_nothing(table: int) -> int:
    return 0


def normalised(source: str) -> str:
    """A source without the module paths of its imports, which change when files move."""
    return re.sub(r"^from piste\.[\w.]+ import", "from piste import", source, flags=re.MULTILINE)


def run_cases() -> Iterator[str]:
    """Step every optimizer and compute every loss of the test cases; give the label of each as it is done."""
    for name, options, dtype in optim_cases.kernels():
        step(name, options, dtype)
        yield f"optim-{name}-{str(dtype)[6:]}"
    for name in optim_cases.OPTIONS:
        for label, make in LAYOUTS.items():
            step(name, optim_cases.fullest(name), torch.float32, make)
            yield f"optim-{name}-{label}"
    for case, dtype, reduction, by in product(CASES, DTYPES, ("mean", "sum", "none"), (0, 1)):
        if by == 0 or dtype == torch.float32:
            compute(case, dtype, reduction, by)
            yield f"losses-{case.name}-{str(dtype)[6:]}-{reduction}"
    for dtype, reduction, options in product(DTYPES[:2], ("mean", "sum"), ({}, {"ignore_index": 1})):
        x = torch.randn(2, 5, 16, 16, dtype=dtype, requires_grad=True)
        k = torch.randint(5, (2, 16, 16))
        piste.losses.CrossEntropyLoss(reduction=reduction, **options)(x, k).backward()
        yield f"losses-images-{str(dtype)[6:]}-{reduction}"


LAYOUTS = {
    "transposed": lambda dtype: torch.randn(5, 3, dtype=dtype).t(),
    "strided": lambda dtype: torch.randn(6, 4, dtype=dtype)[::2],
    "complex": lambda dtype: torch.randn(5, 3, dtype=torch.complex64),
}


def step(name: str, options: dict[str, Any], dtype: torch.dtype, make: Any = None) -> None:
    torch.manual_seed(0)
    data = torch.randn(5, 3, dtype=dtype) if make is None else make(dtype)
    p = data.detach().requires_grad_()
    p.grad = torch.randn(p.shape, dtype=p.dtype)
    getattr(piste.optim, name)([p], **options).step()


def compute(case: Case, dtype: torch.dtype, reduction: str, by: int) -> None:
    operands = [o.to(dtype) if o.is_floating_point() else o for o in seeded(case, dtype=dtype)]
    if by >= len(operands) or not operands[by].is_floating_point():
        return
    operands[by].requires_grad_()
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    result = case.function(*operands, reduction=reduction, **options)
    if result.requires_grad:
        result.sum().backward()
