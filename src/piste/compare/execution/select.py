"""The choice of an executor."""

from __future__ import annotations

from ...errors import InvalidValue
from ..plan import Plan
from ..task import check_whole_number
from .executor import Executor, ProgressCallback
from .processes import ProcessExecutor


def select_executor(plan: Plan, jobs: int, ray: str | None, on_evaluate: ProgressCallback) -> Executor:
    """Return the executor for this process, for `jobs` processes on this machine, or for a Ray cluster.

    Raises:
        InvalidValue: If both `jobs` and `ray` are given, or `jobs` is less than 1.
    """
    check_whole_number("jobs", jobs, least=1)
    if ray is not None:
        if jobs > 1:
            raise InvalidValue(f"give `jobs` or `ray`, not both; received {jobs} and {ray!r}.")
        from .ray import RayExecutor

        return RayExecutor(plan, ray)
    return ProcessExecutor(plan, jobs, on_evaluate) if jobs > 1 else Executor(plan, on_evaluate)
