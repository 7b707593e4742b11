"""A private random state, so that a comparison does not affect random numbers elsewhere."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class RandomState:
    """A private stream of the random numbers of torch, numpy and Python, active inside `with`.

    Leaving the block restores the outer streams as they were; entering it again continues the private ones.

    >>> private, before = RandomState(7), torch.get_rng_state()
    >>> with private:
    ...     a = torch.rand(2)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._inside: tuple[Any, ...] | None = None
        self._outside: list[tuple[Any, ...]] = []

    def __enter__(self) -> RandomState:
        self._outside.append(_get())
        if self._inside is not None:
            _set(self._inside)
        else:
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)
            random.seed(self.seed)
        return self

    def __exit__(self, *exception: object) -> None:
        self._inside = _get()
        _set(self._outside.pop())


def _get() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set(state: tuple[Any, ...]) -> None:
    cpu, cuda, numpy_state, python_state = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
