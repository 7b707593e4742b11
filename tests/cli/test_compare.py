"""`piste compare`: its flags, its results and status, and every refusal in a sentence without a traceback."""

import json
import re
import sys

import pytest

import piste
from piste.compare.report import files

from .conftest import TASK


def test_a_task_file_that_draws_random_numbers_is_the_same_task_again(run, tmp_path):
    text = TASK.replace(", generator=torch.Generator().manual_seed(0)", "").replace("lambda: ", "")
    (tmp_path / "my_task.py").write_text(text)
    words = ("compare", "my_task.py", "--optimizers", "SGD", "--defaults")
    assert run(*words, "--seeds", "2").exit_code == 0
    again = run(*words, "--seeds", "3")
    assert again.exit_code == 0, again.output
    assert "3 runs, 2 of them already finished" in again.output


def test_options_of_the_loop_are_flags_and_several_schedules_are_compared(run, tmp_path):
    words = ("compare", "my_task.py", "--optimizers", "SGD", "--defaults", "--seeds", "1", "--out", "here")
    flags = ("--warmup", "2", "--clip-norm", "1", "--accumulate", "2", "--autocast", "bfloat16", "--ema", "0.5",
             "--patience", "3", "--freeze", "bias")  # fmt: skip
    done = run(*words, "--schedule", "constant,cosine", *flags)
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "here" / "results.json").read_text())["settings"]["candidates"]
    common = "warmup=2.0, clip_norm=1.0, accumulate=2, autocast='bfloat16', ema=0.5, patience=3, freeze=('bias',)"
    assert {c["name"]: c["loop"] for c in stored} == {
        "SGD · constant": common, "SGD · cosine": f"schedule='cosine', {common}",
    }  # fmt: skip


def test_flags_of_the_loop_do_not_replace_the_loop_of_a_task(run, tmp_path):
    text = TASK.replace('"epochs": 2', '"epochs": 2, "loop": Loop(clip_norm=1.0)')
    (tmp_path / "my_task.py").write_text(f"from piste.compare import Loop\n{text}")
    done = run("compare", "my_task.py", "--ema", "0.9")
    assert done.exit_code == 2
    assert "piste: the task has a loop, which --schedule and the other options of a loop would replace" in done.stderr
    assert "received Loop(clip_norm=1.0)" in done.stderr


def test_a_table_is_shown_even_if_the_report_cannot_be_written(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "render_html", full)
    done = run("compare", "my_task.py", "--optimizers", "SGD", "--defaults", "--seeds", "2", "--out", "here")
    assert done.exit_code == 2
    assert "| SGD |" in done.output
    assert "open here/report.html" not in done.output
    assert "piste: the report can't be written into here: No space left on device." in done.stderr


def test_a_comparison_from_a_task_file(run, tmp_path):
    done = run(
        "compare", "my_task.py:make", "--optimizers", "sgd, Adam", "--seeds", "2", "--lr", "adam=0.1", "--out", "here"
    )
    assert done.exit_code == 0, done.output
    lines = done.output.split("\n")
    assert lines[0] == "piste compare my_task.py:make: preparing data and candidates ..."
    assert lines[1].startswith("my_task: 2 optimizers with cross_entropy; 2 seeds, 6 steps each")
    assert "| candidate | lr | accuracy (higher is better) |" in done.output
    assert re.search(r"\| Adam.* \| 0.1 \|", done.output)
    assert re.search(r"\| SGD.* \| 0.001 \|", done.output)
    assert "With 2 seeds only large differences can be detected" in done.output
    assert "Report, curves and numbers are in here/: open here/report.html." in done.output
    numbers = json.loads((tmp_path / "here" / "results.json").read_text())
    assert numbers["settings"]["seeds"] == [0, 1]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "curves.svg", "curves.png", "results.json", "results.csv", "runs.csv", "report.md", "report.html", "runs.db",
    }  # fmt: skip


def test_options_reach_the_runs(run, tmp_path):
    run("compare", "my_task.py", "--optimizers", "SGD", "--losses", "cross_entropy", "--epochs", "3", "--seed", "7",
        "--seeds", "1", "--lr", "0.5")  # fmt: skip
    numbers = json.loads((tmp_path / "piste-compare" / "my_task" / "results.json").read_text())
    assert numbers["settings"]["epochs"] == 3
    assert numbers["settings"]["seeds"] == [7]
    assert [row["lr"] for row in numbers["rows"]] == [0.5]


