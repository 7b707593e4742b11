"""The metrics against scikit-learn's, and what they refuse."""

import functools
import math

import pytest
import torch
from sklearn import metrics as sk

import piste
from piste.compare import compare_task
from piste.compare.conventions import Convention, convention_of
from piste.compare.metrics import METRICS, Metric, as_metric, as_metrics, default_metric
from piste.compare.plan import make_plan
from piste.compare.training.trial import run_trial
from piste.errors import InvalidType, InvalidValue
from tests.compare.small import task

torch.manual_seed(0)
TRUTH, GUESS = torch.randn(30, 1) + 3, torch.randn(30, 1)


def test_regression_metrics_are_scikit_learn_s():
    for name, expected in {
        "rmse": sk.root_mean_squared_error(TRUTH, GUESS),
        "mae": sk.mean_absolute_error(TRUTH, GUESS),
        "r2": sk.r2_score(TRUTH, GUESS),
    }.items():
        assert METRICS[name].value(GUESS, TRUTH) == pytest.approx(expected, rel=1e-6)


def test_accuracy_of_classes_pixels_and_single_logits():
    logits, classes = torch.randn(20, 4), torch.randint(4, (20,))
    assert METRICS["accuracy"].value(logits, classes) == pytest.approx(sk.accuracy_score(classes, logits.argmax(1)))
    logits, classes = torch.randn(5, 3, 2, 2), torch.randint(3, (5, 2, 2))
    assert METRICS["accuracy"].scores(logits, classes).shape == (5,)
    assert METRICS["accuracy"].value(torch.tensor([-2.0, 3.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])) == pytest.approx(
        2 / 3
    )


def test_accuracy_takes_the_most_probable_class_of_one_hot_and_of_soft_targets():
    logits, classes = torch.randn(20, 4) - 2, torch.randint(4, (20,))  # most logits are negative
    expected = sk.accuracy_score(classes, logits.argmax(1))
    one_hot = torch.nn.functional.one_hot(classes, 4)
    for target in (one_hot, one_hot.float(), 0.7 * one_hot + 0.3 / 4, one_hot.half()):
        assert METRICS["accuracy"].value(logits, target) == pytest.approx(expected)
    pixels, where = torch.randn(5, 3, 2, 2), torch.randint(3, (5, 2, 2))
    soft = torch.nn.functional.one_hot(where, 3).movedim(3, 1).float()
    expected = METRICS["accuracy"].scores(pixels, where)
    assert torch.equal(METRICS["accuracy"].scores(pixels, soft), expected)


def test_accuracy_of_several_labels_counts_each_and_takes_nothing_between():
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert METRICS["accuracy"].scores(logits, labels).tolist() == pytest.approx([2 / 3, 1.0])
    assert METRICS["accuracy"].value(logits[:, :1], labels[:, :1]) == 1
    for target in (0.9 * labels, labels[:, :1] * 0.9):
        with pytest.raises(InvalidValue) as caught:
            METRICS["accuracy"].scores(logits[:, : target.shape[1]], target)
        assert str(caught.value) == (
            "accuracy takes targets 0 and 1 (or -1 and 1), one for each output, or class probabilities (N, C, ...) "
            "that sum to 1; received 0.9."
        )
    with pytest.raises(InvalidValue, match=r"received -0\.5"):
        METRICS["accuracy"].scores(logits[:1, :2], torch.tensor([[-0.5, 1.5]]))


def test_a_metric_of_one_s_own():
    metric = as_metric((lambda output, target: (output - target).abs().max(), "min"))
    assert metric.value(GUESS, TRUTH) == pytest.approx((GUESS - TRUTH).abs().max().item())
    assert not metric.higher_is_better
    assert as_metric(metric) is metric
    assert as_metric("RMSE") is METRICS["rmse"]


@pytest.mark.parametrize(
    ("metric", "error", "words"),
    [
        ("acuracy", InvalidValue, "unknown metric `acuracy`. Did you mean `accuracy` or"),
        (len, InvalidType, "a metric function needs a direction"),
        (3, InvalidType, "a metric must be a name"),
        ((len, "up"), InvalidValue, 'the goal of a metric must be "max" or "min"; received \'up\'.'),
    ],
)
def test_invalid_metrics_are_rejected(metric, error, words):
    with pytest.raises(error) as caught:
        as_metric(metric)
    assert words in str(caught.value)


def test_shapes_that_don_t_fit_are_rejected():
    with pytest.raises(InvalidValue, match=r"targets of the same shape; received \(30, 1\) and \(30,\)"):
        METRICS["rmse"].value(GUESS, TRUTH.squeeze(1))
    with pytest.raises(InvalidValue, match=r"accuracy takes scores of classes \(N, C, ...\)"):
        METRICS["accuracy"].value(torch.ones(3), torch.ones(3, 2))
    with pytest.raises(InvalidValue, match="r2 needs targets that differ"):
        METRICS["r2"].value(GUESS, torch.ones(30, 1))
    with pytest.raises(InvalidValue, match="must return one number, or one for each of the 30 examples"):
        Metric("odd", lambda output, target: torch.ones(7)).value(GUESS, TRUTH)


