"""How long a run will take, told from a few real steps of every candidate."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from ..plan import Plan
from .random_state import Randomness
from .smoothness import WeightTrace
from .trial import Diverged, Result, Run

ENOUGH = 0.01
"""Seconds of steps that are measured of each candidate; at least one step is."""


@dataclass(frozen=True)
class Pace:
    """What a candidate's runs cost, in seconds: to begin one, to look at it once, and to make a step."""

    start: float
    look: float
    step: float

    def run(self, steps: int, looks: int) -> float:
        """The seconds of a run of so many steps that is looked at so often."""
        return self.start + self.look * looks + self.step * steps


def measure(plan: Plan) -> dict[str, Pace]:
    """The pace of each candidate, by its name. Models and optimizers are made for it and thrown away."""
    looks: dict[str, float] = {}
    paces = {}
    with Randomness(plan.seeds[0]):
        for candidate in plan.candidates:
            began = time.perf_counter()
            model = plan.task.new_model(plan.seeds[0])
            result = Result(candidate.name, candidate.optimizer, candidate.loss, plan.seeds[0], candidate.lr)
            trace = WeightTrace([p for p in model.parameters() if p.requires_grad])
            run = Run(model, candidate.new_loss(), candidate, plan.data, plan.metric, result, trace, None)
            start, steps = time.perf_counter() - began, [0.0]
            try:
                if candidate.loss not in looks:  # an evaluation costs every optimizer the same
                    run.look(0)
                    looks[candidate.loss] = time.perf_counter() - began - start
                batches = plan.data.batches(plan.seeds[0])
                run.start([next(batches)])  # makes the state, and compiles what is to be compiled
                steps = []
                while not steps or sum(steps) < ENOUGH:
                    now = time.perf_counter()
                    run.step(*next(batches), len(steps) + 2)
                    steps.append(time.perf_counter() - now)
            except Diverged:
                pass  # its runs will be short; what was measured so far stands
            paces[candidate.name] = Pace(start, looks.get(candidate.loss, 0.0), statistics.median(steps or [0.0]))
    return paces
