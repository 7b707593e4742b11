"""The search: equal budgets, the default first, seeds that judge nobody, and the same table after any interruption."""

import getpass
import itertools
import json
import math
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from piste.compare import compare_task
from piste.compare.analysis.learning_rates import good_lr_decades
from piste.compare.execution import executor as executor_module
from piste.compare.execution.search import _suggest
from piste.compare.plan import make_plan
from piste.compare.results import Result
from piste.errors import InvalidType, InvalidValue, Unsupported
from tests.compare.small import environment, task


def found_by(**options):
    options = {"optimizers": ["SGD", "Adam"], "trials": 8, "seeds": 3, "progress": False, **options}
    return compare_task(task(epochs=8), **options)


@pytest.fixture(scope="module")
def found():
    return found_by()


def tries_of(found, name):
    return [r for r in found.tries if r.candidate == name]


def test_every_search_gets_the_same_steps_and_what_pruned_trials_leave_goes_to_further_ones(found):
    numbers = set()
    for name, seed in itertools.product(("SGD", "Adam"), range(2**31, 2**31 + 3)):
        tries = [r for r in tries_of(found, name) if r.seed == seed]
        numbers.add(len(tries))
        assert 8 <= len(tries) <= 16
        taken = sum(r.steps[-1] for r in tries)
        assert 7 * 24 < taken <= 8 * 24 or (len(tries) == 16 and taken <= 8 * 24)
    assert max(numbers) > 8
    assert all(r.steps[-1] <= 24 for r in found.tries)
    assert all(r.steps[-1] == 24 for r in found.results)


def test_the_default_is_tried_first_and_the_others_within_three_decades(found):
    for name in ("SGD", "Adam"):
        rates = [r.lr for r in tries_of(found, name)]
        firsts = [next(r.lr for r in tries_of(found, name) if r.seed == seed) for seed in range(2**31, 2**31 + 3)]
        assert rates[0] == 1e-3 and set(firsts) == {1e-3}
        assert all(1e-6 <= lr <= 1 for lr in rates)
        assert len(set(rates)) == 1 + len(rates) - 3  # each search draws its own
    assert [r.lr for r in tries_of(found, "SGD")[1:]] != [r.lr for r in tries_of(found, "Adam")[1:]]


def test_searching_and_judging_use_different_seeds(found):
    assert {r.seed for r in found.tries} == {2**31, 2**31 + 1, 2**31 + 2}
    assert {r.seed for r in found.results} == {0, 1, 2}


def test_the_best_try_of_a_seed_s_search_is_the_one_that_is_judged(found):
    for row in found.rows:
        judged = {r.seed: r.lr for r in found.results if r.candidate == row.name}
        for seed, lr in judged.items():
            ended = [r for r in tries_of(found, row.name) if r.status == "done" and r.seed == seed + 2**31]
            best = max(r.metrics[-1] for r in ended)
            assert lr in [r.lr for r in ended if r.metrics[-1] == best]
        assert row.lr == sorted(judged.values())[1]


def test_hopeless_tries_are_stopped_early(found):
    stopped = [r for r in found.tries if r.status == "stopped"]
    assert stopped
    assert all(r.steps[-1] < 24 for r in stopped)
    assert "worse than the median of earlier trials" in stopped[0].note


def test_the_default_s_result_stands_beside_the_tuned_one(found):
    sgd = next(row for row in found.rows if row.name == "SGD")
    plain = [r for r in found.defaults if r.candidate == "SGD"]
    assert {r.lr for r in plain} == {1e-3}
    assert {r.seed for r in plain} == {0, 1, 2}
    assert sgd.default_metric == pytest.approx(sum(r.metrics[-1] for r in plain) / 3)
    assert sgd.metric > sgd.default_metric
    assert "| at the default lr | good lr range (decades) |" in found.table()
    assert "the verdict includes the variation between searches" in found.verdict.limits


