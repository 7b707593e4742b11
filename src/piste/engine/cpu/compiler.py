"""Machine code from the source of a kernel: compiled by Numba once, kept on disk, called by its address.

A kernel is Python source that Numba understands, with functions of the address of an int64 table that says where
everything is; one that is declared `-> int` gives a number back. What Numba makes of it is stored as an
object file under a key that holds all it depends on, so that later processes need only the linker of llvmlite, and
neither Numba nor its import.
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
import tempfile
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_MAGIC = b"piste object 1\n"
_lock = threading.RLock()
_loaded: dict[str, Kernel] = {}
_linked_so_far = itertools.count()  # the linker knows a library by its name, for good


class Kernel:
    """A compiled source: each of its entry functions by name, to be called with the address of a table."""

    def __init__(self, entries: dict[str, int], keep: Any) -> None:
        self._keep = keep  # the code lives as long as its library
        self.addresses = entries
        call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self.call: dict[str, Callable[[Any], int]] = {name: call(address) for name, address in entries.items()}

    def parallel(self, entry: str, table: int, threads: int) -> None:
        """Run one entry on every thread of torch's own team at once; the entry shares out the work by itself."""
        team = team_of_torch()
        if threads > 1 and team is not None:
            team(self.addresses[entry], table, threads, 0)
        else:
            self.call[entry](table)


ROOM = 512
"""The words of `room()` in machine code."""
CONTENT = bytes.__basicsize__ - 1
"""How far into a bytes object its content begins."""
_NAME = ctypes.create_string_buffer(b"kernel")
_FASTCALL = 0x80
_ANSWER = f"""
def answer(own, given, many) -> int:
    words = pointer(place(own) + {CONTENT}, int64)
    said = words[3] if call2(words[0], words[1], place(given)) != 0 else words[2]
    call1(words[4], said)
    return said
"""


def builtin(kernel: Kernel, entry: str, table: array[int], *kept: object) -> Callable[..., bool]:
    """An entry `(table, given) -> int` as a function of Python's own kind, which says whether the answer was not 0.

    `given` is where the addresses of the Python objects lie that the function is called with: there is nothing to
    convert, which takes longer than many a kernel runs. It keeps Python's lock, and trusts its caller.
    """
    words = kernel.addresses[entry], table.buffer_info()[0], id(False), id(True), address(ctypes.pythonapi.Py_IncRef)
    code = load(_ANSWER, ("answer",)).addresses["answer"]
    definition = ctypes.addressof(_NAME), code, _FASTCALL, 0  # CPython's PyMethodDef
    own = array("q", [*words, *definition]).tobytes()
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    # The function keeps what it is given as its self and its module: its own definition, and all that it refers to.
    define = make(address(ctypes.pythonapi.PyCFunction_NewEx))
    return define(id(own) + CONTENT + 8 * len(words), own, (kernel, table, *kept))


def load(source: str, entries: tuple[str, ...]) -> Kernel:
    """The kernel of a source: from this process, from disk, or compiled now."""
    key = hashlib.sha256("\0".join([source, *entries, *_surroundings()]).encode()).hexdigest()[:40]
    kernel = _loaded.get(key)
    if kernel is None:
        with _lock:
            kernel = _loaded.get(key)
            if kernel is None:
                kernel = _loaded[key] = _from_disk(key, entries) or _compiled(key, source, entries)
    return kernel


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """Everything besides the source that the machine code depends on."""
    from importlib import metadata

    import llvmlite.binding as llvm

    versions = [metadata.version(package) for package in ("numba", "llvmlite")]
    cpu = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return (*versions, _digest("compiler.py", "intrinsics.py"), platform.machine(), sys.platform, *cpu)


def _digest(*files: str) -> str:
    return hashlib.sha256(b"".join(Path(__file__).with_name(file).read_bytes() for file in files)).hexdigest()


