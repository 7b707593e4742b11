"""Every command and every block of Python in the README does what it says."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

import piste
from piste.errors import PisteError
from tools.docs.speed import README_TENSORS, steps_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line.strip()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
FILES = {re.match(r"# (\S+\.py)\n", text)[1]: text for text in PYTHON if re.match(r"# \S+\.py\n", text)}


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300, check=False
    )


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} <= {"console", "python"}
    assert COMMANDS[:2] == ["make compare", "make test"]


def test_pip_installs_this_project_and_extras_that_it_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in (c for c in COMMANDS if c.startswith("pip ")):
        name, _, extra = shlex.split(command)[2].partition("[")
        assert name == project["name"]
        assert not extra or extra.rstrip("]") in project["optional-dependencies"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_its_targets(command):
    done = call([*shlex.split(command), "--dry-run"], ROOT)
    assert done.returncode == 0, done.stderr
    assert ("piste compare digits --out piste-compare" if "compare" in command else "-m pytest") in done.stdout


def test_the_picture_is_that_of_make_compare(tmp_path):
    done = call(
        ["piste", "compare", "digits", "--out", "piste-compare", "--epochs", "1", "--seeds", "2", "--trials", "2"],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "piste-compare" / "curves.svg").exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(("make ", "pip "))])
def test_every_other_command_runs(command, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    words = shlex.split(command)
    made = {match[1]: other for other in COMMANDS if (match := re.search(r"--out (\S+)", other))}
    for folder in words[2:] if words[1] == "diff" else ():
        assert call(shlex.split(made[folder]), tmp_path).returncode == 0
    done = call(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_the_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for text in PYTHON:
        if text not in FILES.values():
            exec(compile(text, "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "squeeze(1)" in shown  # the refused loss says what to do
    assert "| candidate | lr | rmse (lower is better) |" in shown


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_chinese_readme_has_the_same_code_links_and_sections():
    """Links lead to the Chinese page where there is one, and from each README to the other."""
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert re.findall(r"^```(\w+)\n(.*?)^```", chinese, re.MULTILINE | re.DOTALL) == BLOCKS
    ours, theirs = ({*re.findall(r"\]\(([^)#]+)\)", text)} for text in (README, chinese))
    translated = {link: re.sub(r"\.(md|svg)$", r".zh.\1", link) for link in ours}
    expected = {zh if (ROOT / zh).exists() else link for link, zh in translated.items()}
    assert {*expected, "README.md"} == {*theirs, "README.zh-CN.md"}
    assert len(re.findall("^## ", chinese, re.MULTILINE)) == len(re.findall("^## ", README, re.MULTILINE))


@pytest.mark.parametrize("call", re.findall(r"^\| `((?:nn|optim)\.[^`]+)` \|", README, re.MULTILINE))
def test_piste_refuses_the_calls_of_the_table_which_pytorch_accepts(call):
    known = {"torch": torch, "parameters": [torch.zeros(2, requires_grad=True)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broadcast operands
        eval(call, {**known, "nn": torch.nn, "optim": torch.optim})
    with pytest.raises(PisteError):
        eval(call, {**known, "nn": piste.losses, "optim": piste.optim})


def test_the_table_of_speed_is_that_of_the_measurements():
    table = steps_table(*README_TENSORS)
    assert table in README
    assert table in (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
