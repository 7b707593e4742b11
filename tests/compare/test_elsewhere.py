"""Runs in other processes: the same results as here, a killed one costs its trial alone, and nothing is left behind."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import nn

from piste.compare import compare_task, task_file
from piste.compare.execution import executor as executor_module
from piste.compare.execution import processes
from piste.compare.execution import ray as ray_module
from piste.errors import InvalidType, InvalidValue, PisteError, Unsupported
from tests.compare.small import environment, task

OPTIONS = {"optimizers": ["SGD", "Adam"], "trials": 4, "seeds": 3, "progress": False}


def all_of(found):
    results = [*found.tries, *found.results, *found.defaults]
    return [(r.role, r.candidate, r.seed, r.lr, r.status, r.steps, r.losses, r.metrics, r.scores) for r in results]


@pytest.fixture(scope="module")
def here():
    return compare_task(task(), **OPTIONS)


@pytest.fixture(scope="module")
def ray():
    """A cluster on this machine alone."""
    it = pytest.importorskip("ray")
    it.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield it
    it.shutdown()


def test_processes_find_what_one_finds(here):
    found = compare_task(task(), **OPTIONS, jobs=2)
    assert all_of(found) == all_of(here)
    assert found.verdict == here.verdict


def test_a_cluster_finds_what_one_finds(here, ray):
    found = compare_task(task(), **OPTIONS, ray="auto")
    assert all_of(found) == all_of(here)
    assert found.verdict == here.verdict
    assert ray.is_initialized()  # it wasn't ours to close


def dying(folder, times):
    """A loss whose process is killed in the midst of a run, so many times in all."""

    def loss(output, target):
        loss.calls += 1
        killed = len(list(folder.iterdir()))
        if killed < times and loss.calls == 7:
            (folder / str(killed)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(output, target)

    loss.calls = 0
    return {"cross_entropy": loss}


@pytest.mark.sample(1)
@pytest.mark.parametrize("where", [{"jobs": 2}, {"ray": "auto"}], ids=["jobs", "ray"])
def test_a_killed_worker_costs_only_its_trial(where, tmp_path, request):
    if "ray" in where:
        request.getfixturevalue("ray")
    plain = compare_task(task(loss={"cross_entropy": nn.functional.cross_entropy}), **OPTIONS)
    folder, out = tmp_path / "killed", tmp_path / "out"
    folder.mkdir()
    # The parent tries the loss once before anything is sent; no process of its own is killed by that.
    found = compare_task(task(loss=dying(folder, 2)), **OPTIONS, **where, out=out)
    assert len(list(folder.iterdir())) == 2
    assert all_of(found) == all_of(plain)


def test_a_trial_that_kills_its_process_each_time_is_told(tmp_path):
    with pytest.raises(PisteError) as caught:
        compare_task(task(loss=dying(tmp_path, 99)), **{**OPTIONS, "trials": 1}, jobs=2)
    assert str(caught.value) == (
        "every candidate failed. SGD, seed 0: the process that ran it ended 3 times (killed by SIGKILL). "
        "Help: if memory ran out, run fewer at a time with --jobs (jobs=)."
    )


def test_a_trial_that_kills_its_worker_each_time_is_reported_on_a_cluster(tmp_path, ray):
    with pytest.raises(PisteError, match="the process that ran it ended 3 times"):
        compare_task(task(loss=dying(tmp_path, 99)), **{**OPTIONS, "trials": 1}, ray="auto")


def picky(output, target):
    picky.calls += 1
    if picky.calls > 5:
        raise ValueError("five calls are enough")
    return nn.functional.cross_entropy(output, target)


picky.calls = 0


@pytest.mark.sample(1)
@pytest.mark.parametrize("where", [{"jobs": 2}, {"ray": "auto"}], ids=["jobs", "ray"])
def test_an_error_of_a_worker_is_raised_in_the_calling_process(where, request):
    if "ray" in where:
        request.getfixturevalue("ray")
    with pytest.raises(
        InvalidValue, match=r"^SGD, seed [01]: stopped after step \d: ValueError: five calls are enough$"
    ):
        compare_task(task(loss={"picky": picky}), optimizers="SGD", seeds=2, progress=False, **where)


OWN = """
import torch
from beside import WIDTH

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, WIDTH)

    def forward(self, x):
        print("a model that prints")
        return self.layer(x)

def make():
    x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    return {
        "model": Net, "train": (x, y), "validation": (x, y), "epochs": 2, "batch_size": 16,
        "loss": {"ce": lambda output, target: torch.nn.functional.cross_entropy(output, target)},
    }
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("where", [{"jobs": 2}, {"ray": "auto"}], ids=["jobs", "ray"])
def test_a_task_file_its_neighbours_and_lambdas_go_along(where, tmp_path, request, capfd, monkeypatch):
    if "ray" in where:
        request.getfixturevalue("ray")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"beside_{next(iter(where))}"
    (tmp_path / f"{name}.py").write_text("WIDTH = 2")
    path = tmp_path / f"own_{name}.py"
    path.write_text(OWN.replace("beside", name))
    plain = compare_task(task_file.load_task(str(path)), optimizers=["SGD"], seeds=2, progress=False)
    found = compare_task(task_file.load_task(str(path)), optimizers=["SGD"], seeds=2, progress=False, **where)
    assert all_of(found) == all_of(plain)


