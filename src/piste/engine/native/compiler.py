"""From the source of a kernel to its machine code: compiled by Numba once, stored on disk, called by address.

The source is Python that Numba understands. Its entries are functions that take addresses of int64 words, usually that
of one argument block; an entry declared `-> int` returns a word. The object code is stored under a key that covers
everything it depends on. A later process links it with llvmlite and imports no Numba.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import importlib
import importlib.util
import itertools
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ...errors import Unsupported
from . import debug
from .object_cache import read_object, write_object
from .openmp import openmp_parallel

__all__ = ["CompiledModule", "has_compiler", "load", "load_file"]

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


def load(
    source: str, entries: tuple[str, ...], formula: Callable[[], Iterable[str]] = list, is_wide: bool = False
) -> CompiledModule:
    """Return the machine code of generated source: from this process, from disk, or compiled now.

    Args:
        source: Python that Numba compiles. It may use the words of `intrinsics`, `kernels/math32.py` and
            `kernels/work_sharing.py`.
        entries: The names of its entries.
        formula: Returns the lines of the formula, for `PISTE_DEBUG=source`.
        is_wide: Whether vectors have 512 bits, where the CPU has them and LLVM would prefer 256. Long loops of
            arithmetic take up to a third less time then, and loops of fewer than 64 turns more.
    """
    return _load((source,), entries, lambda: _generated(source), lambda: (source, formula()), is_wide)


def has_compiler() -> bool:
    """Return whether Numba is installed, and compiles as far as the environment says."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def load_file(name: str, entries: tuple[str, ...], is_wide: bool = False, /, **constants: int | str) -> CompiledModule:
    """Return the machine code of a file of kernels: from this process, from disk, or compiled now.

    Args:
        name: The file in `piste/engine`, without its ending, as in "cpu/kernels/finish".
        entries: The names of its entries.
        is_wide: As in `load`.
        constants: Values for constants of the file. A string is an expression in the file's own names, as in
            `REAL="float64"`.
    """
    key = name, _digest(*_kernel_files(name)), *(f"{constant}={value}" for constant, value in sorted(constants.items()))
    comments = debug.file_comments(name, constants)
    return _load(key, entries, lambda: _executed(name, constants), lambda: ("", comments), is_wide)


def _load(
    key: tuple[str, ...],
    entries: tuple[str, ...],
    scope: Callable[[], Mapping[str, Any]],
    text: Callable[[], tuple[str, Iterable[str]]],
    is_wide: bool,
) -> CompiledModule:
    """Find a module by its key, or compile the entries that `scope` returns by name."""
    parts = [*key, *entries, *_environment_key(), *(["wide"] if is_wide else [])]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
    module = _loaded.get(digest)
    if module is None:
        with _lock:
            module = _loaded.get(digest)
            if module is None:
                if debug.is_source_wanted():
                    debug.print_source(digest, *text())
                with _garbage_kept():
                    module = _loaded[digest] = _from_disk(digest, entries) or _compile(
                        digest, scope(), entries, is_wide
                    )
    return module


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect no garbage meanwhile: a compilation makes a million objects that stay, and each collection visits all."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _generated(source: str) -> dict[str, Any]:
    """Execute generated source and return its names."""
    from . import intrinsics

    scope: dict[str, Any] = {name: getattr(intrinsics, name) for name in intrinsics.__all__}
    for word in _WORDS:
        module = importlib.import_module(f"{__package__}.kernels.{word}")
        scope |= {name: getattr(module, name) for name in module.__all__}
    exec(compile(source, "<piste kernel>", "exec"), scope)
    return scope


