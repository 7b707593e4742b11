"""Options that are numbers."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, PisteError
from .option import NoLetters

__all__ = ["Factor", "Integer", "Limit", "Number", "NumberOrTensor", "Numbers", "as_float"]


@dataclass(frozen=True)
class Number:
    """A real number in a range, [low, high) unless stated otherwise.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.
        letter: The name in the formula, if it differs from that of the argument.
        low: The lower end of the range; -inf is no part of it, unless both ends are infinite and `closed`.
        high: The upper end of the range.
        above: Exclude `low`.
        closed: Include `high`.
        help: Returns the help for a value that is not valid, as a sentence without its period, or None.

    Example:
        >>> from piste.optim.options import Number
        >>> Number(0.9, "the decay rate", high=1.0).check("rho", 1.5)
        Traceback (most recent call last):
            ...
        piste.errors.InvalidValue: `rho` must be in [0, 1); received rho=1.5.
    """

    default: float
    doc: str = ""
    letter: str = ""
    low: float = 0.0
    high: float = math.inf
    above: bool = False
    closed: bool = False
    help: Callable[[Any], str | None] | None = field(default=None, repr=False)
    annotation = "float"

    @property
    def range(self) -> str:
        """The valid values in words."""
        return f"{'(' if self._is_open else '['}{self.low:g}, {self.high:g}{']' if self.closed else ')'}"

    @property
    def _is_open(self) -> bool:
        return self.above or (self.low == -math.inf and not (self.closed and self.high == math.inf))

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        # torch.compile makes symbols of plain numbers, which have no text.
        number = value if type(value) in (float, int) else self._convert(name, value)
        is_above = number > self.low if self._is_open else number >= self.low
        is_below = number <= self.high if self.closed else number < self.high
        if not (is_above and is_below):  # NaN is neither
            help = self.help(value) if self.help is not None else None
            if help is not None:
                raise InvalidValue(
                    f"`{name}` must be in {self.range}; received {name}={float(number)!r}. Help: {help}."
                )
            raise InvalidValue(f"`{name}` must be in {self.range}; received {name}={float(number)!r}.")

    def _convert(self, name: str, value: Any) -> float:
        try:
            return as_float(name, value, f"a number in {self.range}")
        except PisteError:
            help = self.help(value) if self.help is not None else None
            if help is None:
                raise
            raise InvalidType(
                f"`{name}` must be a number in {self.range}; received {name}={value!r} of type {type(value).__name__}. "
                f"Help: {help}."
            ) from None

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        yield self.letter or name, value


@dataclass(frozen=True)
class Limit(Number):
    """A number that may be None, for no limit."""

    default: float | None = None  # type: ignore[assignment]
    annotation = "float | None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is not None:
            super().check(name, value)

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        return iter(()) if value is None else super().letters(name, value)


@dataclass(frozen=True)
class NumberOrTensor(Limit):
    """A number, a tensor of numbers, or None. The values of a tensor are checked where it is used."""

    annotation = "float | Tensor | None"

    @property
    def range(self) -> str:
        """The valid values in words."""
        return f"{super().range}, a torch.Tensor or None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if isinstance(value, (list, tuple)):
            raise InvalidType(
                f"`{name}` must be a number in {self.range}; received several numbers. Help: torch.tensor({value!r})."
            )
        if not isinstance(value, torch.Tensor):
            super().check(name, value)


@dataclass(frozen=True)
class Factor(Number):
    """A number, or a tensor of one number, which may take a gradient. A tensor is checked where it is used."""

    annotation = "float | Tensor"

    @property
    def range(self) -> str:
        """The valid values in words."""
        return f"{super().range}, or a torch.Tensor of one number"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if not isinstance(value, torch.Tensor):
            super().check(name, value)


@dataclass(frozen=True)
class Integer(NoLetters):
    """A whole number between `low` and `high`, both included; also None if it is optional.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.
        low: The smallest valid number, or None.
        high: The largest valid number, or None.
        optional: Whether None is valid.

    Example:
        >>> from piste.optim.options import Integer
        >>> Integer(1, low=1, high=100).range
        'a whole number from 1 to 100'
    """

    default: int | None = None
    doc: str = ""
    low: int | None = None
    high: int | None = None
    optional: bool = False

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return "int | None" if self.optional else "int"

    @property
    def range(self) -> str:
        """The valid values in words."""
        if self.low is None:
            return "an int"
        if self.high is None:
            least = f"a whole number, at least {self.low}"
            return f"{least}, or None" if self.optional else least
        return f"a whole number from {self.low} to {self.high}"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is None and self.optional:
            return
        if type(value) is not int and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise InvalidType(f"`{name}` must be {self.range}; received {value!r}.")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise InvalidValue(f"`{name}` must be {self.range}; received {value}.")


@dataclass(frozen=True)
class Numbers:
    """Several numbers in a tuple or list, each with its own letter and range.

    Args:
        parts: The numbers.
        doc: The meaning, as the end of a sentence.
        ordered: Reject a number above the next.

    Example:
        >>> from piste.optim.options import Number, Numbers
        >>> Numbers((Number(0.5, letter="low"), Number(2.0, letter="high"))).default
        (0.5, 2.0)
    """

    parts: tuple[Number, ...]
    doc: str = ""
    ordered: bool = False

    @property
    def default(self) -> tuple[float, ...]:
        """The defaults."""
        return tuple(part.default for part in self.parts)

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return f"tuple[{', '.join(part.annotation for part in self.parts)}]"

    @property
    def range(self) -> str:
        """The valid values in words."""
        count = ("two", "three")[len(self.parts) - 2]
        ranges = [part.range for part in self.parts]
        if len(set(ranges)) == 1:
            return f"{count} numbers in {ranges[0]}"
        return f"{count} numbers, in {' and '.join(ranges)}"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if not isinstance(value, (tuple, list)) or len(value) != len(self.parts):
            example = ", ".join("None" if part.default is None else f"{part.default:g}" for part in self.parts)
            raise InvalidType(f"`{name}` must be {self.range}; received {name}={value!r}. Write {name}=({example}).")
        for i, part in enumerate(self.parts):
            part.check(f"{name}[{i}]", value[i])
            if self.ordered and i and not float(value[i - 1]) <= float(value[i]):
                raise InvalidValue(f"`{name}[{i - 1}]` must not exceed `{name}[{i}]`; received {name}={value!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        for part, number in zip(self.parts, value, strict=True):
            yield part.letter, number


def as_float(name: str, value: Any, wanted: str) -> float:
    """Return an option as a float.

    Args:
        name: The name of the option, for the message.
        value: A real number, or a tensor of one element.
        wanted: The valid values in words, for the message.

    Returns:
        The value.

    Raises:
        InvalidType: The value is a string, a bool or no real number.
        InvalidValue: The value is a tensor of several elements.

    Example:
        >>> import torch
        >>> from piste.optim.options import as_float
        >>> as_float("lr", torch.tensor([0.5]), "a number")
        0.5
    """
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise InvalidValue(
                f"`{name}` must be {wanted}; received a tensor of shape {tuple(value.shape)}. "
                "Tensor lr must be 1-element, and so must any other option given as a tensor."
            )
        return float(value.detach())
    if isinstance(value, str):
        raise InvalidType(
            f"`{name}` must be {wanted}; received the string {value!r}. "
            f'YAML reads 1e-3 as a string: write 1.0e-3 there, or convert it with float("{value}").'
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidType(f"`{name}` must be {wanted}; received {name}={value!r} of type {type(value).__name__}.")
    return float(value)
