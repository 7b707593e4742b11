"""The report as one self-contained HTML file: the verdict, the curves, the table and the settings."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
import math
import re
from importlib import resources
from string import Template
from typing import Any

from ...translation import language, translate
from ..results import Row, Summary
from .plots import page_plots
from .tables import baseline_cells, table_cells, table_titles


def render_html(comparison: Summary, numbers: dict[str, Any]) -> str:
    """Return the page, with every text from the user escaped; `numbers` is the content of results.json."""
    plots = dict(page_plots(comparison))
    verdict = comparison.verdict
    settings = {"settings": numbers["settings"], "versions": numbers["versions"]}
    if numbers["command"]:
        settings = {"command": numbers["command"], **settings}
    return _template().substitute(
        language=language() or "en",
        title=html.escape(f"piste compare {comparison.name}"),
        sentence=_shown(verdict.sentence),
        test=_shown(verdict.test),
        limits=_shown(verdict.limits),
        interrupted=_shown(f"{comparison.interrupted} {comparison.left_out}".strip()),
        recommendation=_shown(verdict.recommendation),
        code=html.escape(verdict.code),
        about=_shown(comparison.about),
        plots="\n".join(_section(name, plot) for name, plot in plots.items()),
        table=_table(comparison),
        settings=html.escape(json.dumps(settings, indent=1, ensure_ascii=False)),
        plotly=packed_plotly(),
        data=_json_in_script({name: plot["figure"] for name, plot in plots.items()}),
    )


@functools.cache
def packed_plotly() -> str:
    """Return plotly.js as the page holds it: compressed, in base 64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0, compresslevel=6)).decode()


def _template() -> Template:
    """Return the page with its own text, in double braces, in the user's language."""
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(re.sub(r"\{\{(.*?)\}\}", lambda text: _shown(text[1]).replace("$", "$$"), page))


def _shown(text: str) -> str:
    return html.escape(translate(text))


def _section(name: str, plot: dict[str, Any]) -> str:
    title, note = _shown(plot["title"]), _shown(plot["note"])
    drawn = f'<div class="plot" id="{name}"></div>'
    if plot["wide"]:
        drawn = f'<div class="scroll">{drawn}</div>'
    return f'<h2>{title}</h2>\n<p class="note">{note}</p>\n{drawn}'


def _table(comparison: Summary) -> str:
    titles = "".join(f"<th><button>{_shown(title)}</button></th>" for title in table_titles(comparison))
    body = "".join(_row(comparison, row) for row in comparison.rows)
    cells = "".join(f"<td>{_shown(cell)}</td>" for cell in baseline_cells(comparison) or [])
    body += f"<tr class=baseline>{cells}</tr>" * bool(cells)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _row(comparison: Summary, row: Row) -> str:
    tuned = [row.default_metric, row.lr_width] if comparison.tries else []
    found = next((d for d in comparison.verdict.differences if d.name == row.name), None)
    behind = found.size if found else 0.0 if row.name == comparison.verdict.best else None
    values = [
        row.name, row.lr, row.metric, *tuned, *row.also.values(), behind, row.training_loss, row.steps_to_target,
        row.step_seconds, row.peak_bytes, row.descent_share, row.evenness,
    ]  # fmt: skip
    star = comparison.verdict.outcome(row.name) in ("best", "equal")
    kind = "diverged" if row.diverged else "best" if star else ""
    fields = "".join(
        f'<td{" class=metric" * (i == 2)} data-value="{_value(value)}">{_shown(text) if i else html.escape(text)}</td>'
        for i, (value, text) in enumerate(zip(values, table_cells(comparison, row), strict=True))
    )
    return f'<tr class="{kind}">{fields}</tr>'


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return html.escape(str(value))


def _json_in_script(data: Any) -> str:
    """JSON that can't end the script element around it."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
