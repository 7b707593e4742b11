"""The figure of a search: the result of every learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results import Summary
from .figures import INK, new_figure, style_axes, styles
from .fonts import show_as_text, translated


def spans_decades(comparison: Summary, values: Sequence[float]) -> bool:
    """Return whether results of a search need a logarithmic axis: errors, of which one is more than ten times another.

    One trial at a bad learning rate would flatten all others on a linear axis.
    """
    return not comparison.higher_is_better and min(values) > 0 and max(values) > 10 * min(values)


def learning_rate_figure(comparison: Summary) -> Any:
    """Return the result of every learning rate of the searches, a panel for each loss; a diamond marks the default."""
    from .log_axes import set_log_scale

    losses = list(dict.fromkeys(row.loss for row in comparison.rows))
    figure = new_figure(max(7.5, 4.2 * len(losses) + 1.6), 4.8)
    style = styles(comparison)
    tries = [r for r in comparison.tries if r.curve in style]  # an interruption leaves trials without a final run
    entries: dict[str, Any] = {}
    for loss, axes in zip(losses, figure.subplots(1, len(losses), sharey=True, squeeze=False)[0], strict=True):
        for name in dict.fromkeys(r.curve for r in tries if r.loss == loss):
            trials = [r for r in tries if r.loss == loss and r.curve == name]
            finished = sorted((r.seed, r.lr, r.metrics[-1]) for r in trials if r.status == "done")
            line = {**style[name], **({"linestyle": ""} if any(r.options for r in trials) else {})}
            for seed in dict.fromkeys(number for number, _, _ in finished):  # a line for each search
                points = [(lr, value) for number, lr, value in finished if number == seed]
                (entries[name],) = axes.plot(*zip(*points, strict=True), **line, lw=1.4, marker="o", ms=3.5)
            unfinished = [r.lr for r in trials if r.status != "done"]
            axes.plot(
                unfinished,
                [0.01] * len(unfinished),
                "|",
                ms=8,
                color=style[name]["color"],
                transform=axes.get_xaxis_transform(),
            )
            default = [(lr, value) for _, lr, value in finished if lr == trials[0].lr]
            if default:
                axes.plot(*zip(*default, strict=True), "D", ms=7, mfc="none", mew=1.5, color=style[name]["color"])
        set_log_scale(axes, "x")
        axes.set_xlabel(translated("learning rate"), color=INK)
        axes.set_title(loss, fontsize=10, color=INK)
        style_axes(axes)
    ends = [r.metrics[-1] for r in tries if r.status == "done"]
    if ends and spans_decades(comparison, ends):
        set_log_scale(figure.axes[0], "y")
    figure.axes[0].set_ylabel(translated(f"{comparison.metric}, validation, searches"), color=INK)
    figure.legend(entries.values(), entries, loc="outside right center", frameon=False, fontsize=9)
    title = translated("result by learning rate. Diamond: default or given rate. Ticks below: pruned or diverged.")
    figure.suptitle(f"{comparison.name}: {title}", fontsize=11, color=INK, x=0.01, ha="left")
    show_as_text(figure)
    return figure
