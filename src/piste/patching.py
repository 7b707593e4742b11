"""Piste's optimizers and losses under PyTorch's names, for code that can't be edited."""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any

import torch

from . import losses, optim


class Patch:
    """The replacements that `patch` made; `undo`, or the end of a `with` block, takes them back."""

    def __init__(self, replacements: list[tuple[ModuleType, str, Any]]) -> None:
        self._originals = [(module, name, getattr(module, name)) for module, name, _ in replacements]
        for module, name, value in replacements:
            setattr(module, name, value)

    def undo(self) -> None:
        """Put back what stood under each name before the patch. A second call does nothing."""
        while self._originals:
            setattr(*self._originals.pop())

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def patch() -> Patch:
    """Replace the optimizers of torch.optim and the losses of torch.nn and torch.nn.functional by Piste's.

    Code that looks the names up afterwards, as `torch.optim.Adam(...)` or `nn.CrossEntropyLoss()` does, gets Piste's.
    A name that was imported earlier (`from torch.optim import Adam`) stays PyTorch's: call `patch` before that import.
    Objects that exist already are not changed, and names that Piste lacks stay PyTorch's.

    Returns:
        A `Patch`: `undo()` takes the replacements back, and so does the end of a `with` block.

    Example:
        >>> import piste, torch
        >>> with piste.patch():
        ...     torch.optim.Adam is piste.optim.Adam
        True
        >>> torch.optim.Adam is piste.optim.Adam
        False
    """
    sources: list[tuple[ModuleType, dict[str, Any]]] = [
        (torch.optim, dict(optim.OPTIMIZERS)),
        (torch.nn, {name: getattr(losses, name) for name in losses.__all__ if name.endswith(("Loss", "Loss2d"))}),
        (torch.nn.functional, {name: getattr(losses.functional, name) for name in losses.functional.__all__}),
    ]
    return Patch(
        [(module, name, value) for module, values in sources for name, value in values.items() if hasattr(module, name)]
    )
