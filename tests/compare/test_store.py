"""The store of runs: stale results are refused, a comparison is extended, and folders and databases are protected."""

import errno
import functools
import pathlib
import sqlite3
import subprocess
import sys

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import IntegrityError, OperationalError
from torch import nn

from piste.compare import UnsavedReport, compare_task
from piste.compare.execution import executor as executor_module
from piste.compare.execution import store
from piste.errors import InvalidValue, PisteError
from tests.compare.small import data, environment, model, task

SGD = torch.optim.SGD


def found_by(folder, **options):
    of_task = {name: options.pop(name) for name in ("model", "train", "loss", "metric") if name in options}
    options = {"optimizers": ["SGD", "Adam"], "seeds": 2, "progress": False, **options}
    return compare_task(task(**of_task), out=folder, **options)


def numbers(found):
    results = (*found.tries, *found.results, *found.defaults)
    return sorted((r.role, r.candidate, r.seed, r.lr, r.status, *r.losses, *r.metrics) for r in results)


def heavy(momentum):
    return {"heavy": functools.partial(SGD, lr=0.1, momentum=momentum)}


def dropout(share):
    torch.manual_seed(0)
    return nn.Sequential(*model(), nn.Dropout(share))


def frozen():
    net = dropout(0.0)
    net[0].requires_grad_(False)
    return net


def scaled(factor):
    return {"scaled": lambda output, target: factor * nn.functional.cross_entropy(output, target)}


def shifted():
    x, y = data()
    return x + 0.001, y


CHANGES = [
    (
        {"optimizers": heavy(0.9)},
        {"optimizers": heavy(0.0)},
        "`heavy` was made with lr=0.1, momentum=0.9, now",
    ),
    ({"model": dropout(0.0)}, {"model": dropout(0.5)}, "the model changed."),
    ({"model": dropout(0.0)}, {"model": frozen()}, "the model changed."),
    (
        {"loss": scaled(1.0)},
        {"loss": scaled(2.0)},
        "the code of the loss `scaled`, or a value that it reads, changed. H",
    ),
    ({}, {"train": shifted()}, "the training data changed."),
    ({"metric": "accuracy"}, {"metric": (lambda output, target: 0.5, "max")}, "metric was accuracy, now <lambda>"),
]


@pytest.mark.parametrize(("before", "now", "words"), CHANGES, ids=[words for *_, words in CHANGES])
def test_results_of_something_else_are_not_shown_as_new(before, now, words, tmp_path):
    found_by(tmp_path, **before)
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path, **now)
    assert f"{tmp_path}/runs.db holds another comparison: {words}" in str(caught.value)


@pytest.mark.parametrize("more", [{"seeds": 3}, {"trials": 5}, {"optimizers": ["SGD", "Adam", "AdamW"]}], ids=str)
def test_an_extended_comparison_is_the_same_as_one_made_at_once(more, tmp_path, monkeypatch):
    few = {"seeds": 2, "trials": 3}
    found_by(tmp_path / "extended", **few)
    done = []
    run = executor_module.run_trial
    monkeypatch.setattr(executor_module, "run_trial", lambda *a, **o: (done.append(1), run(*a, **o))[1])
    extended = found_by(tmp_path / "extended", **few | more)
    count, _ = len(done), done.clear()
    at_once = found_by(tmp_path / "at once", **few | more)
    assert numbers(extended) == numbers(at_once)
    assert extended.verdict == at_once.verdict
    assert count < len(done)


def test_a_part_of_a_comparison_is_shown_without_a_run(tmp_path, monkeypatch):
    whole = found_by(tmp_path, seeds=3)
    monkeypatch.setattr(executor_module, "run_trial", lambda *_, **__: pytest.fail("ran again"))
    part = found_by(tmp_path, seeds=2, optimizers=["Adam"])
    assert [r.metrics for r in part.results] == [r.metrics for r in whole.results if r.candidate == "Adam"][:2]
    assert numbers(found_by(tmp_path, seeds=3)) == numbers(whole)


