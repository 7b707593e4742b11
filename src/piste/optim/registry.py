"""The optimizers by name, for the modules that `piste.optim` imports."""

from __future__ import annotations

from typing import Any

__all__ = ["OPTIMIZERS"]

OPTIMIZERS: dict[str, type[Any]] = {}
"""Every optimizer of Piste by the name of its class; `piste.optim` fills it when it is imported."""
