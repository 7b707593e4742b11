"""One trial: a training run, and its outcome as a result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from ...engine import raise_reported
from ...errors import PisteError, english
from ..candidates import Candidate
from ..data import Data
from ..metrics import Metric
from ..results import Result
from ..task import Task
from .random_state import RandomState
from .smoothness import descent_share, evenness
from .training_run import Diverged, EvaluationCallback, TrainingRun

MAX_PATH_PARAMETERS = 2
"""The whole path of the weights is recorded for models with at most this number of parameters."""


class Pruned(Exception):
    """Raised by an evaluation callback to end a trial that can't become the best."""


def run_trial(
    task: Task,
    data: Data,
    metric: Metric,
    candidate: Candidate,
    *,
    seed: int,
    steps: int,
    role: str = "judged",
    also: Sequence[Metric] = (),
    on_evaluate: EvaluationCallback | None = None,
    on_end: Callable[[torch.nn.Module], None] | None = None,
) -> Result:
    """Train a new model for `steps` steps.

    An exception of the model, the loss, the metric or the optimizer ends the run, and is the note of its result.

    Args:
        task: The task whose model is trained.
        data: The batches and the evaluation sets.
        metric: The metric of the evaluations.
        candidate: The optimizer, its options, and the loss.
        seed: The seed of the weights, the batches and all random numbers.
        steps: The number of training steps.
        role: The role in the result; see `Result`.
        also: Further metrics of the trained model.
        on_evaluate: Called after each evaluation.
        on_end: Called with the trained model, unless the run diverged or was pruned.
    """
    result = Result(
        candidate.name, candidate.optimizer, candidate.loss, seed, candidate.lr, role=role,
        options=dict(candidate.options),
    )  # fmt: skip
    try:
        run = TrainingRun(task, data, metric, candidate, result, steps, also, on_evaluate)
        with RandomState(seed):
            _train(run)
    except Diverged as diverged:
        result.status, result.note = "diverged", str(diverged)
    except Pruned as pruned:
        result.status, result.note = "stopped", str(pruned)
    except (Exception, SystemExit) as error:
        text = english(error).strip().split("\n")[0]
        step = result.steps[-1] if result.steps else 0
        result.status, result.note = "failed", f"stopped after step {step}: {type(error).__name__}: {text}".rstrip(": ")
        return result
    finally:
        drop_reports()
    result.step_seconds = typical_step(run.seconds, candidate.loop.accumulate)
    if result.status == "done":
        if on_end:
            run.keep_evaluated_weights()
            on_end(run.judged)
        result.descent_share = descent_share(result.losses)
        result.evenness = evenness(result.steps, run.trace.distances())
    if run.trace.points[0].numel() <= MAX_PATH_PARAMETERS:
        result.path = [point.tolist() for point in run.trace.points]
    return result


def _train(run: TrainingRun) -> None:
    """Train; a value that a GPU has rejected is raised in place of the NaN that it caused."""
    try:
        run.train()
    except (Diverged, Pruned):
        raise_reported(wait=True)
        raise
    raise_reported(wait=True)


def drop_reports() -> None:
    """Drop the values that a GPU has rejected and not reported yet; they would fail the next run."""
    while True:
        try:
            raise_reported(wait=True)
        except PisteError:
            continue
        return


def typical_step(seconds: list[float], accumulate: int) -> float:
    """Return the median time of a step, in groups of the steps that make one update; NaN without a step."""
    groups = [seconds[at : at + accumulate] for at in range(0, len(seconds), accumulate)]
    return statistics.median(map(statistics.fmean, groups)) if groups else math.nan
