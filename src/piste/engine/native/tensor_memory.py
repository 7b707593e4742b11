"""Where a tensor keeps its gradient, its storage, its sizes, strides, dtype, device and keys.

Asking libtorch for each of them takes a call. Machine code compares words of memory with those of a tensor that was
found to fit, and asks where one of them differs. The places are found by experiment, on tensors that differ in one fact
each; where that fails, machine code always asks.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["FactTable", "FactWords", "fact_words"]

INLINE_DIMS = 5  # of a tensor that keeps its sizes within itself
_SIZES, _STRIDES = (5, 7, 11, 13), (211, 223, 227, 229, 233)
_DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.complex64)
_TENSORS = 8  # that are made alike
_READ = 16  # words of memory that a tensor refers to


class FactWords(NamedTuple):
    """The words of a TensorImpl: the number of dimensions, `INLINE_DIMS` sizes and strides each, and others.

    Attributes:
        first: the place of the first one; 0 where they were not found.
        masks: the bits of each word that are compared.
        object: the place of the address of the Python object.
        storage: the place of the address of the storage.
        data: the place of the address of the first element in a storage.
        autograd: the place of the address of the memory of autograd.
        gradient: the place of the address of the gradient's TensorImpl in that memory.
    """

    first: int
    masks: array[int]
    object: int = 0
    storage: int = 0
    data: int = 0
    autograd: int = 0
    gradient: int = 0


class FactTable:
    """The words of tensors, those of alike tensors once."""

    def __init__(self) -> None:
        self._words = fact_words()
        self._known: dict[tuple[int, ...], array[int]] = {}

    def of(self, x: Tensor) -> int:
        """Return the address of the words of a tensor; 0 where they don't tell all about it."""
        first, count = self._words.first, len(self._words.masks)
        if not first or x.dim() > INLINE_DIMS:
            return 0
        words = tuple((ctypes.c_int64 * count).from_address(x._cdata + 8 * first))
        return self._known.setdefault(words, array("q", words)).buffer_info()[0]


@functools.cache
def fact_words() -> FactWords:
    """Return the words that machine code compares."""
    try:
        example = _words(_empty(1).as_strided((0, *_SIZES), _STRIDES))
        expected = [INLINE_DIMS, 0, *_SIZES, *_STRIDES]
        (first,) = (k for k in range(len(example)) if example[k : k + len(expected)] == expected)
        after = first + len(expected)
        base, others = _alike(lambda: _empty(2, 3), (0x00, 0xFF)), list(map(_alike, _OTHERS))
        # The keys, which hold what is pending, are the last words; the memory behind a tensor may be anything.
        last = max(base.differing(others[-1]) & base.differing(others[-2]))
        masks = [-1] * len(expected) + [_signed(base.same[k]) for k in range(after, last + 1)]
        if not all(base.is_told(other, range(first, last + 1)) for other in others):
            return _UNKNOWN
        return FactWords(first, array("q", masks), *_references(first))
    except (OSError, AttributeError, TypeError, ValueError, IndexError):  # another C library, or another layout
        return _UNKNOWN


_UNKNOWN = FactWords(0, array("q"))


def _references(first: int) -> tuple[int, ...]:
    """Return the places of addresses, which are those of several tensors."""
    made = [_empty(3 + k).requires_grad_() for k in range(4)]
    for x in made:
        x.grad = torch.empty_like(x)
    impls = [_words(x)[:first] for x in made]
    storages = [x.untyped_storage()._cdata for x in made]
    gradients = [0 if x.grad is None else x.grad._cdata for x in made]
    (data, *_) = _places(map(_read, storages), [x.data_ptr() for x in made])
    ((autograd, gradient),) = [
        (k, place) for k in range(2, first) for place in _places([_read(words[k]) for words in impls], gradients)
    ]
    ((owner,), (storage,)) = _places(impls, list(map(id, made))), _places(impls, storages)
    return owner, storage, data, autograd, gradient


def _places(memory: Iterable[Sequence[int]], wanted: Sequence[int]) -> list[int]:
    """Return the places that hold a wanted word in each of some memory."""
    found = [{k for k, word in enumerate(words) if word == x} for words, x in zip(memory, wanted, strict=True)]
    return sorted(set.intersection(*found))


def _read(address: int) -> Sequence[int]:
    """Return some words of memory; none where there is no memory."""
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        try:
            return struct.unpack(f"={_READ}Q", os.pread(memory.fileno(), 8 * _READ, address))
        except (OSError, OverflowError, struct.error):
            return ()


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of memory that holds anything, whatever the defaults of the process are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


_OTHERS: tuple[Callable[[], Tensor], ...] = (
    *(lambda dtype=dtype: _empty(2, 3, dtype=dtype) for dtype in _DTYPES),
    *(lambda shape=shape: _empty(*shape) for shape in ((3, 3), (2, 2), (6,), (2, 3, 1), ())),
    lambda: _empty(3, 2).t(),
    lambda: _empty(2, 6)[:, :3],
    lambda: _empty(7)[1:].view(2, 3),
    lambda: torch.empty(2, 3, dtype=torch.float32, device="meta"),
    lambda: _empty(2, 3).to_sparse(),
    lambda: torch._neg_view(_empty(2, 3)),
    lambda: _empty(2, 3, dtype=torch.complex64).conj(),
)
"""Tensors that differ in a fact from one of float32 and shape (2, 3)."""


class _Alike(NamedTuple):
    """The words of equal tensors, and the bits of each in which these do not differ."""

    words: list[int]
    same: list[int]

    def differing(self, other: _Alike) -> set[int]:
        """Return the places of words that differ from those of other tensors."""
        both = zip(self.words, self.same, other.words, other.same, strict=False)
        return {k for k, (a, same_a, b, same_b) in enumerate(both) if (a ^ b) & same_a & same_b}

    def is_told(self, other: _Alike, places: range) -> bool:
        """Return whether some words differ from those of other tensors."""
        return not self.differing(other).isdisjoint(places)


def _alike(make: Callable[[], Tensor], fills: Sequence[int] = ()) -> _Alike:
    """Describe the tensors that a function makes, in memory that held some bytes before."""
    made = [make()]
    for fill in fills:
        _fill_free_memory(_usable(made[0]), fill)
        made += [make() for _ in range(_TENSORS)]
    words, *others = map(_words, made)
    same = [(1 << 64) - 1] * len(words)
    for other in others:
        same = [bits & ~(a ^ b) for bits, a, b in zip(same, words, other, strict=False)]
    return _Alike(words, same)


def _fill_free_memory(size: int, fill: int) -> None:
    """Leave bytes in blocks of a size that the next tensors may be made of."""
    library: Any = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(size) for _ in range(4 * _TENSORS)]
    for block in blocks:
        ctypes.memset(block, fill, size)
    for block in blocks:
        library.free(block)


def _usable(x: Tensor) -> int:
    size: Any = ctypes.CDLL(None).malloc_usable_size
    size.argtypes, size.restype = [ctypes.c_void_p], ctypes.c_size_t
    return int(size(x._cdata))


def _words(x: Tensor) -> list[int]:
    return list((ctypes.c_uint64 * (_usable(x) // 8)).from_address(x._cdata))


def _signed(word: int) -> int:
    return word - (word >> 63 << 64)
