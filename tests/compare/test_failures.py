"""A run that fails is a marked row: the others go on, the report is written, and the next call tries it again."""

import functools
import html
import json

import pytest
import torch
from torch import nn

from piste.compare import compare_task
from piste.errors import InvalidValue
from tests.compare.small import task

SGD = torch.optim.SGD


class Exhausted(SGD):
    """Runs out of memory at its third step."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise torch.OutOfMemoryError("tried to allocate 80 GB")
        return super().step(closure)


OPTIONS = {"optimizers": {"SGD": SGD, "hungry": Exhausted}, "lr": 0.1, "progress": False}


@pytest.mark.parametrize("where", [{}, {"jobs": 2}], ids=["here", "jobs"])
@pytest.mark.parametrize("trials", [1, 3])
def test_a_failing_run_is_a_marked_row_and_the_others_go_on(where, trials, tmp_path):
    found = compare_task(task(), **OPTIONS, **where, seeds=2, trials=trials, out=tmp_path)
    assert [row.name for row in found.rows] == ["SGD", "hungry"]
    assert found.rows[0].diverged == 0
    assert found.rows[1].diverged == 2
    assert found.rows[1].note == "stopped after step 2: OutOfMemoryError: tried to allocate 80 GB"
    assert "failed (2 of 2)" in found.table()
    assert found.failed
    assert (tmp_path / "report.html").exists()
    kept = json.loads((tmp_path / "results.json").read_text())["results"]
    assert sorted(r["status"] for r in kept) == ["done", "done", "failed", "failed"]


def test_the_report_states_why_a_candidate_has_no_result(tmp_path):
    wild = functools.partial(SGD, lr=1e12)
    optimizers = {**OPTIONS["optimizers"], "wild": wild}
    found = compare_task(task(), **{**OPTIONS, "optimizers": optimizers, "lr": None}, seeds=2, out=tmp_path)
    failed, diverged = (next(r for r in found.results if r.candidate == name) for name in ("hungry", "wild"))
    assert failed.note.endswith("OutOfMemoryError: tried to allocate 80 GB")
    for sentence in (
        f"hungry failed in 2 of 2 runs, first with seed 0: {failed.note}.",
        f"wild diverged in 2 of 2 runs, first with seed 0: {diverged.note}.",
    ):
        assert sentence in found.verdict.limits
        assert sentence in html.unescape((tmp_path / "report.html").read_text())
    assert "hungry failed in 2 of 2 runs" in (tmp_path / "report.md").read_text()


def test_a_failed_run_is_tried_again_and_a_finished_one_is_not(tmp_path):
    class Once(SGD):
        """Fails unless the file of its test exists."""

        def step(self, closure=None):
            if not (tmp_path / "repaired").exists():
                raise RuntimeError("not yet")
            return super().step(closure)

    options = {**OPTIONS, "optimizers": {"SGD": SGD, "once": Once}, "seeds": 1, "out": tmp_path / "out"}
    first = compare_task(task(), **options)
    (tmp_path / "repaired").touch()
    again = compare_task(task(), **options)
    assert first.failed and not again.failed
    assert {r.candidate: r.status for r in again.results} == {"SGD": "done", "once": "done"}
    assert first.results[0].losses == again.results[0].losses


def test_a_failure_while_the_budget_is_fitted_is_a_marked_row_as_well():
    found = compare_task(task(), **OPTIONS, seeds=2, trials=1, budget=60)
    assert [(row.name, row.failed) for row in found.rows] == [("SGD", 0), ("hungry", 2)]


def test_a_run_that_ends_the_program_is_a_marked_row_as_well():
    class Leaves(SGD):
        def step(self, closure=None):
            raise SystemExit("no license")

    options = {**OPTIONS, "optimizers": {"SGD": SGD, "leaves": Leaves}, "seeds": 2, "budget": 60, "trials": 1}
    found = compare_task(task(), **options)
    assert [(row.name, row.failed, row.note) for row in found.rows] == [
        ("SGD", 0, ""), ("leaves", 2, "stopped after step 0: SystemExit: no license"),
    ]  # fmt: skip


def test_failures_of_further_seeds_leave_the_stored_runs_in_the_report(tmp_path):
    class Until(SGD):
        """Fails once the file of its test exists."""

        def step(self, closure=None):
            if (tmp_path / "full").exists():
                raise OSError("no space left")
            return super().step(closure)

    options = {**OPTIONS, "optimizers": {"one": Until, "other": Until}, "out": tmp_path / "out"}
    first = compare_task(task(), **options, seeds=2)
    (tmp_path / "full").touch()
    more = compare_task(task(), **options, seeds=3)
    assert [(row.seeds, row.failed, row.note) for row in more.rows] == 2 * [
        (3, 1, "stopped after step 0: OSError: no space left")
    ]
    of_first = [r for r in more.results if not r.failed]
    assert [r.metrics for r in of_first] == [r.metrics for r in first.results]
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["results"]) == 6


def test_the_same_failure_of_all_candidates_is_one_of_the_task():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            if self.training:
                raise ValueError("only for evaluation")
            return self.layer(x)

    with pytest.raises(InvalidValue) as caught:
        compare_task(task(model=Broken), optimizers=["SGD", "Adam"], progress=False)
    assert str(caught.value) == (
        "every candidate failed. SGD, seed 0: stopped after step 0: ValueError: only for evaluation"
    )
