"""The table of all optimizers, in a module that every module of the package can import."""

from __future__ import annotations

from typing import Any

__all__ = ["OPTIMIZERS"]

OPTIMIZERS: dict[str, type[Any]] = {}
"""Maps the class name of every optimizer to its class; filled when `piste.optim` is imported."""
