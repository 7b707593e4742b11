"""The recommendation: the best or a practically equal candidate, for the reason it gives, with a line that runs."""

import functools
import math

import numpy as np
import pytest
import torch

import piste
from piste.compare import Loop, compare_task
from piste.compare.analysis.evidence import Evidence
from piste.compare.analysis.recommendation import recommend
from piste.compare.analysis.recommended_code import code_to_paste
from piste.compare.analysis.summary import _judged_rate
from piste.compare.analysis.verdict import decide
from piste.compare.candidates import Candidate
from piste.compare.loop import PLAIN
from piste.compare.results import Difference, Result, Row, Verdict
from tests.compare.small import data, model, task


def row(name, lr=0.1, width=math.nan, state=100, metric=0.9, std=0.01, seconds=1e-3, peak=1000):
    return Row(
        name, name, "mse", lr, metric, 0, 0, 0, 0, 0, 5, 0, "", seconds, state, peak, 1.0, 1.0, std, math.nan, width
    )  # fmt: skip


def verdict(rows, practical=0.02, **outcomes):
    best, *others = [r.name for r in rows]
    found = [Difference(n, 0.0, -0.01, 0.01, 1.0, outcomes.get(n, "equal")) for n in others]
    return Verdict("", best, differences=found, practical=practical, test="(tested)")


def recommended(rows, learned=lambda row: True, **outcomes):
    chosen, reason = recommend(rows, verdict(rows, **outcomes), learned)
    return chosen and chosen.name, reason


@pytest.mark.parametrize(
    ("rates", "ends", "higher", "expected"),
    [
        ([0.1, 0.001, 0.01], [0.5, 0.9, 0.1], True, 0.01),  # the median, whatever its result
        ([0.1, 0.001], [0.5, 0.9], True, 0.001),
        ([0.1, 0.001], [0.5, 0.9], False, 0.1),
        ([0.1, 0.001, 1.0, 0.01], [0.6, 0.0, 0.9, 0.5], True, 0.1),
        ([0.1, 0.001], [None, 0.9], False, 0.001),  # the other diverged
        ([None, None], [0.1, 0.2], True, None),
    ],
)
def test_the_rate_to_paste_is_the_median_or_the_better_of_two_in_the_middle(rates, ends, higher, expected):
    runs = [
        Result("a", "a", "mse", i, lr, "diverged" if end is None else "done", metrics=[end or 0.0])
        for i, (lr, end) in enumerate(zip(rates, ends, strict=True))
    ]
    assert _judged_rate(runs, higher) == expected


def test_a_clear_winner_is_recommended():
    assert recommended([row("a"), row("b", peak=1)], b="worse") == ("a", "every other candidate is worse.")


def test_an_undecided_candidate_is_never_recommended():
    assert recommended([row("a"), row("b", peak=1)], b="undecided") == (
        "a", "it has the best mean, and no other candidate is shown to be practically equal."
    )  # fmt: skip


def test_a_noisy_candidate_beyond_the_margin_is_not_recommended():
    rng = np.random.default_rng(0)
    values = {
        "Adam": 605 + 7 * rng.normal(size=5), "Adagrad": 631 + 7 * rng.normal(size=5),
        "RMSprop": 754 + 121 * rng.normal(size=5),
    }  # fmt: skip
    found = decide(Evidence(values), "rmse", False, practical=15.0)
    assert found.outcome("RMSprop") == "undecided"  # its interval reaches far beyond the margin
    rows = [row(n, metric=v.mean(), std=v.std(ddof=1), peak=1 if n == "RMSprop" else 1000) for n, v in values.items()]
    assert recommend(rows, found, lambda row: True)[0].name == "Adam"


def test_the_steadiest_comes_first_among_practically_equal_ones():
    name, reason = recommended([row("a", std=0.05, peak=1), row("b", std=0.011), row("c", std=0.012)])
    assert (name, reason) == (
        "b", "among the candidates that are practically equal to the best, its results vary least between seeds."
    )  # fmt: skip
    assert recommended([row("a", std=0.009), row("b", std=0.001)])[0] == "a"  # less than half the practical margin


def test_a_clearly_wider_range_of_good_learning_rates_comes_second():
    name, reason = recommended([row("a", width=0.5), row("b", width=2.0), row("c", width=1.4)])
    assert name == "b"
    assert reason.endswith("practically equal to the best, good learning rates range over 2.0 decades.")
    assert recommended([row("a", width=1.2), row("b", width=1.6), row("c", width=0.3)])[0] == "a"


