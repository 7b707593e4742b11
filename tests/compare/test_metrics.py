"""The metrics against scikit-learn's, and what they refuse."""

import pytest
import torch
from sklearn import metrics as sk

from piste.compare.metrics import METRICS, Metric, as_metric, default_metric
from piste.errors import InvalidType, InvalidValue

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
            "accuracy takes targets 0 and 1, one for each logit, or class probabilities (N, C, ...) that sum "
            "to 1; received 0.9."
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
        ("acuracy", InvalidValue, "unknown metric `acuracy`. Did you mean `accuracy`?"),
        (len, InvalidType, "a metric function needs a direction"),
        (3, InvalidType, "a metric must be a name"),
        ((len, "up"), InvalidValue, 'the goal of a metric must be "max" or "min"; received \'up\'.'),
    ],
)
def test_refusals(metric, error, words):
    with pytest.raises(error) as caught:
        as_metric(metric)
    assert words in str(caught.value)


def test_shapes_that_don_t_fit_are_refused():
    with pytest.raises(InvalidValue, match=r"targets of the same shape; received \(30, 1\) and \(30,\)"):
        METRICS["rmse"].value(GUESS, TRUTH.squeeze(1))
    with pytest.raises(InvalidValue, match=r"accuracy takes logits"):
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
