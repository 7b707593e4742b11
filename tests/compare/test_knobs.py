"""Other options than the rate, tried where that is asked for: which, that the best is judged, and what is refused."""

import functools
import json
import math

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import compare_task
from piste.compare.analysis.recommended_code import code_to_paste
from piste.compare.candidates import Candidate
from piste.compare.report.trackers import trial_name, trial_params
from piste.compare.search_space import configurations, find_search_spaces
from piste.errors import InvalidType, InvalidValue
from piste.optim import SGD, Adam
from tests.compare.small import task
from tests.compare.test_search import tried

MAKERS = {"SGD": SGD, "Adam": Adam}


def found_by(**options):
    return compare_task(task(epochs=6), **{"trials": 8, "seeds": 2, "progress": False, **options})


def only_with_momentum(params, lr=1e-3, momentum=0.0):
    """Learns nothing without."""
    return SGD(params, lr=lr if momentum else 1e-20, momentum=momentum)


@pytest.fixture(scope="module")
def found():
    return found_by(optimizers={"plain": Adam, "picky": only_with_momentum}, search={"momentum": [0, 0.8, 0.9]})


def test_an_option_is_tried_where_it_is_taken_the_default_first(found):
    tries = [r for r in found.tries if r.candidate == "picky"]
    first = [next(r for r in tries if r.seed == seed) for seed in (2**31, 2**31 + 1)]
    assert [(r.lr, r.options) for r in first] == 2 * [(1e-3, {"momentum": 0.0})]
    assert {r.options["momentum"] for r in tries} == {0.0, 0.8, 0.9}
    assert len(tries) >= 16
    assert all(r.options == {} for r in found.tries if r.candidate == "plain")


def test_the_best_setting_is_judged_beside_the_default(found):
    judged = [r for r in found.results if r.candidate == "picky"]
    for result in judged:
        assert result.options["momentum"] in (0.8, 0.9)
        searched = [r for r in found.tries if r.candidate == "picky" and r.seed == result.seed + 2**31]
        best = max((r for r in searched if r.status == "done"), key=lambda r: r.metrics[-1])
        assert best.metrics[-1] in [r.metrics[-1] for r in searched if r.options == result.options]
    defaults = [r for r in found.defaults if r.candidate == "picky"]
    assert [(r.lr, r.options) for r in defaults] == 2 * [(1e-3, {})]
    row = next(r for r in found.rows if r.name == "picky")
    assert row.metric > row.default_metric
    assert row.options in [r.options for r in judged]
    assert row.lr in [r.lr for r in judged if r.options == row.options]
    assert f", momentum={row.options['momentum']} |" in found.table()


def test_searched_options_stand_in_the_line_to_paste(found):
    row = next(r for r in found.rows if r.name == "picky")
    code = code_to_paste(row, Candidate("picky", "picky", "mse", make=only_with_momentum))
    assert code.endswith(f"(model.parameters(), lr={row.lr:.3g}, momentum={row.options['momentum']})")
    (one,) = [r for r in found.results if r.candidate == "picky" and r.seed == 0]
    assert trial_name(one).endswith(f" momentum={one.options['momentum']}")
    assert trial_params(one)["momentum"] == one.options["momentum"]


def test_every_value_reaches_the_optimizer(monkeypatch):
    seen = []

    def make(params, lr=1e-3, betas=(0.9, 0.999)):
        seen.append(betas)
        return Adam(params, lr=lr, betas=betas)

    found = found_by(optimizers={"A": make}, search={"betas": [[0.5, 0.9], [0.9, 0.999]]}, seeds=1)
    assert seen[:2] == [(0.9, 0.999), (0.5, 0.9)]  # each was built before any training
    trained = [r.options.get("betas", (0.9, 0.999)) for r in (*found.tries, *found.results)]
    assert seen[2 : 2 + len(trained)] == trained
    assert {(0.9, 0.999), (0.5, 0.9)} == set(trained)


def test_an_optimizer_without_a_rate_has_its_options_searched():
    fixed = lambda params, momentum=0.0: torch.optim.SGD(params, lr=0.05, momentum=momentum)  # noqa: E731
    found = found_by(optimizers={"fixed": fixed}, search={"momentum": [0.9]}, seeds=1)
    assert {r.options["momentum"] for r in found.tries} == {0.0, 0.9}
    assert found.rows[0].lr == 0.05
    assert math.isnan(found.rows[0].lr_width)


def test_a_kept_comparison_goes_on_with_the_same_options(tmp_path):
    options = {"optimizers": ["Adam"], "search": {"betas": [[0.5, 0.9]]}, "trials": 4, "out": tmp_path}
    first, again = found_by(**options), found_by(**options)
    assert [r.options for r in first.tries] == [r.options for r in again.tries]
    assert {r.options["betas"] for r in again.tries} == {(0.9, 0.999), (0.5, 0.9)}
    assert str(first) == str(again)
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["search"] == {"betas": [[0.5, 0.9]]}
    with pytest.raises(InvalidValue, match=r"search was {'betas': \[\[0.5, 0.9\]\]}, now None"):
        found_by(**{**options, "search": None})


