"""Built-in tasks, one module each, discovered automatically.

The first line of a module's docstring is its description; `make()` builds the task.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ...errors import InvalidValue, did_you_mean
from ..requirements import require
from ..task import Task


def names() -> list[str]:
    """Return the names of the built-in tasks; the file `digits_cnn.py` is the task `digits-cnn`."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def about(name: str) -> str:
    """Return the description of a task."""
    return (_module(name).__doc__ or "").strip().split("\n")[0]


def task(name: str) -> Task:
    """Return the built-in task `name`.

    Raises:
        InvalidValue: If there is no such task.
    """
    if name not in names():
        raise InvalidValue(
            f"unknown task `{name}`. {did_you_mean(name, names())} Help: give a custom task as file.py:function, "
            f"a table as data.csv with --target COLUMN."
        )
    require("`piste compare`")
    built = _module(name).make()
    built.name, built.about = name, about(name)
    return built


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
