"""The recommendation: the best candidate or one that is practically equal, and the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..results import Row, Verdict

CLEARLY_WIDER = 0.5
"""Ranges of good learning rates that differ by less than this number of decades count as equally wide."""
CLEARLY_STEADIER = 2.0
"""A candidate counts as steadier if the other's standard deviation over seeds is more than this multiple of its own."""
CLEARLY_CHEAPER = 0.9
"""A candidate counts as cheaper if it takes at most this share of the other's memory or time."""


def recommend(rows: Sequence[Row], verdict: Verdict, learned: Callable[[Row], bool]) -> tuple[Row | None, str]:
    """Choose the best candidate, or one whose difference to it is shown to be within the practical margin.

    Lack of significance is not enough: the whole interval of the difference must be within the margin. Among such
    candidates the choice goes by the least variation between seeds, the widest range of good learning rates (if rates
    were searched), the least memory, the shortest time of a step, and the best mean, each only if the difference is
    clear.

    Args:
        rows: All rows, best first.
        verdict: The verdict over them.
        learned: Whether a row is better than a constant prediction.

    Returns:
        The recommended row and the reason as a clause; None if no candidate learned anything.
    """
    by_name = {row.name: row for row in rows}
    best = by_name[str(verdict.best)]
    if not learned(best):
        return None, "no candidate is better than a constant prediction."
    equal = [by_name[d.name] for d in verdict.differences if d.outcome == "equal" and learned(by_name[d.name])]
    if not equal:
        return best, _alone(verdict)
    choice, reasons = [best, *equal], []
    for keep, reason in (
        (_steadiest(verdict.practical), "its results vary least between seeds"),
        (_widest, "good learning rates range over {width:.1f} decades"),
        (_cheapest(lambda row: row.peak_bytes), "a step takes the least memory"),
        (_cheapest(lambda row: row.step_seconds), "a step takes the least time"),
    ):
        kept = keep(choice) if len(choice) > 1 else choice
        if len(kept) < len(choice):
            choice = kept
            reasons.append(reason)
    row = choice[0]
    if not reasons:
        return row, "it has the best mean, and no candidate that is practically equal has a clear advantage."
    reason = " and ".join(reasons).format(width=row.lr_width)
    return row, f"among the candidates that are practically equal to the best, {reason}."


def _alone(verdict: Verdict) -> str:
    if not verdict.differences:
        return "it is the only candidate that finished."
    if not verdict.test:
        return "it has the best result, but this comparison can't show that another is worse."
    if all(d.outcome == "worse" for d in verdict.differences):
        return "every other candidate is worse."
    return "it has the best mean, and no other candidate is shown to be practically equal."


Filter = Callable[[Sequence[Row]], list[Row]]


def _steadiest(practical: float) -> Filter:
    """Return a filter for rows that vary less than twice the steadiest, or less than half the practical margin."""

    def keep(rows: Sequence[Row]) -> list[Row]:
        least = min(row.std for row in rows)
        return [row for row in rows if row.std <= max(CLEARLY_STEADIER * least, practical / 2)]

    return keep


def _widest(rows: Sequence[Row]) -> list[Row]:
    widths = [row.lr_width for row in rows if not math.isnan(row.lr_width)]
    return [row for row in rows if not widths or row.lr_width > max(widths) - CLEARLY_WIDER]


def _cheapest(cost: Callable[[Row], float]) -> Filter:
    def keep(rows: Sequence[Row]) -> list[Row]:
        least = min(cost(row) for row in rows)
        return [row for row in rows if not least <= CLEARLY_CHEAPER * cost(row)] or list(rows)

    return keep
