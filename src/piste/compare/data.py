"""The data of a comparison, read without changing the given objects and in the same order for every candidate."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import InvalidValue
from .batches import Batch, concatenate, count_examples, take_rows
from .data_sources import LoaderSource, TensorSource, open_source
from .objective import Objective

TRAINING_SAMPLE_SIZE = 512
"""Number of training examples on which the loss curve is evaluated."""
QUICK_VALIDATION_SIZE = 512
"""Number of validation examples on which the metric is evaluated before the end of a run."""
MIN_EVALUATIONS, MAX_EVALUATIONS = 16, 48
"""Number of evenly spaced evaluations of a run, not counting the one at the start."""
EVALUATION_SHARE = 0.04
"""Between these limits, evaluation takes this share of the work of training; a training step costs three evaluations of
the same examples."""


class Data:
    """Training batches in an order that depends on the seed alone, and two fixed sets for evaluation.

    `train` and `validation` are each a pair (X, y), a Dataset, a DataLoader, or a function that makes one of these. A
    Dataset or DataLoader is copied for each use, so that samplers, generators and counters stay unchanged; pass a
    function where a copy costs too much memory. `training_sample` (a random subset of the training set) and
    `validation` are read once; `quick_validation` is `validation`, or a random subset if it is large.

    Batches made here are all full: the examples left over at the end of an epoch are skipped, because a full step on
    three examples shows as a jump in every curve. The order changes with each epoch, so every example is used. A
    DataLoader keeps its last batch, unless it holds a single example and the model has batch normalization
    (`skips_single`), which needs two. `examples` are the numbers of the validation examples, where seeds have splits of
    their own.
    """

    def __init__(
        self,
        train: Any,
        validation: Any,
        batch_size: int,
        device: torch.device,
        objective: Objective | None = None,
        skips_single: bool = False,
        examples: Any = None,
    ) -> None:
        self._objective = objective = objective or Objective()
        self._train = open_source(train, "training", batch_size, device, objective)
        if isinstance(self._train, LoaderSource):
            self._train.skips_single = skips_single
        self.training_sample = self._train.sample(TRAINING_SAMPLE_SIZE)
        held_out = open_source(validation, "validation", max(batch_size, TRAINING_SAMPLE_SIZE), device, objective)
        self.validation = list(held_out.in_order())
        self.validation_size = sum(map(count_examples, self.validation))
        self.examples = None if examples is None else _check_numbers(examples, self.validation_size)
        self.quick_validation = _random_subset(self.validation, QUICK_VALIDATION_SIZE)
        self.evaluated_examples = sum(map(count_examples, (*self.training_sample, *self.quick_validation)))
        self.device = device

    @functools.cached_property
    def known_targets(self) -> list[torch.Tensor]:
        """The targets of the validation batches; empty where only a custom validation step knows them."""
        targets = [self._objective.target_of(batch) for batch in self.validation]
        return [target for target in targets if target is not None]

    @functools.cached_property
    def targets(self) -> torch.Tensor:
        """The targets of the validation set; one NaN for each example where they can't be joined, or are not known."""
        joined = concatenate(self.known_targets) if self.known_targets else None
        return torch.full((self.validation_size,), torch.nan) if joined is None else joined

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """The number of steps in a pass over the training data; a dataset without a length is read once."""
        return self._train.steps_per_epoch()

    def epochs(self, steps: int) -> float | None:
        """Return the number of passes that `steps` steps make; None for data without a length."""
        if "steps_per_epoch" not in vars(self) and not self._train.has_length():
            return None
        return steps / self.steps_per_epoch

    def evaluation_steps(self, steps: int) -> list[int]:
        """Return the steps at which a run of `steps` steps is evaluated, including the start and the end."""
        affordable = int(EVALUATION_SHARE * 3 * steps * self._train.examples_per_step() / self.evaluated_examples)
        count = min(max(affordable, MIN_EVALUATIONS), MAX_EVALUATIONS)
        return sorted({round(i * steps / count) for i in range(count + 1)})

    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches, epoch after epoch; the same for every candidate with the same seed."""
        return self._train.shuffled(seed)

    def first_batch(self) -> Batch:
        """Return a batch of training examples; all of them, in the order of the data, if they are few."""
        if isinstance(self._train, TensorSource) and len(self._train) <= TRAINING_SAMPLE_SIZE:
            return take_rows(self._train.pair, torch.arange(len(self._train)))
        return self.training_sample[0]

    def training_tensors(self) -> list[Batch]:
        """Return the training data that is in memory: all of a pair of tensors, else the fixed training examples."""
        return [self._train.pair] if isinstance(self._train, TensorSource) else self.training_sample


def _random_subset(batches: list[Batch], count: int) -> list[Batch]:
    """`count` examples, the same each time; all of them unless there are more than twice that number.

    Batches that can't be joined, such as texts of different lengths, are taken whole.
    """
    total = sum(map(count_examples, batches))
    if total <= 2 * count:
        return batches
    joined = concatenate(batches)
    generator = torch.Generator().manual_seed(0)
    if joined is not None:
        return [take_rows(joined, torch.randperm(total, generator=generator)[:count].sort().values)]
    order = torch.randperm(len(batches), generator=generator).tolist()
    sizes = itertools.accumulate(count_examples(batches[at]) for at in order)
    chosen = [at for at, so_far in zip(order, sizes, strict=True) if so_far <= count] or order[:1]
    return [batches[at] for at in sorted(chosen)]


def _check_numbers(examples: Any, count: int) -> torch.Tensor:
    numbers = torch.as_tensor(examples)
    if numbers.is_floating_point() or numbers.shape != (count,):
        raise InvalidValue(
            f"`examples` must hold the number of each of the {count} validation examples; received "
            f"{numbers.dtype} of shape {tuple(numbers.shape)}."
        )
    return numbers.long()
