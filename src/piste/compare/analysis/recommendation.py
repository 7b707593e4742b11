"""The recommendation: one candidate of the best group, the reason, and the line of code to paste."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..results import Row
from ..search_space import format_options

CLEARLY_WIDER = 0.5
"""Ranges of good learning rates that differ by less than this number of decades count as equally wide."""


def recommend(
    rows: Sequence[Row],
    group: Sequence[str],
    defaults: Mapping[str, float | None],
    threshold: float = math.nan,
    *,
    higher_is_better: bool = True,
) -> tuple[Row, str]:
    """Choose a row from the best group.

    A candidate whose mean is worse than `threshold` is excluded: with few seeds, "not significantly worse than the
    best" does not mean "as good". The others are ranked by practical advantages, in this order: a clearly wider range
    of good learning rates (if rates were searched), the default learning rate, the least optimizer state, and the
    better mean. Times are not considered, because they vary between runs.

    Args:
        rows: All rows, best first.
        group: The names of the candidates that are not significantly worse than the best.
        defaults: The default learning rate of each candidate.
        threshold: The worst acceptable mean of the metric; NaN accepts every candidate of the group.
        higher_is_better: The direction of the metric.

    Returns:
        The recommended row and the reason as a clause.
    """
    choice = [row for row in rows if row.name in group]
    if len(choice) == 1:
        return choice[0], "every other candidate is significantly worse."
    sign = 1 if higher_is_better else -1
    choice = [row for row in choice if not sign * row.metric < sign * threshold] or choice[:1]
    if len(choice) == 1:
        return choice[0], "no other mean comes near, although not every difference is significant; add seeds to decide."
    reasons = []
    widths = [row.lr_width for row in choice if not math.isnan(row.lr_width)]
    if widths:
        wide = [row for row in choice if row.lr_width > max(widths) - CLEARLY_WIDER]
        if len(wide) < len(choice):
            reasons.append("good learning rates range over {width:.1f} decades")
            choice = wide
    if widths and len(choice) > 1:
        default = [row for row in choice if row.lr == defaults.get(row.name) and not row.options]
        if default and len(default) < len(choice):
            reasons.append("its default learning rate does as well as any")
            choice = default
    if len(choice) > 1:
        least = min(row.state_bytes for row in choice)
        light = [row for row in choice if row.state_bytes == least]
        if len(light) < len(choice):
            reasons.append("its optimizer state is the smallest")
            choice = light
    if not reasons:
        return choice[0], "it has the best mean, and no practical advantage decides for another."
    reason = " and ".join(reasons).format(width=choice[0].lr_width)
    return choice[0], f"among the candidates without a significant difference, {reason}."


def code_to_paste(row: Row, known: Sequence[str]) -> str:
    """The line of code that constructs the optimizer of `row`.

    Args:
        row: The recommended row.
        known: The names of Piste's optimizers; others are taken from the caller's `optimizers` dict.
    """
    lr = "" if row.lr is None else f", lr={row.lr:.3g}"
    options = f", {format_options(row.options)}" * bool(row.options)
    if row.optimizer in known:
        make = f"piste.optim.{row.optimizer}"
    else:
        make = row.optimizer if row.optimizer.isidentifier() else f"optimizers[{row.optimizer!r}]"
    return f"optimizer = {make}(model.parameters(){lr}{options})"