HOLDS = """
import sys, time
from pathlib import Path
from piste.compare.execution.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_rejected_until_its_process_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path)
    assert str(caught.value) == (
        f"the folder {tmp_path} is in use by another comparison (process {holder.pid}). Help: wait until it ends, or "
        f"give another folder with --out (out=)."
    )
    holder.kill()
    holder.wait()
    assert found_by(tmp_path).rows


def test_a_damaged_file_of_runs_is_rejected_with_the_way_out(tmp_path):
    (tmp_path / "runs.db").write_bytes(b"no database " * 1000)
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/runs.db can't be read: file is not a database. Help: start over with --fresh (fresh=True), or "
        f"give another folder with --out (out=)."
    )
    assert found_by(tmp_path, fresh=True).rows


def test_a_run_that_cannot_be_stored_says_so_and_keeps_those_before_it(tmp_path, monkeypatch):
    real, calls = optuna.storages.RDBStorage._create_new_trial, []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("database or disk is full")
        return real(*arguments)

    monkeypatch.setattr(optuna.storages.RDBStorage, "_create_new_trial", full)
    with pytest.raises(PisteError) as caught:
        found_by(tmp_path)
    assert str(caught.value) == (
        f"the run of SGD, seed 1 can't be stored in {tmp_path}/runs.db: database or disk is full. Runs stored before "
        f"it are kept. Help: free the disk or restore the database, and repeat the call."
    )
    monkeypatch.undo()
    done = []
    run = executor_module.run_trial
    monkeypatch.setattr(executor_module, "run_trial", lambda *a, **o: (done.append(1), run(*a, **o))[1])
    assert found_by(tmp_path).rows
    assert len(done) == 2


def test_a_plan_that_cannot_be_stored_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise StorageInternalError("a commit") from OSError("database or disk is full")

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_study_user_attr", full)
    with pytest.raises(PisteError) as caught:
        found_by(tmp_path)
    assert str(caught.value) == (
        f"the plan can't be stored in {tmp_path}/runs.db: database or disk is full. Runs stored before it are kept. "
        f"Help: free the disk or restore the database, and repeat the call."
    )


@pytest.mark.parametrize("storage", [False, True], ids=["folder", "database"])
def test_a_disk_that_is_full_after_the_tables_were_made_is_named(storage, tmp_path, monkeypatch):
    def full(*_, **__):
        raise StorageInternalError("a commit") from OSError("database or disk is full")

    monkeypatch.setattr(optuna.storages.RDBStorage, "create_new_study", full)
    options = {"storage": f"sqlite:///{tmp_path}/team.db"} if storage else {}
    with pytest.raises(InvalidValue, match=r"can't be (used|opened): database or disk is full\."):
        found_by(tmp_path / "out", **options)


def test_a_report_that_cannot_be_written_leaves_the_earlier_one_whole(tmp_path, monkeypatch):
    found_by(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "runs.db"}

    def full(self, text, **options):
        if self.name == "report.html":
            with open(self, "w") as file:
                file.write(text[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, text, **options)

    real = pathlib.Path.write_text
    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(UnsavedReport) as caught:
        found_by(tmp_path, seeds=3)
    assert str(caught.value) == (
        f"the report can't be written into {tmp_path}: No space left on device. Finished runs are kept. "
        f"Help: free the disk and repeat the call."
    )
    assert [row.seeds for row in caught.value.comparison.rows] == [3, 3]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "runs.db"} == before


def test_a_disk_without_space_for_the_file_of_runs_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        cause = sqlite3.OperationalError("database or disk is full")
        raise OperationalError("CREATE TABLE", {}, cause) from cause

    monkeypatch.setattr(optuna.storages, "RDBStorage", full)
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/runs.db can't be used: database or disk is full. Help: free the disk and check its permissions, "
        f"or give another folder with --out (out=)."
    )


def test_a_database_whose_tables_another_process_creates_is_opened_afterwards(tmp_path, monkeypatch):
    real, calls = optuna.storages.RDBStorage.__init__, []

    def raced(self, url):
        calls.append(url)
        if len(calls) == 1:
            raise IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version"))
        if len(calls) == 2:
            raise OperationalError("CREATE TABLE", {}, sqlite3.OperationalError("table studies already exists"))
        real(self, url)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", raced)
    monkeypatch.setattr(store, "CREATION_SECONDS", 0.0)
    assert found_by(tmp_path, storage=f"sqlite:///{tmp_path}/team.db").rows
    assert len(calls) == 3


def test_fresh_discards_no_runs_that_another_folder_wrote(tmp_path):
    storage = f"sqlite:///{tmp_path}/team.db"
    mine = found_by(tmp_path / "mine" / "digits", storage=storage)
    with pytest.raises(InvalidValue) as caught:
        found_by(tmp_path / "yours" / "digits", storage=storage, fresh=True)
    assert "was written from " in str(caught.value)
    assert f"{tmp_path}/mine/digits; --fresh (fresh=True) discards only the runs of this folder" in str(caught.value)
    assert numbers(found_by(tmp_path / "mine" / "digits", storage=storage)) == numbers(mine)
    assert found_by(tmp_path / "mine" / "digits", storage=storage, seeds=1, fresh=True).rows[0].seeds == 1


def test_a_value_that_the_code_changes_itself_counts_as_a_change(tmp_path):
    calls = []

    def counted(output, target):
        calls.append(1)
        return nn.functional.cross_entropy(output, target)

    found_by(tmp_path, loss=counted)
    with pytest.raises(InvalidValue, match="the code of the loss `counted`, or a value that it reads, changed"):
        found_by(tmp_path, loss=counted)
