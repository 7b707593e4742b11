"""Encoders: the inputs of a model from the text of a column, with everything that was learned from training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .cells import Cells
from .dates import calendar, date_values
from .number_cells import CONVENTIONS, Convention
from .numbers import number_values


@dataclass
class Encoder(ABC):
    """The inputs of one column.

    Attributes:
        name: The name of the column.
        kept: The indices of the inputs that differ among the training rows.
    """

    kind: ClassVar[str]
    name: str
    kept: list[int] = field(default_factory=list, kw_only=True)

    @abstractmethod
    def encode_texts(self, cells: Cells) -> np.ndarray:
        """All inputs of each distinct text (texts, inputs)."""

    def encode(self, cells: Cells) -> np.ndarray:
        """Return the kept inputs of each row (rows, inputs)."""
        return self.encode_texts(cells)[:, self.kept][cells.codes]

    def strays(self, cells: Cells) -> np.ndarray:
        """Return the distinct texts that are neither missing nor of the kind of this column, and count as missing."""
        return np.zeros(len(cells.texts), bool)

    def keep_varying(self, cells: Cells, train: np.ndarray) -> bool:
        """Keep the inputs that differ among the training rows; returns whether there are any."""
        codes = np.unique(cells.codes[train])
        self.kept = np.flatnonzero(np.ptp(self.encode_texts(cells)[codes], 0) > 0).tolist()
        return bool(self.kept)


@dataclass
class NumberEncoder(Encoder):
    """The number in standard deviations from the mean, the median where it is missing; and whether it is missing.

    Attributes:
        convention: The convention of the column.
        unit: The unit of the numbers; "" for none.
        missing: Numbers that stand for a missing value, such as -999.
    """

    kind = "number"
    convention: Convention = CONVENTIONS[0]
    unit: str = ""
    missing: list[float] = field(default_factory=list)
    median: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0

    def values(self, cells: Cells) -> np.ndarray:
        """Return the number in each distinct text; NaN where there is none."""
        values = number_values(cells, self.convention, self.unit)
        return np.where(np.isin(values, self.missing), np.nan, values) if self.missing else values

    def fit(self, cells: Cells, train: np.ndarray) -> None:
        """Read medians, means and deviations off the rows in `train`."""
        values = self.values(cells)[cells.codes[train]]
        self.median = float(np.nanmedian(values))
        filled = np.where(np.isnan(values), self.median, values)
        self.mean, self.deviation = float(filled.mean()), float(filled.std()) or 1.0

    def strays(self, cells: Cells) -> np.ndarray:
        return np.isnan(number_values(cells, self.convention, self.unit)) & ~cells.missing_texts

    def encode_texts(self, cells: Cells) -> np.ndarray:
        values = self.values(cells)
        missing = np.isnan(values)
        return np.stack([(np.where(missing, self.median, values) - self.mean) / self.deviation, missing], 1)


@dataclass
class DateEncoder(Encoder):
    """Inputs of a date: days and year in standard deviations; month, weekday and time of day on circles; missing.

    A missing date is replaced by the median date.
    """

    kind = "date"
    format: str = "year-month-day"
    median: float = 0.0
    means: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)

    def days(self, cells: Cells) -> np.ndarray:
        """Return the days since 1970 in each distinct text; NaN where there is no date."""
        return date_values(cells, self.format)

    def fit(self, cells: Cells, train: np.ndarray) -> None:
        """Read medians, means and deviations off the rows in `train`."""
        days = self.days(cells)[cells.codes[train]]
        self.median = float(np.nanpercentile(days, 50, method="lower"))
        parts = calendar(np.where(np.isnan(days), self.median, days))[:, :2]
        self.means = parts.mean(0).tolist()
        self.deviations = [float(deviation) or 1.0 for deviation in parts.std(0)]

    def strays(self, cells: Cells) -> np.ndarray:
        return np.isnan(self.days(cells)) & ~cells.missing_texts

    def encode_texts(self, cells: Cells) -> np.ndarray:
        days = self.days(cells)
        missing = np.isnan(days)
        parts = calendar(np.where(missing, self.median, days))
        scaled = (parts[:, :2] - self.means) / self.deviations
        return np.concatenate([scaled, parts[:, 2:], missing[:, None]], 1)


@dataclass
class TextEncoder(Encoder):
    """An input for each frequent value, one for all other values, and one for a missing value."""

    kind = "text"
    values: list[str] = field(default_factory=list)

    def encode_texts(self, cells: Cells) -> np.ndarray:
        index = {value: i for i, value in enumerate(self.values)}
        n = len(self.values)
        at = np.array([index.get(text, n) for text in cells.texts], int)
        at[cells.missing_texts] = n + 1
        return np.eye(n + 2)[at]


ENCODERS = {encoder.kind: encoder for encoder in (NumberEncoder, DateEncoder, TextEncoder)}
