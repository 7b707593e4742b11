"""The data of a comparison: read from what was handed in without changing it, and in the same order for everyone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InvalidType, InvalidValue
from ..torch_internals import live_iterator
from .training.random_state import Randomness

Batch = tuple[torch.Tensor, torch.Tensor]

FIXED_EXAMPLES = 512
"""How many training examples the curve is evaluated on."""
GLANCED_EXAMPLES = 512
"""How many validation examples the curve is evaluated on, before the end of a run."""
FEWEST_LOOKS, MOST_LOOKS = 16, 48
"""How many times a run is looked at, evenly spaced, besides the start."""
LOOKING = 0.04
"""Between these two, looking takes this share of the work of training; a step is worth three looks at its examples."""
ENDLESS = 1_000_000
"""A data loader that gives more batches than this is taken to have no end."""


class Data:
    """Training batches in an order that depends on the seed alone, and two fixed sets to evaluate on.

    `train` and `validation` are each a pair of tensors (X, y), a Dataset, a DataLoader, or a function that makes one
    of these. A Dataset or DataLoader is copied for each use, so that samplers, generators and counters handed in
    stay as they are; where that costs too much memory, hand in the function. `fixed` (a random subset of the
    training set) and `validation` are read once; `glanced` is `validation`, or a random subset of a large one.

    Where batches are made here, the rest of an epoch that fills no batch is left out: a step on three examples as large
    as one on sixty-four throws every curve about. The order is new in each epoch, so every example has its turn.
    """

    def __init__(self, train: Any, validation: Any, batch_size: int, device: torch.device) -> None:
        self._train = _source(train, "training", batch_size, device)
        self.fixed = self._train.sample(FIXED_EXAMPLES)
        held_out = _source(validation, "validation", max(batch_size, FIXED_EXAMPLES), device)
        self.validation = list(held_out.in_order())
        self.targets = torch.cat([y for _, y in self.validation])
        self.glanced = _some(self.validation, GLANCED_EXAMPLES)
        self.glanced_targets = torch.cat([y for _, y in self.glanced])
        self.steps_per_epoch = self._train.steps_per_epoch()

    def looks(self, steps: int) -> list[int]:
        """The steps at which a run of so many is looked at, the start and the end among them."""
        seen = sum(len(y) for _, y in (*self.fixed, *self.glanced))
        affordable = int(LOOKING * 3 * steps * self._train.per_step() / seen)
        count = min(max(affordable, FEWEST_LOOKS), MOST_LOOKS)
        return sorted({round(i * steps / count) for i in range(count + 1)})

    def batches(self, seed: int) -> Iterator[Batch]:
        """Training batches without end, epoch after epoch; the same for every candidate with the same seed."""
        return self._train.shuffled(seed)


def _some(batches: list[Batch], count: int) -> list[Batch]:
    """So many examples, the same ones each time; all of them if there are few more."""
    total = sum(len(y) for _, y in batches)
    if total <= 2 * count or len({x.shape[1:] for x, _ in batches}) > 1:
        return batches
    rows = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return [(x[rows.to(x.device)], y[rows.to(y.device)])]


def _source(data: Any, what: str, batch_size: int, device: torch.device) -> _Tensors | _Loader:
    if isinstance(data, (tuple, list)):
        return _Tensors(*_checked_pair(data, what), batch_size, device)
    if isinstance(data, (Dataset, DataLoader)):
        return _Loader(data, what, batch_size, device)
    if callable(data):
        source = _source(data(), what, batch_size, device)
        if isinstance(source, _Loader):
            source.make = data
        return source
    raise InvalidType(
        f"the {what} data must be a pair of tensors (X, y), a Dataset or a DataLoader, or a function that makes one; "
        f"received {type(data).__name__}."
    )


def _checked_pair(data: Any, what: str) -> Batch:
    if len(data) != 2:
        raise InvalidType(f"the {what} data must be a pair (X, y); received {len(data)} things.")
    x, y = (torch.as_tensor(part) if hasattr(part, "__array__") else part for part in data)
    for name, part in (("X", x), ("y", y)):
        if not isinstance(part, torch.Tensor):
            raise InvalidType(f"{name} of the {what} data must be a tensor; received {type(part).__name__}.")
    if not x.dim() or not y.dim() or len(x) != len(y):
        raise InvalidValue(
            f"X and y of the {what} data must have one row per example; received shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}."
        )
    if not len(x):
        raise InvalidValue(f"the {what} data is empty.")
    return x, y


class _Tensors:
    """Two tensors, cut into batches by index. Every batch is a copy."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, batch_size: int, device: torch.device) -> None:
        self.x, self.y, self.batch_size = x.detach().to(device), y.detach().to(device), batch_size

    def __len__(self) -> int:
        return len(self.x)

    def steps_per_epoch(self) -> int:
        return max(len(self) // self.batch_size, 1)

    def per_step(self) -> int:
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


class _Loader:
    """A Dataset or DataLoader. Each pass is made by a fresh copy, with random numbers of its own."""

    def __init__(self, data: Any, what: str, batch_size: int, device: torch.device) -> None:
        self.what, self.batch_size, self.device = what, batch_size, device
        self.make: Callable[[], Any] = lambda: _copy(data, what)

    def _open(self, stream: Randomness, shuffle: bool = True) -> DataLoader[Any]:
        with stream:
            data = self.make()
        if not isinstance(data, DataLoader):
            if not shuffle or isinstance(data, torch.utils.data.IterableDataset):
                return DataLoader(data, batch_size=self.batch_size)
            drop_last = len(data) >= self.batch_size  # type: ignore[arg-type]
            return DataLoader(data, batch_size=self.batch_size, shuffle=True, drop_last=drop_last)
        for holder in (data, data.sampler, getattr(data.batch_sampler, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(stream.seed)  # else every seed would shuffle alike
        return data

    def _read(self, loader: DataLoader[Any], stream: Randomness) -> Iterator[Batch]:
        with stream:
            iterator = iter(loader)
        while True:
            with stream:
                batch = next(iterator, None)
            if batch is None:
                return
            if not isinstance(batch, (tuple, list)):
                raise InvalidType(
                    f"a batch of the {self.what} data must be a pair (X, y); received {type(batch).__name__}."
                )
            x, y = _checked_pair(batch, self.what)
            yield x.detach().to(self.device, copy=True), y.detach().to(self.device, copy=True)

    def steps_per_epoch(self) -> int:
        try:
            return len(self._open(Randomness(0)))
        except TypeError:  # an IterableDataset without a length
            return sum(1 for _ in self.in_order())

    def per_step(self) -> int:
        return len(self.sample(1)[0][1])

    def shuffled(self, seed: int) -> Iterator[Batch]:
        stream = Randomness(seed)
        loader = self._open(stream)
        while True:
            yield from self._read(loader, stream)

    def sample(self, count: int) -> list[Batch]:
        stream, batches, seen = Randomness(0), [], 0
        loader = self._open(stream)
        for batch in self._read(loader, stream):
            batches.append(batch)
            seen += len(batch[1])
            if seen >= count:
                break
        if not batches:
            raise InvalidValue(f"the {self.what} data gives no batch: is the dataset empty, or used up?")
        return batches

    def in_order(self) -> Iterator[Batch]:
        stream = Randomness(0)
        loader = self._open(stream, shuffle=False)
        batches = itertools.islice(self._read(loader, stream), ENDLESS + 1)
        count = 0
        for count, batch in enumerate(batches, 1):
            if count > ENDLESS:
                raise InvalidValue(f"the {self.what} data has no end: more than {ENDLESS:,} batches.")
            yield batch
        if not count:
            raise InvalidValue(f"the {self.what} data gives no batch: is the dataset empty, or used up?")


def _copy(data: Any, what: str) -> Any:
    # Live worker processes can't be copied, and a copy doesn't want them: it starts its own.
    memo: dict[int, Any] = {}
    if isinstance(data, DataLoader) and (iterator := live_iterator(data)) is not None:
        memo[id(iterator)] = None
    try:
        return copy.deepcopy(data, memo)
    except Exception as error:
        raise InvalidValue(
            f"the {what} data can't be copied ({error}), and using it directly would change it; "
            f"hand in a function that makes it instead."
        ) from error