def test_memory_and_time_that_matter_come_third():
    assert recommended([row("a"), row("b", peak=850)]) == (
        "b", "among the candidates that are practically equal to the best, a step takes the least memory."
    )  # fmt: skip
    assert recommended([row("a"), row("b", peak=950)]) == (
        "a", "it has the best mean, and no candidate that is practically equal has a clear advantage."
    )  # fmt: skip
    assert recommended([row("a"), row("b", seconds=8e-4)])[1].endswith("a step takes the least time.")
    assert recommended([row("a", peak=1000), row("b", peak=800), row("c", peak=700)])[0] == "c"


def test_a_candidate_that_learned_nothing_is_never_recommended():
    assert recommended([row("a"), row("b", std=0.0)], learned=lambda row: row.name == "a")[0] == "a"
    assert recommended([row("a"), row("b")], learned=lambda row: False) == (
        None, "no candidate is better than a constant prediction."
    )  # fmt: skip


def test_without_learning_there_is_no_recommendation():
    found = compare_task(task(epochs=1), optimizers=["SGD", "Adam"], lr=1e-9, seeds=2, progress=False)
    share = data(40, 1)[1].double().mean().item()
    assert found.baseline == max(share, 1 - share)
    assert found.baseline_meaning == "the most frequent class"
    best = found.rows[0].metric
    if best <= found.baseline:
        assert found.verdict.recommendation == "No recommendation: no candidate is better than a constant prediction."
        assert found.verdict.code == ""
    assert "(the most frequent class)" in found.table()


def code(name="Adam", make=None, lr=0.1, loss_name="mse", loss=None, loop=PLAIN, **options):
    chosen = Candidate(
        name, name, loss_name, make=make or getattr(piste.optim, name), loss_function=loss, loop=loop
    )  # fmt: skip
    return code_to_paste(row(name, lr=lr), chosen, **options)


def test_the_line_to_paste_runs():
    text = code(lr=0.01234)
    assert text == "optimizer = piste.optim.Adam(model.parameters(), lr=0.0123)"
    namespace = {"piste": piste, "model": torch.nn.Linear(1, 1)}
    exec(text, namespace)
    assert namespace["optimizer"].param_groups[0]["lr"] == 0.0123


class Mine(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("Mine", Mine, "Mine(model.parameters(), lr=0.1)"),
        ("Adam", torch.optim.Adam, "torch.optim.Adam(model.parameters(), lr=0.1)"),
        ("Adam", Mine, "optimizers['Adam'](model.parameters(), lr=0.1)"),
        ("full batch", Mine, "optimizers['full batch'](model.parameters(), lr=0.1)"),
        (
            "steady",
            functools.partial(piste.optim.SGD, lr=0.5, momentum=0.9),
            "piste.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
        ),
        ("mine", functools.partial(Mine, momentum=0.9), "optimizers['mine'](model.parameters(), lr=0.1)"),
        (
            "own",
            functools.partial(torch.optim.SGD, weight_decay=torch.tensor(0.5)),
            "optimizers['own'](model.parameters(), lr=0.1)",
        ),
    ],
)
def test_the_line_to_paste_constructs_the_optimizer_that_was_compared(name, make, expected):
    assert code(name, make) == f"optimizer = {expected}"
    namespace = {"piste": piste, "torch": torch, "model": torch.nn.Linear(1, 1), "Mine": Mine}
    exec(code(name, make), {**namespace, "optimizers": {name: make}})


def test_the_line_to_paste_for_muon_makes_groups():
    assert code("Muon", lr=0.02) == "optimizer = piste.optim.Muon(piste.optim.matrix_groups(model), lr=0.02)"
    text = code("Muon", lr=0.02, loss=torch.nn.Linear(1, 1))
    assert text == "optimizer = piste.optim.Muon(piste.optim.matrix_groups(model, loss=loss), lr=0.02)"
    namespace = {"piste": piste, "model": model(), "loss": torch.nn.Linear(1, 1)}
    exec(text, namespace)
    assert [group["lr"] for group in namespace["optimizer"].param_groups] == [0.02, 1e-3]
    text = code("Muon", lr=0.02, loop=Loop(param_groups=piste.optim.matrix_groups))
    assert text.endswith("optimizer = piste.optim.Muon(loop.param_groups(model), lr=0.02)")


def test_the_lines_for_lightning_name_the_options_of_its_trainer():
    loop = Loop(clip_norm=1.0, accumulate=2, autocast="bfloat16")
    assert code(loop=loop, is_lightning=True).split("\n")[:2] == [
        "# Trainer(gradient_clip_val=1.0, accumulate_grad_batches=2, precision='bf16-mixed')",
        "def configure_optimizers(self):",
    ]
    assert code(loop=Loop(clip_value=0.5), is_lightning=True).startswith(
        "# Trainer(gradient_clip_val=0.5, gradient_clip_algorithm='value')\n"
    )


