"""Plots of the search: slices by learning rate and by each option, and all trials in parallel coordinates."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ...translation import translate
from ..results import Result, Summary
from ..search_space import format_options
from .learning_rates import spans_decades
from .traces import LOG_AXIS, make_line, make_plot, style_of

NONE = "–"
"""The value of an option in trials of a candidate that does not take it."""


def search_plots(comparison: Summary) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the plots of a comparison that searched, with their names."""
    yield "rates", _learning_rates(comparison)
    for i, option in enumerate(_options(comparison)):
        yield f"slice{i}", _slice(comparison, option)
    if any(r.status == "done" for r in comparison.tries):
        yield "parallel", _parallel(comparison)


def _learning_rates(comparison: Summary) -> dict[str, Any]:
    """Return the result of every learning rate: a slice through the search."""
    traces = []
    values = [r.metrics[-1] for r in comparison.tries if r.status == "done"] or [0.0]
    by_decades = spans_decades(comparison, values)
    low, high = min(values), max(values)
    bottom = low * (low / high) ** 0.06 if by_decades else low - 0.06 * (high - low)
    for row in comparison.rows:
        trials = [r for r in comparison.tries if r.candidate == row.name]
        points = _points(trials)
        style = style_of(comparison, row.curve)
        hints = [html.escape(f"{translate(f'seed {r.seed}')} {format_options(r.options)}") if r else "" for r in points]
        results = [r.metrics[-1] if r else None for r in points]
        trace = make_line(row.name, [r.lr if r else None for r in points], results, style, text=hints)
        symbols = ["diamond-open" if r and r.lr == trials[0].lr else style["symbol"] for r in points]
        sizes = [13 if r and r.lr == trials[0].lr else 6 for r in points]
        mode = "markers" if any(r.options for r in trials) else "lines+markers"  # a line joins rates with equal options
        traces.append({**trace, "mode": mode, "marker": {"color": style["color"], "symbol": symbols, "size": sizes}})
        unfinished = [r for r in trials if r.status != "done"]
        reasons = [html.escape(f"{translate(r.note)} {format_options(r.options)}") for r in unfinished]
        rates = [r.lr for r in unfinished]
        ticks = make_line(row.name, rates, [bottom] * len(rates), style, text=reasons, showlegend=False)
        mark = {"color": style["color"], "symbol": "line-ns-open", "size": 10}
        traces.append({**ticks, "mode": "markers", "marker": mark, "hoverinfo": "x+name+text"})
    note = (
        "The learning rates of every trial; a line joins those of one seed's search. Diamond: the default "
        "or given rate. Ticks below: pruned or diverged."
    )
    axis = {"title": {"text": translate("learning rate")}, **LOG_AXIS}
    result = {"title": {"text": html.escape(comparison.metric)}, **(LOG_AXIS if by_decades else {})}
    return make_plot("Result by learning rate", note, traces, axis, result)


def _points(trials: Sequence[Result]) -> list[Result | None]:
    """Return the finished trials by learning rate, search after search, with a gap between the searches."""
    points: list[Result | None] = []
    for seed in dict.fromkeys(r.seed for r in trials):
        own = sorted((r for r in trials if r.seed == seed and r.status == "done"), key=lambda r: r.lr or 0.0)
        if points and own:
            points.append(None)
        points += own
    return points


def _options(comparison: Summary) -> list[str]:
    """Return the options that were searched next to the learning rate."""
    return list(dict.fromkeys(name for r in comparison.tries for name in r.options))


def _slice(comparison: Summary, option: str) -> dict[str, Any]:
    """Return the result of every value of one searched option."""
    traces = []
    for row in comparison.rows:
        done = [r for r in comparison.tries if r.candidate == row.name and r.status == "done" and option in r.options]
        if done:
            hints = [html.escape(f"lr {r.lr:.3g}" if r.lr is not None else "") for r in done]
            values = [html.escape(_written(r.options[option])) for r in done]
            style = style_of(comparison, row.curve)
            trace = make_line(row.name, values, [r.metrics[-1] for r in done], style)
            mark = {"color": trace["line"]["color"], "symbol": style["symbol"], "size": 8, "opacity": 0.7}
            traces.append({**trace, "text": hints, "mode": "markers", "marker": mark})
    order = _distinct([r.options[option] for r in comparison.tries if option in r.options])
    x = {
        "title": {"text": html.escape(option)},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [html.escape(text) for text in order],
        "range": [-0.5, len(order) - 0.5],
    }
    note = "Every finished trial; the learning rates differ between trials, and a pointer on a mark shows its rate."
    return make_plot(f"Result by {option}", note, traces, x, {"title": {"text": html.escape(comparison.metric)}})


def _parallel(comparison: Summary) -> dict[str, Any]:
    """All finished trials in parallel coordinates, coloured by their result."""
    done = [r for r in comparison.tries if r.status == "done"]
    results = [r.metrics[-1] for r in done]
    dimensions = [_categories(translate("candidate"), [r.candidate for r in done])]
    if all(r.lr is not None and r.lr > 0 for r in done):
        dimensions.append(_logarithmic(translate("learning rate"), [r.lr or 0.0 for r in done]))
    for option in _options(comparison):
        dimensions.append(_categories(option, [r.options.get(option, NONE) for r in done]))
    label, by_decades = html.escape(comparison.metric), spans_decades(comparison, results)
    dimensions.append(_logarithmic(label, results) if by_decades else {"label": label, "values": results})
    colours = [math.log(value) for value in results] if by_decades else results
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {
            "color": colours, "colorscale": "Viridis", "reversescale": not comparison.higher_is_better,
            "showscale": False,
        },
    }  # fmt: skip
    note = (
        "Each line is a finished trial of the search; the better its result, the more it stands out from the page. "
        "Drag along an axis to select trials, and drag a title to move its axis."
    )
    longest = max(len(r.candidate) for r in done)
    margin = {"l": max(110, min(6 * longest + 20, 300)), "r": 60, "t": 48, "b": 24}
    return make_plot("All trials of the search", note, [trace], {}, {}, margin=margin)


def _categories(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis with one tick for each value; unlike titles, tick labels are shown as they are, not as HTML."""
    order = _distinct(values)
    return {
        "label": html.escape(label), "values": [order.index(_written(value)) for value in values],
        "tickvals": list(range(len(order))), "ticktext": order,
        "range": [-0.1, len(order) - 0.9],
    }  # fmt: skip


def _logarithmic(label: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis with a tick for each power of ten, and at both ends."""
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    powers = [p for p in range(math.ceil(low), math.floor(high) + 1) if min(p - low, high - p) > 0.15 * (high - low)]
    ticks = [low, *powers, high] if high > low else [low]
    return {"label": label, "values": logs, "tickvals": ticks, "ticktext": [f"{10**tick:.3g}" for tick in ticks]}


def _written(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _distinct(values: Sequence[Any]) -> list[str]:
    """Return the values as text, each once: numbers by size, then the rest by their text."""

    def order(value: Any) -> tuple[bool, float, str]:
        is_number = isinstance(value, (int, float))
        return not is_number, float(value) if is_number else 0.0, _written(value)

    return list(dict.fromkeys(_written(value) for value in sorted(values, key=order)))