SCRIPT = """
import piste, torch

def model():
    return torch.nn.Linear(2, 2)

x = torch.randn(48, 2)
found = piste.compare(model, ((x, (x.sum(1) > 0).long()),) * 2, optimizers=["SGD"], seeds=2, epochs=2, jobs=2)
print("seeds:", found.rows[0].seeds)
"""


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "seeds: 2\n"


def workers_of(pid):
    """The processes that a process has begun and that haven't ended."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = Path(f"/proc/{int(entry)}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(entry))
    return found


def test_workers_end_and_their_evaluations_arrive(capsys):
    before = set(workers_of(os.getpid()))
    seen = []
    plan = work_plan()
    with processes.ProcessExecutor(
        plan, 2, lambda _, candidate, seed, step, *rest: seen.append((seed, step))
    ) as executor:
        executor.prepare()
        assert len(set(workers_of(os.getpid())) - before) == 2
        for seed in (0, 1):
            executor.submit(executor_module.Job("judged", "SGD", seed, seed, None))
        done = [executor.next_finished() for _ in range(2)]
        assert len(set(workers_of(os.getpid())) - before) == 2
    assert {job.seed for job, _ in done} == {0, 1}
    for job, result in done:
        assert [step for seed, step in seen if seed == job.seed] == result.steps
    assert not set(workers_of(os.getpid())) - before


def work_plan():
    from piste.compare.plan import make_plan

    return make_plan(task(), optimizers=["SGD"], seeds=2)


KILLED = """
import sys, time, torch
from piste.compare import compare_task
from tests.compare.small import task

def slow(output, target):
    time.sleep(0.05)
    return torch.nn.functional.cross_entropy(output, target)

compare_task(task(loss={"slow": slow}), optimizers=["SGD", "Adam"], seeds=50, jobs=2, out=sys.argv[1])
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_workers_end_with_their_parent_process(how, tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    asking = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "out"], env=environment(),
        start_new_session=True,
    )  # fmt: skip
    workers = wait_for(lambda: len(found := workers_of(asking.pid)) == 2 and found)
    wait_for(lambda: b"judged" in (tmp_path / "out" / "runs.db").read_bytes())
    if how == signal.SIGINT:
        os.killpg(asking.pid, how)  # as a terminal does
    else:
        asking.send_signal(how)
    code = asking.wait(timeout=60)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    if how == signal.SIGINT:
        assert code == 0
        kept = json.loads((tmp_path / "out" / "results.json").read_text())
        assert kept["interrupted"].startswith("Interrupted after ")
        assert kept["results"]


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_a_task_that_cannot_be_pickled_is_rejected():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x)

        def __deepcopy__(self, memo):
            return Stubborn()

        def __reduce__(self):
            raise TypeError("not to be pickled")

    with pytest.raises(InvalidValue) as caught:
        compare_task(task(model=Stubborn()), **OPTIONS, jobs=2)
    assert "the task can't be sent to other processes (TypeError: not to be pickled)." in str(caught.value)
    assert str(caught.value).endswith("Help: pass functions that make the model and the data.")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"jobs": 0}, InvalidValue, "`jobs` must be a whole number, at least 1; received 0."),
        ({"jobs": "2"}, InvalidType, "`jobs` must be a whole number, at least 1; received '2'."),
        ({"jobs": 2, "ray": "auto"}, InvalidValue, "give `jobs` or `ray`, not both; received 2 and 'auto'."),
        (
            {"ray": 3},
            InvalidType,
            "`ray` must be auto or the address of a Ray cluster, such as ray://host:10001; received 3.",
        ),
        ({"epochs": 2, "steps": 3}, InvalidValue, "give `epochs` or `steps`, not both; received 2 and 3."),
        ({"steps": 0}, InvalidValue, "`steps` must be a whole number, at least 1; received 0."),
    ],
)
def test_invalid_settings_of_workers_are_rejected(options, error, words):
    with pytest.raises(error) as caught:
        compare_task(task(), **{"optimizers": ["SGD"], "progress": False, **options})
    assert str(caught.value) == words


def test_without_ray_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr(ray_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"runs on a Ray cluster need a package: pip install 'piste\[ray\]'\."):
        compare_task(task(), **OPTIONS, ray="auto")


ENDING = "Help: start one with `ray start --head`, or run on this machine alone with --jobs (jobs=)."


def test_without_a_cluster_the_error_says_how_to_start_one(monkeypatch):
    def init(**options):
        raise ConnectionError("nobody is there.\nmore words")

    it = pytest.importorskip("ray")
    monkeypatch.setattr(it, "init", init)  # another test's cluster may be found else
    monkeypatch.setattr(it, "is_initialized", lambda: False)
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(), **OPTIONS, ray="auto")
    assert str(caught.value) == f"no Ray cluster runs here. {ENDING}"


@pytest.mark.parametrize("protocol", ["", "ray://"])
def test_an_address_where_nobody_answers_is_rejected_at_once(protocol, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"{protocol}127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(InvalidValue) as caught:
            compare_task(task(), **OPTIONS, ray=address)
    assert str(caught.value).startswith(f"no Ray cluster answers at {address} (")
    assert str(caught.value).endswith(f"refused). {ENDING}")


def test_a_run_s_length_in_steps():
    found = compare_task(task(), optimizers=["SGD"], seeds=1, steps=5, progress=False)
    assert found.settings["steps"] == 5
    assert found.results[0].steps[-1] == 5
    assert found.settings["epochs"] == pytest.approx(5 / 3)
