"""Three comparisons from which the verdict was made: the passengers of the Titanic, diamonds, and `make compare`."""

import itertools
import json
import math
import random
import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import compare_task, table, tasks
from piste.compare.analysis.evidence import Evidence
from piste.compare.analysis.recommendation import recommend
from piste.compare.analysis.verdict import decide
from tests.compare.test_recommend import row

SEEDS = 5
PAIRINGS = list(itertools.permutations(range(SEEDS)))
"""The orders of the seeds of one candidate next to those of another."""


def by_seed(mean, std, shape):
    """Results with this mean and this standard deviation over seeds."""
    centred = np.array(shape, float) - np.mean(shape)
    return mean + std * centred / centred.std(ddof=1)


def diamonds():
    """Root mean square errors of prices; RMSprop varies, and is worse than Adam with every seed."""
    values = {
        "Adam": by_seed(605, 7, [1.1, 0.3, 0.2, -0.6, -1]),
        "RMSprop": by_seed(754, 121, [-0.9, -0.8, -0.2, 0.3, 1.6]),
        "Adagrad": by_seed(631, 7, [0.4, -0.9, 1.0, -0.6, 0.1]),
    }
    assert (values["RMSprop"] > values["Adam"]).all()
    return values


def errors_of(values, count, seed=0):
    """Contributions of examples with heavy-tailed errors, the same examples for all, to these root mean squares."""
    draw = np.random.default_rng(seed)
    difficulty, scores = np.abs(draw.standard_t(3, size=count)), {}
    for name, results in values.items():
        errors = difficulty * (1 + 0.1 * draw.normal(size=(SEEDS, count)))
        squares = np.square(errors * (results / np.sqrt(np.square(errors).mean(1)))[:, None])
        root = results[:, None]
        scores[name] = root + (squares - np.square(root)) / (2 * root)  # the delta method
    return scores


def judged(values, count=0):
    """The verdict on the diamonds, and the recommended candidate."""
    found = decide(Evidence(values, errors_of(values, count) if count else {}, count=count), "rmse", False, 15.0)
    rows = [
        row(name, metric=v.mean(), std=v.std(ddof=1), peak=1 if name == "RMSprop" else 1000)
        for name, v in values.items()
    ]
    return found, recommend(rows, found, lambda row: True)[0].name


@pytest.mark.parametrize("count", [0, 300, 13_485])
def test_of_the_diamonds_the_noisy_candidate_is_not_equal_and_the_steady_one_is_worse(count):
    found, recommended = judged(diamonds(), count)
    outcomes = {name: found.outcome(name) for name in diamonds()}
    assert outcomes == {"Adam": "best", "RMSprop": "undecided", "Adagrad": "worse"}
    adagrad = next(d for d in found.differences if d.name == "Adagrad")
    assert adagrad.size == pytest.approx(26)
    assert 0 < adagrad.low < 15 < adagrad.high
    rmsprop = next(d for d in found.differences if d.name == "RMSprop")
    assert rmsprop.size == pytest.approx(149) and rmsprop.low < 0 and rmsprop.high > 15
    assert f"RMSprop takes about {rmsprop.seeds} seeds" in found.limits
    assert recommended == "Adam"


def test_five_seeds_decide_about_the_noisy_candidate_only_in_some_of_their_pairings():
    """Adagrad leaves first, so one pair remains: RMSprop is worse exactly where a paired t-test says so."""
    values, outcomes = diamonds(), set()
    for pairing in PAIRINGS:
        paired = {**values, "RMSprop": values["RMSprop"][list(pairing)]}
        found, recommended = judged(paired)
        is_shown = stats.ttest_rel(paired["RMSprop"], paired["Adam"]).pvalue < 0.05
        assert found.outcome("RMSprop") == ("worse" if is_shown else "undecided")
        assert is_shown or "RMSprop takes about 6 seeds" in found.limits
        assert (found.outcome("Adagrad"), recommended) == ("worse", "Adam")
        outcomes.add(found.outcome("RMSprop"))
    assert outcomes == {"worse", "undecided"}


@pytest.mark.parametrize("count", [300, 13_485])
def test_the_noisy_candidate_is_never_equal_or_recommended_however_seeds_are_paired(count):
    values = diamonds()
    for pairing in PAIRINGS:
        found, recommended = judged({**values, "RMSprop": values["RMSprop"][list(pairing)]}, count)
        assert found.outcome("RMSprop") in ("worse", "undecided")
        assert recommended == "Adam"


