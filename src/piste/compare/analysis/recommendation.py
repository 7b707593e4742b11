"""Which of those that can't be told apart to take, why, and the line to paste."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..search_space import spoken

if TYPE_CHECKING:
    from ..comparison import Row

CLEARLY_WIDER = 0.5
"""Ranges of good learning rates that differ by less than this many decades count as equally wide."""


def recommend(
    rows: Sequence[Row],
    group: Sequence[str],
    defaults: dict[str, float | None],
    near: float = math.nan,
    higher_is_better: bool = True,
) -> tuple[Row, str]:
    """The row to take from the group, and the reason in a sentence.

    Not to be told from the best, with few seeds, doesn't mean to be as good: so whose mean stays behind `near` is left
    out. Among the others the results don't decide, but what is cheap to live with, in this order: a range of good
    learning rates that is clearly wider (where rates were searched), the optimizer's own default rate, the least memory
    kept, and, all else equal, the better mean. `defaults` holds each candidate's default rate. Times don't enter: they
    differ from run to run.
    """
    choice = [row for row in rows if row.name in group]
    if len(choice) == 1:
        return choice[0], "it is told apart from every other."
    sign = 1 if higher_is_better else -1
    choice = [row for row in choice if not sign * row.metric < sign * near] or choice[:1]
    if len(choice) == 1:
        return choice[0], "no other came near its mean, though the test can't tell all of them from it; more seeds may."
    reasons = []
    widths = [row.lr_width for row in choice if not math.isnan(row.lr_width)]
    if widths:
        wide = [row for row in choice if row.lr_width > max(widths) - CLEARLY_WIDER]
        if len(wide) < len(choice):
            reasons.append("good learning rates range over {width:.1f} decades")
            choice = wide
    if widths and len(choice) > 1:
        plain = [row for row in choice if row.lr == defaults.get(row.name) and not row.options]
        if plain and len(plain) < len(choice):
            reasons.append("its default learning rate does as well as any")
            choice = plain
    if len(choice) > 1:
        least = min(row.state_bytes for row in choice)
        light = [row for row in choice if row.state_bytes == least]
        if len(light) < len(choice):
            reasons.append("it keeps the least memory")
            choice = light
    if not reasons:
        return choice[0], "nothing else sets them apart, so the best mean decides."
    reason = " and ".join(reasons).format(width=choice[0].lr_width)
    return choice[0], f"among those that can't be told apart, {reason}."


def line(row: Row, known: Sequence[str]) -> str:
    """The line of code that makes the recommended optimizer; one that was given in a dict is taken from there."""
    rate = "" if row.lr is None else f", lr={row.lr:.3g}"
    options = f", {spoken(row.options)}" * bool(row.options)
    if row.optimizer in known:
        maker = f"piste.optim.{row.optimizer}"
    else:
        maker = row.optimizer if row.optimizer.isidentifier() else f"optimizers[{row.optimizer!r}]"
    return f"optimizer = {maker}(model.parameters(){rate}{options})"
