"""The output of the command in time: progress, interruption, and logs of other encodings."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from .conftest import TASK


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
