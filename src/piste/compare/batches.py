"""Batches of any structure: tensors in tuples, lists, dicts and named tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Batch = Any
"""A pair (X, y), or any structure that a custom training step takes."""


def map_tensors(function: Callable[[torch.Tensor], Any], batch: Batch) -> Batch:
    """Return the same structure with `function` applied to every tensor; other values stay.

    >>> map_tensors(len, {"tokens": torch.zeros(2, 3), "names": ["a", "b"]})
    {'tokens': 2, 'names': ['a', 'b']}
    """
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        mapped = {key: map_tensors(function, value) for key, value in batch.items()}
        return mapped if type(batch) is dict else _like(batch, mapped)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([map_tensors(function, value) for value in batch])
    return batch


def _like(batch: Mapping[Any, Any], mapped: dict[Any, Any]) -> Any:
    """Return a mapping of the type of `batch`, or a dict where the type can't be made of one."""
    try:
        return type(batch)(mapped)  # type: ignore[call-arg]
    except TypeError:
        return mapped


def tensors_of(batch: Batch) -> Iterator[torch.Tensor]:
    """Return every tensor of the structure, in order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from tensors_of(value)


def count_examples(batch: Batch) -> int:
    """Return the number of examples: the length of the first tensor that has one, or of the list that is the batch."""
    for tensor in tensors_of(batch):
        if tensor.dim():
            return len(tensor)
    return len(batch) if isinstance(batch, (tuple, list)) else 1


def take_rows(batch: Batch, rows: torch.Tensor) -> Batch:
    """Return the examples with these indices, copied."""
    return map_tensors(lambda tensor: select_rows(tensor, rows.to(tensor.device)), batch)


def select_rows(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return `tensor[rows]`; of a contiguous tensor several times as fast, because whole rows are copied."""
    return tensor.index_select(0, rows) if tensor.is_contiguous() else tensor[rows]


def concatenate(batches: list[Batch]) -> Batch | None:
    """One batch of all examples; None if the structures or the shapes differ or hold anything but tensors."""
    first = batches[0]
    if isinstance(first, torch.Tensor):
        alike = all(isinstance(b, torch.Tensor) and b.dim() and b.shape[1:] == first.shape[1:] for b in batches)
        return torch.cat(batches) if alike else None
    if type(first) is dict and all(type(b) is dict and b.keys() == first.keys() for b in batches):
        joined = {key: concatenate([b[key] for b in batches]) for key in first}
        return None if any(value is None for value in joined.values()) else joined
    if type(first) in (tuple, list) and all(type(b) is type(first) and len(b) == len(first) for b in batches):
        parts = [concatenate(list(column)) for column in zip(*batches, strict=True)]
        return None if any(part is None for part in parts) else type(first)(parts)
    return None
