"""One training run: the same start and the same batches for every candidate, evaluated at fixed steps."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ...errors import InvalidValue
from ..candidates import Candidate, Loss, default_lr
from ..data import Batch, Data
from ..metrics import Metric
from ..results import Result
from ..task import Task
from .example_scores import example_scores
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
    model = task.new_model(seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    loss_function, trace = candidate.new_loss(), WeightTrace(trainable)
    with RandomState(seed):
        result = Result(
            candidate.name, candidate.optimizer, candidate.loss, seed, candidate.lr, role=role,
            options=dict(candidate.options),
        )  # fmt: skip
        run = TrainingRun(
            model, loss_function, candidate, data, metric.under(candidate.convention), result, trace, on_evaluate
        )
        try:
            run.train(steps)
        except Diverged as diverged:
            result.status, result.note = "diverged", str(diverged)
        except Pruned as pruned:
            result.status, result.note = "stopped", str(pruned)
    result.step_seconds = statistics.median(run.seconds) if run.seconds else math.nan
    if result.status == "done":
        if on_end:
            on_end(model)
        result.descent_share = descent_share(result.losses)
        result.evenness = evenness(result.steps, trace.distances())
    if trace.points[0].numel() <= MAX_PATH_PARAMETERS:
        result.path = [point.tolist() for point in trace.points]
    return result


@dataclass
class TrainingRun:
    """A run in progress: the model, its loss and optimizer, and the curves so far."""

    model: torch.nn.Module
    loss_function: Loss
    candidate: Candidate
    data: Data
    metric: Metric
    result: Result
    trace: WeightTrace
    on_evaluate: EvaluationCallback | None
    seconds: list[float] = field(default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)

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
            x, y = next(batches)
            started = time.perf_counter()
            self.step(x, y, step)
            self.seconds.append(time.perf_counter() - started)
            if step in evaluation_steps:
                self.evaluate(step, last=step == steps)

    def start(self, batches: list[Batch]) -> None:
        """Make the optimizer and do the first steps."""
        self.optimizer = self.candidate.new_optimizer(self.model.parameters())
        if self.result.lr is None:  # the rate is the argument's default, even if some groups have their own
            self.result.lr = default_lr(self.candidate.make) or _first_lr(self.optimizer)
        for step, (x, y) in enumerate(batches, 1):
            self.step(x, y, step)

    def step(self, x: torch.Tensor, y: torch.Tensor, step: int) -> None:
        self.optimizer.zero_grad()
        loss = self.compute_loss(x, y, step)
        loss.backward()
        self.optimizer.step()
        if not math.isfinite(loss.item()):  # also waits for a GPU, so that the measured time is the step's
            raise Diverged(f"the training loss was {loss.item()} at step {step}")

    def compute_loss(self, x: torch.Tensor, y: torch.Tensor, step: int) -> torch.Tensor:
        output = self.model(x)
        try:
            return self.loss_function(output, y)
        except Exception as error:
            if not bool(torch.isfinite(output).all()):  # some losses reject the outputs of a diverged model
                raise Diverged(f"the model's output was not finite at step {step}") from error
            raise InvalidValue(f"{self.result.candidate} stopped at step {step}: {error}") from error

    @torch.no_grad()
    def evaluate(self, step: int, *, last: bool = False) -> None:
        """Record the loss and the metric: on a part of a large validation set, and on all of it at the last step."""
        result, data = self.result, self.data
        validation, targets = (data.validation, data.targets) if last else (data.quick_validation, data.quick_targets)
        with evaluation_mode(self.model):
            total = sum(self.compute_loss(x, y, step).item() * len(y) for x, y in data.training_sample)
            outputs = torch.cat([self.model(x) for x, _ in validation])
        loss = total / sum(len(y) for _, y in data.training_sample)
        scores = self.metric.scores(outputs, targets)
        value = self.metric.finish(float(scores.mean()))
        result.steps.append(step)
        result.losses.append(loss)
        result.metrics.append(value)
        if last and result.role != "search":
            result.scores = example_scores(self.metric, outputs, targets)
        self.trace.record()
        if not (math.isfinite(loss) and math.isfinite(value)):
            raise Diverged(f"the loss was {loss:.3g} and {self.metric.name} {value:.3g} at step {step}")
        if loss - result.losses[0] > DIVERGENCE_FACTOR * abs(result.losses[0]) > 0:
            raise Diverged(f"the loss rose from {result.losses[0]:.3g} to {loss:.3g} at step {step}")
        if self.on_evaluate:
            self.on_evaluate(step, loss, value)


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside `with`; afterwards every module is in its previous mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _first_lr(optimizer: torch.optim.Optimizer) -> float | None:
    lr = optimizer.param_groups[0].get("lr")
    return None if lr is None else float(lr)
