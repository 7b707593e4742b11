"""The data of a comparison, read without changing the given objects and in the same order for every candidate."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InvalidType, InvalidValue
from ..torch_internals import live_iterator
from .training.random_state import RandomState

Batch = tuple[torch.Tensor, torch.Tensor]

TRAINING_SAMPLE_SIZE = 512
"""Number of training examples on which the loss curve is evaluated."""
QUICK_VALIDATION_SIZE = 512
"""Number of validation examples on which the metric is evaluated before the end of a run."""
MIN_EVALUATIONS, MAX_EVALUATIONS = 16, 48
"""Number of evenly spaced evaluations of a run, not counting the one at the start."""
EVALUATION_SHARE = 0.04
"""Between these limits, evaluation takes this share of the work of training; a training step costs three evaluations of
the same examples."""
MAX_BATCHES = 1_000_000
"""A data loader with more batches than this number is taken as endless."""


class Data:
    """Training batches in an order that depends on the seed alone, and two fixed sets for evaluation.

    `train` and `validation` are each a pair of tensors (X, y), a Dataset, a DataLoader, or a function that makes one of
    these. A Dataset or DataLoader is copied for each use, so that samplers, generators and counters stay unchanged;
    pass a function where a copy costs too much memory. `training_sample` (a random subset of the training set) and
    `validation` are read once; `quick_validation` is `validation`, or a random subset if it is large.

    Batches made here are all full: the examples left over at the end of an epoch are skipped, because a full step on
    three examples shows as a jump in every curve. The order changes with each epoch, so every example is used.
    """

    def __init__(self, train: Any, validation: Any, batch_size: int, device: torch.device) -> None:
        self._train = _open_source(train, "training", batch_size, device)
        self.training_sample = self._train.sample(TRAINING_SAMPLE_SIZE)
        held_out = _open_source(validation, "validation", max(batch_size, TRAINING_SAMPLE_SIZE), device)
        self.validation = list(held_out.in_order())
        self.targets = torch.cat([y for _, y in self.validation])
        self.quick_validation = _random_subset(self.validation, QUICK_VALIDATION_SIZE)
        self.quick_targets = torch.cat([y for _, y in self.quick_validation])
        self.steps_per_epoch = self._train.steps_per_epoch()

    def evaluation_steps(self, steps: int) -> list[int]:
        """The steps at which a run of `steps` steps is evaluated, including the start and the end."""
        examples = sum(len(y) for _, y in (*self.training_sample, *self.quick_validation))
        affordable = int(EVALUATION_SHARE * 3 * steps * self._train.examples_per_step() / examples)
        count = min(max(affordable, MIN_EVALUATIONS), MAX_EVALUATIONS)
        return sorted({round(i * steps / count) for i in range(count + 1)})

    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches, epoch after epoch; the same for every candidate with the same seed."""
        return self._train.shuffled(seed)

    def training_tensors(self) -> list[Batch]:
        """The training data that is in memory: all of a pair of tensors, else the fixed training examples."""
        source = self._train
        return [(source.x, source.y)] if isinstance(source, _TensorSource) else self.training_sample


def _random_subset(batches: list[Batch], count: int) -> list[Batch]:
    """`count` examples, the same each time; all of them unless there are more than twice that number."""
    total = sum(len(y) for _, y in batches)
    if total <= 2 * count or len({x.shape[1:] for x, _ in batches}) > 1:
        return batches
    rows = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return [(x[rows.to(x.device)], y[rows.to(y.device)])]


def _open_source(data: Any, role: str, batch_size: int, device: torch.device) -> _TensorSource | _LoaderSource:
    if isinstance(data, (tuple, list)):
        return _TensorSource(*_check_pair(data, role), batch_size, device)
    if isinstance(data, (Dataset, DataLoader)):
        return _LoaderSource(data, role, batch_size, device)
    if callable(data):
        source = _open_source(data(), role, batch_size, device)
        if isinstance(source, _LoaderSource):
            source.make = data
        return source
    raise InvalidType(
        f"the {role} data must be a pair of tensors (X, y), a Dataset or a DataLoader, or a function that makes one; "
        f"received {type(data).__name__}."
    )


