"""One training run: the same start and the same batches for everyone, watched on fixed examples at fixed steps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import InvalidValue
from ..candidates import Candidate, Loss, default_rate
from ..data import Batch, Data
from ..metrics import Metric
from ..search_space import settings, spoken
from ..task import Task
from .memory import allocated_during, state_bytes
from .random_state import Randomness
from .smoothness import WeightTrace, descent_share, evenness

EXPLODED = 1000.0
"""A run has diverged when its loss is this many times its first one above it, or isn't finite."""
WARMUP = 2
"""Steps whose memory is measured, and whose time isn't."""
PATH_WEIGHTS = 2
"""Up to this many weights the whole path is kept, to be drawn."""


@dataclass
class Result:
    """What a run left behind. Curves are on fixed examples: `losses` of training, `metrics` of validation."""

    candidate: str
    optimizer: str
    loss: str
    seed: int
    lr: float | None
    status: str = "done"  # or "diverged", or "stopped" by a search that had seen better
    note: str = ""
    role: str = "judged"  # or "search", or "default": the default setting beside the tuned one
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # of every validation example, at the end
    step_seconds: float = math.nan
    seconds: float = math.nan  # of the whole run
    state_bytes: int = 0
    peak_bytes: int = 0
    descent_share: float = math.nan
    evenness: float = math.nan
    path: list[list[float]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # that a search set, beside the rate

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"


Watch = Callable[[int, float, float], None]
"""Called with (step, loss, metric) whenever a run is evaluated; it may raise to end the run."""


class Stopped(Exception):
    """Raised by a watcher to end a run that is hopeless."""


class Diverged(Exception):
    """A run whose loss is no longer a sensible number; the text says where."""


def run_trial(
    task: Task,
    data: Data,
    metric: Metric,
    candidate: Candidate,
    *,
    seed: int,
    steps: int,
    role: str = "judged",
    watch: Watch | None = None,
) -> Result:
    """Train a model of its own for `steps` steps, and report."""
    model = task.new_model(seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    loss_function, trace = candidate.new_loss(), WeightTrace(trainable)
    with Randomness(seed):
        result = Result(
            candidate.name, candidate.optimizer, candidate.loss, seed, candidate.lr, role=role,
            options=dict(candidate.options),
        )  # fmt: skip
        run = Run(model, loss_function, candidate, data, metric, result, trace, watch)
        try:
            run.train(steps)
        except Diverged as diverged:
            result.status, result.note = "diverged", str(diverged)
        except Stopped as stopped:
            result.status, result.note = "stopped", str(stopped)
    result.step_seconds = statistics.median(run.seconds) if run.seconds else math.nan
    if result.status == "done":
        result.scores = run.scores.tolist() if run.scores.dim() else []
        result.descent_share = descent_share(result.losses)
        result.evenness = evenness(result.steps, trace.distances())
    if trace.points[0].numel() <= PATH_WEIGHTS:
        result.path = [point.tolist() for point in trace.points]
    return result


@dataclass
class Run:
    model: torch.nn.Module
    loss_function: Loss
    candidate: Candidate
    data: Data
    metric: Metric
    result: Result
    trace: WeightTrace
    watch: Watch | None
    seconds: list[float] = field(default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)
    scores: torch.Tensor = field(init=False)

    def train(self, steps: int) -> None:
        looks = set(self.data.looks(steps))
        self.look(0)
        batches = self.data.batches(self.result.seed)
        opening = [next(batches) for _ in range(min(WARMUP, steps))]
        # The first steps make the state and the gradients: their memory is measured, and their time is not.
        self.result.peak_bytes = allocated_during(functools.partial(self.start, opening))
        self.result.state_bytes = state_bytes(self.optimizer)
        if looks & set(range(1, len(opening) + 1)):
            self.look(len(opening), last=steps == len(opening))
        for step in range(len(opening) + 1, steps + 1):
            x, y = next(batches)
            started = time.perf_counter()
            self.step(x, y, step)
            self.seconds.append(time.perf_counter() - started)
            if step in looks:
                self.look(step, last=step == steps)

    def start(self, opening: list[Batch]) -> None:
        self.optimizer = self.candidate.new_optimizer(self.model.parameters())
        if self.result.lr is None:  # a rate is what its maker was given, whatever it makes of it for some weights
            self.result.lr = default_rate(self.candidate.make) or _rate(self.optimizer)
        for step, (x, y) in enumerate(opening, 1):
            self.step(x, y, step)

    def step(self, x: torch.Tensor, y: torch.Tensor, step: int) -> None:
        self.optimizer.zero_grad()
        loss = self.loss_of(self.model, x, y, step)
        loss.backward()
        self.optimizer.step()
        if not math.isfinite(loss.item()):  # also waits for a GPU, so that the time is the step's
            raise Diverged(f"the training loss was {loss.item()} at step {step}")

    def loss_of(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, step: int) -> torch.Tensor:
        output = model(x)
        try:
            return self.loss_function(output, y)
        except Exception as error:
            if not bool(torch.isfinite(output).all()):  # some losses refuse what a diverged model puts out
                raise Diverged(f"the model's output was not finite at step {step}") from error
            raise InvalidValue(f"{self.result.candidate} stopped at step {step}: {error}") from error

    @torch.no_grad()
    def look(self, step: int, *, last: bool = False) -> None:
        """Evaluate: the metric on a part of a large validation set, and on all of it at the last step."""
        result, data = self.result, self.data
        held_out, targets = (data.validation, data.targets) if last else (data.glanced, data.glanced_targets)
        with evaluating(self.model):
            total = sum(self.loss_of(self.model, x, y, step).item() * len(y) for x, y in data.fixed)
            outputs = torch.cat([self.model(x) for x, _ in held_out])
        loss = total / sum(len(y) for _, y in data.fixed)
        scores = self.metric.scores(outputs, targets)
        value = self.metric.finish(float(scores.mean()))
        result.steps.append(step)
        result.losses.append(loss)
        result.metrics.append(value)
        self.scores = scores
        self.trace.record()
        if not (math.isfinite(loss) and math.isfinite(value)):
            raise Diverged(f"the loss was {loss:.3g} and {self.metric.name} {value:.3g} at step {step}")
        if loss - result.losses[0] > EXPLODED * abs(result.losses[0]) > 0:
            raise Diverged(f"the loss rose from {result.losses[0]:.3g} to {loss:.3g} at step {step}")
        if self.watch:
            self.watch(step, loss, value)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check(
    task: Task, data: Data, metric: Metric | None, candidates: list[Candidate]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put one small batch through model, losses, metric and optimizers, so that mistakes are told before training.

    Returns the outputs and targets of that batch.
    """
    model = task.new_model(0)
    x, y = data.fixed[0]
    with Randomness(0), evaluating(model):
        output = _told("the model refused a batch of the training data", model, x)
        if not isinstance(output, torch.Tensor):
            raise InvalidValue(f"the model must return a tensor; it returned {type(output).__name__}.")
        for candidate in {c.loss: c for c in candidates}.values():
            loss = _told(f"the loss `{candidate.loss}` refused the model's output", candidate.new_loss(), output, y)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise InvalidValue(
                    f"the loss `{candidate.loss}` must return one number, a scalar tensor; received {got}."
                )
            if not loss.requires_grad:
                raise InvalidValue(f"the loss `{candidate.loss}` doesn't depend on the model's weights: no gradient.")
        if metric is not None:
            _told(f"the metric `{metric.name}` refused the model's output", metric.scores, output.detach(), y)
    for candidate in {c.optimizer: c for c in candidates}.values():
        for options in settings(candidate.knobs):
            chosen, of = dataclasses.replace(candidate, options=options), f" with {spoken(options)}" * bool(options)
            _told(f"{candidate.optimizer}{of} could not be built", chosen.new_optimizer, model.parameters())
    return output.detach(), y


def _told(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise InvalidValue(f"{what}: {text}") from error


def _rate(optimizer: torch.optim.Optimizer) -> float | None:
    lr = optimizer.param_groups[0].get("lr")
    return None if lr is None else float(lr)
