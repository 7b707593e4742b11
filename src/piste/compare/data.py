"""The data of a comparison, read without changing the given objects and in the same order for every candidate."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import InvalidType, InvalidValue
from ..torch_internals import live_iterator
from .batches import Batch, concatenate, count_examples, map_tensors, take_rows
from .objective import Objective, check_pair
from .training.random_state import RandomState

TRAINING_SAMPLE_SIZE = 512
"""Number of training examples on which the loss curve is evaluated."""
QUICK_VALIDATION_SIZE = 512
"""Number of validation examples on which the metric is evaluated before the end of a run."""
MIN_EVALUATIONS, MAX_EVALUATIONS = 16, 48
"""Number of evenly spaced evaluations of a run, not counting the one at the start."""
EVALUATION_SHARE = 0.04
"""Between these limits, evaluation takes this share of the work of training; a training step costs three evaluations of
the same examples."""
MAX_SECONDS = 10.0
"""Data without a length that does not end within this time is taken as endless."""


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
        self._train = _open_source(train, "training", batch_size, device, objective)
        if isinstance(self._train, _LoaderSource):
            self._train.skips_single = skips_single
        self.training_sample = self._train.sample(TRAINING_SAMPLE_SIZE)
        held_out = _open_source(validation, "validation", max(batch_size, TRAINING_SAMPLE_SIZE), device, objective)
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

    def training_tensors(self) -> list[Batch]:
        """Return the training data that is in memory: all of a pair of tensors, else the fixed training examples."""
        return [self._train.pair] if isinstance(self._train, _TensorSource) else self.training_sample


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


def _open_source(
    data: Any, role: str, batch_size: int, device: torch.device, objective: Objective
) -> _TensorSource | _LoaderSource:
    if isinstance(data, (tuple, list)):
        return _TensorSource(check_pair(data, role), batch_size, device)
    if isinstance(data, (Dataset, DataLoader)):
        return _LoaderSource(data, role, batch_size, device, objective)
    if callable(data):
        source = _open_source(data(), role, batch_size, device, objective)
        if isinstance(source, _LoaderSource):
            source.make = data
        return source
    is_dataset = hasattr(data, "__len__") and hasattr(data, "__getitem__") and hasattr(data, "features")
    if is_dataset:  # as those of Hugging Face are
        return _LoaderSource(data, role, batch_size, device, objective)
    raise InvalidType(
        f"the {role} data must be a pair of tensors (X, y), a Dataset or a DataLoader, or a function that makes one; "
        f"received {type(data).__name__}."
    )


class _TensorSource:
    """A pair (X, y) in memory, cut into batches by index. Every batch is a copy."""

    def __init__(self, pair: tuple[Any, torch.Tensor], batch_size: int, device: torch.device) -> None:
        self.pair = map_tensors(lambda tensor: tensor.detach().to(device), pair)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.pair[1])

    def has_length(self) -> bool:
        return True

    def steps_per_epoch(self) -> int:
        return max(len(self) // self.batch_size, 1)

    def examples_per_step(self) -> int:
        return min(self.batch_size, len(self))

    def shuffled(self, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self), generator=generator).to(self.pair[1].device)
            yield from (self._take(rows) for rows in order.split(self.batch_size)[: self.steps_per_epoch()])

    def sample(self, count: int) -> list[Batch]:
        return [self._take(torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count])]

    def in_order(self) -> Iterator[Batch]:
        return (self._take(rows) for rows in torch.arange(len(self)).split(self.batch_size))

    def _take(self, rows: torch.Tensor) -> Batch:
        x, y = self.pair
        if isinstance(x, torch.Tensor):  # without the cost of the general case
            rows = rows.to(x.device)
            return x[rows], y[rows]
        return take_rows(self.pair, rows)


class _LoaderSource:
    """A Dataset or DataLoader. Each pass reads a new copy, with its own random state."""

    skips_single = False
    """Whether a batch of one example after larger ones is left out."""
    _drops_rest = False

    def __init__(self, data: Any, role: str, batch_size: int, device: torch.device, objective: Objective) -> None:
        self.role, self.batch_size, self.device, self.objective = role, batch_size, device, objective
        self.make: Callable[[], Any] = lambda: _copy(data, role)

    def _open(self, state: RandomState, shuffle: bool = True) -> DataLoader[Any]:
        with state:
            data = self.make()
        self._drops_rest = shuffle and isinstance(data, IterableDataset)
        if not isinstance(data, DataLoader):
            if not shuffle or isinstance(data, IterableDataset):
                return DataLoader(data, batch_size=self.batch_size)
            drop_last = len(data) >= self.batch_size  # type: ignore[arg-type]
            return DataLoader(data, batch_size=self.batch_size, shuffle=True, drop_last=drop_last)
        for holder in (data, data.sampler, getattr(data.batch_sampler, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(state.seed)  # otherwise every seed would shuffle alike
        return data

    def _read(self, loader: DataLoader[Any], state: RandomState) -> Iterator[Batch]:
        """Yield the batches of one pass, without an incomplete one of a dataset without a length."""
        first = 0
        with state:
            iterator = iter(loader)
        while True:
            with state:
                batch = next(iterator, None)
            if batch is None:
                return
            batch = self.objective.check_batch(batch, self.role)
            count = count_examples(batch)
            first = first or count
            if count < first and (self._drops_rest or (self.skips_single and count == 1)):
                continue
            yield map_tensors(lambda tensor: tensor.detach().to(self.device, copy=True), batch)

    def has_length(self) -> bool:
        return _has_length(self._open(RandomState(0)))

    def steps_per_epoch(self) -> int:
        loader = self._open(RandomState(0))
        try:
            steps = len(loader)
        except TypeError:  # an IterableDataset without a length
            return sum(1 for _ in self._limited(loader, RandomState(0)))
        has_rest = self.skips_single and loader.batch_size and not loader.drop_last
        return steps - 1 if has_rest and steps > 1 and len(loader.sampler) % loader.batch_size == 1 else steps  # type: ignore[arg-type,operator]

    def examples_per_step(self) -> int:
        return count_examples(self.sample(1)[0])

    def shuffled(self, seed: int) -> Iterator[Batch]:
        state = RandomState(seed)
        loader = self._open(state)
        while True:
            yield from self._read(loader, state)

    def sample(self, count: int) -> list[Batch]:
        state, batches, examples = RandomState(0), [], 0
        loader = self._open(state)
        for batch in self._read(loader, state):
            batches.append(batch)
            examples += count_examples(batch)
            if examples >= count:
                break
        if not batches:
            raise InvalidValue(f"the {self.role} data gives no batch: the dataset is empty or exhausted.")
        return batches

    def in_order(self) -> Iterator[Batch]:
        state = RandomState(0)
        return self._limited(self._open(state, shuffle=False), state)

    def _limited(self, loader: DataLoader[Any], state: RandomState) -> Iterator[Batch]:
        """Yield the batches of one pass; raises for a pass that gives none, or does not end."""
        count, began, has_length = 0, time.perf_counter(), _has_length(loader)
        for count, batch in enumerate(self._read(loader, state), 1):
            if not has_length and time.perf_counter() - began > MAX_SECONDS:
                way_out = "give the length of a run with --steps (steps=), or a dataset with a length"
                if self.role == "validation":
                    way_out = "give validation data with an end, such as itertools.islice of it, or with a length"
                raise InvalidValue(
                    f"the {self.role} data has no length, and no end within {MAX_SECONDS:g} seconds "
                    f"({count:,} batch{'es' * (count > 1)}). Help: {way_out}."
                )
            yield batch
        if not count:
            raise InvalidValue(f"the {self.role} data gives no batch: the dataset is empty or exhausted.")


def _has_length(loader: DataLoader[Any]) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True


def _copy(data: Any, role: str) -> Any:
    # Worker processes can't be copied; the copy of a DataLoader starts its own.
    memo: dict[int, Any] = {}
    if isinstance(data, DataLoader) and (iterator := live_iterator(data)) is not None:
        memo[id(iterator)] = None
    try:
        return copy.deepcopy(data, memo)
    except Exception as error:
        raise InvalidValue(
            f"the {role} data can't be copied ({error}), and reading it directly would change it. "
            f"Help: pass a function that makes it."
        ) from error