@pytest.mark.parametrize("seeds", [6, 10])
def test_more_seeds_show_the_noisy_candidate_to_be_worse_in_every_pairing(seeds):
    draw = np.random.default_rng(seeds)
    spread = {"Adam": (605, 7), "RMSprop": (754, 121), "Adagrad": (631, 7)}
    for _ in range(50):
        values = {name: by_seed(*of, draw.normal(size=seeds)) for name, of in spread.items()}
        found, recommended = judged(values)
        assert found.sentence == "Adam has the best rmse; every other candidate is worse."
        assert recommended == "Adam"


def passengers(path):
    """Write a table like that of the Titanic's passengers: 1316 rows, of which a quarter judges."""
    draw = random.Random(1)
    lines = ["class,sex,age,fare,port,survived"]
    for _ in range(1316):
        level, is_woman = draw.choice([1, 2, 3, 3]), draw.random() < 0.36
        age = "" if draw.random() < 0.2 else round(draw.uniform(1, 70), 1)
        fare = round(draw.lognormvariate(4.2 - 0.7 * level, 0.5), 2)
        chance = 1 / (1 + math.exp(-(-0.4 + 2.6 * is_woman - 0.9 * (level - 2))))
        port = draw.choice("SSSCQ")
        sex, survived = "female" if is_woman else "male", "yes" if draw.random() < chance else "no"
        lines.append(f"{level},{sex},{age},{fare},{port},{survived}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_few_passengers_of_329_show_no_difference(tmp_path):
    task = table(passengers(tmp_path / "titanic.csv"), "survived")
    found = compare_task(
        task, optimizers=["RMSprop", "Adagrad"], lr={"RMSprop": 0.001, "Adagrad": 0.01}, seeds=SEEDS, split="fixed",
        progress=False,
    )  # fmt: skip
    assert found.validation["examples"] == 329
    (difference,) = found.verdict.differences
    assert difference.size < 5 / 329
    assert difference.outcome != "worse"
    share = found.rows[0].metric
    assert found.verdict.practical == pytest.approx(math.sqrt(share * (1 - share) / 328), rel=0.02)
    assert found.rows[0].metric > found.baseline


def test_the_command_of_make_compare_ends_in_time_with_a_table_a_verdict_and_a_recommendation(tmp_path):
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    words = shlex.split(re.search(r"^compare:.*\n\t\$\(BIN\)/piste (.*)$", makefile, re.MULTILINE)[1])
    assert words[:3] == ["compare", "digits", "--out"] and words[-2] == "--budget"
    words[3] = str(tmp_path)
    began = time.perf_counter()
    smaller = ["--optimizers", "SGD,Adam", "--seeds", "3", "--steps", "60", "--trials", "3"]
    done = CliRunner().invoke(app, [*words, *smaller])
    assert time.perf_counter() - began < 120
    assert done.exit_code == 0, done.output
    assert re.search(r"^\| candidate \| lr \| accuracy ", done.output, re.MULTILINE)
    assert re.search(r"^\| (SGD|Adam)( ★)? \|", done.output, re.MULTILINE)
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert {d["outcome"] for d in numbers["verdict"]["differences"]} <= {"equal", "worse", "undecided"}
    sentence = numbers["verdict"]["sentence"]
    assert sentence in done.output and re.search("practically equal|[Uu]ndecided|[Ww]orse", sentence)
    assert re.search(r"^Recommended: (SGD|Adam); .*\.$", done.output, re.MULTILINE)
    assert re.search(r"^ +optimizer = piste\.optim\.(SGD|Adam)\(", done.output, re.MULTILINE)
    assert (tmp_path / "report.html").exists() and (tmp_path / "curves.svg").exists()


def test_sgd_is_worse_on_the_digits_at_its_default_rate_alone():
    options = {"optimizers": ["SGD", "Adam"], "seeds": 3, "steps": 100, "progress": False}
    defaults = compare_task(tasks.task("digits"), **options)
    assert defaults.verdict.outcome("SGD") == "worse"
    assert "It is about the default learning rates; tuned rates may rank" in defaults.verdict.limits
    tuned = compare_task(tasks.task("digits"), **options, trials=8)
    assert tuned.verdict.outcome("SGD") != "worse"
    sgd = next(r for r in tuned.rows if r.name == "SGD")
    assert sgd.default_metric < 0.5 < 0.9 < sgd.metric