def test_the_default_is_guessed_only_where_it_is_plain():
    assert default_metric(torch.ones(3, 2), torch.tensor([0, 1, 1])).name == "accuracy"
    assert default_metric(GUESS, TRUTH).name == "rmse"
    with pytest.raises(InvalidValue, match="the metric can't be inferred from outputs"):
        default_metric(torch.ones(3, 1), torch.tensor([[0.0], [1.0], [1.0]]))


def test_accuracy_reads_probabilities_at_one_half_and_logits_at_zero():
    output, target = torch.tensor([0.2, 0.9, 0.6, 0.4]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    share = {reading: METRICS["accuracy"].under(Convention(reading)).value(output, target) for reading in READINGS}
    assert share == {"logits": 0.5, "probabilities": 0.5, "values": 0.5}
    output = torch.tensor([0.2, 0.9, 0.6, 0.4]) + 0.15
    share = {reading: METRICS["accuracy"].under(Convention(reading)).value(output, target) for reading in READINGS}
    assert share == {"logits": 0.5, "probabilities": 0.75, "values": 0.75}
    signs = METRICS["accuracy"].under(Convention("values")).value(torch.tensor([-0.3, 0.2]), torch.tensor([-1.0, 1.0]))
    assert signs == 1.0


READINGS = ("logits", "probabilities", "values")


@pytest.mark.parametrize(
    ("loss", "reading", "ignored"),
    [
        (torch.nn.BCELoss(), "probabilities", None),
        (piste.losses.BCELoss(), "probabilities", None),
        (torch.nn.functional.binary_cross_entropy, "probabilities", None),
        (piste.losses.functional.binary_cross_entropy, "probabilities", None),
        (torch.nn.BCEWithLogitsLoss(), "logits", None),
        (torch.nn.HuberLoss(), "values", None),
        (torch.nn.CrossEntropyLoss(), "logits", -100),
        (piste.losses.CrossEntropyLoss(ignore_index=3), "logits", 3),
        (functools.partial(torch.nn.functional.cross_entropy, ignore_index=0), "logits", 0),
        (torch.nn.NLLLoss(ignore_index=7), "unknown", 7),
        (lambda output, target: (output - target).mean(), "unknown", -100),
        (piste.losses.SigmoidFocalLoss(), "logits", None),
        (piste.losses.functional.asymmetric_loss, "logits", None),
        (piste.losses.FocalLoss(ignore_index=2), "logits", 2),
        (piste.losses.LogCoshLoss(), "values", None),
        (piste.losses.QuantileLoss(), "values", None),
        (torch.nn.PoissonNLLLoss(), "logarithms", None),
        (functools.partial(torch.nn.functional.poisson_nll_loss, log_input=False), "values", None),
        (piste.losses.DiceLoss(), "probabilities", None),
        (piste.losses.JaccardLoss(activation="sigmoid"), "logits", None),
        (piste.losses.CORALLoss(), "steps", None),
        (piste.losses.CORNLoss(), "conditional", None),
    ],
)
def test_a_loss_states_how_outputs_are_read_and_what_is_ignored(loss, reading, ignored):
    assert convention_of(loss) == Convention(reading, ignored)


@pytest.mark.parametrize(
    ("loss", "shares"),
    [
        (piste.losses.CORALLoss(), [[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.6, 0.2], [0.7, 0.1, 0.1, 0.1]]),
        (piste.losses.CORNLoss(), [[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.6, 0.2], [0.7, 0.1, 0.1, 0.1]]),
    ],
)
def test_steps_between_ranks_are_judged_as_ranks(loss, shares):
    above = 1 - torch.tensor(shares, dtype=torch.float64).cumsum(1)[:, :-1]  # P(rank > 0), P(rank > 1), P(rank > 2)
    if isinstance(loss, piste.losses.CORNLoss):
        above = above / torch.cat([torch.ones(3, 1), above[:, :-1]], 1)  # P(rank > j | rank > j - 1)
    logits, target = above.logit(), torch.tensor([1, 2, 2])
    ranks = [1, 2, 0] if isinstance(loss, piste.losses.CORALLoss) else [0, 2, 0]  # the medians; P = 1/2 is not above
    logits = logits - 1e-9

    def value(name):
        return METRICS[name].under(convention_of(loss)).value(logits, target)

    assert value("accuracy") == pytest.approx(sum(r == t for r, t in zip(ranks, [1, 2, 2], strict=True)) / 3)
    assert value("mae") == pytest.approx(sum(abs(r - t) for r, t in zip(ranks, [1, 2, 2], strict=True)) / 3)
    given = [row[t] for row, t in zip(shares, [1, 2, 2], strict=True)]
    assert value("log_loss") == pytest.approx(-sum(math.log(p) for p in given) / 3, rel=1e-6)
    with pytest.raises(InvalidValue, match=r"in \[0, 3\], because the model has 3 outputs, steps between ranks; rec"):
        METRICS["accuracy"].under(convention_of(loss)).value(logits, torch.tensor([0, 4, 1]))


def test_classes_are_in_the_dimension_of_the_loss():
    logits = torch.tensor([[[2.0, 0.0], [3.0, 1.0]]])  # (N, L, C), as many positions as classes
    for target in (torch.tensor([[0, 0]]), torch.eye(2)[torch.tensor([[0, 0]])]):
        last = convention_of(piste.losses.CrossEntropyLoss(class_dim=-1))
        assert METRICS["accuracy"].under(last).value(logits, target) == 1.0
    assert METRICS["accuracy"].value(logits, torch.tensor([[0, 0]])) == 0.0


def test_log_loss_is_that_of_the_logits_of_the_loss():
    cosines, target = torch.tensor([[0.6, 0.2], [0.1, 0.3]]), torch.tensor([0, 0])
    for loss, logits in (
        (piste.losses.CosFaceLoss(scale=5.0), 5 * cosines),
        (piste.losses.functional.arcface_loss, 64 * cosines),
        (piste.losses.CrossEntropyLoss(softcap=0.5), 0.5 * torch.tanh(cosines / 0.5)),
    ):
        found = METRICS["log_loss"].under(convention_of(loss)).value(cosines, target)
        assert found == pytest.approx(torch.nn.functional.cross_entropy(logits, target).item(), rel=1e-5)


def test_the_logarithm_of_a_rate_is_compared_as_a_rate():
    rates, counts = torch.tensor([2.0, 5.0]), torch.tensor([1.0, 7.0])
    poisson = convention_of(torch.nn.PoissonNLLLoss())
    for name, expected in (("rmse", math.sqrt(2.5)), ("mae", 1.5), ("r2", 1 - 2.5 / 9)):
        assert METRICS[name].under(poisson).value(rates.log(), counts) == pytest.approx(expected)
        assert METRICS[name].value(rates, counts) == pytest.approx(expected)


def test_a_custom_loss_reads_probabilities_where_every_output_is_in_0_1():
    assert Convention().resolve(torch.tensor([0.0, 0.4, 1.0])).reading == "probabilities"
    assert Convention().resolve(torch.tensor([-0.1, 0.4, 1.0])).reading == "logits"
    assert Convention("logits").resolve(torch.tensor([0.4])).reading == "logits"


def test_ignored_positions_do_not_count():
    logits = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1], [0, 0, 0, 0]])].movedim(2, 1)  # the classes chosen
    target = torch.tensor([[0, 1, -100, -100], [2, 0, -100, -100], [-100] * 4])
    scores = METRICS["accuracy"].under(Convention("logits", -100)).scores(logits, target)
    assert scores.tolist() == [1.0, 0.5]  # the third example has no score
    with pytest.raises(InvalidValue, match="accuracy has nothing to count: every target is ignored"):
        METRICS["accuracy"].under(Convention("logits", -100)).scores(logits[2:], target[2:])


