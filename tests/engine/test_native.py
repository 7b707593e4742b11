"""Kernels on disk, in other processes, after a fork, and on many threads."""

from __future__ import annotations

import errno
import os
import pwd
import re
import sys
import threading
from array import array
from importlib import metadata
from pathlib import Path

import pytest
import torch

from piste.engine.native import compiler, object_cache, openmp
from piste.optim import OPTIMIZERS

from .process import python

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
        """As in a new process."""
        self._patch.setattr(compiler, "_loaded", {})

    def load(self) -> compiler.CompiledModule:
        return compiler.load(SOURCE, ENTRIES)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return Cache(tmp_path / "not" / "there" / "yet", monkeypatch)


# --- the cache, seen from inside ------------------------------------------------------------------------------


def test_a_kernel_is_compiled_once_kept_on_disk_and_linked_from_there(cache):
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


def test_a_folder_in_the_place_of_the_file(cache):
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
def test_without_a_folder_to_write_to_every_process_compiles(cache, monkeypatch, spoil):
    spoil(cache.folder, monkeypatch)
    for n in (1, 2):
        cache.forget()
        assert works(cache.load())
        assert cache.compiled == n
    if cache.folder.is_dir():
        assert cache.files() == []


def test_a_cache_that_can_only_be_read_is_read(cache, monkeypatch):
    cache.load()
    cache.forget()
    read_only(Path(cache.folder, "else"), monkeypatch)
    assert works(cache.load())
    assert cache.compiled == 1


def test_a_write_that_is_interrupted_leaves_nothing(cache, monkeypatch):
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
    """One file of the engine reads as if it were another."""
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


def test_a_constant_that_a_file_does_not_have_is_an_error(cache):
    with pytest.raises(AttributeError, match=r"kernels/mean_divisor\.py has no constant INDICES"):
        compiler.load_file("cpu/kernels/mean_divisor", ("prepare",), INDICES=1)


def test_the_versions_of_everything_that_makes_the_code_are_part_of_the_key(monkeypatch):
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
def test_where_the_cache_is(monkeypatch, platform, env, wanted):
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "PISTE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(object_cache.cache_folder()) == wanted


def test_threads_that_ask_at_once_share_one_kernel(cache):
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


def test_loops_over_many_arrays_vectorise_without_an_option_of_the_process(cache, monkeypatch):
    import llvmlite.binding as llvm

    def set_option(*args):
        raise AssertionError("an option of LLVM changes the code of its other users")

    texts: list[str] = []
    compile_entry = compiler._llvm_text
    monkeypatch.setattr(llvm, "set_option", set_option)
    monkeypatch.setattr(compiler, "_llvm_text", lambda *args: texts.append(compile_entry(*args)) or texts[-1])
    compiler.load(MANY_ARRAYS, ("body",))
    assert re.search(r"fadd .*<\d+ x float>", texts[0])


# --- other processes ------------------------------------------------------------------------------------------

PROCESSES = """
import hashlib, os, sys, warnings
warnings.simplefilter("error")
import torch, piste

torch.set_num_threads(1)
torch.manual_seed(0)
params = [torch.nn.Parameter(torch.randn(n)) for n in (3, 70_000)]
for p in params:
    p.grad = torch.randn_like(p)
optimizers = [piste.optim.NAdam(params), piste.optim.SGD(params, momentum=0.9)]

def report():
    for optimizer in optimizers * 2:
        optimizer.step()
        assert "eager" not in optimizer.explain()
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in params)).hexdigest()
    return f"{digest} {'numba' in sys.modules}"

read, write = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        try:
            os.write(write, f"{report()}\\n".encode())
        finally:
            os._exit(0)
for _ in range(2):
    os.wait()
os.close(write)
print(os.fdopen(read).read(), end="")
torch.set_num_threads(2)
print(report())
"""


def test_processes_that_start_together_and_a_later_one_share_the_cache(tmp_path):
    one, other, after = python(PROCESSES, PISTE_CACHE_DIR=tmp_path).splitlines()
    assert one == other
    digest, numba = one.split()
    assert numba == "True"
    assert after == f"{digest} False"  # it needs neither Numba's import nor its time, and steps to the same bits
    # two rules, fast_step, the self-test of the guard, and answer
    assert [file.suffix for file in tmp_path.iterdir()] == [".o"] * 5


