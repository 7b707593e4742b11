"""A finished comparison: the summary with methods that print and save it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import PisteError, Unsupported
from ..translation import translate
from ..wording import plural
from .report.figures import curve_figure
from .report.files import save_report
from .report.runs import run_records
from .report.tables import markdown_summary, markdown_table
from .results import Summary


class Comparison(Summary):
    """The result of `piste.compare`: `rows` best first, `results` with every curve, and the `verdict`.

    It prints as its table and verdict; `save(folder)` writes the report, the curves, the table and all numbers.
    """

    @classmethod
    def of(cls, summary: Summary) -> Comparison:
        """Return the comparison with the data of `summary`."""
        return cls(**{field.name: getattr(summary, field.name) for field in fields(summary)})

    def table(self) -> str:
        """Return the table as Markdown."""
        return markdown_table(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the report, the curves, the table and all numbers into `folder`.

        Returns:
            The paths of the written files.
        """
        return save_report(self, Path(folder))

    def plot(self) -> Any:
        """Return the curves as a matplotlib figure, which a notebook shows."""
        return curve_figure(self)

    def to_pandas(self) -> Any:
        """Return every run as a row of a pandas DataFrame, as in `runs.csv`.

        Raises:
            Unsupported: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise Unsupported("`to_pandas` needs pandas: pip install pandas. runs.csv has the same rows.") from error
        return pandas.DataFrame(run_records(self))

    def __repr__(self) -> str:
        counts = f"{plural(len(self.rows), 'candidate')}, {plural(len(self.results), 'run')}"
        return f"<Comparison {self.name!r}: {counts}. {self.verdict.sentence}>"

    def __str__(self) -> str:
        return f"{translate(self.table())}\n{self.verdict}"

    def _repr_markdown_(self) -> str:
        return markdown_summary(self)


class UnsavedReport(PisteError):
    """The report of a finished comparison could not be written; `comparison` holds its results."""

    def __init__(self, reason: str, comparison: Comparison) -> None:
        super().__init__(reason)
        self.comparison = comparison
