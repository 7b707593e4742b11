"""One training run: the same start and the same batches for every candidate, evaluated at fixed steps."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..batches import Batch, concatenate, count_examples
from ..candidates import Candidate, default_lr
from ..data import Data
from ..metrics import Metric
from ..objective import Loss
from ..results import Result
from ..task import Task
from .example_scores import example_scores, sampled_scores
from .memory import peak_bytes_during, state_bytes
from .random_state import RandomState
from .smoothness import WeightTrace, descent_share, evenness

DIVERGENCE_FACTOR = 1000.0
"""A run has diverged if its loss rises by this multiple of its first loss, or is not finite."""
WARMUP_STEPS = 2
"""Steps whose memory is measured, and whose time is not."""
MAX_PATH_PARAMETERS = 2
"""The whole path of the weights is recorded for models with at most this number of parameters."""

EvaluationCallback = Callable[[int, float, float], None]
"""Called with (step, loss, metric) after each evaluation; may raise `Pruned`."""


class Pruned(Exception):
    """Raised by an evaluation callback to end a trial that can't become the best."""


class Diverged(Exception):
    """The loss of a run is not finite or far above its start; the text gives the step."""


def run_trial(
    task: Task,
    data: Data,
    metric: Metric,
    candidate: Candidate,
    *,
    seed: int,
    steps: int,
    role: str = "judged",
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
        on_evaluate: Called after each evaluation.
        on_end: Called with the trained model, unless the run diverged or was pruned.
    """
    result = Result(
        candidate.name, candidate.optimizer, candidate.loss, seed, candidate.lr, role=role,
        options=dict(candidate.options),
    )  # fmt: skip
    try:
        run = TrainingRun(task, data, metric, candidate, result, on_evaluate)
        with RandomState(seed):
            run.train(steps)
    except Diverged as diverged:
        result.status, result.note = "diverged", str(diverged)
    except Pruned as pruned:
        result.status, result.note = "stopped", str(pruned)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        step = result.steps[-1] if result.steps else 0
        result.status, result.note = "failed", f"stopped after step {step}: {type(error).__name__}: {text}".rstrip(": ")
        return result
    result.step_seconds = statistics.median(run.seconds) if run.seconds else math.nan
    if result.status == "done":
        if on_end:
            on_end(run.model)
        result.descent_share = descent_share(result.losses)
        result.evenness = evenness(result.steps, run.trace.distances())
    if run.trace.points[0].numel() <= MAX_PATH_PARAMETERS:
        result.path = [point.tolist() for point in run.trace.points]
    return result


class TrainingRun:
    """A run in progress: a new model, its loss and optimizer, and the curves so far."""

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        task: Task,
        data: Data,
        metric: Metric,
        candidate: Candidate,
        result: Result,
        on_evaluate: EvaluationCallback | None = None,
    ) -> None:
        self.objective, self.data, self.candidate, self.result = task.objective, data, candidate, result
        self.metric, self.on_evaluate = metric.under(candidate.convention), on_evaluate
        self.model, self.loss = task.new_pair(result.seed, candidate.loss_function)
        self.trace = WeightTrace([p for p in self.model.parameters() if p.requires_grad])
        self.seconds: list[float] = []

    def train(self, steps: int) -> None:
        evaluation_steps = set(self.data.evaluation_steps(steps))
        self.evaluate(0)
        batches = self.data.batches(self.result.seed)
        warmup = [next(batches) for _ in range(min(WARMUP_STEPS, steps))]
        # The first steps allocate the state and the gradients: their memory is measured, and their time is not.
        self.result.peak_bytes = peak_bytes_during(functools.partial(self.start, warmup))
        self.result.state_bytes = state_bytes(self.optimizer)
        if evaluation_steps & set(range(1, len(warmup) + 1)):
            self.evaluate(len(warmup), last=steps == len(warmup))
        for step in range(len(warmup) + 1, steps + 1):
            batch = next(batches)
            started = time.perf_counter()
            self.step(batch, step)
            self.seconds.append(time.perf_counter() - started)
            if step in evaluation_steps:
                self.evaluate(step, last=step == steps)

    def start(self, batches: list[Batch]) -> None:
        """Make the optimizer and do the first steps."""
        self.optimizer = self.candidate.new_optimizer(trained_parameters(self.model, self.loss))
        self.needs_closure = needs_closure(self.optimizer)
        if self.result.lr is None:  # the rate is the argument's default, even if some groups have their own
            self.result.lr = default_lr(self.candidate.make) or _first_lr(self.optimizer)
        for step, batch in enumerate(batches, 1):
            self.step(batch, step)

    def step(self, batch: Batch, step: int) -> None:
        if self.needs_closure:
            losses: list[torch.Tensor] = []

            def closure() -> torch.Tensor:
                losses.append(self.compute_gradients(batch, step))
                return losses[-1]

            self.optimizer.step(closure)  # type: ignore[arg-type]
            loss = losses[0]
        else:
            loss = self.compute_gradients(batch, step)
            self.optimizer.step()
        if not math.isfinite(loss.item()):  # also waits for a GPU, so that the measured time is the step's
            raise Diverged(f"the training loss was {loss.item()} at step {step}")

    def compute_gradients(self, batch: Batch, step: int) -> torch.Tensor:
        """The loss of the batch, with its gradients."""
        self.optimizer.zero_grad()
        loss = self.compute_loss(batch, step)
        loss.backward()
        return loss

    def compute_loss(self, batch: Batch, step: int) -> torch.Tensor:
        try:
            return self.objective.training_loss(self.model, batch, self.loss)
        except Exception as error:
            if step and not self.objective.is_finite(self.model, batch):
                raise Diverged(f"the model's output was not finite at step {step}") from error
            raise

    @torch.no_grad()
    def evaluate(self, step: int, *, last: bool = False) -> None:
        """Record the loss and the metric: on a part of a large validation set, and on all of it at the last step."""
        result, data = self.result, self.data
        with evaluation_mode(self.model, self.loss):
            losses = [self.compute_loss(batch, step).item() * count_examples(batch) for batch in data.training_sample]
            loss = sum(losses) / sum(map(count_examples, data.training_sample))
            scores, kept = self.scores(data.validation if last else data.quick_validation)
        value = self.metric.finish(float(scores.mean()))
        result.steps.append(step)
        result.losses.append(loss)
        result.metrics.append(value)
        if last and result.role != "search":
            result.scores = kept()
        self.trace.record()
        if not (math.isfinite(loss) and math.isfinite(value)):
            raise Diverged(f"the loss was {loss:.3g} and {self.metric.name} {value:.3g} at step {step}")
        if loss - result.losses[0] > DIVERGENCE_FACTOR * abs(result.losses[0]) > 0:
            raise Diverged(f"the loss rose from {result.losses[0]:.3g} to {loss:.3g} at step {step}")
        if self.on_evaluate:
            self.on_evaluate(step, loss, value)

    def scores(self, batches: list[Batch]) -> tuple[torch.Tensor, Callable[[], list[float]]]:
        """The scores on validation batches, and a function that returns those to keep in the result."""
        if self.metric.of_loss:
            losses = [self.compute_loss(batch, 0).item() * count_examples(batch) for batch in batches]
            mean = torch.tensor(sum(losses) / sum(map(count_examples, batches)), dtype=torch.float64)
            return mean, list
        parts = [self.objective.predict(self.model, batch, self.loss) for batch in batches]
        joined = parts[0] if len(parts) == 1 else concatenate(parts)
        if joined is None:
            scores = self.metric.scores_of_parts(parts)
            return scores, functools.partial(sampled_scores, scores)
        return self.metric.scores(*joined), functools.partial(example_scores, self.metric, *joined)


def trained_parameters(model: torch.nn.Module, loss: Loss | None) -> list[torch.nn.Parameter]:
    """The parameters that the optimizer steps, in one group: the model's, then those of the loss itself."""
    parameters = list(model.parameters())
    if isinstance(loss, torch.nn.Module):
        known = {id(p) for p in parameters}
        parameters += [p for p in loss.parameters() if id(p) not in known]
    return parameters


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` can't be called without a function that computes the loss again, as for LBFGS."""
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


@contextlib.contextmanager
def evaluation_mode(*parts: Any) -> Iterator[None]:
    """Evaluation mode of the modules inside `with`; afterwards every module is in its previous mode."""
    roots = [part for part in parts if isinstance(part, torch.nn.Module)]
    modes = [(module, module.training) for root in roots for module in root.modules()]
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _first_lr(optimizer: torch.optim.Optimizer) -> float | None:
    lr = optimizer.param_groups[0].get("lr")
    return None if lr is None else float(lr)
