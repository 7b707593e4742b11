"""A comparison that fits into a time: what the time buys, that it is kept, and what is refused."""

import json
import time
import types

import pytest

from piste.compare import budget, compare_task
from piste.compare.budget import estimated_seconds, fit_to_budget, parse_duration
from piste.compare.execution import processes, scheduler
from piste.compare.plan import make_plan
from piste.compare.training.timing import StepCost, measure_step_costs
from piste.errors import InvalidType, InvalidValue
from tests.compare.small import task

BOTH = ["SGD", "Adam"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("3m", 180), ("1h30m", 5400), ("1.5 M", 90), ("2m 5s", 125), (7, 7), (0.5, 0.5)]
)
def test_a_time_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("wrong", ["", "3", "three", "3d", "m", "-3m", "3m later", 0, -1, float("nan"), float("inf")])
def test_text_that_is_no_duration_is_rejected(wrong):
    with pytest.raises(InvalidValue) as caught:
        parse_duration(wrong)
    assert str(caught.value) == (
        f"`budget` must be a time such as 90s, 3m or 1h30m, or a number of seconds above 0; received {wrong!r}."
    )


def test_a_duration_that_is_neither_text_nor_number_is_rejected():
    with pytest.raises(InvalidType, match="received True"):
        parse_duration(True)
    with pytest.raises(InvalidType, match=r"received \[3\]"):
        parse_duration([3])


def fitted(seconds, run, workers=1, **options):
    """The plan of two candidates whose runs take `run` seconds, at their full length of 600 steps, within a budget."""
    plan = make_plan(task(epochs=200), optimizers=BOTH, budget=seconds, **options)
    paces = {name: StepCost(start=0.1 * run, evaluation=0.0, step=0.9 * run / plan.steps) for name in BOTH}
    fit_to_budget(plan, paces, workers)
    assert estimated_seconds(plan, paces, workers, len(plan.seeds), plan.trials, plan.steps) <= seconds
    return len(plan.seeds), plan.trials, plan.steps


def test_a_longer_budget_buys_seeds_then_tries_then_more_of_both():
    # 0.85 x budget - 3 s; a round of both takes 2 s, and (trials + 2) times as long with a search
    assert fitted(10, 1) == (3, 1, 544)  # 5.5 s: shorter runs, 3 x 2 x (0.1 + 0.9 x steps / 600)
    assert fitted(11, 1) == (3, 1, 600)
    assert fitted(14, 1) == (4, 1, 600)
    assert fitted(20, 1) == (5, 1, 600)
    assert fitted(63, 1) == (5, 3, 600)
    assert fitted(145, 1) == (5, 10, 600)
    assert fitted(263, 1) == (5, 20, 600)
    assert fitted(522, 1) == (10, 20, 600)
    assert fitted(10_000, 1) == (15, 30, 600)


def test_the_time_that_the_start_has_used_buys_nothing():
    plan = make_plan(task(epochs=200), optimizers=BOTH, budget=20)
    costs = {name: StepCost(start=0.1, evaluation=0.0, step=0.9 / plan.steps) for name in BOTH}
    with pytest.raises(InvalidValue, match=r"takes about 21s\. Help: give --budget 25s"):
        # after 15.3 s, 3 seeds x 2 candidates x 0.175 s and 3 s for the report, in 0.85 of the time
        fit_to_budget(plan, costs, used=15.3)
    fit_to_budget(plan, costs, used=9)
    assert (len(plan.seeds), plan.steps) == (3, 600)  # as of 11 s


def test_the_workers_have_started_before_the_costs_are_measured(monkeypatch):
    """A worker imports torch for seconds, which the budget pays once, before anything is fitted into it."""
    seen = []
    prepare, fit = processes.ProcessExecutor.prepare, budget.fit_to_budget

    def prepared(self):
        prepare(self)
        seen.append(("prepared", len(self._idle)))

    def fitted_late(plan, costs, workers, used):
        seen.append(("fitted", workers, used > 0))
        fit(plan, costs, workers, used)

    monkeypatch.setattr(processes.ProcessExecutor, "prepare", prepared)
    monkeypatch.setattr(budget, "fit_to_budget", fitted_late)
    compare_task(task(), optimizers=["SGD"], budget=60, seeds=3, jobs=2, progress=False)
    assert seen == [("prepared", 2), ("fitted", 2, True)]


def test_a_budget_for_tuned_rates_buys_a_search_before_seeds():
    def tuned(seconds):
        plan = make_plan(task(epochs=200), optimizers=BOTH, budget=seconds)
        plan.tuned = True
        fit_to_budget(plan, {name: StepCost(start=0.1, evaluation=0.0, step=0.9 / plan.steps) for name in BOTH})
        return len(plan.seeds), plan.trials, plan.steps

    assert tuned(39) == (3, 3, 600)  # 0.85 x 39 - 3 s; 3 seeds x 2 candidates x 5 runs
    assert tuned(51) == (4, 3, 600)
    assert tuned(63) == (5, 3, 600)
    assert tuned(145) == (5, 10, 600)
    assert tuned(20)[:2] == (3, 3) and tuned(20)[2] < 600
    with pytest.raises(InvalidValue, match=r"or fewer candidates, or --defaults for no search\."):
        tuned(5)


