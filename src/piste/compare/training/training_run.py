"""A training run in progress: the same start and the same batches for every candidate, evaluated at fixed steps."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..batches import Batch, concatenate, count_examples
from ..candidates import Candidate, default_lr
from ..data import Data
from ..metrics import Metric
from ..objective import Prediction
from ..results import Result
from ..task import Task
from .averaging import averaged_weights
from .early_stopping import EarlyStopping, copy_weights, set_weights
from .example_scores import example_scores, sampled_scores
from .memory import peak_bytes_during, state_bytes
from .smoothness import WeightTrace
from .updates import Updates, autocast, warmup_steps

DIVERGENCE_FACTOR = 1000.0
"""A run has diverged if its loss rises by this multiple of its first loss, or is not finite."""

EvaluationCallback = Callable[[int, float, float], None]
"""Called with (step, loss, metric) after each evaluation; may raise `trial.Pruned`."""


class Diverged(Exception):
    """The loss of a run is not finite or far above its start; the text gives the step."""


class TrainingRun:
    """A run in progress: a new model, its loss and optimizer, and the curves so far."""

    updates: Updates

    def __init__(
        self,
        task: Task,
        data: Data,
        metric: Metric,
        candidate: Candidate,
        result: Result,
        steps: int,
        also: Sequence[Metric] = (),
        on_evaluate: EvaluationCallback | None = None,
    ) -> None:
        self.objective, self.data, self.candidate, self.result = task.objective, data, candidate, result
        self.metric, self.on_evaluate, self.steps = metric.under(candidate.convention), on_evaluate, steps
        self.also = [metric.under(candidate.convention) for metric in also]
        self.model, self.loss = task.new_pair(result.seed, candidate.loss_function)
        candidate.loop.freeze_parts(self.model)
        self.judged = self.model
        self.precision = autocast(candidate.loop, data.device)
        self.trace = WeightTrace([p for p in self.model.parameters() if p.requires_grad])
        self.seconds: list[float] = []
        self.averages = False
        """Whether the optimizer averages weights, which are evaluated in place of the trained ones."""

    def train(self) -> None:
        """Train for all steps, and evaluate at the evaluation steps."""
        steps, loop = self.steps, self.candidate.loop
        evaluation_steps = self.data.evaluation_steps(steps)
        self.evaluate(0)
        batches = self.data.batches(self.result.seed)
        warmup = [next(batches) for _ in range(min(warmup_steps(loop), steps))]
        # The first steps allocate the state and the gradients: their memory is measured, and their time is not.
        self.result.peak_bytes = peak_bytes_during(functools.partial(self.start, warmup), self.data.device)
        self.result.state_bytes = state_bytes(self.updates.optimizer)
        later = [step for step in evaluation_steps if step > len(warmup)]
        if len(evaluation_steps) > len(later) + 1:
            later.insert(0, len(warmup))
        early = None
        if loop.patience is not None:
            early = EarlyStopping(1 if self.metric.higher_is_better else -1, loop.patience, self._modules())
        step = len(warmup)
        for at in later:
            while step < at:
                batch, step = next(batches), step + 1
                started = time.perf_counter()
                self.step(batch, step)
                self.seconds.append(time.perf_counter() - started)
            last = at == steps
            if early is None or not last:
                self.evaluate(at, last=last)
            if early is None:
                continue
            value = self.quick_value() if last else self.result.metrics[-1]
            with self._evaluation(at):
                ends = early.update(at, value) or last
            if ends:
                early.restore()
                self.averages = False  # the restored weights are those to evaluate
                if early.step < at:
                    cut = "" if last else f"stopped at step {at}, "
                    self.result.note = f"{cut}with the weights of step {early.step}"
                for rest in [s for s in later if s > at or (last and s == at)]:
                    self.evaluate(rest, last=rest == steps)
                return

    def start(self, batches: list[Batch]) -> None:
        """Make the optimizer and do the first steps."""
        self.updates = Updates(self.candidate, self.model, self.loss, self.steps)
        self.judged, self.averages = self.updates.judged, self.updates.averages
        if self.result.lr is None:  # the rate is the argument's default, even if some groups have their own
            self.result.lr = default_lr(self.candidate.make) or _first_lr(self.updates.optimizer)
        for step, batch in enumerate(batches, 1):
            self.step(batch, step)

    def step(self, batch: Batch, step: int) -> None:
        """Take one step; raise `Diverged` if the loss is not finite."""
        loss = self.updates.step(step, functools.partial(self.compute_loss, self.model, batch, step))
        if not math.isfinite(loss):
            raise Diverged(f"the training loss was {loss} at step {step}")

    def compute_loss(self, model: torch.nn.Module, batch: Batch, step: int) -> torch.Tensor:
        """Return the training loss of a batch."""
        try:
            with self.precision:
                return self.objective.training_loss(model, batch, self.loss)
        except Exception as error:
            if step and not self.objective.is_finite(model, batch):
                raise Diverged(f"the model's output was not finite at step {step}") from error
            raise

    @torch.no_grad()
    def evaluate(self, step: int, *, last: bool = False) -> None:
        """Record the loss and the metric: on a part of a large validation set, and on all of it at the last step."""
        result, data = self.result, self.data
        batches = data.validation if last else data.quick_validation
        with self._evaluation(step):
            loss = self.mean(data.training_sample, lambda b: self.compute_loss(self.judged, b, step).item())
            predictions = self.predict(batches)
            scores, kept = self.scores(self.metric, batches, predictions)
            if last and result.role != "search":
                result.scores, result.examples = kept()
                for metric in self.also:
                    mean = float(self.scores(metric, batches, predictions)[0].mean())
                    result.also[metric.name] = metric.finish(mean)
        value = self.metric.finish(float(scores.mean()))
        result.steps.append(step)
        result.losses.append(loss)
        result.metrics.append(value)
        self.trace.record()
        if not (math.isfinite(loss) and math.isfinite(value)):
            raise Diverged(f"the loss was {loss:.3g} and {self.metric.name} {value:.3g} at step {step}")
        if loss - result.losses[0] > DIVERGENCE_FACTOR * abs(result.losses[0]) > 0:
            raise Diverged(f"the loss rose from {result.losses[0]:.3g} to {loss:.3g} at step {step}")
        if self.on_evaluate:
            self.on_evaluate(step, loss, value)

    @torch.no_grad()
    def quick_value(self) -> float:
        """Return the metric on the validation examples of an evaluation before the end."""
        batches = self.data.quick_validation
        with self._evaluation(self.steps):
            scores, _ = self.scores(self.metric, batches, self.predict(batches))
        return self.metric.finish(float(scores.mean()))

    @contextlib.contextmanager
    def _evaluation(self, step: int) -> Iterator[None]:
        """Put the weights to evaluate in place inside `with`, in evaluation mode."""

        def forward(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return self.compute_loss(model, batch, step)

        with evaluation_mode(self.judged, self.loss), contextlib.ExitStack() as stack:
            if self.averages:
                sample = self.data.training_sample
                stack.enter_context(averaged_weights(self.updates.optimizer, self.model, forward, sample))
            yield

    def _modules(self) -> list[torch.nn.Module]:
        return [part for part in (self.judged, self.loss) if isinstance(part, torch.nn.Module)]

    @torch.no_grad()
    def keep_evaluated_weights(self) -> None:
        """Set the averaged weights for good, if the optimizer averages them."""
        if not self.averages:
            return
        with self._evaluation(self.steps):
            kept = copy_weights(self._modules())
        set_weights(self._modules(), kept)
        self.averages = False

    def mean(self, batches: list[Batch], value: Callable[[Batch], float]) -> float:
        """Return the mean of a value over the examples of the batches."""
        with autocast(self.candidate.loop, self.data.device):
            values = [value(batch) * count_examples(batch) for batch in batches]
        return sum(values) / sum(map(count_examples, batches))

    def predict(self, batches: list[Batch]) -> list[Prediction]:
        """Return the outputs and targets of each batch; none if every metric is measured."""
        if all(metric.measured for metric in (self.metric, *self.also)):
            return []
        with autocast(self.candidate.loop, self.data.device):
            return [self.objective.predict(self.judged, batch, self.loss) for batch in batches]

    def scores(
        self, metric: Metric, batches: list[Batch], predictions: list[Prediction]
    ) -> tuple[torch.Tensor, Callable[[], tuple[list[float], list[int]]]]:
        """Return the scores on validation batches, and a function that returns those to keep and their examples."""
        if metric.measured:
            mean = self.mean(batches, lambda b: self.objective.measure(metric.name, self.judged, b, self.loss))
            return torch.tensor(mean, dtype=torch.float64), lambda: ([], [])
        joined = predictions[0] if len(predictions) == 1 else concatenate(predictions)
        if joined is None:
            scores = metric.scores_of_parts(predictions)
            return scores, functools.partial(sampled_scores, scores, self.data.examples)
        return metric.scores(*joined), functools.partial(
            example_scores, metric, joined[0], joined[1], self.data.examples
        )


@contextlib.contextmanager
def evaluation_mode(*parts: Any) -> Iterator[None]:
    """Put modules in evaluation mode inside `with`, and back in their previous modes afterwards."""
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
    group = optimizer.param_groups[0]
    lr = group.get("initial_lr", group.get("lr"))  # a schedule has changed `lr` already
    return None if lr is None else float(lr)
