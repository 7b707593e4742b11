"""The interactive plots of the page, as data for Plotly."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from ...translation import translate
from ..formats import format_result
from ..results import Row, Summary
from .figures import widened
from .search_plots import search_plots
from .traces import LOG_AXIS, make_line, make_plot, style_of


def page_plots(comparison: Summary) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the plots of a comparison for its page, with their names."""
    seeds = comparison.seeds
    shown = (
        f"Mean of {seeds} seeds; the band is their range, and a pointer on it shows each." if seeds > 1 else "One seed."
    )
    losses = list(dict.fromkeys(row.loss for row in comparison.rows))
    for i, loss in enumerate(losses):
        title = f"Training loss, {loss}"
        note = f"On fixed training examples. {shown} Click a name to hide it; double-click to show it alone."
        yield f"loss{i}", _curves(comparison, loss, "losses", title, note, "training loss")
    for i, loss in enumerate(losses):
        title = f"Validation {comparison.metric}" + (f", trained with {loss}" if len(losses) > 1 else "")
        yield f"metric{i}", _curves(comparison, loss, "metrics", title, shown, comparison.metric)
    for i, loss in enumerate(losses):
        title = f"Validation {comparison.metric} over training time" + (f", {loss}" if len(losses) > 1 else "")
        note = f"Steps times the median time of a step, without evaluation. {shown}"
        yield f"time{i}", _curves(comparison, loss, "metrics", title, note, comparison.metric, over_time=True)
    if comparison.tries:
        yield from search_plots(comparison)
    yield "smoothness", _smoothness(comparison)
    if any(result.path for result in comparison.results):
        yield "path", _paths(comparison)


def _curves(
    comparison: Summary, loss: str, attribute: str, title: str, note: str, label: str, *, over_time: bool = False
) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    finished: list[float] = []
    for name in dict.fromkeys(row.curve for row in comparison.rows if row.loss == loss):
        runs = [r for r in comparison.results if r.curve == name and r.loss == loss]
        done = [getattr(r, attribute) for r in runs if not r.diverged]
        style = style_of(comparison, name)
        seconds = [r.step_seconds for r in runs if not math.isnan(r.step_seconds)]
        scale = 1 if not over_time else statistics.median(seconds) if seconds else 0.0
        for count, result in enumerate(r for r in runs if r.diverged):
            y = [v if math.isfinite(v) else None for v in getattr(result, attribute)]
            hint = html.escape(translate(result.note))
            traces.append(
                make_line(
                    f"{name} {translate('(diverged)')}",
                    [step * scale for step in result.steps],
                    y,
                    style,
                    text=hint,
                    showlegend=not done and not count,
                )
            )
        if done:
            steps = next([step * scale for step in r.steps] for r in runs if not r.diverged)
            columns = list(zip(*done, strict=True))
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            finished += [*low, *high]
            if len(done) > 1:
                edge = {
                    "mode": "lines",
                    "line": {"width": 0},
                    "legendgroup": html.escape(name),
                    "showlegend": False,
                    "hoverinfo": "skip",
                }
                traces.append({"x": steps, "y": low, **edge})
                traces.append(
                    {"x": steps, "y": high, "fill": "tonexty", "fillcolor": _transparent(style["color"]), **edge}
                )
            traces.append(make_line(name, steps, [sum(c) / len(c) for c in columns], style))
            for result in (r for r in runs if not r.diverged and len(done) > 1):
                title_of_seed = f"{name}, {translate(f'seed {result.seed}')}"
                seed = make_line(title_of_seed, steps, getattr(result, attribute), style)
                seed |= {"legendgroup": html.escape(name), "showlegend": False, "opacity": 0, "meta": "seed"}
                traces.append(seed)
    logarithmic = attribute == "losses" and finished and min(finished) > 0 and max(finished) > 5 * min(finished)
    axis: dict[str, Any] = {
        "title": {"text": html.escape(translate(label))},
        **(LOG_AXIS if logarithmic else {"type": "linear"}),
    }
    if finished:  # a diverged curve must not flatten the others
        ends = list(widened(min(finished), max(finished)))
        ends = [math.log10(end) for end in ends] if logarithmic else ends
        margin = 0.04 * (ends[1] - ends[0])
        axis["range"] = [ends[0] - margin, ends[1] + margin]
    return make_plot(title, note, traces, {"title": {"text": translate("seconds" if over_time else "step")}}, axis)


def _smoothness(comparison: Summary) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    for row in (row for row in comparison.rows if not row.diverged):
        style = style_of(comparison, row.curve)
        size = _marker_size(comparison, row)
        trace = {
            "x": [_none_if_nan(row.descent_share)],
            "y": [_none_if_nan(row.evenness)],
            "name": html.escape(row.name),
        }
        hint = html.escape(f"{row.name}: {comparison.metric} {format_result(row.metric)}")
        mark = {"color": style["color"], "symbol": style["symbol"], "size": size}
        traces.append({**trace, "mode": "markers", "marker": mark, "hovertext": hint, "cliponaxis": False})
    note = (
        "Descent share: the net descent of the loss as a share of its total movement. "
        "Evenness: how steadily the weights approach their final values. "
        f"A larger mark is a better {comparison.metric}; smoothness alone has no value."
    )
    lowest = min([0.0, *(row.descent_share for row in comparison.rows if not math.isnan(row.descent_share))])
    x, y = (
        {"title": {"text": translate("descent share")}, "range": [lowest - 0.05, 1.05]},
        {"title": {"text": translate("evenness")}, "range": [-0.02, 1.05]},
    )
    return make_plot("Smoothness next to the result", note, traces, x, y)


def _paths(comparison: Summary) -> dict[str, Any]:
    seed = comparison.settings["seeds"][0]
    traces = []
    for result in comparison.results:
        if result.path and result.seed == seed and not result.diverged:
            columns: Sequence[Any] = list(zip(*result.path, strict=True))
            style = style_of(comparison, result.curve)
            trace = make_line(result.candidate, columns[0], columns[-1], style)
            traces.append({**trace, "mode": "lines+markers", "marker": {"size": 4, "color": style["color"]}})
    note = f"Seed {seed}; a mark for every evaluation."
    return make_plot("Path of the weights", note, traces, {"title": {"text": "w"}}, {"title": {"text": "b"}})


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.12)"


def _marker_size(comparison: Summary, row: Row) -> float:
    values = [r.metric for r in comparison.rows if not r.diverged]
    spread = max(values) - min(values)
    share = (row.metric - min(values)) / spread if spread else 1.0
    return 8 + 16 * (share if comparison.higher_is_better else 1 - share)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
