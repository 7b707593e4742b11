"""Steps in several processes, after a fork and on several threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from piste.engine.native import compiler, openmp
from piste.optim import OPTIMIZERS

from .process import python
from .threads import in_threads

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


def test_concurrent_and_later_processes_share_the_cache(tmp_path):
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


def test_parent_and_children_step_after_a_fork():
    assert python(FORK).splitlines() == [
        "goes on: 0",
        "starts: 0",
        "parent untouched: True",
        "parent: True [0, 0, 0]",
        "loader: 12",
    ]


@pytest.fixture
def threads():
    """Restore torch's number of threads."""
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


def test_a_step_runs_on_a_thread_other_than_the_main_thread(threads):
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


def test_without_a_thread_pool_the_caller_runs_the_whole_step(threads, monkeypatch):
    torch.set_num_threads(2)
    wanted = run(OPTIMIZERS["Adam"])
    monkeypatch.setattr(compiler, "openmp_parallel", lambda: None)
    assert equal(run(OPTIMIZERS["Adam"]), wanted)


def test_without_a_list_of_loaded_libraries_there_is_no_thread_pool(monkeypatch):
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


def test_the_thread_pool_is_that_of_torch():
    first, *_ = openmp._openmp_libraries()
    assert Path(torch.__file__).parent.parent in first.parents
    assert openmp.openmp_parallel() is not None