@pytest.mark.parametrize(
    ("lr", "title", "label"),
    [
        (None, "at the default lr", "default learning rates"),
        (0.01, "at the given lr", "given learning rates"),
        ({"SGD": 0.01}, "at the default or given lr", "default or given learning rates"),
    ],
)
def test_results_without_a_search_are_named_by_the_rates_that_they_had(lr, title, label):
    found = compare_task(task(), optimizers=["SGD", "Adam"], trials=2, seeds=2, lr=lr, progress=False)
    assert f"| {title} | good lr range" in found.table()
    assert label in found.plot().axes[1].get_ylabel()


def test_a_trial_that_diverges_takes_the_steps_up_to_the_next_evaluation():
    plan = make_plan(task(), optimizers=["SGD"], trials=4)
    steps = plan.data.evaluation_steps(plan.steps)
    trial = tried(1.0, 0.5, "diverged")
    trial.role, trial.steps = "search", steps[:2]
    assert plan.share_of_run(trial) == steps[2] / plan.steps
    trial.status = "failed"
    assert plan.share_of_run(trial) == 1


def test_with_one_seed_the_verdict_says_that_another_search_may_differ():
    assert "Another search may find other learning rates." in found_by(seeds=1).verdict.limits


def test_equal_searches_find_equal_results(found):
    again = found_by()
    assert [(r.candidate, r.lr, r.status) for r in again.tries] == [(r.candidate, r.lr, r.status) for r in found.tries]
    assert [(row.name, row.metric, row.lr, row.lr_width) for row in again.rows] == [
        (row.name, row.metric, row.lr, row.lr_width) for row in found.rows
    ]


def test_a_candidate_without_a_rate_is_judged_as_it_is():
    found = found_by(optimizers={"fixed": lambda p: torch.optim.SGD(p, lr=0.1)}, seeds=2)
    assert found.tries == []
    assert [row.lr for row in found.rows] == [0.1]


def test_a_rate_is_the_one_that_was_tried_whatever_its_maker_makes_of_it():
    def lower_at_first(params, lr=1e-3):
        first, *others = params
        return torch.optim.SGD([{"params": [first], "lr": 1e-5 * lr}, {"params": others}], lr=lr)

    found = found_by(optimizers={"layers": lower_at_first}, seeds=1)
    assert found.tries[0].lr == 1e-3
    assert all(1e-6 <= r.lr <= 1 for r in (*found.tries, *found.results))
    assert found.rows[0].lr in {r.lr for r in found.tries}


def test_every_try_diverging_leaves_the_default():
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    scaled = (1e12 * x, 3e12 * x)
    found = compare_task(
        task(model=lambda: nn.Linear(1, 1), train=scaled, validation=scaled, epochs=20), optimizers="SGD", trials=3,
        seeds=1, progress=False,
    )  # fmt: skip
    assert {r.status for r in found.tries} == {"diverged"}
    assert found.rows[0].lr == 1e-3
    assert found.rows[0].diverged == 1


def test_a_search_learns_where_rates_diverge():
    plan = make_plan(task(), optimizers=["SGD"], trials=12)
    edge, late = 1e-2, []  # 38 % of the range lies above
    for seed in range(10):
        tries = []
        for number in range(12):
            lr, _ = _suggest(plan, plan.candidates[0], 1e-3, tries, seed)
            good = 1 / (1 + abs(math.log10(lr / edge)))  # the better, the nearer to where it diverges
            tries.append(tried(lr, 0.1, "diverged") if lr > edge else tried(lr, good))
            late += [lr > edge] * (number >= 6)
    assert sum(late) / len(late) < 0.5  # nine in ten, where the search doesn't count those that diverged


