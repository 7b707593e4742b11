"""Random numbers of one's own, so that nothing outside a comparison notices it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class Randomness:
    """A private stream of torch's, numpy's and Python's random numbers, in force inside `with`.

    On leaving, the numbers outside go on as if nothing had happened; on entering again, the private ones do.

    >>> mine, before = Randomness(7), torch.get_rng_state()
    >>> with mine:
    ...     a = torch.rand(2)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._inside: tuple[Any, ...] | None = None
        self._outside: list[tuple[Any, ...]] = []

    def __enter__(self) -> Randomness:
        self._outside.append(_state())
        if self._inside is not None:
            _restore(self._inside)
        else:
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)
            random.seed(self.seed)
        return self

    def __exit__(self, *exception: object) -> None:
        self._inside = _state()
        _restore(self._outside.pop())


def _state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _restore(state: tuple[Any, ...]) -> None:
    cpu, cuda, numpy_state, python_state = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
