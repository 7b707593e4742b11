"""The cache of compiled kernels on disk: keys, broken files, folders that can't be written."""

from __future__ import annotations

import errno
import os
import pwd
import re
import sys
from array import array
from importlib import metadata
from pathlib import Path

import pytest

from piste.engine.native import compiler, object_cache

from .threads import in_threads

SOURCE = """
def prepare(table):
    table[0] = 7

def body(table):
    table[1] = int64(math.pow(float64(table[2]), 3.0))
"""


ENTRIES = ("prepare", "body")


def works(kernel: compiler.CompiledModule) -> bool:
    table = array("q", [0, 0, 5])
    for entry in ENTRIES:
        kernel.call[entry](table.buffer_info()[0])
    return list(table) == [7, 125, 5]


class Cache:
    """An empty cache folder, a process that has loaded nothing yet, and a count of what it compiles."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.compiled = folder, 0
        self._patch, self._compile = monkeypatch, compiler._compile
        monkeypatch.setenv("PISTE_CACHE_DIR", str(folder))
        monkeypatch.setattr(compiler, "_compile", self._counted)
        self.forget()

    def _counted(self, *args):
        self.compiled += 1
        return self._compile(*args)

    def forget(self) -> None:
        """Forget the loaded kernels, as in a new process."""
        self._patch.setattr(compiler, "_loaded", {})

    def load(self) -> compiler.CompiledModule:
        return compiler.load(SOURCE, ENTRIES)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return Cache(tmp_path / "not" / "there" / "yet", monkeypatch)


def test_a_kernel_is_compiled_once_and_later_loaded_from_disk(cache):
    assert works(cache.load())
    assert cache.load() is cache.load()
    (file,) = cache.files()
    assert file.suffix == ".o"
    before = file.read_bytes()
    cache.forget()
    assert works(cache.load())
    assert cache.compiled == 1
    assert cache.files() == [file] and file.read_bytes() == before


BROKEN = {
    "empty": lambda whole: b"",
    "garbage": lambda whole: os.urandom(1000),
    "cut short": lambda whole: whole[: len(whole) // 2],
    "only the head": lambda whole: whole[: len(object_cache._HEADER) + 32],
    "one bit": lambda whole: whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    "too long": lambda whole: whole + b"\0",
    "of an older kind": lambda whole: whole.replace(object_cache._HEADER, b"piste object 0\n"),
    "whole, but no object file": lambda whole: (
        object_cache._HEADER + object_cache.hashlib.sha256(b"no object").digest() + b"no object"
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_compiled_and_written_again(cache, broken):
    cache.load()
    (file,) = cache.files()
    whole = file.read_bytes()
    file.write_bytes(BROKEN[broken](whole))
    cache.forget()
    assert works(cache.load())
    assert cache.compiled == 2
    cache.forget()
    assert works(cache.load())
    assert cache.compiled == 2
    assert cache.files() == [file]


def test_a_folder_in_place_of_the_object_file_is_ignored(cache):
    cache.load()
    (file,) = cache.files()
    file.unlink()
    file.mkdir()
    cache.forget()
    assert works(cache.load())
    assert cache.files() == [file]


def a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")


def below_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.parent.mkdir(parents=True)
    folder.parent.write_text("a file")


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    folder.mkdir(parents=True)
    monkeypatch.setattr(object_cache.tempfile, "mkstemp", refuse)


def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    def fdopen(handle, mode):
        file = real(handle, mode)
        if "w" in mode:
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    monkeypatch.setattr(object_cache.os, "fdopen", fdopen)


def nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid):
        raise KeyError(uid)

    for name in ("PISTE_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError, match="home"):
        object_cache.cache_folder()


@pytest.mark.parametrize("spoil", [a_file, below_a_file, read_only, full, nowhere])
def test_without_a_writable_folder_every_process_compiles(cache, monkeypatch, spoil):
    spoil(cache.folder, monkeypatch)
    for n in (1, 2):
        cache.forget()
        assert works(cache.load())
        assert cache.compiled == n
    if cache.folder.is_dir():
        assert cache.files() == []


def test_a_read_only_cache_is_read(cache, monkeypatch):
    cache.load()
    cache.forget()
    read_only(Path(cache.folder, "else"), monkeypatch)
    assert works(cache.load())
    assert cache.compiled == 1


def test_an_interrupted_write_leaves_no_file(cache, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(object_cache.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.load()
    assert cache.files() == []


@pytest.mark.parametrize("changed", range(len(compiler._environment_key())))
def test_a_kernel_is_compiled_again_after_any_change_of_the_environment(cache, monkeypatch, changed):
    now = list(compiler._environment_key())
    cache.load()
    now[changed] += " changed"
    monkeypatch.setattr(compiler, "_environment_key", lambda: tuple(now))
    assert works(cache.load())
    assert cache.compiled == 2
    assert len(cache.files()) == 2


def changed(patch: pytest.MonkeyPatch, file: str) -> None:
    """Make one file of the engine read as changed."""
    compiler._digest.cache_clear()
    real = Path.read_bytes
    end = str(Path("engine", file))
    patch.setattr(Path, "read_bytes", lambda path: real(path) + b"#" * str(path).endswith(end))


def test_a_file_of_kernels_is_compiled_again_when_any_of_them_or_a_constant_changes(cache, monkeypatch):
    def load(**constants) -> int:
        cache.forget()
        compiler.load_file("cpu/kernels/mean_divisor", ("prepare",), **constants)
        return cache.compiled

    assert [load(INDEX=14), load(INDEX=14), load(INDEX=15), load(INDEX=15, WEIGHT="float64")] == [1, 1, 2, 3]
    changed(monkeypatch, "cpu/kernels/finish.py")
    assert [load(INDEX=14), load(INDEX=14)] == [4, 4]
    compiler._digest.cache_clear()


def test_an_unknown_constant_of_a_kernel_file_is_an_error(cache):
    with pytest.raises(AttributeError, match=r"kernels/mean_divisor\.py has no constant INDICES"):
        compiler.load_file("cpu/kernels/mean_divisor", ("prepare",), INDICES=1)


def test_the_key_depends_on_versions_sources_and_processor(monkeypatch):
    fresh = compiler._environment_key.__wrapped__
    now = fresh()
    assert now == compiler._environment_key()
    with monkeypatch.context() as patch:
        real = metadata.version
        for package in ("numba", "llvmlite"):
            patch.setattr(metadata, "version", lambda p, new=package: "99.9" if p == new else real(p))
            assert fresh() != now
    words = (f"kernels/{name}" for name in ("math32", "tensor_guard", "work_sharing"))
    for file in ("compiler", "intrinsics", "tables", *words):
        with monkeypatch.context() as patch:
            changed(patch, f"native/{file}.py")
            assert fresh() != now
    import llvmlite.binding as llvm

    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "another-cpu")
    assert fresh() != now


@pytest.mark.parametrize(
    ("platform", "env", "wanted"),
    [
        ("linux", {"HOME": "/h"}, "/h/.cache/piste"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/piste"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/piste"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/piste"),
        ("win32", {"HOME": "/h", "LOCALAPPDATA": "/l"}, "/l/piste"),
        ("win32", {"HOME": "/h"}, "/h/AppData/Local/piste"),
        ("linux", {"HOME": "/h", "PISTE_CACHE_DIR": "/chosen"}, "/chosen"),
        ("linux", {"HOME": "/h", "PISTE_CACHE_DIR": ""}, "/h/.cache/piste"),
    ],
)
def test_the_cache_folder_follows_platform_and_environment(monkeypatch, platform, env, wanted):
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "PISTE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(object_cache.cache_folder()) == wanted


def test_concurrent_loads_compile_one_kernel(cache):
    kernels: list[compiler.CompiledModule] = []
    in_threads([lambda: kernels.append(cache.load())] * 8)
    assert cache.compiled == 1
    assert len(kernels) == 8 and len(set(map(id, kernels))) == 1
    assert works(kernels[0])


MANY_ARRAYS = """
def body(table):
    a, b, c = pointer(table[0], float32), pointer(table[1], float32), pointer(table[2], float32)
    d, e, f = pointer(table[3], float32), pointer(table[4], float32), pointer(table[5], float32)
    for k in range(table[6]):
        a[k] += f[k]
        b[k] += f[k]
        c[k] += f[k]
        d[k] += f[k]
        e[k] += f[k]
