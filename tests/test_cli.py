"""The command line: what it prints, the exit status, and every refusal in a sentence without a traceback."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import piste
from piste.cli import app
from piste.compare.report import files

TASK = """
import torch

def make():
    x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    model = lambda: torch.nn.Linear(2, 2)
    return {"model": model, "train": (x, y), "validation": (x, y), "epochs": 2, "batch_size": 16}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK)

    def call(*words):
        return CliRunner().invoke(app, list(words))

    return call


def test_the_version(run):
    assert run("--version").output == f"piste {piste.__version__}\n"


def test_without_a_word_it_shows_what_it_can_do(run):
    shown = run().output
    assert all(word in shown for word in ("compare", "tasks", "explain"))


def test_the_tasks_are_listed(run):
    lines = run("tasks").output.strip().split("\n")
    assert {line.split()[0] for line in lines} >= {"digits", "digits-cnn", "diabetes", "line"}
    assert all(len(line.split()) > 5 for line in lines)


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


def test_explain_shows_the_tutorial_s_first_case(run):
    done = run("explain", "l1", "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 0
    assert "4 / 4 = 1" in done.output


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "bce", "cross_entropy", "nll"])
def test_explain_serves_the_tutorial_s_other_cases(run, loss):
    done = run("explain", loss, "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 0
    assert "Traceback" not in done.output
    expected = piste.losses.named(loss)
    assert expected.__name__ in done.output


def test_explain_takes_class_indices(run):
    done = run("explain", "cross_entropy", "--input", "[[2,1,0],[0,1,2]]", "--target", "[0,2]")
    assert done.exit_code == 0
    value = torch.nn.functional.cross_entropy(torch.tensor([[2.0, 1, 0], [0, 1, 2]]), torch.tensor([0, 2])).item()
    assert f"{value:.3f}"[:4] in done.output


def test_explain_takes_further_operands_in_order(run):
    done = run("explain", "triplet_margin", "--input", "[[1,2]]", "--target", "[[1,0]]", "--more", "[[0,0]]")
    value = torch.nn.functional.triplet_margin_loss(*torch.tensor([[[1.0, 2]], [[1, 0]], [[0, 0]]])).item()
    assert done.exit_code == 0 and f"Result\n  {value:.6g}" in done.output
    lengths = "--more", "[2]", "--more", "[1]"
    done = run("explain", "ctc", "--input", "[[[-1,-1,-1]],[[-1,-1,-1]]]", "--target", "[[1]]", *lengths)
    assert done.exit_code == 0 and "sample 0:  0.901388 for 1 label\n" in done.output  # -log(3 paths of exp(-2))


@pytest.mark.parametrize("loss", ["triplet_margin", "cosine_embedding", "margin_ranking", "ctc"])
def test_explain_names_the_operands_that_are_missing(run, loss):
    done = run("explain", loss, "--input", "[[1,2],[3,4]]", "--target", "[[1,0],[2,2]]")
    assert done.exit_code == 2 and "Traceback" not in done.output
    names = piste.losses.named(loss).arguments
    listed = ", ".join(f"`{name}`" for name in names)
    flags = "--input ... --target ..." + " --more ..." * (len(names) - 2)
    words = f"here {listed}, as numbers or JSON arrays; received 2. Help: piste explain {loss} {flags}"
    assert words in " ".join(done.output.split())


def test_explain_works_a_rejected_call_through_with_its_checks_off(run):
    call = "explain", "bce", "--input", "[[1,1],[1,1]]", "--target", "[[0,1],[2,3]]"
    assert "Refused" in run(*call).output
    done = run(*call, "--check", "off")
    assert done.exit_code == 0 and "Refused" not in done.output and "Result\n  -50" in done.output
    assert "`check` must be one of" in run(*call, "--check", "no").output


def test_explain_refuses_what_is_no_json_and_no_loss(run):
    done = run("explain", "l1", "--input", "[[1,1],[1,1", "--target", "[[0,1],[2,3]]")
    assert done.exit_code == 2
    assert "piste: --input must be a JSON array of numbers, such as [[1, 1], [1, 1]]; received" in done.output
    done = run("explain", "l1", "--input", "[[1,1],[1]]", "--target", "[[0,1],[2,3]]")
    assert "piste: --input must be a JSON array of numbers" in done.output
    done = run("explain", "l3", "--input", "[1]", "--target", "[1]")
    assert done.exit_code == 2
    assert "Did you mean" in done.output


def test_explain_takes_the_aliases_that_people_use(run):
    done = run("explain", "l2", "--input", "[3]", "--target", "[1]")
    assert done.exit_code == 0
    assert "MSELoss()" in done.output and "d = 3 - 1 = 2;  2 * 2 = 4" in done.output


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


def test_explain_works_the_steps_of_an_optimizer_through(run):
    done = run("explain", "adam", "--grad", "0.5", "--lr", "0.1", "--betas", "0.9,0.99", "--steps", "2")
    assert done.exit_code == 0
    assert "Adam(lr=0.1, betas=(0.9, 0.99))" in done.output
    assert "m' = 0.9 * 0.05 + (1 - 0.9) * 0.5 = 0.095\n" in done.output and "Result\n  p = 0.8\n" in done.output
    done = run("explain", "sgd", "--param", "[1,2]", "--grad", "[1,1]", "--momentum=0.5", "--nesterov", "--lr", "1")
    assert done.exit_code == 0 and "Result\n  p = [-0.5, 0.5]" in done.output


def test_explain_takes_the_options_of_a_loss_by_flags(run):
    done = run("explain", "huber", "--input", "[3]", "--target", "[0]", "--delta", "2", "--reduction", "sum")
    assert done.exit_code == 0 and "HuberLoss(delta=2, reduction='sum')" in done.output
    assert "Result\n  4\n" in done.output
    call = "explain", "cross_entropy", "--input", "[[1,2]]", "--target", "[0]", "--weight", "[1,2]"
    assert "CrossEntropyLoss(weight=tensor of shape (2,))" in run(*call).output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adam"], "an optimizer needs a gradient to step by. Help: piste explain adam --grad 0.5"),
        (["adam", "--grad", "1", "--lr", "-1"], "`lr` must be in [0, inf); received lr=-1.0."),
        (["adam", "--grad", "1", "--lt", "1"], "Adam has no option `lt`; did you mean `lr`?"),
        (["adam", "--grad", "x"], "--grad must be a JSON array of numbers"),
        (["adam", "--grad", "1", "lr", "1"], "an option must begin with --; received 'lr'. Help: --lr 0.1."),
        (["adm"], "there is no loss or optimizer named 'adm'. Did you mean `adam`"),
        (["adm", "--grad", "1"], "there is no loss or optimizer named 'adm'. Did you mean `adam`"),
        (["l1", "--target", "1"], "--target needs --input. Help: piste explain l1 --input ... --target ..."),
        (
            ["l1"],
            "a loss needs its operands, here `input`, `target`, as numbers or JSON arrays. Help: piste explain l1 "
            "--input ... --target ...",
        ),
        (
            ["triplet_margin", "--input", "[[1,1]]", "--target", "[[0,1]]"],
            "here `anchor`, `positive`, `negative`, as numbers or JSON arrays; received 2. Help: piste explain "
            "triplet_margin --input ... --target ... --more ...",
        ),
        (["l1", "--input", "1", "--target", "2", "--more", "3"], "received 3. Help: piste explain l1 --input ... --ta"),
        (["adam", "--input", "1"], "an optimizer needs a gradient to step by. Help: piste explain adam --grad 0.5"),
        (["generator"], "here `fake`, as numbers or JSON arrays. Help: piste explain generator --input ..."),
        (["triplet_margin"], "Help: piste explain triplet_margin --input ... --target ... --more ..."),
        (["ctc"], "Help: piste explain ctc --input ... --target ... --more ... --more ..."),
    ],
)
def test_explain_names_what_is_wrong_with_a_call(run, words, told):
    done = run("explain", *words)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert told in " ".join(done.output.split())


