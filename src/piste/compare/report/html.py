"""The report as one self-contained HTML file: the verdict, the curves, the table and the settings."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from importlib import resources
from string import Template
from typing import Any

from ..results import Row, Summary
from ..search_space import format_options
from .figures import COLOURS, widened
from .tables import baseline_cells, table_cells, table_titles

DASHES = ("solid", "dash", "dot")


def render_html(comparison: Summary, numbers: dict[str, Any]) -> str:
    """The page, with every text from the user escaped; `numbers` is the content of results.json."""
    from plotly.offline import get_plotlyjs

    plots = dict(_plots(comparison))
    verdict = comparison.verdict
    settings = {"settings": numbers["settings"], "versions": numbers["versions"]}
    if numbers["command"]:
        settings = {"command": numbers["command"], **settings}
    template = Template(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"piste compare {comparison.name}"),
        sentence=html.escape(verdict.sentence),
        test=html.escape(verdict.test),
        limits=html.escape(verdict.limits),
        interrupted=html.escape(f"{comparison.interrupted} {comparison.left_out}".strip()),
        recommendation=html.escape(verdict.recommendation),
        code=html.escape(verdict.code),
        about=html.escape(comparison.about),
        plots="\n".join(_section(name, plot) for name, plot in plots.items()),
        table=_table(comparison),
        settings=html.escape(json.dumps(settings, indent=1, ensure_ascii=False)),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
        data=_json_in_script({name: plot["figure"] for name, plot in plots.items()}),
    )


def _section(name: str, plot: dict[str, Any]) -> str:
    title, note = html.escape(plot["title"]), html.escape(plot["note"])
    return f'<h2>{title}</h2>\n<p class="note">{note}</p>\n<div class="plot" id="{name}"></div>'


def _plots(comparison: Summary) -> Iterator[tuple[str, dict[str, Any]]]:
    seeds = len(comparison.settings["seeds"])
    shown = (
        f"Mean of {seeds} seeds; the band is their range, and a pointer on it shows each." if seeds > 1 else "One seed."
    )
    losses = list(dict.fromkeys(row.loss for row in comparison.rows))
    for i, loss in enumerate(losses):
        title = f"Training loss, {loss}"
        note = f"On fixed training examples. {shown} Click a name to hide it; double-click to show it alone."
        yield f"loss{i}", _curves(comparison, loss, "losses", title, note)
    for i, loss in enumerate(losses):
        title = f"Validation {comparison.metric}" + (f", trained with {loss}" if len(losses) > 1 else "")
        yield f"metric{i}", _curves(comparison, loss, "metrics", title, shown)
    for i, loss in enumerate(losses):
        title = f"Validation {comparison.metric} over training time" + (f", {loss}" if len(losses) > 1 else "")
        note = f"Steps times the median time of a step, without evaluation. {shown}"
        yield f"time{i}", _curves(comparison, loss, "metrics", title, note, over_time=True)
    if comparison.tries:
        yield "rates", _learning_rates(comparison)
    yield "smoothness", _smoothness(comparison)
    if any(result.path for result in comparison.results):
        yield "path", _paths(comparison)


def _curves(
    comparison: Summary, loss: str, attribute: str, title: str, note: str, *, over_time: bool = False
) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    finished: list[float] = []
    for name in dict.fromkeys(row.optimizer for row in comparison.rows if row.loss == loss):
        runs = [r for r in comparison.results if r.optimizer == name and r.loss == loss]
        done = [getattr(r, attribute) for r in runs if not r.diverged]
        style = _style(comparison, name)
        seconds = [r.step_seconds for r in runs if not math.isnan(r.step_seconds)]
        scale = 1 if not over_time else statistics.median(seconds) if seconds else 0.0
        for count, result in enumerate(r for r in runs if r.diverged):
            y = [v if math.isfinite(v) else None for v in getattr(result, attribute)]
            hint = html.escape(result.note)
            traces.append(
                _line(
                    f"{name} (diverged)",
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
            traces.append(_line(name, steps, [sum(c) / len(c) for c in columns], style))
            for result in (r for r in runs if not r.diverged and len(done) > 1):
                seed = _line(f"{name}, seed {result.seed}", steps, getattr(result, attribute), style)
                seed |= {"legendgroup": html.escape(name), "showlegend": False, "opacity": 0, "meta": "seed"}
                traces.append(seed)
    logarithmic = attribute == "losses" and finished and min(finished) > 0 and max(finished) > 5 * min(finished)
    axis: dict[str, Any] = {"title": {"text": html.escape(title)}, "type": "log" if logarithmic else "linear"}
    if finished:  # a diverged curve must not flatten the others
        ends = list(widened(min(finished), max(finished)))
        ends = [math.log10(end) for end in ends] if logarithmic else ends
        margin = 0.04 * (ends[1] - ends[0])
        axis["range"] = [ends[0] - margin, ends[1] + margin]
    return _plot(title, note, traces, {"title": {"text": "seconds" if over_time else "step"}}, axis)


def _learning_rates(comparison: Summary) -> dict[str, Any]:
    traces = []
    values = [r.metrics[-1] for r in comparison.tries if r.status == "done"] or [0.0]
    bottom = min(values) - 0.06 * (max(values) - min(values))
    for row in comparison.rows:
        trials = [r for r in comparison.tries if r.candidate == row.name]
        finished = sorted((r for r in trials if r.status == "done"), key=lambda r: r.lr or 0.0)
        style = _style(comparison, row.optimizer)
        hints = [html.escape(format_options(r.options)) for r in finished]
        trace = _line(row.name, [r.lr for r in finished], [r.metrics[-1] for r in finished], style, text=hints)
        symbols = ["diamond-open" if r.lr == trials[0].lr else "circle" for r in finished]
        sizes = [13 if r.lr == trials[0].lr else 6 for r in finished]
        mode = "markers" if any(r.options for r in trials) else "lines+markers"  # a line joins rates with equal options
        traces.append({**trace, "mode": mode, "marker": {"color": style["color"], "symbol": symbols, "size": sizes}})
        unfinished = [r for r in trials if r.status != "done"]
        reasons = [html.escape(f"{r.note} {format_options(r.options)}") for r in unfinished]
        rates = [r.lr for r in unfinished]
        ticks = _line(row.name, rates, [bottom] * len(rates), style, text=reasons, showlegend=False)
        mark = {"color": style["color"], "symbol": "line-ns-open", "size": 10}
        traces.append({**ticks, "mode": "markers", "marker": mark, "hoverinfo": "x+name+text"})
    note = (
        "The learning rates of every trial, in each seed's own search. Diamond: the default. "
        "Ticks below: pruned or diverged."
    )
    axis = {"title": {"text": "learning rate"}, "type": "log", "exponentformat": "power"}
    return _plot("Result by learning rate", note, traces, axis, {"title": {"text": comparison.metric}})


def _smoothness(comparison: Summary) -> dict[str, Any]:
    traces = [
        {
            "x": [_none_if_nan(row.descent_share)],
            "y": [_none_if_nan(row.evenness)],
            "name": html.escape(row.name),
            "mode": "markers",
            "marker": {"color": _style(comparison, row.optimizer)["color"], "size": _marker_size(comparison, row)},
            "hovertext": html.escape(f"{row.name}: {comparison.metric} {row.metric:.4g}"),
        }
        for row in comparison.rows
        if not row.diverged
    ]
    note = (
        "Descent share: the net descent of the loss as a share of its total movement. "
        "Evenness: how steadily the weights approach their final values. "
        f"A larger mark is a better {comparison.metric}; smoothness alone has no value."
    )
    lowest = min([0.0, *(row.descent_share for row in comparison.rows if not math.isnan(row.descent_share))])
    x, y = (
        {"title": {"text": "descent share"}, "range": [lowest - 0.05, 1.05]},
        {"title": {"text": "evenness"}, "range": [-0.02, 1.05]},
    )
    return _plot("Smoothness next to the result", note, traces, x, y)


def _paths(comparison: Summary) -> dict[str, Any]:
    seed = comparison.settings["seeds"][0]
    traces = []
    for result in comparison.results:
        if result.path and result.seed == seed and not result.diverged:
            columns: Sequence[Any] = list(zip(*result.path, strict=True))
            style = _style(comparison, result.optimizer)
            trace = _line(result.candidate, columns[0], columns[-1], style)
            traces.append({**trace, "mode": "lines+markers", "marker": {"size": 4, "color": style["color"]}})
    note = f"Seed {seed}; a mark for every evaluation."
    return _plot("Path of the weights", note, traces, {"title": {"text": "w"}}, {"title": {"text": "b"}})


def _plot(title: str, note: str, data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "note": note, "figure": {"data": data, "layout": {"xaxis": x, "yaxis": y}}}


def _line(name: str, x: Sequence[Any], y: Sequence[Any], style: dict[str, str], **more: Any) -> dict[str, Any]:
    line = {"color": style["color"], "dash": style["dash"], "width": 2}
    label = html.escape(name)
    return {"x": list(x), "y": list(y), "name": label, "legendgroup": label, "mode": "lines", "line": line, **more}


def _style(comparison: Summary, optimizer: str) -> dict[str, str]:
    names = sorted({row.optimizer for row in comparison.rows}, key=str.lower)
    i = names.index(optimizer)
    return {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)]}


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.12)"


def _marker_size(comparison: Summary, row: Row) -> float:
    values = [r.metric for r in comparison.rows if not r.diverged]
    spread = max(values) - min(values)
    share = (row.metric - min(values)) / spread if spread else 1.0
    return 8 + 16 * (share if comparison.higher_is_better else 1 - share)


def _table(comparison: Summary) -> str:
    titles = "".join(f"<th><button>{html.escape(title)}</button></th>" for title in table_titles(comparison))
    body = "".join(_row(comparison, row) for row in comparison.rows)
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in baseline_cells(comparison) or [])
    body += f"<tr class=baseline>{cells}</tr>" * bool(cells)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _row(comparison: Summary, row: Row) -> str:
    tuned = [row.default_metric, row.lr_width] if comparison.tries else []
    found = next((d for d in comparison.verdict.differences if d.name == row.name), None)
    behind = found.size if found else 0.0 if row.name == comparison.verdict.best else None
    values = [
        row.name, row.lr, row.metric, *tuned, behind, row.training_loss, row.steps_to_target, row.step_seconds,
        row.peak_bytes, row.descent_share, row.evenness,
    ]  # fmt: skip
    star = comparison.verdict.outcome(row.name) in ("best", "equal")
    kind = "diverged" if row.diverged else "best" if star else ""
    fields = "".join(
        f'<td{" class=metric" * (i == 2)} data-value="{_value(value)}">{html.escape(text)}</td>'
        for i, (value, text) in enumerate(zip(values, table_cells(comparison, row), strict=True))
    )
    return f'<tr class="{kind}">{fields}</tr>'


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return html.escape(str(value))


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _json_in_script(data: Any) -> str:
    """JSON that can't end the script element around it."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
