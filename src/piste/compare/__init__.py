"""Train a model with several losses and optimizers under equal conditions, and report the evidence.

In Python, `piste.compare` is the function; the other names are imported from this package:
`from piste.compare import Loop, Metric, Predictor, Task, UnsavedReport, compare_task, diff, table`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .api import compare

if TYPE_CHECKING:
    from .comparison import UnsavedReport
    from .comparison_diff import diff
    from .csv.predictor import Predictor
    from .csv.task import table
    from .loop import Loop
    from .metrics import Metric
    from .run import compare_task
    from .task import Task

__all__ = ["Loop", "Metric", "Predictor", "Task", "UnsavedReport", "compare", "compare_task", "diff", "table"]

_MODULES = {
    "Loop": ".loop",
    "Metric": ".metrics",
    "Predictor": ".csv.predictor",
    "Task": ".task",
    "UnsavedReport": ".comparison",
    "compare_task": ".run",
    "diff": ".comparison_diff",
    "table": ".csv.task",
}
"""The modules of the names that are imported at first use: programs that only train need none of them."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