def test_a_class_without_an_output_is_rejected():
    with pytest.raises(InvalidValue) as caught:
        METRICS["accuracy"].value(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    assert str(caught.value) == (
        "class indices must be in [0, 1], because the model has 2 outputs; received 2 at position 2 of the targets."
    )
    with pytest.raises(InvalidValue, match=r"received -1 at position \(1, 0\) of the targets"):
        METRICS["accuracy"].value(torch.zeros(2, 2, 2), torch.tensor([[0, 1], [-1, 0]]))


CLASSES = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
LOGITS = torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
LABELS = (CLASSES > 0).float().unsqueeze(1)
SCORES = LOGITS[:, :1]


def test_metrics_of_classes_are_scikit_learn_s():
    shares, predicted = LOGITS.double().softmax(1), LOGITS.argmax(1)
    for name, expected in {
        "balanced_accuracy": sk.balanced_accuracy_score(CLASSES, predicted),
        "f1": sk.f1_score(CLASSES, predicted, average="macro"),
        "auc": sk.roc_auc_score(CLASSES, shares, multi_class="ovr"),
        "log_loss": sk.log_loss(CLASSES, shares),
    }.items():
        one_hot = torch.nn.functional.one_hot(CLASSES, 3).float()
        for target in (CLASSES, one_hot):
            assert METRICS[name].value(LOGITS, target) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_metrics_of_two_labels_are_scikit_learn_s(low):
    target, truth = LABELS.where(LABELS == 1, low), LABELS.flatten()
    predicted = SCORES.flatten() > 0
    for name, expected in {
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted),
        "auc": sk.roc_auc_score(truth, SCORES.flatten()),
        "log_loss": sk.log_loss(truth, SCORES.flatten().double().sigmoid()),
    }.items():
        assert METRICS[name].value(SCORES, target) == pytest.approx(expected, rel=1e-6)
        two = torch.cat([torch.zeros_like(SCORES), SCORES], 1)
        assert METRICS[name].value(two, truth.long()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "auc", "log_loss"])