def _executed(name: str, constants: Mapping[str, int | str]) -> dict[str, Any]:
    """Execute a file of kernels with these constants and return its names."""
    module_name = f"{__package__.rpartition('.')[0]}.{name.replace('/', '.')}"
    spec = importlib.util.spec_from_file_location(module_name, _ENGINE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scope = vars(module)
    for constant, value in constants.items():
        if constant not in scope:
            raise AttributeError(f"{name}.py has no constant {constant}")
        scope[constant] = eval(value, scope) if isinstance(value, str) else value
    return scope


@functools.cache
def _kernel_files(name: str) -> tuple[str, ...]:
    """List the files that a file of kernels may import from its own backend."""
    backend = name.partition("/")[0]
    kernels = sorted(f"{backend}/kernels/{path.name}" for path in (_ENGINE / backend / "kernels").glob("*.py"))
    return (f"{backend}/tables.py", *kernels)


@functools.cache
def _environment_key() -> tuple[str, ...]:
    """List everything other than the source that the machine code depends on."""
    from importlib import metadata

    import llvmlite.binding as llvm

    versions = [metadata.version(package) for package in ("numba", "llvmlite")]
    cpu = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    words = _digest(*(f"native/{name}.py" for name in (*_SOURCES, *(f"kernels/{word}" for word in _WORDS))))
    return (*versions, words, platform.machine(), sys.platform, *cpu)


_ENGINE = Path(__file__).parents[1]
_SOURCES = ("compiler", "intrinsics", "tables", "kernels/tensor_guard")
_WORDS = ("math32", "work_sharing")
"""Files in native/kernels/ whose functions generated source may call."""


@functools.cache
def _digest(*files: str) -> str:
    return hashlib.sha256(b"".join((_ENGINE / file).read_bytes() for file in files)).hexdigest()


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

    return llvm.create_lljit_compiler(_target_machine(is_wide=False))


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


def _target_machine(is_wide: bool) -> Any:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    preferred = ",-prefer-256-bit" if is_wide and features.get("avx512f") else ""
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=features.flatten() + preferred,
        opt=3,
        jit=True,
        reloc="pic",
    )


def _compile(key: str, scope: Mapping[str, Any], entries: tuple[str, ...], is_wide: bool) -> CompiledModule:
    """Compile entries with Numba, store their object code, and link it."""
    import llvmlite.binding as llvm

    if importlib.import_module("numba.core.config").DISABLE_JIT:
        raise Unsupported("NUMBA_DISABLE_JIT turns Numba's compiler off")
    _initialise_llvm()
    machine = _target_machine(is_wide)
    with _vectors_of(machine) if is_wide else nullcontext():
        module, *others = [llvm.parse_assembly(_llvm_text(scope[entry], entry)) for entry in entries]
    for part in (module, *others):
        for function in part.functions:
            if not function.is_declaration and function.name not in entries:
                function.linkage = "internal"  # Numba's wrappers, eliminated once nothing calls them
    for part in others:
        module.link_in(part)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    manager = llvm.create_new_module_pass_manager()
    manager.add_global_dead_code_eliminate_pass()
    manager.run(module, passes)
    module.verify()
    image = machine.emit_object(module)
    write_object(key, image)
    return _link(key, image, entries)


@contextmanager
def _vectors_of(machine: Any) -> Iterator[None]:
    """Have Numba choose the width of vectors for a target machine meanwhile; a version without `_tm` keeps its own."""
    codegen = importlib.import_module("numba.core.registry").cpu_target.target_context.codegen()
    before = getattr(codegen, "_tm", None)
    if before is not None:
        codegen._tm = machine
    try:
        yield
    finally:
        if before is not None:
            codegen._tm = before


def _llvm_text(function: Callable[..., Any], entry: str) -> str:
    """Compile an entry to LLVM's assembly, under its own name."""
    numba: Any = importlib.import_module("numba")
    result = numba.types.int64 if function.__annotations__ else numba.types.void
    block = numba.types.CPointer(numba.types.int64)
    signature = result(*[block] * function.__code__.co_argcount)
    compiled = numba.cfunc(signature, fastmath={"contract", "nsz"}, error_model="numpy")(function)
    name = compiled.native_name
    return compiled.inspect_llvm().replace(f'"{name}"', entry).replace(name, entry)
