"""The plan: everything decided before the first step. Every mistake that can be found before training is found here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidValue
from ..wording import plural
from .candidates import Candidate, make_candidates
from .data import Data
from .identity import digest
from .metrics import Metric, as_metrics
from .results import Result
from .splits import Part, choose_split, open_data
from .task import Task, check_whole_number
from .training.first_batch import check_on_first_batch
from .training.random_state import RandomState

MAX_SEED = 2**32 - 1
"""The largest seed that numpy takes."""
MAX_TRIALS = 10_000
SEARCH_SEED_OFFSET = 2**31
"""The distance between the seed of a final run and that of its search: further than any two seeds of final runs."""
DEFAULT_SEEDS, DEFAULT_TRIALS = 5, 1
"""The number of seeds and trials if neither the caller nor a budget sets them."""


@dataclass
class Plan:
    """The candidates, the data, and the number and length of the runs.

    Attributes:
        budget: The time in seconds that all runs may take, or None.
        undecided: Which of "seeds", "trials" and "steps" the budget decides.
        seconds: The expected duration of all runs; NaN if not estimated.
        tuned: Whether the budget must include a search.
        extends: Whether the minimum runs even if it takes longer than the budget, which is a default.
        search: Values of options that a search varies in addition to the learning rate.
        also: Further metrics, which are reported and decide nothing.
        fingerprint: The digests of the model, the data, the metric and the steps.
    """

    task: Task
    data: Data
    metric: Metric
    candidates: list[Candidate]
    seeds: list[int]
    steps: int
    n_parameters: int
    trials: int = DEFAULT_TRIALS
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    budget: float | None = None
    undecided: frozenset[str] = frozenset()
    seconds: float = math.nan
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    also: Sequence[Metric] = ()
    tuned: bool = False
    extends: bool = False
    _parts: dict[int, Part] = field(default_factory=dict, repr=False)

    @property
    def searches(self) -> bool:
        """Whether learning rates are searched."""
        return self.trials > 1

    @property
    def splits(self) -> bool:
        """Whether every seed has its own split into training and validation data."""
        return self.task.resplit is not None

    def part(self, seed: int) -> Part:
        """Return the task, the data and the metrics of the runs with this seed.

        Raises:
            InvalidValue: If the rows can't be split with this seed.
        """
        first = Part(self.task, self.data, self.metric, self.also)
        if not self.splits or seed == self.seeds[0]:
            return first
        if seed not in self._parts:
            self._parts[seed] = first.of_seed(seed)
        return self._parts[seed]

    def check_splits(self) -> None:
        """Split the data with every seed, of the searches as well.

        Raises:
            InvalidValue: If one of the splits is not possible.
        """
        for number, seed in enumerate(self.seeds if self.splits else ()):
            self.part(seed)
            if self.searches:
                self.part(self.seed_of_search(number))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parts": {}}  # another process makes those that it needs

    def seed_of_search(self, number: int) -> int:
        """Return the seed of the search for the seed with index `number`; never used for a final run."""
        return (self.seeds[number] + SEARCH_SEED_OFFSET) % (MAX_SEED + 1)

    def share_of_run(self, result: Result) -> float:
        """Return the part of a whole run that a result took: the share of the steps for a trial of a search."""
        if result.role != "search" or result.failed or not result.steps:
            return 1.0
        taken = result.steps[-1]
        if result.diverged:  # between two evaluations
            taken = next((s for s in self.data.evaluation_steps(self.steps) if s > taken), self.steps)
        return min(taken / self.steps, 1.0)

    @property
    def runs(self) -> int:
        """The number of whole runs; after a search, the best and the default configuration each get a final run."""
        return len(self.candidates) * len(self.seeds) * (self.trials + 2 if self.searches else 1)

    def settings(self) -> dict[str, Any]:
        """Return the JSON-serializable identity of this comparison."""
        return {
            "task": self.task.name,
            "epochs": self.data.epochs(self.steps),
            "steps": self.steps,
            "batch_size": self.task.batch_size,
            "seeds": self.seeds,
            "trials": self.trials,
            "metric": self.metric.name,
            "goal": self.metric.goal,
            **({"also": [metric.name for metric in self.also]} if self.also else {}),
            "candidates": [
                {
                    "name": c.name,
                    "optimizer": c.optimizer,
                    "loss": c.loss,
                    "lr": c.lr,
                    "code": {"optimizer": digest(c.make), "loss": digest(c.loss_function), "loop": digest(c.loop)},
                    "bound": c.bound_arguments,
                    "loop": c.loop.options,
                }
                for c in self.candidates
            ],
            "fingerprint": dict(self.fingerprint),
            "split": "seeds" if self.splits else "fixed",
            **({} if self.task.device is None else {"device": str(self.task.device)}),
            **({} if self.budget is None else {"budget": self.budget}),
            **({"search": {name: list(values) for name, values in self.search.items()}} if self.search else {}),
        }

    def adopt(self, settings: dict[str, Any]) -> None:
        """Take over the decisions of an earlier call with the same budget, so that it is the same comparison."""
        if self.budget is not None and settings.get("budget") == self.budget:
            for name in self.undecided & settings.keys():
                setattr(self, name, settings[name])
            self.undecided = frozenset()

    def __str__(self) -> str:
        optimizers = len({c.optimizer for c in self.candidates})
        losses = list(dict.fromkeys(c.loss for c in self.candidates))
        varied = f"configurations (lr, {', '.join(self.search)})" if self.search else "learning rates"
        return (
            f"{self.task.name}: {plural(optimizers, 'optimizer')} with {', '.join(losses)}; "
            f"{plural(len(self.seeds), 'seed')}, {self.steps} steps each"
            f"{f', each after its own search over {self.trials} {varied}' * self.searches}; "
            f"ranked by {self.metric.name} on {self.data.validation_size} validation examples"
            f"{', which every seed draws' * self.splits}"
        )


def make_plan(
    task: Task,
    *,
    optimizers: Any = None,
    loss: Any = None,
    lr: Any = None,
    seed: int = 0,
    seeds: int | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    budget: float | None = None,
    search: Any = None,
    loop: Any = None,
    split: Any = None,
) -> Plan:
    """Resolve every name and check the model, losses, metric and optimizers on one batch.

    Raises:
        InvalidValue: If an argument is out of range, or a part of the task fails on the batch.
        InvalidType: If an argument has the wrong type.
    """
    given = {"seeds": seeds, "trials": trials, "steps": epochs if steps is None else steps}
    undecided = frozenset() if budget is None else frozenset(name for name, value in given.items() if value is None)
    seeds = DEFAULT_SEEDS if seeds is None else check_whole_number("seeds", seeds, least=1, most=1000)
    trials = DEFAULT_TRIALS if trials is None else check_whole_number("trials", trials, least=1, most=MAX_TRIALS)
    check_whole_number("seed", seed, least=0, most=MAX_SEED - 2 * 1000)
    if epochs is not None and steps is not None:
        raise InvalidValue(f"give `epochs` or `steps`, not both; received {epochs} and {steps}.")
    epochs = task.epochs if epochs is None else check_whole_number("epochs", epochs, least=1)
    if steps is not None:
        check_whole_number("steps", steps, least=1)
    if search is not None and trials == 1 and "trials" not in undecided:
        raise InvalidValue(
            "`search` requires --trials (trials=): the number of configurations to try for each candidate."
        )
    task = choose_split(task, split, seed)
    chosen, known = (task.loss, None) if loss is None else (loss, task.loss)
    optimizers = task.optimizers if optimizers is None else optimizers
    loop = task.loop if loop is None else loop
    own_loss = task.objective.own_loss
    # Names are resolved first: this costs nothing, and the data may take long to read.
    candidates = None
    if chosen is not None or own_loss is not None:
        candidates = make_candidates(optimizers, chosen, lr, search, own_loss, loop, known)
    data = open_data(task, task.new_model(seed))
    task.initialize_with(data.training_sample[0])
    if candidates is None:
        target = data.training_sample[0][1]
        inferred = "mse" if target.is_floating_point() else "cross_entropy"
        candidates = make_candidates(optimizers, inferred, lr, search, loop=loop)
    checked = check_on_first_batch(task, data, as_metrics(task.metric, task.own_metrics), candidates)
    parameters = sum(p.numel() for p in task.new_model(seed).parameters())
    return Plan(
        task, data, checked.metric, checked.candidates, list(range(seed, seed + seeds)),
        steps or epochs * data.steps_per_epoch, parameters, trials,
        _fingerprint(task, data, [checked.metric, *checked.also]), budget, undecided, search=dict(search or {}),
        also=checked.also,
    )  # fmt: skip


def _fingerprint(task: Task, data: Data, metrics: Sequence[Metric]) -> dict[str, str]:
    """Return the digests of the parts of a task, by name: everything but the candidates that can change a run."""
    with RandomState(0):
        start = task.new_model(0)
    return {
        "model": digest(start, None if task.fixed_weights else task.model),
        "training data": digest(task.train, data.training_sample),
        "validation data": digest(data.validation),
        **({} if task.resplit is None else {"split": digest(task.resplit)}),
        "metric": digest(*((metric.function, metric.finish) for metric in metrics)),
        "training step": digest(task.training_step),
        "validation step": digest(task.validation_step),
    }
