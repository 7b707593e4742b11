"""Compile Triton source for a device and launch it; Triton keeps machine code in its own disk cache."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import linecache
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from .driver import Launch, driver_launch
from .step_kernel import KernelSource

OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}


@cache
def missing() -> str | None:
    """Return the reason why no kernel can be compiled on this machine, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None


def function(source: KernelSource, jit: Callable[[Any], Any] | None = None) -> Any:
    """Return the entry of a source as a Triton function.

    Args:
        source: the kernel.
        jit: replaces `triton.jit`; the interpreter is one such function.
    """
    triton: Any = importlib.import_module("triton")
    scope: dict[str, Any] = {"triton": _Decorator(jit or triton.jit), "tl": importlib.import_module("triton.language")}
    name = f"<piste kernel {hashlib.sha256(source.text.encode()).hexdigest()[:16]}>"
    # Triton parses the source of a function, which `inspect` finds here.
    linecache.cache[name] = (len(source.text), None, source.text.splitlines(keepends=True), name)
    scope["__name__"] = "piste.engine.gpu.kernels"
    exec(compile(source.text, name, "exec"), scope)
    return scope[source.entry]


class _Decorator:
    """Stands for the module `triton` in a kernel's source, where `triton.jit` is the only name used."""

    def __init__(self, jit: Callable[[Any], Any]) -> None:
        self.jit = jit


def compiled(source: KernelSource, target: Any = None) -> Any:
    """Compile a source for a target, which is the current device by default."""
    triton: Any = importlib.import_module("triton")
    kind: Any = importlib.import_module("triton.compiler").ASTSource
    made = kind(fn=function(source), signature=dict(source.signature), constexprs={})
    return triton.compile(made, target=target or current_target(), options=OPTIONS | {"num_warps": source.warps})


def current_target() -> Any:
    """Return the target of the current CUDA device, or None: Triton finds it out with a C module that it compiles."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 10 * major + minor, 32)


@cache
def launcher(source: KernelSource, device: int) -> Launch:
    """Return `launch(blocks, stream, arguments)` for a source on a CUDA device, which must be the current one."""
    kernel = compiled(source)
    launch = driver_launch(kernel, [kind for _, kind in source.signature], device)
    if launch is not None:
        return launch

    def launch_by_triton(blocks: int, stream: int, arguments: Sequence[Any]) -> None:
        kernel[blocks, 1, 1](*arguments, stream=stream)

    return launch_by_triton