def test_a_search_in_processes_finds_the_same_results(found):
    options = {"optimizers": ["SGD"], "search": {"momentum": [0.9], "nesterov": [False]}, "trials": 3}
    here, there = found_by(**options), found_by(**options, jobs=2)
    assert [(r.lr, r.options, r.metrics) for r in here.tries] == [(r.lr, r.options, r.metrics) for r in there.tries]


def test_the_width_is_that_of_the_rates_with_the_best_options():
    from piste.compare.analysis.learning_rates import good_lr_decades

    tries = [tried(lr, value) for lr, value in ((1e-3, 0.95), (1e-2, 1.0), (1e-1, 0.95))]
    other = tried(5e-3, 0.2)
    other.options = {"momentum": 0.9}
    assert good_lr_decades([*tries, other], True) == pytest.approx(2.0)


def test_every_setting_is_counted_the_defaults_first():
    knobs = find_search_spaces({"momentum": [0.9, 0.0], "weight_decay": [0.1]}, MAKERS)
    assert knobs == {"SGD": {"momentum": (0.0, 0.9), "weight_decay": (0.0, 0.1)}, "Adam": {"weight_decay": (0.0, 0.1)}}
    assert list(configurations(knobs["SGD"])) == [
        {"momentum": m, "weight_decay": w} for m, w in ((0.0, 0.0), (0.0, 0.1), (0.9, 0.0), (0.9, 0.1))
    ]
    partial = find_search_spaces({"momentum": [0.5]}, {"heavy": functools.partial(SGD, momentum=0.9)})
    assert partial == {"heavy": {"momentum": (0.9, 0.5)}}


@pytest.mark.parametrize(
    ("search", "error", "words"),
    [
        (["momentum"], InvalidType, "`search` must be a dict such as {\"momentum\": [0, 0.9]}; received ['momentum']."),
        (
            {"lr": [1]},
            InvalidValue,
            "`search` must not contain `lr`: the learning rate is always searched, around lr=.",
        ),
        ({"momentum": 0.9}, InvalidType, "`search` must hold a list of values to try for `momentum`; received 0.9."),
        ({"momentum": []}, InvalidType, "`search` must hold a list of values to try for `momentum`; received []."),
        ({"momentum": "09"}, InvalidType, "`search` must hold a list of values to try for `momentum`; received '09'."),
        (
            {"momentun": [0.9]},
            InvalidValue,
            "`search` contains `momentun`, which no optimizer of this comparison takes. Did you mean `momentum`?",
        ),
        (
            {"weight_decay": [i / 1001 for i in range(1001)]},
            InvalidValue,
            "`search` must make at most 1,000 configurations; received 1,001 for SGD. Give fewer values.",
        ),
        (
            {"momentum": [2]},
            InvalidValue,
            "SGD with momentum=2 could not be built: `momentum` must be in",
        ),
        ({"nesterov": [True]}, InvalidValue, "SGD with nesterov=True could not be built: "),
    ],
)
def test_invalid_searches_are_rejected(search, error, words):
    with pytest.raises(error) as caught:
        found_by(optimizers=["SGD", "Adam"], search=search)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("trials", [None, 1])
def test_a_search_without_trials_is_rejected_with_the_option_to_give(trials):
    with pytest.raises(InvalidValue) as caught:
        found_by(optimizers=["SGD"], search={"momentum": [0.9]}, trials=trials)
    assert str(caught.value) == (
        "`search` requires --trials (trials=): the number of configurations to try for each candidate."
    )


def test_a_budget_buys_the_search_that_was_asked_for():
    from piste.compare.budget import fit_to_budget
    from piste.compare.plan import make_plan
    from piste.compare.training.timing import StepCost

    plan = make_plan(task(epochs=200), optimizers=["SGD"], budget=20, search={"momentum": [0.9]})
    fit_to_budget(plan, {"SGD": StepCost(start=0.1, evaluation=0.0, step=0.9 / plan.steps)})
    assert (len(plan.seeds), plan.trials) == (5, 3)
    assert "each after its own search over 3 configurations (lr, momentum); " in str(plan)


def test_the_command_searches_options(tmp_path, monkeypatch):
    def run(*arguments):
        return CliRunner().invoke(app, arguments)

    monkeypatch.chdir(tmp_path)
    done = run(
        "compare", "line", "--optimizers", "sgd,adam", "--trials", "3", "--seeds", "1", "--epochs", "2",
        "--search", "momentum=0,0.9", "--search", "betas=[0.9,0.999],[0.5,0.9]",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 configurations (lr, momentum, betas)" in done.output
    kept = json.loads((tmp_path / "piste-compare" / "line" / "results.json").read_text())
    assert kept["settings"]["search"] == {"momentum": [0, 0.9], "betas": [[0.9, 0.999], [0.5, 0.9]]}
    done = run("compare", "line", "--trials", "3", "--search", "momentum=high")
    assert done.exit_code == 2
    assert done.output.endswith(
        "piste: --search must be an option and its values, such as momentum=0,0.9 or nesterov=false,true or "
        "betas=[0.9,0.999],[0.8,0.99]; received 'momentum=high'.\n"
    )


def test_a_module_of_two_layers_is_searched_like_any():
    found = compare_task(
        task(model=lambda: nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))), optimizers=["SGD"], trials=3, seeds=1,
        search={"weight_decay": [0, 0.01]}, progress=False,
    )  # fmt: skip
    assert len(found.tries) == 3
