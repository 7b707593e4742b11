"""Custom tasks: a function in a file, `my_task.py:make`, loaded and checked."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from ..errors import InvalidValue, did_you_mean
from .task import Task, as_task
from .training.random_state import RandomState

MODULE_PREFIX = "piste_task_"
"""The prefix of the module names of task files; no import statement finds these modules."""


def is_task_file(text: str) -> bool:
    """Return whether `text` names a file rather than a built-in task."""
    return text.partition(":")[0].endswith(".py")


def load_task(text: str) -> Task:
    """Return the task made by `file.py:function`; the function defaults to `make`.

    Random numbers that the file draws are the same each time, so that the same command makes the same task.

    Raises:
        InvalidValue: If the file or the function does not exist or fails, with the line number.
    """
    file, _, function = text.partition(":")
    path, function = Path(file), function or "make"
    with RandomState(0):
        return _load(path, function)


def _load(path: Path, function: str) -> Task:
    module = _import_file(path)
    functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    if function not in functions:
        raise InvalidValue(f"{path} has no function `{function}`. {did_you_mean(function, functions or ['make'])}")
    try:
        value = getattr(module, function)()
    except (Exception, SystemExit) as error:
        raise InvalidValue(f"{path}:{function} failed{_where(error, path)}: {_describe(error)}") from error
    task = as_task(value, f"{path}:{function}")
    if task.name == "task":
        task.name = path.stem
    return task


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        neighbours = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = f" {did_you_mean(path.name, neighbours)}" if neighbours else ""
        raise InvalidValue(f"there is no file {path}.{hint}")
    spec = importlib.util.spec_from_file_location(f"{MODULE_PREFIX}{path.stem}", path)
    assert spec and spec.loader  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidValue(f"{path} can't be imported{_where(error, path)}: {_describe(error)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """Return the line of the user's file that failed."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" at line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    return f" at line {lines[-1]}" if lines else ""


def _describe(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