def test_probabilities_are_judged_as_their_logits(name):
    probabilities = METRICS[name].under(Convention("probabilities"))
    assert probabilities.value(LOGITS.softmax(1), CLASSES) == pytest.approx(METRICS[name].value(LOGITS, CLASSES))
    assert probabilities.value(SCORES.sigmoid(), LABELS) == pytest.approx(METRICS[name].value(SCORES, LABELS))


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "auc", "log_loss"])
def test_ignored_positions_do_not_count_in_metrics_of_classes(name):
    metric = METRICS[name].under(Convention("logits", ignore_index=-100))
    target = CLASSES.clone()
    target[::4] = -100
    kept = target != -100
    assert metric.value(LOGITS, target) == pytest.approx(METRICS[name].value(LOGITS[kept], CLASSES[kept]))


def test_metrics_that_outputs_cannot_give_are_rejected():
    with pytest.raises(InvalidValue, match="auc needs examples of every class; all targets are of one class"):
        METRICS["auc"].value(LOGITS, torch.zeros(60, dtype=torch.long))
    with pytest.raises(InvalidValue, match="log_loss takes logits or probabilities; the loss reads the outputs as val"):
        METRICS["log_loss"].under(Convention("values")).value(SCORES, LABELS)
    with pytest.raises(InvalidValue, match=r"f1 takes scores of classes \(N, C, ...\)"):
        METRICS["f1"].value(LOGITS, torch.zeros(60, 2))


def test_several_metrics_are_given_as_a_list():
    assert [metric.name for metric in as_metrics(["f1", "auc"])] == ["f1", "auc"]
    assert [metric.name for metric in as_metrics("mae")] == ["mae"]
    assert as_metrics(None) == []
    for wanted, words in [(["f1", "F1"], "the metric `f1` is given twice."), ([], "no metric given")]:
        with pytest.raises(InvalidValue, match=words):
            as_metrics(wanted)


def test_further_metrics_are_reported_and_decide_nothing(tmp_path):
    options = {"optimizers": ["SGD", "Adam"], "lr": 0.1, "seeds": 2, "progress": False}
    alone = compare_task(task(metric="accuracy"), **options)
    found = compare_task(task(metric=["accuracy", "f1", "log_loss"]), out=tmp_path, **options)
    assert [r.metrics for r in found.results] == [r.metrics for r in alone.results]
    assert found.verdict == alone.verdict
    assert [set(row.also) for row in found.rows] == [{"f1", "log_loss"}] * 2
    for row in found.rows:
        values = [r.also["f1"] for r in found.results if r.candidate == row.name]
        assert row.also["f1"] == pytest.approx(sum(values) / 2)
    titles = found.table().split("\n")[0]
    assert "accuracy (higher is better) | f1 | log_loss | behind the best" in titles
    for name in ("results.csv", "runs.csv"):
        assert {"f1", "log_loss"} <= set((tmp_path / name).read_text().split("\n")[0].split(","))
    again = compare_task(task(metric=["accuracy", "f1", "log_loss"]), out=tmp_path, **options)
    assert [r.also for r in again.results] == [r.also for r in found.results]


def test_a_further_metric_that_fails_is_named_before_training():
    with pytest.raises(InvalidValue, match="the metric `rmse` failed on the model's output"):
        compare_task(task(metric=["accuracy", "rmse"]), optimizers=["SGD"], progress=False)


def test_the_value_of_a_further_metric_is_that_of_the_trained_model():
    given = task(metric=["log_loss", "accuracy", "auc"], loss="cross_entropy")
    plan, kept = make_plan(given, optimizers=["SGD"], lr=0.5, steps=9), []
    result = run_trial(
        plan.task, plan.data, plan.metric, plan.candidates[0], seed=0, steps=9, also=plan.also, on_end=kept.append
    )
    x, y = given.validation
    output = kept[0](x).detach()
    assert result.also == pytest.approx(
        {"accuracy": sk.accuracy_score(y, output.argmax(1)), "auc": sk.roc_auc_score(y, output[:, 1] - output[:, 0])}
    )
    assert result.metrics[-1] == pytest.approx(sk.log_loss(y, output.double().softmax(1)))