FORK = """
import copy, os, signal, sys, time
import torch, piste
from torch.utils.data import DataLoader

torch.set_num_threads(2)
torch.manual_seed(0)
params = [torch.nn.Parameter(torch.randn(n)) for n in (3, 200_000)]
for p in params:
    p.grad = torch.randn_like(p)

def stepped(make, times=1):
    copies = copy.deepcopy(params)
    for copied, p in zip(copies, params):
        copied.grad = p.grad
    optimizer = make(copies)
    for _ in range(times):
        optimizer.step()
    return copies

def same(a, b):
    return all(x.detach().numpy().tobytes() == y.detach().numpy().tobytes() for x, y in zip(a, b))

def child(check):
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    return pid

def ended(pid, limit=60):
    for _ in range(limit * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"

wanted = stepped(piste.optim.Adam, 3)
optimizer = piste.optim.Adam(params)
optimizer.step()
optimizer.step()
before = [p.detach().clone() for p in params]

def goes_on():  # the same optimizer, the threads of the team gone
    optimizer.step()
    return same(params, wanted)

def starts():  # a kernel that the parent had not loaded; torch's own zeros_like needs the first line
    torch.set_num_threads(1)
    copies = [torch.nn.Parameter(p.detach()) for p in params]
    for copied, p in zip(copies, params):
        copied.grad = p.grad
    piste.optim.Lion(copies).step()
    return ended(child(lambda: True)) == 0

print("goes on:", ended(child(goes_on)))
print("starts:", ended(child(starts)))
print("parent untouched:", same(params, before))
pids = [child(goes_on) for _ in range(3)]
optimizer.step()
print("parent:", same(params, wanted), [ended(pid) for pid in pids])

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, i):
        return torch.full((200_000,), float(i))

optimizer = piste.optim.Adam(params)
stepped_beside = 0
for batch in DataLoader(Data(), batch_size=1, num_workers=2, multiprocessing_context="fork"):
    params[1].grad = batch[0]
    optimizer.step()
    stepped_beside += 1
print("loader:", stepped_beside)
"""


def test_stepping_after_a_fork():
    assert python(FORK).splitlines() == [
        "goes on: 0",
        "starts: 0",
        "parent untouched: True",
        "parent: True [0, 0, 0]",
        "loader: 12",
    ]


# --- threads --------------------------------------------------------------------------------------------------


def in_threads(jobs) -> None:
    """Run all jobs at once; what one raises is raised."""
    raised: list[BaseException] = []
    together = threading.Barrier(len(jobs))

    def guarded(job) -> None:
        try:
            together.wait()
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


@pytest.fixture
def threads():
    """Put torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(cls, steps: int = 6, before_step=lambda t: None) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(n, generator=make)) for n in (5, 90_000, 16_384)]
    optimizer = cls(params)
    for t in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=make)
        before_step(t)
        optimizer.step()
    return [p.detach() for p in params]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


TEAM = ("Adam", "SGD", "RMSprop", "Lion")


def test_optimizers_step_concurrently_on_several_threads(threads):
    torch.set_num_threads(2)
    wanted = {name: run(OPTIMIZERS[name]) for name in TEAM}
    found: dict[str, list[torch.Tensor]] = {}
    in_threads([lambda name=name: found.update({name: run(OPTIMIZERS[name])}) for name in TEAM])
    for name in TEAM:
        assert equal(found[name], wanted[name]), name


def test_a_step_on_another_thread_than_the_main_one(threads):
    torch.set_num_threads(2)
    wanted, found = run(OPTIMIZERS["Adam"]), []
    in_threads([lambda: found.append(run(OPTIMIZERS["Adam"]))])
    assert equal(found[0], wanted)


def test_the_number_of_threads_changes_no_bit(threads):
    torch.set_num_threads(1)
    alone = run(OPTIMIZERS["Adam"])
    for counts in ([2] * 6, [1, 2, 1, 2, 2, 1], [3, 1, 8, 2, 5, 1]):
        assert equal(
            run(OPTIMIZERS["Adam"], before_step=lambda t, counts=counts: torch.set_num_threads(counts[t])), alone
        )


def test_without_a_team_to_join_the_caller_does_all_of_it(threads, monkeypatch):
    torch.set_num_threads(2)
    wanted = run(OPTIMIZERS["Adam"])
    monkeypatch.setattr(compiler, "openmp_parallel", lambda: None)
    assert equal(run(OPTIMIZERS["Adam"]), wanted)


def test_without_a_list_of_loaded_libraries_there_is_no_team(monkeypatch):
    def unreadable(self):
        raise OSError("no /proc here")

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert openmp._openmp_libraries() == []
    assert openmp._openmp.__wrapped__() == (None, 0, 0)
    assert openmp.why_single_threaded() is None
    monkeypatch.setattr(openmp, "_openmp", lambda: (None, 0, 0))
    assert openmp.why_single_threaded() == (
        "PyTorch's thread pool has no GNU OpenMP interface (GOMP_parallel) in this process"
    )


def test_a_fork_says_why_its_kernels_run_on_one_thread(monkeypatch):
    monkeypatch.setattr(openmp, "_forked", True)
    assert openmp.why_single_threaded() == "the process is a fork, and PyTorch's threads stayed in its parent"
    assert openmp.openmp_parallel() is None and openmp.parallel_address() == 0


def test_the_team_is_torchs_own():
    first, *_ = openmp._openmp_libraries()
    assert Path(torch.__file__).parent.parent in first.parents
    assert openmp.openmp_parallel() is not None