def _check_pair(data: Any, role: str) -> Batch:
    if len(data) != 2:
        raise InvalidType(f"the {role} data must be a pair (X, y); received {len(data)} items.")
    x, y = (torch.as_tensor(part) if hasattr(part, "__array__") else part for part in data)
    for name, part in (("X", x), ("y", y)):
        if not isinstance(part, torch.Tensor):
            raise InvalidType(f"{name} of the {role} data must be a tensor; received {type(part).__name__}.")
    if not x.dim() or not y.dim() or len(x) != len(y):
        raise InvalidValue(
            f"X and y of the {role} data must have one row per example; received shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}."
        )
    if not len(x):
        raise InvalidValue(f"the {role} data is empty.")
    return x, y


class _TensorSource:
    """Two tensors, cut into batches by index. Every batch is a copy."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, batch_size: int, device: torch.device) -> None:
        self.x, self.y, self.batch_size = x.detach().to(device), y.detach().to(device), batch_size

    def __len__(self) -> int:
        return len(self.x)

    def steps_per_epoch(self) -> int:
        return max(len(self) // self.batch_size, 1)

    def examples_per_step(self) -> int:
        return min(self.batch_size, len(self))

    def shuffled(self, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self), generator=generator).to(self.x.device)
            yield from (self._take(rows) for rows in order.split(self.batch_size)[: self.steps_per_epoch()])

    def sample(self, count: int) -> list[Batch]:
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        return [self._take(order.to(self.x.device))]

    def in_order(self) -> Iterator[Batch]:
        return (self._take(rows) for rows in torch.arange(len(self), device=self.x.device).split(self.batch_size))

    def _take(self, rows: torch.Tensor) -> Batch:
        return self.x[rows], self.y[rows]


class _LoaderSource:
    """A Dataset or DataLoader. Each pass reads a new copy, with its own random state."""

    def __init__(self, data: Any, role: str, batch_size: int, device: torch.device) -> None:
        self.role, self.batch_size, self.device = role, batch_size, device
        self.make: Callable[[], Any] = lambda: _copy(data, role)

    def _open(self, state: RandomState, shuffle: bool = True) -> DataLoader[Any]:
        with state:
            data = self.make()
        if not isinstance(data, DataLoader):
            if not shuffle or isinstance(data, torch.utils.data.IterableDataset):
                return DataLoader(data, batch_size=self.batch_size)
            drop_last = len(data) >= self.batch_size  # type: ignore[arg-type]
            return DataLoader(data, batch_size=self.batch_size, shuffle=True, drop_last=drop_last)
        for holder in (data, data.sampler, getattr(data.batch_sampler, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(state.seed)  # otherwise every seed would shuffle alike
        return data

    def _read(self, loader: DataLoader[Any], state: RandomState) -> Iterator[Batch]:
        with state:
            iterator = iter(loader)
        while True:
            with state:
                batch = next(iterator, None)
            if batch is None:
                return
            if not isinstance(batch, (tuple, list)):
                raise InvalidType(
                    f"a batch of the {self.role} data must be a pair (X, y); received {type(batch).__name__}."
                )
            x, y = _check_pair(batch, self.role)
            yield x.detach().to(self.device, copy=True), y.detach().to(self.device, copy=True)

    def steps_per_epoch(self) -> int:
        try:
            return len(self._open(RandomState(0)))
        except TypeError:  # an IterableDataset without a length
            return sum(1 for _ in self.in_order())

    def examples_per_step(self) -> int:
        return len(self.sample(1)[0][1])

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
            examples += len(batch[1])
            if examples >= count:
                break
        if not batches:
            raise InvalidValue(f"the {self.role} data gives no batch: the dataset is empty or exhausted.")
        return batches

    def in_order(self) -> Iterator[Batch]:
        state = RandomState(0)
        loader = self._open(state, shuffle=False)
        batches = itertools.islice(self._read(loader, state), MAX_BATCHES + 1)
        count = 0
        for count, batch in enumerate(batches, 1):
            if count > MAX_BATCHES:
                raise InvalidValue(f"the {self.role} data is endless: it has more than {MAX_BATCHES:,} batches.")
            yield batch
        if not count:
            raise InvalidValue(f"the {self.role} data gives no batch: the dataset is empty or exhausted.")


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
