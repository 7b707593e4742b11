"""From the source of a kernel to its machine code: compiled by Numba once, stored on disk, called by address.

The source is Python that Numba understands. Its entries are functions that take addresses of int64 words, usually that
of one argument block; an entry declared `-> int` returns a word. The object code is stored under a key that covers
everything it depends on. A later process links it with llvmlite and imports no Numba.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import itertools
import os
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .object_cache import read_object, write_object
from .openmp import openmp_parallel

__all__ = ["CompiledModule", "load"]

_lock = threading.RLock()
_loaded: dict[str, CompiledModule] = {}
_link_count = itertools.count()  # the linker never forgets the name of a library


def _after_fork() -> None:
    # Another thread of the parent may have held the lock.
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class CompiledModule:
    """The machine code of one source.

    Attributes:
        addresses: The address of each entry, by its name.
        call: Each entry as a Python function of the address of its argument block.
    """

    def __init__(self, addresses: dict[str, int], library: Any) -> None:
        self._library = library  # which frees the code when it is collected
        self.addresses = addresses
        call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self.call: dict[str, Callable[[Any], int]] = {name: call(address) for name, address in addresses.items()}

    def parallel(self, entry: str, table: int, threads: int) -> None:
        """Run an entry on each thread of PyTorch's pool at once; the entry distributes the work itself."""
        team = openmp_parallel()
        if threads > 1 and team is not None:
            team(self.addresses[entry], table, threads, 0)
        else:
            self.call[entry](table)


def load(source: str, entries: tuple[str, ...]) -> CompiledModule:
    """Return the machine code of a source: from this process, from disk, or compiled now."""
    key = hashlib.sha256("\0".join([source, *entries, *_environment_key()]).encode()).hexdigest()[:40]
    module = _loaded.get(key)
    if module is None:
        with _lock:
            module = _loaded.get(key)
            if module is None:
                module = _loaded[key] = _from_disk(key, entries) or _compile(key, source, entries)
    return module


@functools.cache
def _environment_key() -> tuple[str, ...]:
    """List everything other than the source that the machine code depends on."""
    from importlib import metadata

    import llvmlite.binding as llvm

    versions = [metadata.version(package) for package in ("numba", "llvmlite")]
    cpu = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return (*versions, _digest("compiler.py", "intrinsics.py"), platform.machine(), sys.platform, *cpu)


def _digest(*files: str) -> str:
    return hashlib.sha256(b"".join(Path(__file__).with_name(file).read_bytes() for file in files)).hexdigest()


def _from_disk(key: str, entries: tuple[str, ...]) -> CompiledModule | None:
    image = read_object(key)
    if image is None:
        return None
    try:
        return _link(key, image, entries)
    except (OSError, RuntimeError, KeyError):  # it can't be linked here, though it is whole
        return None


def _link(key: str, image: bytes, entries: tuple[str, ...]) -> CompiledModule:
    import llvmlite.binding as llvm

    _initialise_llvm()
    builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    for entry in entries:
        builder.export_symbol(entry)
    library = builder.link(_linker(), f"piste_{next(_link_count)}_{key}")
    return CompiledModule({entry: library[entry] for entry in entries}, library)


@functools.cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(_target_machine())


@functools.cache
def _initialise_llvm() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if sys.platform == "linux":  # for pow, exp and the like, which the interpreter may be linked without
        for library in ("libm.so.6", "libm.so"):
            try:
                ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
                break
            except OSError:
                continue


def _target_machine() -> Any:
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
        reloc="pic",
    )


def _compile(key: str, source: str, entries: tuple[str, ...]) -> CompiledModule:
    """Compile a source with Numba, store its object code, and link it."""
    import llvmlite.binding as llvm

    from . import intrinsics

    _initialise_llvm()
    scope: dict[str, Any] = {name: getattr(intrinsics, name) for name in intrinsics.__all__}
    exec(compile(source, f"<piste kernel {key[:8]}>", "exec"), scope)
    module, *others = [llvm.parse_assembly(_llvm_text(scope[entry], entry)) for entry in entries]
    for part in (module, *others):
        for function in part.functions:
            if not function.is_declaration and function.name not in entries:
                function.linkage = "internal"  # Numba's wrappers, eliminated once nothing calls them
    for part in others:
        module.link_in(part)
    machine = _target_machine()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    manager = llvm.create_new_module_pass_manager()
    manager.add_global_dead_code_eliminate_pass()
    manager.run(module, passes)
    module.verify()
    image = machine.emit_object(module)
    write_object(key, image)
    return _link(key, image, entries)


def _llvm_text(function: Callable[..., Any], entry: str) -> str:
    """Compile an entry to LLVM's assembly, under its own name."""
    numba: Any = importlib.import_module("numba")
    result = numba.types.int64 if function.__annotations__ else numba.types.void
    block = numba.types.CPointer(numba.types.int64)
    signature = result(*[block] * function.__code__.co_argcount)
    compiled = numba.cfunc(signature, fastmath={"contract", "nsz"}, error_model="numpy")(function)
    name = compiled.native_name
    return compiled.inspect_llvm().replace(f'"{name}"', entry).replace(name, entry)
