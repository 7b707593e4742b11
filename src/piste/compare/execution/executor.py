"""Jobs, and the executor that runs them in this process, one after another."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidValue
from ..candidates import Candidate
from ..plan import Plan
from ..results import Result
from ..search_space import format_options
from ..task_file import MODULE_PREFIX
from ..training.training_run import EvaluationCallback
from ..training.trial import Pruned, run_trial

MAX_RETRIES = 2
"""The number of times a job is restarted after its process was killed."""

ProgressCallback = Callable[[Plan, Candidate, int, int, float, float], None]
"""Called with (plan, candidate, seed, step, loss, metric) after each evaluation."""


@dataclass(frozen=True)
class Job:
    """One trial, as a process that holds the plan needs it.

    Attributes:
        number: Distinguishes the trials of the same role and candidate.
        options: The options set by a search.
        pruning_thresholds: The metric that the trial must have reached, by step.
    """

    role: str
    candidate: str
    number: int
    seed: int
    lr: float | None
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    pruning_thresholds: Mapping[int, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        lr = "" if self.lr is None else f", lr {self.lr:.3g}"
        return f"{self.candidate}{lr}{f', {format_options(self.options)}' * bool(self.options)}, seed {self.seed}"

    def failed(self, plan: Plan, note: str) -> Result:
        """Return the result of a run that an exception or the end of its process stopped."""
        candidate = next(c for c in plan.candidates if c.name == self.candidate)
        return Result(
            candidate.name, candidate.optimizer, candidate.loss, self.seed, self.lr, "failed", note, self.role,
            options=dict(self.options),
        )  # fmt: skip


def run_job(plan: Plan, job: Job, on_evaluate: ProgressCallback | None = None) -> Result:
    """Run the trial in this process."""
    part = plan.part(job.seed)
    default = part.candidate(next(c for c in plan.candidates if c.name == job.candidate), plan.task)
    candidate = dataclasses.replace(default, lr=job.lr, options=job.options)
    started = time.perf_counter()
    result = run_trial(
        part.task, part.data, part.metric, candidate, seed=job.seed, steps=plan.steps, role=job.role, also=part.also,
        on_evaluate=_evaluation_callback(plan, job, candidate, on_evaluate),
    )  # fmt: skip
    result.seconds = time.perf_counter() - started
    return result


def _evaluation_callback(
    plan: Plan, job: Job, candidate: Candidate, on_evaluate: ProgressCallback | None
) -> EvaluationCallback:
    """Report each evaluation, and prune the trial if its best metric so far is below the threshold."""
    sign = 1 if plan.metric.higher_is_better else -1
    best = -math.inf

    def callback(step: int, loss: float, metric: float) -> None:
        nonlocal best
        if on_evaluate:
            on_evaluate(plan, candidate, job.seed, step, loss, metric)
        best = max(best, sign * metric)
        if best < sign * job.pruning_thresholds.get(step, -sign * math.inf):
            raise Pruned(f"pruned at step {step}: worse than the median of earlier trials")

    return callback


class Executor:
    """Runs jobs, up to `workers` at a time; this base class runs them in this process in order of submission."""

    workers = 1

    def __init__(self, plan: Plan, on_evaluate: ProgressCallback | None = None) -> None:
        self.plan, self.on_evaluate = plan, on_evaluate
        self._jobs: deque[Job] = deque()

    def prepare(self) -> None:
        """Start the workers; return when they can take jobs."""

    def submit(self, job: Job) -> None:
        """Accept a job and return at once."""
        self._jobs.append(job)

    def next_finished(self) -> tuple[Job, Result]:
        """Wait for the next submitted job that ends; a failed one has a result with the reason."""
        job = self._jobs.popleft()
        return job, run_job(self.plan, job, self.on_evaluate)

    def close(self) -> None:
        """End all running jobs."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def pickle_plan(plan: Plan) -> bytes:
    """Pickle the plan for another process. Modules of task files are pickled by value, since imports don't find them.

    Raises:
        InvalidValue: If the model or the data can't be pickled.
    """
    import cloudpickle

    task_files = [module for name, module in list(sys.modules.items()) if name.startswith(MODULE_PREFIX)]
    for module in task_files:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(plan)
    except Exception as error:
        raise InvalidValue(
            f"the task can't be sent to other processes ({type(error).__name__}: {error}). "
            f"Help: pass functions that make the model and the data."
        ) from error
    finally:
        for module in task_files:
            cloudpickle.unregister_pickle_by_value(module)


def describe_loss(reason: str) -> str:
    """Return the note of a job whose process ended repeatedly."""
    return (
        f"the process that ran it ended {MAX_RETRIES + 1} times ({reason}). "
        f"Help: if memory ran out, run fewer at a time with --jobs (jobs=)."
    )
