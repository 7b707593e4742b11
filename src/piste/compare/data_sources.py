"""Batches of a pair of tensors in memory, and of a Dataset or DataLoader, which is copied before it is read."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import InvalidType, InvalidValue
from ..torch_internals import live_iterator
from .batches import Batch, count_examples, map_tensors, select_rows, take_rows
from .objective import Objective, check_pair
from .training.random_state import RandomState

MAX_SECONDS = 10.0
"""Data without a length that does not end within this time is taken as endless."""


class BatchSource(Protocol):
    """The batches of training or validation data."""

    def has_length(self) -> bool:
        """Return whether the number of batches is known without reading them."""

    def steps_per_epoch(self) -> int:
        """Return the number of batches in a pass."""

    def examples_per_step(self) -> int:
        """Return the number of examples in a batch."""

    def shuffled(self, seed: int) -> Iterator[Batch]:
        """Yield endless batches, in an order that depends on the seed."""

    def sample(self, count: int) -> list[Batch]:
        """Return batches of `count` examples, the same each time."""

    def in_order(self) -> Iterator[Batch]:
        """Yield the batches of one pass in the order of the data."""


def open_source(data: Any, role: str, batch_size: int, device: torch.device, objective: Objective) -> BatchSource:
    """Return the batches of a pair of tensors, a Dataset, a DataLoader, or a function that makes one.

    Raises:
        InvalidType: If `data` is none of these.
    """
    if isinstance(data, (tuple, list)):
        return TensorSource(check_pair(data, role), batch_size, device)
    if isinstance(data, (Dataset, DataLoader)):
        return LoaderSource(data, role, batch_size, device, objective)
    if callable(data):
        source = open_source(data(), role, batch_size, device, objective)
        if isinstance(source, LoaderSource):
            source.make = data
        return source
    is_dataset = hasattr(data, "__len__") and hasattr(data, "__getitem__") and hasattr(data, "features")
    if is_dataset:  # as those of Hugging Face are
        return LoaderSource(data, role, batch_size, device, objective)
    raise InvalidType(
        f"the {role} data must be a pair of tensors (X, y), a Dataset or a DataLoader, or a function that makes one; "
        f"received {type(data).__name__}."
    )


class TensorSource(BatchSource):
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
        """Return one batch of random rows."""
        return [self._take(torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count])]

    def in_order(self) -> Iterator[Batch]:
        return (self._take(rows) for rows in torch.arange(len(self)).split(self.batch_size))

    def _take(self, rows: torch.Tensor) -> Batch:
        x, y = self.pair
        if isinstance(x, torch.Tensor):  # without the cost of the general case
            rows = rows.to(x.device)
            return select_rows(x, rows), select_rows(y, rows)
        return take_rows(self.pair, rows)


class LoaderSource(BatchSource):
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
