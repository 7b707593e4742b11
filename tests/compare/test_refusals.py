"""Everything that can't be meant is told in a sentence, before any training."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from piste.compare import Task, compare, compare_task
from piste.errors import InvalidType, InvalidValue, PisteError
from tests.compare.small import data, model, task

X, Y = data()


class Generator(IterableDataset):
    def __init__(self):
        self.items = (pair for pair in zip(X, Y, strict=True))

    def __iter__(self):
        return self.items


class NoWeights(nn.Module):
    def forward(self, x):
        return x


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def frozen():
    return nn.Linear(2, 2).requires_grad_(False)


SETTINGS = [
    ({"optimizers": "adamm"}, "unknown optimizer `adamm`. Did you mean `Adam`"),
    ({"optimizers": []}, "no optimizer to compare: the list is empty."),
    ({"optimizers": ["Adam", "adam"]}, "the optimizer `Adam` is given twice"),
    ({"optimizers": [3]}, "an optimizer must be a name, a class, or a function of the parameters; received 3."),
    ({"optimizers": torch.optim.SGD([torch.ones(1)], lr=1.0)}, "an optimizer must be given as its class"),
    ({"optimizers": {"bad": functools.partial(torch.optim.SGD, momentumm=1)}}, "bad could not be built"),
    ({"loss": "cross_entropi"}, "Did you mean `cross_entropy`?"),
    ({"loss": "hubber"}, "there is no loss named 'hubber'. Did you mean `huber`?"),
    ({"loss": [3]}, "a loss must be a name, a module or a function"),
    ({"loss": "mse"}, "the loss `mse` failed on the model's output"),
    ({"loss": lambda o, t: o.sum(1) - t}, "must return one number, a scalar tensor; received (48,)"),
    ({"loss": lambda o, t: 3.0}, "must return one number, a scalar tensor; received float"),
    ({"loss": lambda o, t: torch.tensor(1.0)}, "doesn't depend on the model's weights"),
    ({"lr": -1}, "`lr` for "),
    ({"lr": float("nan")}, "must be a positive number; received nan."),
    ({"lr": float("inf")}, "must be a positive number; received inf."),
    ({"lr": "0.1"}, "must be a positive number; received '0.1'."),
    ({"lr": {"adamm": 0.1}}, "`lr` names `adamm`, which is not in this comparison. Did you mean `Adam`"),
    ({"seed": "text"}, "`seed` must be a whole number from 0 to"),
    ({"seed": -1}, "`seed` must be a whole number from 0 to"),
    ({"seed": True}, "`seed` must be a whole number"),
    ({"seeds": 0}, "`seeds` must be a whole number from 1 to 1000; received 0."),
]


@pytest.mark.parametrize(("options", "words"), SETTINGS, ids=[words for _, words in SETTINGS])
def test_invalid_settings_are_rejected(options, words):
    with pytest.raises(PisteError) as caught:
        compare_task(task(), progress=False, **options)
    assert words in str(caught.value)


TASKS = [
    ({"epochs": 0}, "`epochs` must be a whole number, at least 1; received 0."),
    ({"epochs": 1.5}, "`epochs` must be a whole number, at least 1; received 1.5."),
    ({"batch_size": 0}, "`batch_size` must be a whole number, at least 1; received 0."),
    ({"model": 3}, "the model must be an nn.Module or a function that makes one; received int."),
    ({"model": lambda: 3}, "must return an nn.Module; it returned int."),
    ({"model": NoWeights()}, "the model has no trainable parameters"),
    ({"model": frozen}, "the model has no trainable parameters"),
    (
        {"model": Uncopyable(2, 2)},
        "can't be copied (no copies). Help: pass a function that makes a new model",
    ),
    ({"model": nn.Linear(3, 2)}, "the model failed on a batch of the training data:"),
    (
        {"train": (X.double(), Y)},
        "Help: X has the dtype torch.float64, and the weights torch.float32: give X.to(torch.float32).",
    ),
    (
        {"validation": (X.to(torch.int8), Y)},
        "the model failed on a batch of the validation data: mat1 and mat2 must have the same dtype, but got Char and "
        "Float. Help: X has the dtype torch.int8, and the weights torch.float32: give X.to(torch.float32).",
    ),
    (
        {"train": (X, Y.clone().index_fill_(0, torch.tensor([7]), 2))},
        "for 2 classes, or ignore_index=-100; received 2 at (7,)",
    ),
    ({"model": nn.LSTM(2, 2)}, "the model must return a tensor; it returned tuple."),
    ({"train": X}, "the training data must be a pair of tensors (X, y), a Dataset or a DataLoader"),
    ({"train": (X, Y, Y)}, "the training data must be a pair (X, y); received 3 items."),
    ({"validation": (X, Y[:3])}, "must have one row per example; received shapes (48, 2) and (3,)."),
    ({"validation": (X[:0], Y[:0])}, "the validation data is empty."),
    ({"train": (X.tolist(), Y)}, "X of the training data must be a tensor; received list."),
    ({"train": TensorDataset(X)}, "the training data must be a pair (X, y); received 1 items."),
    ({"train": DataLoader([], batch_size=2)}, "the training data gives no batch"),
    ({"train": Generator()}, "the training data can't be copied"),
    ({"metric": "acuracy"}, "unknown metric `acuracy`"),
    ({"metric": "rmse"}, "the metric `rmse` failed on the model's output"),
]


@pytest.mark.parametrize(("options", "words"), TASKS, ids=[words for _, words in TASKS])
def test_invalid_tasks_are_rejected(options, words):
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        compare_task(task(**options), progress=False)
    assert words in str(caught.value)


def test_bool_targets_are_classes_or_labels():
    for make, loss, labels in (
        (model, "cross_entropy", Y > 0),
        (lambda: nn.Linear(2, 1), "bce_with_logits", Y[:, None] > 0),
    ):
        found = compare(
            make, ((X, labels), (X, labels)), loss=loss, metric="accuracy", epochs=1, seeds=1, progress=False
        )
        assert {row.failed for row in found.rows} == {0}


def test_data_that_is_no_pair_is_rejected():
    with pytest.raises(InvalidType, match=r"`data` must be \(train, validation\).*received tuple of 3"):
        compare(model, (data(), data(), data()))


def test_an_output_folder_is_tried_before_training(tmp_path):
    trained = []
    file = tmp_path / "file"
    file.touch()
    watched = Task(lambda: trained.append(1) or model(), data(), data())
    with pytest.raises(InvalidValue, match=r"the output folder .* can't be written: .*Help: give another with --out"):
        compare_task(watched, out=file / "below", progress=False)
    with pytest.raises(InvalidValue, match="can't be written: File exists"):
        compare_task(watched, out=file, progress=False)
    assert not trained


def test_an_error_in_the_middle_names_the_candidate():
    calls = []

    def fails_later(output, target):
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("out of patience")
        return nn.functional.cross_entropy(output, target)

    with pytest.raises(InvalidValue, match=r"^Adam, seed 0: stopped after step \d+: RuntimeError: out of patience$"):
        compare_task(task(loss=fails_later), optimizers="Adam", progress=False)
