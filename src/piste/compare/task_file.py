"""A task of one's own: a function in a file, `my_task.py:make`, checked and explained where it goes wrong."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ..errors import InvalidValue, did_you_mean
from .task import Task, as_task

OWN = "piste_task_"
"""How the modules of task files are named; no import finds them."""


def is_own(text: str) -> bool:
    """Whether `text` means a file rather than a built-in task."""
    return text.partition(":")[0].endswith(".py")


def load(text: str) -> Task:
    """The task that `file.py:function` makes; the function is `make` if none is named."""
    file, _, function = text.partition(":")
    path, function = Path(file), function or "make"
    module = _imported(path)
    functions = [name for name, it in vars(module).items() if callable(it) and not name.startswith("_")]
    if function not in functions:
        raise InvalidValue(f"{path} has no function `{function}`. {did_you_mean(function, functions or ['make'])}")
    try:
        made = getattr(module, function)()
    except (Exception, SystemExit) as error:
        raise InvalidValue(f"{path}:{function} failed{_where(error, path)}: {_short(error)}") from error
    task = as_task(made, f"{path}:{function}")
    if task.name == "task":
        task.name = path.stem
    return task


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = f" {did_you_mean(path.name, beside)}" if beside else ""
        raise InvalidValue(f"there is no file {path}.{hint}")
    spec = importlib.util.spec_from_file_location(f"{OWN}{path.stem}", path)
    assert spec and spec.loader  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidValue(f"{path} can't be imported{_where(error, path)}: {_short(error)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """The line of the user's file where it went wrong."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" at line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    return f" at line {lines[-1]}" if lines else ""


def _short(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