# --- the disk -------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where compiled kernels are kept: $PISTE_CACHE_DIR, or the user's cache folder."""
    if chosen := os.environ.get("PISTE_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "piste"


def _from_disk(key: str, entries: tuple[str, ...]) -> Kernel | None:
    try:
        stored = (cache_folder() / f"{key}.o").read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None
    digest, image = stored[len(_MAGIC) : len(_MAGIC) + 32], stored[len(_MAGIC) + 32 :]
    if not stored.startswith(_MAGIC) or hashlib.sha256(image).digest() != digest:
        return None  # broken: it is compiled and written again
    try:
        return _linked(key, image, entries)
    except (OSError, RuntimeError, KeyError):  # whole, and yet not to be linked here
        return None


def _to_disk(key: str, image: bytes) -> None:
    """Store an object file whole or not at all, whoever else does so at the same time."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(image).digest() + image)
            os.replace(name, folder / f"{key}.o")
        except BaseException:
            os.unlink(name)  # a full disk, or an interrupt, leaves nothing behind
            raise
    except (OSError, RuntimeError):
        pass  # without a cache every process compiles for itself


def _linked(key: str, image: bytes, entries: tuple[str, ...]) -> Kernel:
    import llvmlite.binding as llvm

    _initialise_llvm()
    builder = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    for entry in entries:
        builder.export_symbol(entry)
    library = builder.link(_linker(), f"piste_{next(_linked_so_far)}_{key}")
    return Kernel({entry: library[entry] for entry in entries}, library)


@functools.cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(_target_machine())


@functools.cache
def _initialise_llvm() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if sys.platform == "linux":  # pow, exp and their kin, where the interpreter itself doesn't carry them
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


# --- Numba ----------------------------------------------------------------------------------------------------


def _compiled(key: str, source: str, entries: tuple[str, ...]) -> Kernel:
    import llvmlite.binding as llvm

    numba: Any = importlib.import_module("numba")
    _initialise_llvm()
    _let_many_arrays_vectorise()
    from . import intrinsics

    scope: dict[str, Any] = {name: getattr(intrinsics, name) for name in intrinsics.__all__}
    exec(compile(source, f"<piste kernel {key[:8]}>", "exec"), scope)
    number, nothing, table = numba.types.int64, numba.types.void, numba.types.CPointer(numba.types.int64)
    module: Any = None
    for entry in entries:
        taken = scope[entry].__code__.co_argcount
        signature = (number if scope[entry].__annotations__ else nothing)(*[table] * taken)
        made = numba.cfunc(signature, fastmath={"contract", "nsz"}, error_model="numpy")(scope[entry])
        text = made._library.get_llvm_str().replace(f'"{made.native_name}"', entry).replace(made.native_name, entry)
        part = llvm.parse_assembly(text)
        for function in part.functions:
            if not function.is_declaration and function.name != entry:
                function.linkage = "internal"  # Numba's own wrappers, dropped once nothing calls them
        if module is None:
            module = part
        else:
            module.link_in(part)
    machine = _target_machine()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    manager = llvm.create_new_module_pass_manager()
    manager.add_global_dead_code_eliminate_pass()
    manager.run(module, passes)
    module.verify()
    image = machine.emit_object(module)
    _to_disk(key, image)
    return _linked(key, image, entries)


@functools.cache
def _let_many_arrays_vectorise() -> None:
    """LLVM gives up on a loop over more than a few arrays, whose overlap it has to rule out first."""
    import llvmlite.binding as llvm

    llvm.set_option("piste", "-runtime-memory-check-threshold=64")


# --- torch's team ---------------------------------------------------------------------------------------------

_forked = False
_team = array("q", [0])


def _after_fork() -> None:
    # The team's threads stayed behind in the parent, and waiting for them would never end.
    global _forked, _lock
    _forked, _lock = True, threading.RLock()
    _team[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def team_of_torch() -> Callable[[int, int, int, int], None] | None:
    """GOMP_parallel of the OpenMP library that torch runs on, or None where it has none or a fork has lost its team.

    Joining torch's own threads matters: they spin for a while after each of its operations, and a second team would
    fight with them for the cores.
    """
    return None if _forked else _openmp()[0]


def address_of_team() -> int:
    """Where `team_of_torch` is, for machine code that calls it; 0 where there is none."""
    return 0 if _forked else _openmp()[1]


def address_of_member() -> int:
    """Where the function is that tells a thread its number in the team; 0 where there is none."""
    return _openmp()[2]


def place_of_team() -> int:
    """Where machine code finds `address_of_team`, as it is at any time."""
    _team[0] = address_of_team()
    return _team.buffer_info()[0]


def address(function: Any) -> int:
    """Where a C function that ctypes has found lies."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _openmp() -> tuple[Callable[[int, int, int, int], None] | None, int, int]:
    """GOMP_parallel, its address and that of omp_get_thread_num, in the OpenMP library that torch runs on."""
    for path in _openmp_libraries():
        try:
            library = ctypes.CDLL(str(path))
            parallel, member = library.GOMP_parallel, library.omp_get_thread_num
        except (OSError, AttributeError):
            continue
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel, address(parallel), address(member)
    return None, 0, 0


def _openmp_libraries() -> list[Path]:
    """OpenMP libraries that this process has loaded, torch's own first."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count(" ") >= 5 and "omp" in line}
    found = [Path(path) for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp"))]
    home = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: not str(path).startswith(home))
