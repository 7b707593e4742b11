"""The cost of a run, measured on a few steps of every candidate."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from ..plan import Plan
from ..results import Result
from .random_state import RandomState
from .training_run import TrainingRun
from .trial import drop_reports, typical_step

MIN_MEASURED_SECONDS = 0.01
"""The duration of the measured steps of each candidate; at least one step is measured."""


@dataclass(frozen=True)
class StepCost:
    """The cost of a candidate's runs in seconds: of the start, of one evaluation, and of one step."""

    start: float
    evaluation: float
    step: float

    def run_seconds(self, steps: int, evaluations: int) -> float:
        """Return the duration of a run with `steps` steps and `evaluations` evaluations."""
        return self.start + self.evaluation * evaluations + self.step * steps


def measure_step_costs(plan: Plan) -> dict[str, StepCost]:
    """Return the cost of each candidate, by its name. The models and optimizers used for it are discarded.

    Kernels are compiled before anything is measured: a comparison compiles them once, not in every run.
    """
    evaluations: dict[str, float] = {}
    starts: list[float] = []
    steps: dict[str, list[float]] = {}
    seed = plan.seeds[0]
    with RandomState(seed):
        for candidate in plan.candidates:
            began = time.perf_counter()
            result = Result(candidate.name, candidate.optimizer, candidate.loss, seed, candidate.lr)
            run = TrainingRun(plan.task, plan.data, plan.metric, candidate, result, plan.steps)
            starts.append(time.perf_counter() - began)
            measured = steps.setdefault(candidate.name, [])
            try:
                if candidate.loss not in evaluations:  # an evaluation costs the same with every optimizer
                    run.evaluate(0)  # compiles the loss
                    began = time.perf_counter()
                    run.evaluate(0)
                    evaluations[candidate.loss] = time.perf_counter() - began
                batches = plan.data.batches(seed)
                first = list(itertools.islice(batches, candidate.loop.accumulate))
                run.start(first)  # allocates the state and compiles the kernels
                while len(measured) < candidate.loop.accumulate or sum(measured) < MIN_MEASURED_SECONDS:
                    batch = next(batches)
                    began = time.perf_counter()
                    run.step(batch, len(first) + len(measured) + 1)
                    measured.append(time.perf_counter() - began)
            except (Exception, SystemExit):
                pass  # its runs will diverge or fail early; the steps measured so far count
            finally:
                drop_reports()
    return {
        c.name: StepCost(
            min(starts), evaluations.get(c.loss, 0.0), typical_step(steps[c.name] or [0.0], c.loop.accumulate)
        )
        for c in plan.candidates
    }
