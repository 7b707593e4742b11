"""The names of other libraries for options."""

from __future__ import annotations

from collections.abc import Container, Mapping

__all__ = ["names_here"]


def names_here(name: str, foreign: Mapping[str, tuple[str, ...]], known: Container[str]) -> list[str]:
    """Return the options that a name of another library stands for.

    Args:
        name: The name as it was received.
        foreign: Names of other libraries, each with the options that it may stand for.
        known: The options of the optimizer or the loss; others are left out.

    Example:
        >>> names_here("tau", {"tau": ("temperature", "quantile")}, {"temperature", "normalize"})
        ['temperature']
    """
    return [word for word in foreign.get(name, ()) if word in known]
