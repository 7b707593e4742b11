"""Comparisons judge a model as its loss reads it: probabilities, ignored targets, classes, and data with NaN."""

import pytest
import torch
from torch import nn

from piste.compare import compare_task
from piste.errors import InvalidValue
from tests.compare.small import data, model, task

X, Y = data(200)
X_VAL, Y_VAL = data(100, 1)


def accuracies(**options):
    found = compare_task(
        task(**{"epochs": 20, "metric": "accuracy", **options}), optimizers=["Adam"], lr=0.05, seeds=1, progress=False
    )
    return found.results[0].metrics[-1], found.results[0]


@pytest.mark.parametrize("loss", ["bce", torch.nn.functional.binary_cross_entropy, "mse"])
def test_a_model_that_ends_in_a_sigmoid_is_judged_at_one_half(loss):
    def sigmoid():
        return nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())

    train, validation = ((x, y.float().unsqueeze(1)) for x, y in ((X, Y), (X_VAL, Y_VAL)))
    accuracy, _ = accuracies(model=sigmoid, train=train, validation=validation, loss=loss)
    assert accuracy > 0.9  # the share of ones is 0.5


def test_a_custom_loss_of_probabilities_is_judged_at_one_half():
    def focal(output, target):
        return nn.functional.binary_cross_entropy(output, target) * 1.5

    train, validation = ((x, y.float().unsqueeze(1)) for x, y in ((X, Y), (X_VAL, Y_VAL)))
    model = lambda: nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())  # noqa: E731
    assert accuracies(model=model, train=train, validation=validation, loss=focal)[0] > 0.9


def test_a_tagger_is_not_judged_on_padding():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Embedding(3, 3)

        def forward(self, tokens):
            return self.layer(tokens).transpose(1, 2)

    tokens = torch.randint(3, (64, 8), generator=torch.Generator().manual_seed(0))
    tags = tokens.clone()
    tags[:, 4:] = -100
    accuracy, result = accuracies(model=Tagger, train=(tokens, tags), validation=(tokens, tags), epochs=40)
    assert accuracy == 1.0
    assert len(result.scores) == 64


def refusal(**options):
    with pytest.raises(InvalidValue) as caught:
        accuracies(**options)
    return str(caught.value)


def test_validation_classes_that_the_model_has_no_output_for_are_rejected():
    labels = Y_VAL.clone()
    labels[7] = 2
    assert refusal(validation=(X_VAL, labels)) == (
        "the metric `accuracy` can't judge the validation data: class indices must be in [0, 1], because the model has "
        "2 outputs; received 2 at position 7 of its targets."
    )


def test_nan_in_the_data_is_rejected_with_its_row():
    x = X.clone()
    x[150, 1] = float("nan")  # beyond the examples of one batch
    assert refusal(train=(x, Y)) == (
        "row 150 of the training data has nan in X, and the model's output for it is not finite. "
        "Help: leave the row out, or replace the value."
    )
    x = X_VAL.clone()
    x[3, 0] = float("nan")
    assert refusal(validation=(x, Y_VAL)).startswith("row 3 of the validation data has nan in X, and")


def test_nan_in_the_targets_is_rejected_with_its_row_and_judge():
    options = {"model": lambda: nn.Linear(2, 1), "loss": "mse", "metric": "rmse"}
    y, y_val = X.sum(1, keepdim=True), X_VAL.sum(1, keepdim=True)
    y[11] = float("nan")
    assert refusal(train=(X, y), validation=(X_VAL, y_val), **options) == (
        "row 11 of the training data has nan in y, for which the loss `mse` is not finite. "
        "Help: leave the row out, or give it a number."
    )
    y[11], y_val[5] = 0.0, float("nan")
    assert "row 5 of the validation data has nan in y, for which the metric `rmse` is not finite." in refusal(
        train=(X, y), validation=(X_VAL, y_val), **options
    )


def test_models_and_losses_that_take_nan_may_have_it():
    class Imputing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model()

        def forward(self, x):
            return self.layer(x.nan_to_num())

    x = X.clone()
    x[3, 1] = float("nan")
    assert accuracies(model=Imputing, train=(x, Y))[0] > 0.8

    def masked(output, target):
        known = ~target.isnan()
        return (output[known] - target[known]).square().sum()

    y = X.sum(1, keepdim=True)
    y[3] = float("nan")
    value, _ = accuracies(
        model=lambda: nn.Linear(2, 1), train=(X, y), validation=(X_VAL, X_VAL.sum(1, keepdim=True)), loss=masked,
        metric="rmse",
    )  # fmt: skip
    assert value < 1


def test_a_metric_that_is_nan_before_training_is_rejected():
    def precision(output, target):
        return torch.tensor(float("nan"))

    assert refusal(metric=(precision, "max")) == (
        "the metric `precision` is nan for the untrained model on the validation data. Help: return a number for every "
        "output, such as the worst value."
    )
