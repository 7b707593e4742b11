"""Numbers that are surely right, which a kernel sees of many at once with one instruction; others are looked at again.

`piste.engine.cpu.kernels.math32` has the words.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

__all__ = ["Bound", "Kind", "Sure"]

Kind = Literal["from 0 to", "up to", "of size"]
Sure = tuple[Kind, float]
"""A kind and its number."""


class Bound(NamedTuple):
    """Of column `column`, all numbers "from 0 to" a number, "up to" it, or "of size" that number, with either sign.

    NaN may be counted with either side.
    """

    column: int
    kind: Kind
    number: float

    @property
    def _bits(self) -> str:
        return "signed_bits" if self.kind == "up to" else "bits"

    def _at(self, dtype: str) -> str:
        return f"{dtype}({'math.inf' if self.number == math.inf else repr(self.number)})"

    def first(self, dtype: str) -> str:
        """The line before anything was seen."""
        return f"seen{self.column} = {self._bits}({dtype}(0.0))"

    def each(self, name: str, dtype: str) -> list[str]:
        """The lines for one number."""
        seen = f"seen{self.column}"
        if self.kind == "of size":
            return [f"{seen} = differing_bits({seen}, {name}, {self._at(dtype)})"]
        return [f"bits_ = {self._bits}({name})", f"{seen} = bits_ if bits_ > {seen} else {seen}"]

    def is_broken(self, dtype: str) -> str:
        """Whether something else was seen."""
        seen = f"seen{self.column}"
        if self.kind == "of size":  # all bits are the same, but for the sign's
            return f"({seen} != bits({dtype}(0.0)) and {seen} != bits({dtype}(-0.0)))"
        return f"({seen} > {self._bits}({self._at(dtype)}))"
