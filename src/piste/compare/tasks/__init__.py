"""The built-in tasks: one file each, found by being there. Its first line says what for, `make()` returns the task."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ...errors import InvalidValue, did_you_mean
from ..requirements import require
from ..task import Task


def names() -> list[str]:
    """The names of the built-in tasks; the file `digits_cnn.py` is the task `digits-cnn`."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def about(name: str) -> str:
    """What a task is for: the first line of its file."""
    return (_module(name).__doc__ or "").strip().split("\n")[0]


def task(name: str) -> Task:
    """The built-in task of that name, ready to run."""
    if name not in names():
        raise InvalidValue(
            f"unknown task `{name}`. {did_you_mean(name, names())} A task of your own is given as file.py:function, "
            f"a table as data.csv with --target COLUMN."
        )
    require("`piste compare`")
    made = _module(name).make()
    made.name, made.about = name, about(name)
    return made


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
