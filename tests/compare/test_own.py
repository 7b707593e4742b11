"""A task file: what it may return, and every way it can go wrong, each in a sentence that names the place."""

import pytest

from piste.compare import task_file
from piste.errors import PisteError

GOOD = """
import torch
from dataclasses import dataclass
from beside import COUNT

@dataclass
class Settings:
    width: int = 2

def make():
    x = torch.randn(COUNT, 2)
    return {"model": torch.nn.Linear(Settings().width, 1), "train": (x, x[:, :1]), "validation": (x, x[:, :1])}

def other():
    return {**make(), "epochs": 3}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("COUNT = 8\n")

    def write(text, name="my_task.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_good_file_gives_a_task_and_may_import_its_neighbours(file):
    path = file(GOOD)
    assert task_file.load_task(path).name == "my_task"
    assert task_file.load_task(f"{path}:make").epochs == 10
    assert task_file.load_task(f"{path}:other").epochs == 3
    assert task_file.is_task_file(f"{path}:make")
    assert not task_file.is_task_file("digits")


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        ("def make(:\n", "make", "can't be imported at line 1: SyntaxError"),
        ("x = 1\nimport nowhere_at_all\n", "make", "can't be imported at line 2: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)\n", "make", "can't be imported at line 2: SystemExit: 3"),
        ("def mkae():\n    pass\n", "make", "has no function `make`. Did you mean `mkae`?"),
        ("make = 3\n", "make", "has no function `make`."),
        (
            "def make():\n    a = 1\n    return a / 0\n",
            "make",
            ":make failed at line 3: ZeroDivisionError: division by zero",
        ),
        (
            "def make(width):\n    pass\n",
            "make",
            "make failed: TypeError: make() missing 1 required positional argument",
        ),
        ("def make():\n    pass\n", "make", "must return a dict with model, train and validation"),
        ("def make():\n    return {}\n", "make", "missing: model, train, validation."),
        ("def make():\n    return dict(modell=1)\n", "make", "unknown entry 'modell'. Did you mean `model`?"),
        (
            "def make():\n    return dict(model=1, train=1, validation=1)\n",
            "make",
            "the model must be an nn.Module or a function that makes one; received int.",
        ),
    ],
)
def test_a_broken_task_file_is_rejected_in_one_line(file, text, function, words):
    with pytest.raises(PisteError) as caught:
        task_file.load_task(f"{file(text)}:{function}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_its_neighbours(file, tmp_path):
    file(GOOD)
    with pytest.raises(PisteError) as caught:
        task_file.load_task(str(tmp_path / "my_tsk.py"))
    assert "there is no file" in str(caught.value)
    assert "Did you mean `my_task.py`?" in str(caught.value)