"""


def test_loops_over_many_arrays_vectorise_without_a_global_option_of_llvm(cache, monkeypatch):
    import llvmlite.binding as llvm

    def set_option(*args):
        raise AssertionError("an option of LLVM changes the code of its other users")

    texts: list[str] = []
    compile_entry = compiler._llvm_text
    monkeypatch.setattr(llvm, "set_option", set_option)
    monkeypatch.setattr(compiler, "_llvm_text", lambda *args: texts.append(compile_entry(*args)) or texts[-1])
    compiler.load(MANY_ARRAYS, ("body",))
    assert re.search(r"fadd .*<\d+ x float>", texts[0])


def test_wide_kernels_have_the_largest_vectors_and_leave_numba_as_it_was(cache, monkeypatch):
    import llvmlite.binding as llvm
    from numba.core.registry import cpu_target

    texts: list[str] = []
    compile_entry = compiler._llvm_text
    monkeypatch.setattr(compiler, "_llvm_text", lambda *args: texts.append(compile_entry(*args)) or texts[-1])
    machine = cpu_target.target_context.codegen()._tm
    narrow, wide = (compiler.load(MANY_ARRAYS, ("body",), is_wide=is_wide) for is_wide in (False, True))
    assert compiler.load(MANY_ARRAYS, ("body",), is_wide=True) is wide is not narrow
    assert cpu_target.target_context.codegen()._tm is machine
    widths = [max(map(int, re.findall(r"fadd .*<(\d+) x float>", text))) for text in texts]
    assert widths[1] == (16 if llvm.get_host_cpu_features().get("avx512f") else widths[0])