def test_the_lines_for_lightning_name_callbacks_for_averages_and_early_stopping():
    shown = code(loop=Loop(ema=0.99, patience=3, clip_norm=1.0), is_lightning=True, monitored=("val_acc", "max"))
    first = shown.split("\n")[0]
    assert first == (
        "# Trainer(gradient_clip_val=1.0, callbacks=[EMAWeightAveraging(decay=0.99), "
        "EarlyStopping('val_acc', patience=3, mode='max'), ModelCheckpoint(monitor='val_acc', mode='max')])"
    )
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    assert len(eval(first.partition("callbacks=")[2][:-1], vars(callbacks))) == 3


def test_a_function_without_a_name_is_left_open_in_the_lines():
    for group in (lambda model: model.parameters(), functools.partial(torch.nn.Module.parameters)):
        loop = Loop(clip_norm=1.0, param_groups=group)
        assert code(loop=loop).split("\n")[0] == (
            "loop = Loop(clip_norm=1.0, param_groups=...)  # from piste.compare import Loop"
        )


def squared(output, target):
    return (output - target).square().mean()


@pytest.mark.parametrize(
    ("name", "loss", "expected"),
    [
        ("focal", piste.losses.FocalLoss(gamma=3.0), "piste.losses.FocalLoss(gamma=3.0)"),
        ("balanced", piste.losses.FocalLoss(weight=torch.ones(2)), "losses['balanced']"),
        ("MSELoss", torch.nn.MSELoss(), "losses['MSELoss']"),
        ("squared", squared, "squared"),
        ("error", squared, "losses['error']"),
    ],
)
def test_the_code_to_paste_makes_the_loss(name, loss, expected):
    text = code(loss_name=name, loss=loss, names_loss=True).split("\n")[0]
    assert text == f"loss = {expected}"
    namespace = {"piste": piste, "squared": squared, "losses": {name: loss}}
    exec(text, namespace)
    assert repr(namespace["loss"]) == repr(loss)


def test_the_code_to_paste_names_the_loss_where_several_were_compared():
    several = compare_task(
        task(), loss=["cross_entropy", "focal"], optimizers=["Adam"], lr=0.1, seeds=2, progress=False
    )
    assert several.verdict.code.split("\n")[0] in (
        "loss = piste.losses.CrossEntropyLoss()", "loss = piste.losses.FocalLoss()"
    )  # fmt: skip
    alone = compare_task(task(), optimizers=["SGD", "Adam"], lr=0.1, seeds=2, progress=False)
    assert alone.verdict.code.startswith("optimizer = ")


def test_the_rate_of_the_line_was_judged_and_the_sentence_says_with_which_seed():
    found = compare_task(task(epochs=8), optimizers=["SGD", "Adam"], trials=4, seeds=3, progress=False)
    name = found.verdict.recommendation.removeprefix("Recommended: ").split(";")[0]
    rate = next(r for r in found.rows if r.name == name).lr
    run = next(r for r in found.results if r.candidate == name and r.lr == rate)
    if len({r.lr for r in found.results if r.candidate == name}) > 1:
        assert f"it reached accuracy {run.metrics[-1]:.4g} with seed {run.seed}." in found.verdict.recommendation
    assert f"lr={rate:.3g}" in found.verdict.code


def test_a_comparison_recommends_a_candidate():
    found = compare_task(task(epochs=8), optimizers=["SGD", "Adam"], lr=0.1, seeds=3, progress=False)
    assert found.verdict.recommendation.startswith("Recommended: ")
    assert found.verdict.code in str(found)
    assert found.verdict.code in found._repr_markdown_()
    alone = compare_task(task(), optimizers=["SGD"], seeds=2, progress=False)
    assert alone.verdict.code == ""


@pytest.mark.parametrize(
    ("seeds", "place"), [(3, "is the median of"), (2, "is the better of the two in the middle of")]
)
def test_the_sentence_says_where_the_rate_to_paste_lies(seeds, place):
    found = compare_task(task(), optimizers=["SGD", "Adam"], seeds=seeds, trials=4, steps=40, progress=False)
    rates = {r.lr for r in found.results if r.candidate == found.verdict.recommended}
    assert len(rates) > 1
    assert f"{place} those found for the seeds; it reached accuracy " in found.verdict.recommendation