def test_a_budget_that_nobody_set_extends_to_the_least_search():
    plan = make_plan(task(epochs=200), optimizers=BOTH, budget=60)
    plan.tuned = plan.extends = True
    fit_to_budget(plan, {name: StepCost(start=1.0, evaluation=0.0, step=9 / plan.steps) for name in BOTH})
    # 3 seeds x 2 candidates x 5 runs of 50 steps take 30 x 1.75 s, more than 0.85 x 60 - 3 s
    assert (len(plan.seeds), plan.trials, plan.steps) == (3, 3, 50)


def test_a_tuned_comparison_without_a_budget_searches():
    found = compare_task(task(), optimizers=["SGD"], tuned=True, seeds=2, steps=20, progress=False)
    assert found.settings["budget"] == 60
    assert found.settings["trials"] >= 3
    assert len(found.settings["seeds"]) == 2


def test_more_workers_buy_more():
    assert fitted(9.9, 1, workers=2) == (4, 1, 600)  # 4 x 2 / 2 + 1 / 2


def test_given_settings_stay_in_a_budget():
    assert fitted(63, 1, seeds=4) == (4, 4, 600)
    assert fitted(20, 1, trials=1, seeds=2) == (2, 1, 600)
    assert fitted(10, 1, seeds=2, trials=4) == (2, 4, 86)
    assert fitted(63, 1, steps=40, seeds=5)[2] == 40
    assert fitted(63, 1, epochs=2)[2] == 6


def test_a_budget_for_nothing_is_rejected_with_one_that_would_do():
    with pytest.raises(InvalidValue) as caught:
        fitted(5, 10)
    # 3 x 2 x (1 + 9 x 50 / 600) = 10.5 s; (10.5 + 3) / 0.85 = 15.9 s
    assert str(caught.value) == (
        "`budget` of 5s is too short for 2 candidates: the minimum (3 seeds of 50 steps) takes about 16s. "
        "Help: give --budget 20s (budget=) or fewer candidates."
    )
    with pytest.raises(InvalidValue, match=r"the minimum \(3 seeds of 600 steps and 4 trials\)"):
        fitted(5, 10, epochs=200, trials=4)


def test_measuring_step_costs_leaves_models_unchanged():
    plan = make_plan(task(), optimizers=BOTH)
    before = [p.clone() for p in plan.task.new_model(0).parameters()]
    paces = measure_step_costs(plan)
    assert set(paces) == set(BOTH)
    for pace in paces.values():
        assert min(pace.start, pace.evaluation, pace.step) > 0
        assert pace.run_seconds(1000, 17) == pytest.approx(pace.start + 17 * pace.evaluation + 1000 * pace.step)
    assert all((a == b).all() for a, b in zip(before, plan.task.new_model(0).parameters(), strict=True))


def test_a_diverging_candidate_has_a_step_cost():
    paces = measure_step_costs(make_plan(task(), optimizers=["SGD"], lr=1e38))
    assert paces["SGD"].run_seconds(10, 17) > 0


def test_a_resumed_budget_keeps_its_first_plan(tmp_path, monkeypatch):
    options = {"optimizers": BOTH, "budget": "8s", "trials": 1, "out": tmp_path, "progress": False}
    monkeypatch.setattr(scheduler, "time", types.SimpleNamespace(perf_counter=lambda: 0.0))  # however slow it is here
    first = compare_task(task(), **options)
    decided = {name: first.settings[name] for name in ("seeds", "trials", "steps")}
    assert first.settings["budget"] == 8
    monkeypatch.setattr(budget, "measure_step_costs", lambda plan: pytest.fail("measured again"))
    again = compare_task(task(), **options)
    assert {name: again.settings[name] for name in decided} == decided
    assert str(again) == str(first)
    monkeypatch.undo()
    with pytest.raises(InvalidValue, match=r"holds another comparison: .*budget was 8\.0, now 9\.0"):
        compare_task(task(), **{**options, "budget": 9})
    part = compare_task(task(), **options, seeds=2)
    assert [r.metrics for r in part.results] == [r.metrics for r in first.results if r.seed in (0, 1)]


def test_a_used_up_budget_leaves_out_whole_seeds_that_can_follow(tmp_path, monkeypatch):
    options = {"optimizers": BOTH, "budget": "1h", "seeds": 4, "trials": 1, "steps": 6, "out": tmp_path}
    later = iter([0, 1000, 2000, 3598])  # at the start and before seeds 1 to 3: another 1200 s would be too much
    clock = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() + next(later))
    monkeypatch.setattr(scheduler, "time", clock)
    found = compare_task(task(), **options, progress=False)
    assert found.left_out == (
        "The budget of 1h was used up after 3 of 4 seeds. "
        "Repeat the call with the same output folder to run the others."
    )
    assert [r.seed for r in found.results] == [0, 0, 1, 1, 2, 2]
    assert found.rows[0].seeds == 3
    monkeypatch.undo()
    assert found.left_out in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert found.left_out in page and "Mean of 3 seeds; the band is their range" in page
    assert "mean and range of 3 seeds" in " ".join(found.plot()._suptitle.get_text().split())
    assert json.loads((tmp_path / "results.json").read_text())["left_out"] == found.left_out
    whole = compare_task(task(), **options, progress=False)
    assert whole.left_out == ""
    assert [r.seed for r in whole.results] == [0, 0, 1, 1, 2, 2, 3, 3]
