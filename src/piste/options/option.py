"""What every option states, and what is derived from a list of options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["NoLetters", "Option", "document", "make_signature"]


class Option(Protocol):
    """A declared option: `check` raises for a value outside `range`; `annotation` is its type in a stub."""

    @property
    def default(self) -> Any:
        """The value of an argument that is not passed."""

    @property
    def doc(self) -> str:
        """The meaning, as the end of a sentence."""

    @property
    def range(self) -> str:
        """The valid values in words."""

    @property
    def annotation(self) -> str:
        """The type in a stub."""

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range.

        Args:
            name: The name of the argument, for the message.
            value: The value passed.

        Raises:
            InvalidType: The value is of the wrong type.
            InvalidValue: The value is out of the range.
        """

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""


@dataclass(frozen=True)
class NoLetters:
    """The base of options that are not numbers in the formula of an optimizer."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        return iter(())


def make_signature(
    leading: Iterable[str], positional: Mapping[str, Option], keyword_only: Mapping[str, Option]
) -> inspect.Signature:
    """Arguments without a default, then the options by position, then those by keyword."""
    kinds = inspect.Parameter
    parameters = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in leading]
    parameters += [kinds(n, kinds.POSITIONAL_OR_KEYWORD, default=o.default) for n, o in positional.items()]
    parameters += [kinds(n, kinds.KEYWORD_ONLY, default=o.default) for n, o in keyword_only.items()]
    return inspect.Signature(parameters)


def document(options: Mapping[str, Option]) -> list[str]:
    """Return the lines of an Args section, one for each option."""
    return [f"    {name} (default {o.default!r}, {o.range}): {o.doc}." for name, o in options.items()]