REFUSED = [
    (["digit"], "piste: unknown task `digit`. Did you mean `digits`"),
    (["nowhere.py:make"], "piste: there is no file nowhere.py."),
    (["my_task.py:mkae"], "piste: my_task.py has no function `mkae`. Did you mean `make`?"),
    (["my_task.py", "--optimizers", "adm"], "piste: unknown optimizer `adm`. Did you mean `Adam`"),
    (["my_task.py", "--losses", "cross_entrop"], "Did you mean `cross_entropy`?"),
    (["my_task.py", "--losses", "mse"], "piste: the loss `mse` failed on the model's output"),
    (["my_task.py", "--epochs", "0"], "piste: `epochs` must be a whole number, at least 1; received 0."),
    (["my_task.py", "--seeds", "0"], "piste: `seeds` must be a whole number from 1 to 1000; received 0."),
    (["my_task.py", "--seed", "-3"], "piste: `seed` must be a whole number from 0 to"),
    (["my_task.py", "--lr", "-1"], "must be a positive number; received -1.0."),
    (["my_task.py", "--lr", "nan"], "must be a positive number; received nan."),
    (
        ["my_task.py", "--lr", "fast"],
        "piste: --lr must be a number (0.01) or numbers by name (adam=0.01,sgd=0.1); received",
    ),
    (
        ["my_task.py", "--defaults", "--budget", "3s"],
        "piste: --defaults searches nothing; it excludes --trials, --search",
    ),
    (["my_task.py", "--metric", "accurcy"], "unknown metric `accurcy`"),
    (["my_task.py", "--practical", "-1"], "piste: `practical` must be in [0, inf); received practical=-1.0."),
    (["my_task.py", "--lr", "adam=0.1=2"], "piste: --lr must be a number"),
    (["my_task.py", "--lr", "adamm=0.1"], "piste: `lr` names `adamm`, which is not in this comparison."),
    (["my_task.py", "--out", "my_task.py"], "piste: the output folder my_task.py can't be written: File exists."),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refusals_are_a_sentence_and_status_two(run, words, told):
    done = run("compare", *words)
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("words", [["--seed", "abc"], ["--epochs", "many"]])
def test_text_for_a_number_is_rejected(run, words):
    done = run("compare", "digits", *words)
    assert done.exit_code == 2
    assert f"Invalid value for '{words[0]}'" in done.output


def test_debug_raises_the_error_itself(run, tmp_path):
    (tmp_path / "bad.py").write_text("def make():\n    return 1 / 0\n")
    assert run("compare", "bad.py").exit_code == 2
    error = run("compare", "bad.py", "--debug").exception
    assert isinstance(error, piste.errors.PisteError)
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_learning_rates_are_searched_unless_the_command_says_otherwise(run, tmp_path, monkeypatch):
    asked = {}
    package = sys.modules["piste.compare"]  # the name `piste.compare` is the function
    monkeypatch.setattr(package, "compare_task", lambda task, **options: asked.update(options, metric=task.metric))
    for words, expected in (
        ([], (None, True, None)),
        (["--budget", "3m"], ("3m", True, None)),
        (["--seeds", "3"], (None, True, None)),
        (["--trials", "6"], (None, False, 6)),
        (["--lr", "0.1"], (None, False, None)),
        (["--defaults"], (None, False, None)),
    ):
        run("compare", "my_task.py", *words)
        assert (asked["budget"], asked["tuned"], asked["trials"]) == expected
    run("compare", "my_task.py", "--metric", "mae, f1")
    assert asked["metric"] == ["mae", "f1"]


def test_each_task_has_a_default_folder_of_its_own(run, tmp_path):
    words = ["--optimizers", "SGD", "--epochs", "1", "--seeds", "1"]
    (tmp_path / "my_task.py").write_text(f"{TASK}\n\ndef other():\n    return make() | {{'epochs': 3}}\n")
    for task in ("my_task.py", "my_task.py:other", "line"):
        assert run("compare", task, *words).exit_code == 0
    assert {path.name for path in (tmp_path / "piste-compare").iterdir()} == {"my_task", "my_task-other", "line"}


RISING = """
import torch

def make():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return {"model": lambda: torch.nn.Linear(1, 1), "train": (x, x), "validation": (x, x), "loss": "mse",
            "metric": "rmse", "epochs": 40}
"""


def test_the_exit_status_tells_that_no_run_finished(run, tmp_path):
    (tmp_path / "rising.py").write_text(RISING)
    diverged = run("compare", "rising.py", "--optimizers", "SGD", "--seeds", "1", "--trials", "1", "--lr", "1e6")
    assert diverged.exit_code == 1, diverged.output
    assert "No candidate finished" in diverged.output