def test_ctrl_c_keeps_what_is_done_and_says_so(tmp_path):
    (tmp_path / "my_task.py").write_text(TASK.replace('"epochs": 2', '"epochs": 60'))
    process = subprocess.Popen(
        [sys.executable, "-m", "piste", "compare", "my_task.py", "--defaults", "--seeds", "1000", "--optimizers",
         "SGD,Adam"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("[   3/2000]"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert re.search(r"Interrupted after \d+ of 2,000 runs; finished runs are kept.", rest)
    assert "Traceback" not in rest
    assert json.loads((tmp_path / "piste-compare" / "my_task" / "results.json").read_text())["results"]


def test_the_first_line_comes_before_anything_is_prepared(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "piste", "compare", "digits", "--defaults", "--epochs", "1", "--optimizers", "SGD"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = process.stdout.readline()
    process.communicate(timeout=60)
    assert first == "piste compare digits: preparing data and candidates ...\n"
    assert process.returncode == 0


def test_each_task_has_a_default_folder_of_its_own(run, tmp_path):
    words = ["--optimizers", "SGD", "--epochs", "1", "--seeds", "1"]
    (tmp_path / "my_task.py").write_text(f"{TASK}\n\ndef other():\n    return make() | {{'epochs': 3}}\n")
    for task in ("my_task.py", "my_task.py:other", "line"):
        assert run("compare", task, *words).exit_code == 0
    assert {path.name for path in (tmp_path / "piste-compare").iterdir()} == {"my_task", "my_task-other", "line"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "shift_jis"])
def test_a_log_in_another_encoding_holds_the_whole_output(encoding, tmp_path):
    (tmp_path / "my_task.py").write_text(TASK)
    done = subprocess.run(
        [sys.executable, "-c", "from piste.cli import main; main()", "compare", "my_task.py", "--seeds", "1",
         "--optimizers", "SGD,Adam", "--losses", "cross_entropy,multi_margin"],
        cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    text = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr
    assert "| candidate | lr | accuracy (higher is better) |" in text
    assert "Report, curves and numbers are in piste-compare/my_task/" in text
    assert ("SGD - cross_entropy" if encoding == "shift_jis" else "SGD · cross_entropy") in text
    assert "?" not in text


@pytest.mark.parametrize(("encoding", "word"), [("gbk", "公式"), ("cp1252", "Formula")])
def test_a_log_that_cannot_hold_the_language_of_the_user_is_in_english(encoding, word):
    done = subprocess.run(
        [sys.executable, "-m", "piste", "explain", "l1", "--input", "1", "--target", "3"],
        capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": encoding, "PISTE_LANG": "zh"},
    )  # fmt: skip
    text = done.stdout.decode(encoding)
    assert word in text and "?" not in text


def test_a_comparison_in_a_log_that_cannot_hold_chinese_is_in_english(tmp_path):
    (tmp_path / "my_task.py").write_text(TASK)
    done = subprocess.run(
        [sys.executable, "-m", "piste", "compare", "my_task.py", "--seeds", "1", "--defaults", "--optimizers", "SGD"],
        cwd=tmp_path, capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PISTE_LANG": "zh"},
    )  # fmt: skip
    text = done.stdout.decode("cp1252")
    assert "Only SGD finished" in text and "seed 0  SGD" in text and "?" not in text
    assert "只有 SGD" in (tmp_path / "piste-compare" / "my_task" / "report.md").read_text(encoding="utf-8")


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
