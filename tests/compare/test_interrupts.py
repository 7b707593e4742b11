"""Ctrl-C, wherever it arrives: what is finished is kept and told, and nothing is torn."""

import json
import os
import signal
import subprocess
import sys
import threading

import optuna
import pytest

from piste.compare import compare_task
from piste.compare.execution.interrupts import Interrupts
from piste.compare.report import files
from tests.compare.small import environment, task

OPTIONS = {"optimizers": ["SGD", "Adam"], "seeds": 3, "progress": False}


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def within(monkeypatch, owner, name, *, at=1, times=1):
    """Ctrl-C is pressed, `times` times, inside the call of that number."""
    real, calls = getattr(owner, name), []

    def pressed(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            for _ in range(times):
                ctrl_c()
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, pressed)


@pytest.mark.parametrize("where", [{}, {"jobs": 2}], ids=["here", "jobs"])
@pytest.mark.parametrize("at", [1, 4])
def test_ctrl_c_waits_until_a_run_is_stored(where, at, tmp_path, monkeypatch):
    within(monkeypatch, optuna.storages.RDBStorage, "_create_new_trial", at=at)
    found = compare_task(task(), **OPTIONS, **where, out=tmp_path)
    assert found.interrupted == f"Interrupted after {at} of 6 runs; finished runs are kept."
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == at
    without = "No seed ran with every candidate, so there is no verdict."
    assert (found.verdict.sentence == without) == (at == 1)
    monkeypatch.undo()
    again = compare_task(task(), **OPTIONS, out=tmp_path)
    assert not again.interrupted
    assert again.verdict == compare_task(task(), **OPTIONS).verdict


@pytest.mark.sample(3)
@pytest.mark.parametrize("at", range(1, 8))
def test_ctrl_c_in_any_run_of_a_search_leaves_a_report_of_the_candidates_with_final_runs(at, tmp_path, monkeypatch):
    within(monkeypatch, optuna.storages.RDBStorage, "_create_new_trial", at=at)
    found = compare_task(task(), **OPTIONS | {"seeds": 1}, trials=3, out=tmp_path)
    assert found.interrupted
    kept = json.loads((tmp_path / "results.json").read_text())
    assert len(kept["tries"]) + len(kept["results"]) + len(kept["defaults"]) == at
    assert {row["name"] for row in kept["rows"]} == {r["candidate"] for r in kept["results"]}
    assert (tmp_path / "report.html").exists() == (tmp_path / "learning_rates.svg").exists() == bool(kept["rows"])


def test_a_second_ctrl_c_does_not_wait_for_a_store_that_hangs(tmp_path, monkeypatch):
    within(monkeypatch, optuna.storages.RDBStorage, "_create_new_trial", at=3, times=2)
    found = compare_task(task(), **OPTIONS, out=tmp_path)
    assert found.interrupted == "Interrupted after 2 of 6 runs; finished runs are kept."
    assert (tmp_path / "report.html").exists()


def test_a_second_ctrl_c_during_the_report_leaves_it_whole(tmp_path, monkeypatch):
    within(monkeypatch, optuna.storages.RDBStorage, "_create_new_trial", at=2)
    within(monkeypatch, files, "curve_figure")
    found = compare_task(task(), **OPTIONS, out=tmp_path)
    assert found.interrupted == "Interrupted after 2 of 6 runs; finished runs are kept."
    assert (tmp_path / "curves.svg").exists()


def test_ctrl_c_waits_until_the_report_is_written(tmp_path, monkeypatch):
    within(monkeypatch, files, "curve_figure")
    with pytest.raises(KeyboardInterrupt):
        compare_task(task(), **OPTIONS, out=tmp_path)
    assert (tmp_path / "curves.svg").exists()
    assert json.loads((tmp_path / "results.json").read_text())["interrupted"] == ""


def test_a_second_ctrl_c_does_not_wait_for_the_report(tmp_path, monkeypatch):
    within(monkeypatch, files, "curve_figure", times=2)
    with pytest.raises(KeyboardInterrupt):
        compare_task(task(), **OPTIONS, out=tmp_path)
    assert not (tmp_path / "curves.svg").exists()


SCRIPT = """
import os, signal, sys
import optuna
from piste.compare import compare_task
from tests.compare.small import task

real = optuna.storages.RDBStorage._create_new_trial
def stored(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments)
optuna.storages.RDBStorage._create_new_trial = stored
compare_task(task(), optimizers=["SGD", "Adam"], seeds=50, out=sys.argv[1])
"""


def test_ctrl_c_with_the_first_result_ends_the_process_in_order(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "out"], env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["interrupted"] == "Interrupted after 1 of 100 runs; finished runs are kept."


def test_sigterm_ends_a_comparison_as_ctrl_c_does(tmp_path):
    (tmp_path / "script.py").write_text(
        SCRIPT.replace("signal.SIGINT", "signal.SIGTERM")
        + "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "out"], env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["interrupted"] == "Interrupted after 1 of 100 runs; finished runs are kept."


def test_during_the_import_it_ends_the_command_in_a_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), variables["PYTHONPATH"]])
    ran = subprocess.run(
        [sys.executable, "-c", "from _piste_command import main; main()", "tasks"], env=variables,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "piste: interrupted.\n")


def test_ctrl_c_raises_once():
    done = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        ctrl_c()
        with interrupts.deferred():
            done.append(1)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nested_deferrals_wait_for_the_outer_end():
    done = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.deferred():
        with interrupts.deferred():
            ctrl_c()
        done.append(1)
    assert done


def test_a_deferred_interrupt_hides_no_error():
    with pytest.raises(ValueError, match="a reason"), Interrupts() as interrupts:
        interrupts.defer()
        ctrl_c()
        raise ValueError("a reason")


def test_custom_handlers_and_other_threads_stay_as_they_are():
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        with Interrupts() as interrupts, interrupts.deferred():
            ctrl_c()
            assert came
    finally:
        signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=lambda: came.append(compare_task(task(), **OPTIONS)))
    thread.start()
    thread.join()
    assert len(came) == 2