def test_a_planted_winner_on_an_ill_conditioned_problem_is_found():
    torch.manual_seed(0)
    x = torch.randn(128, 6) * torch.logspace(-2, 1, 6)  # features of very different scale
    y = (x / torch.logspace(-2, 1, 6)).sum(1, keepdim=True)
    problem = task(
        model=lambda: nn.Linear(6, 1), train=(x[:96], y[:96]), validation=(x[96:], y[96:]), metric="rmse", epochs=40,
        batch_size=32, loss="mse",
    )  # fmt: skip
    found = compare_task(problem, optimizers=["SGD", "Adam"], trials=8, seeds=5, progress=False)
    assert found.verdict.group == ["Adam"]
    assert next(row for row in found.rows if row.name == "SGD").diverged == 0


def tried(lr, value, status="done"):
    return Result("a", "a", "a", 0, lr, status, steps=[0], losses=[0.0], metrics=[value])


def test_the_width_of_good_rates_is_counted_around_the_best():
    tries = [tried(1e-4, 0.95), tried(1e-3, 0.5), tried(1e-2, 0.92), tried(1e-1, 1.0), tried(1.0, 0.9), tried(10, 0.2)]
    assert good_lr_decades(tries, True) == pytest.approx(2.0)
    assert good_lr_decades([tried(1e-2, 1.05), tried(1e-1, 1.0), tried(1.0, 1.2)], False) == pytest.approx(1.0)
    assert good_lr_decades([tried(1e-2, 1.0), tried(1e-1, 0.99, "stopped"), tried(1.0, 1.0)], True) == 0.0
    assert math.isnan(good_lr_decades([tried(1.0, 0.5, "diverged")], True))


def test_the_picture_of_rates_is_drawn(found, tmp_path):
    assert "learning_rates.svg" in {path.name for path in found.save(tmp_path)}
    assert "Diamond: default" in (tmp_path / "learning_rates.svg").read_text()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert len(numbers["tries"]) == len(found.tries) >= 48


def results_in(found):
    return [(r.candidate, r.role, r.seed, r.lr, r.losses, r.metrics) for r in (*found.tries, *found.results)]


def test_nothing_finished_is_run_again(found, tmp_path):
    trained = tmp_path / "trained"  # a file: a list in the closure would make another optimizer of this one

    class Counted(torch.optim.SGD):
        def __init__(self, params, lr=1e-3):
            with trained.open("a") as file:
                file.write(".")
            super().__init__(params, lr=lr)

    options = {"optimizers": {"SGD": Counted}, "seeds": 2, "trials": 3, "out": tmp_path}
    first = found_by(**options)
    runs = len(trained.read_text())
    again = found_by(**options)
    assert len(trained.read_text()) == runs + 1  # tried once, with everything else, before training
    assert results_in(first) == results_in(again)
    assert str(first) == str(again)


def test_another_comparison_in_the_same_folder_is_rejected_with_the_difference(tmp_path):
    found_by(trials=1, seeds=2, out=tmp_path)
    for options, words in [
        (
            {"lr": 0.5},
            "the learning rate of `SGD` was its default, now 0.5; the learning rate of `Adam`",
        ),
        ({"seed": 1}, "the first seed was 0, now 1."),
        ({"epochs": 9}, "steps was 24, now 27."),
        ({"loss": "multi_margin"}, "the loss of `SGD` was cross_entropy, now multi_margin; the loss of `Adam` was"),
    ]:
        with pytest.raises(InvalidValue, match="holds another comparison") as caught:
            found_by(**{"trials": 1, "seeds": 2, "out": tmp_path, **options})
        assert f"holds another comparison: {words}" in str(caught.value)
        assert "start over with --fresh" in str(caught.value)
    with pytest.raises(InvalidValue, match=r"holds another comparison: the model changed\. Help:"):
        compare_task(
            task(epochs=8, model=lambda: nn.Linear(2, 2)),
            optimizers=["SGD", "Adam"],
            seeds=2,
            out=tmp_path,
            progress=False,
        )
    assert len(found_by(trials=1, seeds=3, out=tmp_path, fresh=True).results) == 6


