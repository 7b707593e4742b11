"""Comparisons in a database that several processes, folders and machines write into."""

import getpass
import subprocess
import sys

import pytest

from piste.compare.execution import executor as executor_module
from piste.errors import InvalidValue, PisteError
from tests.compare.postgres import find_programs, running_server
from tests.compare.small import environment
from tests.compare.test_store import found_by, numbers

PROGRAMS = find_programs()


@pytest.fixture(scope="module")
def server():
    if PROGRAMS is None:
        pytest.skip("needs initdb and pg_ctl of PostgreSQL, and psycopg")
    with running_server(PROGRAMS) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/team.db"
    return request.getfixturevalue("server").url


HOLDS = """
import sys
from piste.compare.execution.lock import DatabaseLock
lock = DatabaseLock(sys.argv[1], sys.argv[2], "the comparison")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.sample(1)
def test_a_comparison_in_use_is_rejected_until_its_process_ends(storage, tmp_path):
    name = f"{getpass.getuser()}/held"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, storage, name], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path / "held", storage=storage)
    owner = f" (process {holder.pid})" if storage.startswith("sqlite") else ""
    assert str(caught.value) == (
        f"{name} in {storage} is in use by another comparison{owner}. Help: wait until it ends, or give another folder "
        f"with --out (out=)."
    )
    assert found_by(tmp_path / "free", storage=storage).rows  # another comparison in the same database
    holder.kill()
    holder.wait()
    assert found_by(tmp_path / "held", storage=storage).rows
    assert found_by(tmp_path / "held", storage=storage).rows  # released at the end


AT_ONCE = """
import sys, time
from pathlib import Path
import torch
from piste.compare import compare_task
from piste.errors import InvalidValue
from tests.compare.small import task

told = Path(sys.argv[2])

class Waits(torch.optim.SGD):
    def step(self, closure=None):
        while not told.exists():
            time.sleep(0.05)
        return super().step(closure)

try:
    found = compare_task(
        task(name="at once"), optimizers={"SGD": Waits}, lr=0.1, seeds=4, storage=sys.argv[1], progress=False
    )
    print("runs", len(found.results))
except InvalidValue as error:
    told.touch()
    print(error)
"""


@pytest.mark.sample(1)
def test_of_two_processes_without_a_folder_one_works_and_the_other_is_told(storage, tmp_path):
    command = [sys.executable, "-c", AT_ONCE, storage, tmp_path / "told"]
    both = [subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].strip() for process in both]
    told, works = sorted(printed, key=lambda text: text.startswith("runs"))
    assert works == "runs 4"
    assert "at once in" in told and "is in use by another comparison" in told


def test_a_lost_server_costs_what_was_running_and_the_same_call_goes_on(server, tmp_path, monkeypatch):
    run, done = executor_module.run_trial, []

    def losing(*arguments, **options):
        done.append(1)
        if len(done) == 3:
            server.stop()
        return run(*arguments, **options)

    monkeypatch.setattr(executor_module, "run_trial", losing)
    with pytest.raises(PisteError) as caught:
        found_by(tmp_path / "lost", storage=server.url)
    assert str(caught.value).startswith(
        f"the run of SGD, seed 1 can't be stored in {getpass.getuser()}/lost in {server.url}: "
    )
    assert str(caught.value).endswith(
        "Runs stored before it are kept. Help: free the disk or restore the database, and repeat the call."
    )
    with pytest.raises(InvalidValue, match="can't be opened: "):
        found_by(tmp_path / "lost", storage=server.url)
    server.start()
    found = found_by(tmp_path / "lost", storage=server.url)
    assert len(done) == 3 + 2  # two of four runs were stored
    assert numbers(found) == numbers(found_by(tmp_path / "whole"))


def test_fresh_discards_no_runs_to_which_another_folder_has_added(storage, tmp_path):
    mine, yours = tmp_path / "mine" / "added", tmp_path / "yours" / "added"
    found_by(mine, storage=storage)
    whole = found_by(yours, storage=storage, seeds=3)
    for folder, other in ((mine, yours), (yours, mine)):
        with pytest.raises(InvalidValue) as caught:
            found_by(folder, storage=storage, fresh=True)
        assert f"{other}; --fresh (fresh=True) discards only the runs of this folder" in str(caught.value)
    assert numbers(found_by(mine, storage=storage, seeds=3)) == numbers(whole)
