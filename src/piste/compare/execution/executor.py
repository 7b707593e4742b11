"""One trial as a piece of work that can be sent anywhere, and who does it: this process unless said otherwise."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidValue, PisteError
from ..candidates import Candidate
from ..plan import Plan
from ..search_space import spoken
from ..task import whole_number
from ..task_file import OWN
from ..training.trial import Result, Stopped, Watch, run_trial

RETRIES = 2
"""A job whose process is killed is begun again so many times."""

Look = Callable[[Plan, Candidate, int, int, float, float], None]
"""look(plan, candidate, seed, step, loss, metric): told whenever a run is evaluated."""


@dataclass(frozen=True)
class Job:
    """A trial: what a process that holds the plan must know to run it.

    `options` are those that a search set; `bar` is the metric to keep above, by step.
    """

    role: str
    candidate: str
    number: int
    seed: int
    lr: float | None
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    bar: Mapping[int, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        rate = "" if self.lr is None else f" with lr {self.lr:.3g}"
        return f"{self.candidate}{rate}{f', {spoken(self.options)}' * bool(self.options)} and seed {self.seed}"


def do(plan: Plan, job: Job, look: Look | None = None) -> Result:
    """Run the trial, here and now."""
    plain = next(c for c in plan.candidates if c.name == job.candidate)
    candidate = dataclasses.replace(plain, lr=job.lr, options=job.options)
    started = time.perf_counter()
    result = run_trial(
        plan.task, plan.data, plan.metric, candidate, seed=job.seed, steps=plan.steps, role=job.role,
        watch=_watch(plan, job, candidate, look),
    )  # fmt: skip
    result.seconds = time.perf_counter() - started
    return result


def _watch(plan: Plan, job: Job, candidate: Candidate, look: Look | None) -> Watch:
    sign = 1 if plan.metric.higher_is_better else -1
    best = -math.inf

    def watch(step: int, loss: float, metric: float) -> None:
        nonlocal best
        if look:
            look(plan, candidate, job.seed, step, loss, metric)
        best = max(best, sign * metric)
        if best < sign * job.bar.get(step, -sign * math.inf):
            raise Stopped(f"stopped at step {step}: below the median of earlier tries")

    return watch


class Executor:
    """Does jobs, up to `workers` at a time. This one does them here, one after another, in the order they came."""

    workers = 1

    def __init__(self, plan: Plan, look: Look | None = None) -> None:
        self.plan, self.look = plan, look
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Take a job on; returns at once."""
        self._jobs.append(job)

    def finished(self) -> tuple[Job, Result]:
        """Wait for a job that was taken on, whichever is done first. Raises what the trial raised."""
        job = self._jobs.popleft()
        return job, do(self.plan, job, self.look)

    def close(self) -> None:
        """End whatever is under way."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def choose(plan: Plan, jobs: int, ray: str | None, look: Look) -> Executor:
    """Who does the jobs: this process, several on this machine, or a cluster."""
    whole_number("jobs", jobs, least=1)
    if ray is not None:
        if jobs > 1:
            raise InvalidValue(f"give `jobs` or `ray`, not both; received {jobs} and {ray!r}.")
        from .ray import Cluster

        return Cluster(plan, ray)
    if jobs > 1:
        from .processes import Processes

        return Processes(plan, jobs, look)
    return Executor(plan, look)


def packed(plan: Plan) -> bytes:
    """The plan as bytes that another process can unpack; what no import would find there goes along by value."""
    import cloudpickle

    own = [module for name, module in list(sys.modules.items()) if name.startswith(OWN)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(plan)
    except Exception as error:
        raise InvalidValue(
            f"the task can't be sent to other processes ({type(error).__name__}: {error}). "
            f"Hand in functions that make the model and the data."
        ) from error
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def lost(job: Job, why: str) -> PisteError:
    """What is said of a job whose process ended again and again."""
    return PisteError(
        f"{job}: the process that ran it ended {RETRIES + 1} times ({why}). What was finished before is kept. "
        f"If memory ran out, let fewer run at a time: --jobs (jobs=)."
    )
