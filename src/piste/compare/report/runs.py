"""The runs of a comparison, one row each: as records, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from ..results import Summary
from ..search_space import format_options


def run_records(comparison: Summary) -> list[dict[str, Any]]:
    """Return a record for every run: final runs, runs at the defaults and search trials; unknown values are None."""
    defaults = [r for r in comparison.defaults if r.role == "default"]
    also = comparison.rows[0].also if comparison.rows else []
    return [
        {
            "candidate": r.candidate,
            "optimizer": r.optimizer,
            "loss": r.loss,
            "role": r.role,
            "seed": r.seed,
            "lr": r.lr,
            "options": format_options(r.options),
            "status": r.status,
            "note": r.note,
            "steps": r.steps[-1] if r.steps else None,
            comparison.metric: _known(r.metrics[-1]) if r.metrics else None,
            **{name: _known(r.also[name]) if name in r.also else None for name in also},
            "training_loss": _known(r.losses[-1]) if r.losses else None,
            "step_seconds": _known(r.step_seconds),
            "seconds": _known(r.seconds),
            "state_bytes": r.state_bytes,
            "peak_bytes": r.peak_bytes,
            "descent_share": _known(r.descent_share),
            "evenness": _known(r.evenness),
        }
        for r in (*comparison.results, *defaults, *comparison.tries)
    ]


def runs_csv(comparison: Summary) -> str:
    """Return the records as CSV; unknown values are empty fields."""
    records, out = run_records(comparison), io.StringIO()
    writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
