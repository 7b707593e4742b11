"""Runs as records: the fields of a `Result` in JSON's types, as the store and results.json keep them."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from .results import Result

PACKED = {"scores": "<f4", "examples": "<i4"}
"""The fields that are kept as text, and their number types."""
COMPRESSION = 6
"""The level of zlib; 9 takes six times as long for a tenth less."""
_FIELDS = {field.name for field in fields(Result)}
_LISTS = ("losses", "metrics")
_NUMBERS = ("step_seconds", "seconds", "descent_share", "evenness")


def record_of(result: Result) -> dict[str, Any]:
    """Return the fields of a run, with its scores and their examples as text."""
    return {**vars(result), **{name: pack(getattr(result, name), dtype) for name, dtype in PACKED.items()}}


def result_of(record: Mapping[str, Any]) -> Result:
    """Return the run of a record, in which null stands for NaN and infinity, and unknown fields do not count."""
    values = {name: value for name, value in record.items() if name in _FIELDS}
    values |= {name: [math.nan if value is None else value for value in values[name]] for name in _LISTS}
    values |= {name: math.nan for name in _NUMBERS if values.get(name, 0) is None}
    for name, dtype in PACKED.items():
        if isinstance(values.get(name), str):  # lists before scores were packed
            values[name] = unpack(values[name], dtype)
    options = values.get("options", {}).items()
    return Result(**{**values, "options": {k: tuple(v) if isinstance(v, list) else v for k, v in options}})


def pack(values: Sequence[float], dtype: str) -> str:
    """Return numbers as text: little-endian, compressed with zlib, in base64.

    >>> unpack(pack([1.0, 0.5], "<f4"), "<f4")
    [1.0, 0.5]
    """
    return base64.b64encode(zlib.compress(np.asarray(values, dtype).tobytes(), COMPRESSION)).decode()


def unpack(text: str, dtype: str) -> list[Any]:
    """Return the numbers that `pack` packed."""
    values: list[Any] = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).tolist()
    return values
