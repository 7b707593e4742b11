"""Train a model with several losses and optimizers under equal conditions, and report the evidence.

In Python, `piste.compare` is the function; the other names are imported from this package:
`from piste.compare import Loop, Metric, Predictor, Task, UnsavedReport, compare_task, diff, table`.
"""

from .api import compare, compare_task
from .comparison import UnsavedReport
from .csv.predictor import Predictor
from .csv.task import table
from .diff import diff
from .loop import Loop
from .metrics import Metric
from .task import Task

__all__ = ["Loop", "Metric", "Predictor", "Task", "UnsavedReport", "compare", "compare_task", "diff", "table"]
