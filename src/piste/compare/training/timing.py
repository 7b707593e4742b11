"""The cost of a run, measured on a few steps of every candidate."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from ..plan import Plan
from ..results import Result
from .random_state import RandomState
from .smoothness import WeightTrace
from .trial import Diverged, TrainingRun

MIN_MEASURED_SECONDS = 0.01
"""The duration of the measured steps of each candidate; at least one step is measured."""


@dataclass(frozen=True)
class StepCost:
    """The cost of a candidate's runs in seconds: of the start, of one evaluation, and of one step."""

    start: float
    evaluation: float
    step: float

    def run_seconds(self, steps: int, evaluations: int) -> float:
        """The duration of a run with `steps` steps and `evaluations` evaluations."""
        return self.start + self.evaluation * evaluations + self.step * steps


def measure_step_costs(plan: Plan) -> dict[str, StepCost]:
    """The cost of each candidate, by its name. The models and optimizers used for it are discarded."""
    evaluations: dict[str, float] = {}
    costs = {}
    with RandomState(plan.seeds[0]):
        for candidate in plan.candidates:
            began = time.perf_counter()
            model = plan.task.new_model(plan.seeds[0])
            result = Result(candidate.name, candidate.optimizer, candidate.loss, plan.seeds[0], candidate.lr)
            trace = WeightTrace([p for p in model.parameters() if p.requires_grad])
            metric = plan.metric.under(candidate.convention)
            run = TrainingRun(model, candidate.new_loss(), candidate, plan.data, metric, result, trace, None)
            start, steps = time.perf_counter() - began, [0.0]
            try:
                if candidate.loss not in evaluations:  # an evaluation costs the same with every optimizer
                    run.evaluate(0)
                    evaluations[candidate.loss] = time.perf_counter() - began - start
                batches = plan.data.batches(plan.seeds[0])
                run.start([next(batches)])  # allocates the state and compiles the kernels
                steps = []
                while not steps or sum(steps) < MIN_MEASURED_SECONDS:
                    now = time.perf_counter()
                    run.step(*next(batches), len(steps) + 2)
                    steps.append(time.perf_counter() - now)
            except Diverged:
                pass  # its runs will be short; the steps measured so far count
            costs[candidate.name] = StepCost(
                start, evaluations.get(candidate.loss, 0.0), statistics.median(steps or [0.0])
            )
    return costs