def in_database(tmp_path, **options):
    storage = f"sqlite:///{tmp_path}/team.db"
    return found_by(**{"trials": 2, "seeds": 2, "optimizers": ["SGD"], "storage": storage, **options})


def test_a_database_holds_many_comparisons_each_under_its_folder_s_name(tmp_path, monkeypatch):
    one = in_database(tmp_path, out=tmp_path / "one")
    two = in_database(tmp_path, out=tmp_path / "two", seed=7)
    assert not list(tmp_path.glob("*/runs.db"))
    with pytest.raises(InvalidValue) as caught:
        in_database(tmp_path, out=tmp_path / "one", seed=7)
    assert str(caught.value).startswith(
        f"{getpass.getuser()}/one in sqlite:///{tmp_path}/team.db holds another comparison: the first seed was 0, now"
    )
    monkeypatch.setattr(executor_module, "run_trial", lambda *_, **__: pytest.fail("ran again"))
    assert str(in_database(tmp_path, out=tmp_path / "elsewhere" / "one")) == str(one)
    assert str(in_database(tmp_path, out=tmp_path / "two", seed=7)) == str(two)
    monkeypatch.undo()
    assert in_database(tmp_path, out=tmp_path / "one", seeds=3, fresh=True).rows[0].seeds == 3
    assert str(in_database(tmp_path, out=tmp_path / "two", seed=7)) == str(two)


def test_a_database_without_a_folder_goes_by_the_model_s_name(tmp_path, monkeypatch):
    first = in_database(tmp_path)
    monkeypatch.setattr(executor_module, "run_trial", lambda *_, **__: pytest.fail("ran again"))
    assert str(in_database(tmp_path)) == str(first)


@pytest.mark.parametrize(
    ("storage", "error", "words"),
    [
        (
            "nonsense",
            InvalidValue,
            "`storage` must be the address of a database, such as postgresql://user@host/database",
        ),
        (3, InvalidType, "`storage` must be the address of a database, such as postgresql://user@host/database"),
        (
            "sqlite:////nowhere/at/all.db",
            InvalidValue,
            "`storage` sqlite:////nowhere/at/all.db can't be opened: unable",
        ),
        ("foo://me:secret@host/runs", InvalidValue, "`storage` foo://me:***@host/runs can't be opened: "),
        ("mysql://me:secret@host/runs", Unsupported, "`storage` mysql://me:***@host/runs needs a driver: "),
    ],
)
def test_a_database_that_cannot_be_used_is_rejected(storage, error, words, tmp_path):
    with pytest.raises(error) as caught:
        in_database(tmp_path, storage=storage)
    assert str(caught.value).startswith(words)
    assert ("pip install 'piste[postgresql]'" in str(caught.value)) == (error is Unsupported)


SLOW = """
import os, signal, sys
from piste.compare import compare_task
from tests.compare.small import task
from piste.compare.execution import store

if sys.argv[2] == "die":
    put = store.DatabaseStore.put
    def dying(self, number, result):
        put(self, number, result)
        if len(self) == 9:
            os.kill(os.getpid(), signal.SIGKILL)
    store.DatabaseStore.put = dying
found = compare_task(
    task(epochs=8), optimizers=["SGD", "Adam"], trials=5, seeds=2, out=sys.argv[1], progress=sys.argv[2] != "die"
)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SLOW)

    def run(how):
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path / "out"), how],
            env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert run("die").returncode == -signal.SIGKILL
    finished = run("go on")
    assert finished.returncode == 0, finished.stderr
    assert "9 of them already finished" in finished.stdout
    whole = compare_task(task(epochs=8), optimizers=["SGD", "Adam"], trials=5, seeds=2, progress=False)
    resumed = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["metrics"] for r in resumed["results"]] == [r.metrics for r in whole.results]
    assert [(r["candidate"], r["lr"]) for r in resumed["tries"]] == [(r.candidate, r.lr) for r in whole.tries]
    assert [row["name"] for row in resumed["rows"]] == [row.name for row in whole.rows]
