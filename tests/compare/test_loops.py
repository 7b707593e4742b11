"""Training loops: losses with parameters, closures, batches of any structure, and custom steps."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import piste
from piste.compare import Task, compare_task, data_sources
from piste.errors import InvalidType, InvalidValue
from tests.compare.small import data, model, task

X, Y = data()
X_VAL, Y_VAL = data(40, 1)


def found_by(optimizers=("Adam",), lr=0.05, **options):
    steps = {name: options.pop(name) for name in ("steps", "losses") if name in options}
    return compare_task(task(**options), optimizers=list(optimizers), lr=lr, seeds=1, progress=False, **steps)


def result(**options):
    return found_by(**options).results[0]


class Temperature(nn.Module):
    """Cross entropy of logits divided by a learned temperature."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output / self.temperature, target)


def test_the_parameters_of_a_loss_are_trained_in_the_group_of_the_model():
    groups = []

    class Watched(torch.optim.SGD):
        def __init__(self, params, lr=0.1):
            super().__init__(params, lr=lr)
            groups.append([p.shape for group in self.param_groups for p in group["params"]])

    loss = Temperature()
    found = result(optimizers=[Watched], loss=loss, lr=0.5)
    assert all(shapes == [*(p.shape for p in model().parameters()), (1,)] for shapes in groups)
    assert loss.temperature.item() == 1.0  # the given module is unchanged
    torch.manual_seed(0)
    net, own = model(), Temperature()
    optimizer = torch.optim.SGD([*net.parameters(), *own.parameters()], lr=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for rows in torch.randperm(48, generator=generator).split(16):
            optimizer.zero_grad()
            own(net(X[rows]), Y[rows]).backward()
            optimizer.step()
    assert own.temperature.item() != 1.0
    assert found.losses[-1] == pytest.approx(own(net(X), Y).item(), rel=1e-5)


def test_the_recommended_line_hands_over_the_parameters_of_the_loss():
    found = found_by(optimizers=("SGD", "Adam"), loss=Temperature())
    assert "([*model.parameters(), *loss.parameters()], lr=" in found.verdict.code
    assert "(model.parameters(), lr=" in found_by(optimizers=("SGD", "Adam")).verdict.code


class Penalty(nn.Module):
    """Cross entropy plus a multiple of the squared weights of a model that it holds."""

    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, output, target):
        squares = sum(p.square().sum() for p in self.net.parameters())
        return nn.functional.cross_entropy(output, target) + self.factor * squares


def test_a_loss_module_that_holds_the_given_model_holds_its_copy_in_a_run():
    net = model()
    plain, heavy = (result(model=net, loss=Penalty(net, factor)) for factor in (0.0, 100.0))
    assert plain.metrics[-1] > heavy.metrics[-1]
    assert heavy.losses[-1] < heavy.losses[0] / 2


@pytest.mark.parametrize("shared", [True, False], ids=["the given model", "another model"])
def test_a_loss_that_reads_a_model_from_its_closure_is_rejected(shared):
    net = model()

    def penalty(output, target):
        return nn.functional.cross_entropy(output, target) + 100 * net[0].weight.square().sum()

    with pytest.raises(InvalidValue) as caught:
        found_by(model=net if shared else model, loss=penalty)
    assert str(caught.value) == (
        "the loss `penalty` reads a parameter of shape (8, 2) that no run trains: each run trains a copy of the "
        "model. Help: give training_step=, a function (model, batch, loss) that receives the copy, or make the "
        "parameter one of a loss that is a module."
    )


def with_penalty(factor):
    def training_step(model, batch, loss):
        x, y = batch
        return loss(model(x), y) + factor * model[0].weight.square().sum()

    return training_step


def test_a_training_step_may_read_the_weights():
    plain = result(loss="cross_entropy")
    none, heavy = (result(loss="cross_entropy", training_step=with_penalty(factor)) for factor in (0.0, 100.0))
    assert none.losses == plain.losses
    assert none.metrics == plain.metrics
    assert heavy.losses[0] > none.losses[0] + 10
    assert heavy.metrics[-1] < none.metrics[-1]


class Named(Dataset):
    """Examples as dicts, with two inputs and an identifier that is no tensor."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"left": self.x[i, :1], "right": self.x[i, 1:], "label": self.y[i], "id": str(i)}


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))


def dict_training(model, batch, loss):
    return loss(model(batch["left"], batch["right"]), batch["label"])


def dict_validation(model, batch, loss):
    return model(batch["left"], batch["right"]), batch["label"]


def test_dict_batches_with_custom_steps_give_what_pairs_give():
    steps = {"training_step": dict_training, "validation_step": dict_validation, "loss": "cross_entropy"}
    found = result(model=TwoInputs, train=Named(X, Y), validation=Named(X_VAL, Y_VAL), **steps)
    plain = result(model=model, train=TensorDataset(X, Y), validation=TensorDataset(X_VAL, Y_VAL), loss="cross_entropy")
    assert found.losses == plain.losses
    assert found.metrics == plain.metrics


def test_compare_takes_the_steps_of_a_task():
    steps = {"training_step": dict_training, "validation_step": dict_validation, "loss": "cross_entropy"}
    shared = {"optimizers": "SGD", "lr": 0.5, "epochs": 1, "seeds": 1, "progress": False}
    sets = Named(X, Y), Named(X_VAL, Y_VAL)
    (found,) = piste.compare(TwoInputs, sets, metric="accuracy", **steps, **shared).results
    (expected,) = compare_task(Task(TwoInputs, *sets, metric="accuracy", **steps), **shared).results
    assert found.losses == expected.losses and found.metrics == expected.metrics


@pytest.mark.parametrize("inputs", [lambda x: (x[:, :1], x[:, 1:]), lambda x: {"left": x[:, :1], "right": x[:, 1:]}])
def test_several_inputs_are_passed_by_position_or_by_name(inputs):
    found = result(model=TwoInputs, train=(inputs(X), Y), validation=(inputs(X_VAL), Y_VAL))
    assert found.metrics == result().metrics


def test_a_training_step_may_return_a_dict_of_losses():
    def summed(model, batch, loss):
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return {"first": 0.25 * value, "second": 0.75 * value}

    def named(model, batch, loss):
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return {"loss": value, "to log": 7 * value.detach()}

    plain = result(loss={"of torch": nn.functional.cross_entropy})
    assert result(training_step=summed, metric="accuracy").losses == pytest.approx(plain.losses)
    assert result(training_step=named, metric="accuracy").losses == plain.losses
    assert result(training_step=named).loss == "named"


def test_the_metric_loss_is_the_loss_on_the_validation_data():
    found = found_by(loss="cross_entropy", metric="loss")
    assert not found.higher_is_better
    assert found.results[0].metrics[-1] == pytest.approx(found.rows[0].metric)
    torch.manual_seed(0)
    assert found.results[0].metrics[0] == pytest.approx(nn.functional.cross_entropy(model()(X_VAL), Y_VAL).item())


REFUSED = [
    ({"training_step": 3}, "`training_step` must be a function (model, batch, loss); received 3."),
    (
        {"training_step": lambda model, batch, loss: model(batch[0])},
        "<lambda> failed on a batch of the training data: training_step must return one number, a scalar tensor (or a "
        "dict of these); it returned a tensor of shape (48, 2).",
    ),
    (
        {"training_step": lambda model, batch, loss: model(batch[0]).sum(), "loss": "cross_entropy"},
        "<lambda> does not call its argument `loss`, so the loss `cross_entropy` has no effect.",
    ),
    (
        {"validation_step": lambda model, batch, loss: 3},
        "validation_step must return (output, target), two tensors for the metric; it returned int.",
    ),
    (
        {"train": Named(X, Y)},
        "received dict with left, right,",
    ),
    (
        {"train": TensorDataset(X, X, Y)},
        "the training data must be a pair (X, y); received 3 items. Help: say how a",
    ),
    ({"model": nn.LSTM(2, 2)}, "the model must return a tensor; it returned tuple. Help: say how a batch is used"),
    (
        {"metric": "loss", "loss": ["cross_entropy", "multi_margin"]},
        "the metric `loss` can't rank candidates of",
    ),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_steps_and_batches_that_do_not_fit_are_rejected_with_the_way_out(options, words):
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        found_by(**options)
    assert words in str(caught.value)


def normalized():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.pairs = list(zip(x, y, strict=True))

    def __iter__(self):
        return iter(self.pairs)


@pytest.mark.parametrize("kind", ["loader", "stream"])
def test_a_last_batch_of_one_example_is_left_out_for_batch_normalization(kind):
    x, y = data(65)
    train = DataLoader(TensorDataset(x, y), batch_size=16) if kind == "loader" else Stream(x, y)
    found = found_by(model=normalized, train=train, epochs=2)
    assert found.settings["steps"] == 8
    assert found.results[0].status == "done"


def test_without_batch_normalization_a_loader_keeps_its_last_batch():
    x, y = data(65)
    assert found_by(train=DataLoader(TensorDataset(x, y), batch_size=16), epochs=2).settings["steps"] == 10


class Texts(Dataset):
    """Rows of different lengths, joined by a loader into batches as long as their longest row."""

    def __len__(self):
        return 48

    def __getitem__(self, i):
        length = 2 + i // 16
        tokens = torch.randint(3, (length,), generator=torch.Generator().manual_seed(i))
        return tokens, tokens


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Embedding(3, 3)

    def forward(self, tokens):
        return self.layer(tokens).transpose(1, 2)


def test_validation_batches_may_have_different_widths():
    def loader():
        return DataLoader(Texts(), batch_size=16)

    found = result(model=Tagger, train=loader, validation=loader, epochs=60)
    assert found.metrics[-1] == 1.0
    assert len(found.scores) == 48
    with pytest.raises(InvalidValue) as caught:
        result(model=Tagger, train=loader, validation=loader, metric=(lambda output, target: 0.5, "max"))
    assert "needs all outputs at once, and those of the validation batches have different shapes, such as" in str(
        caught.value
    )


def test_lazy_modules_take_their_shapes_from_the_data():
    def lazy():
        return nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2))

    found = result(model=lazy)
    assert found.status == "done"
    given = lazy()
    assert result(model=given).status == "done"
    assert isinstance(given[0].weight, nn.parameter.UninitializedParameter)  # unchanged
    assert result(model=lazy, training_step=with_penalty(0.0), loss="cross_entropy").losses == found.losses


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, "LBFGS"])
def test_an_optimizer_that_needs_a_closure_gets_one(optimizer):
    found = result(optimizers=[optimizer], lr=1.0, loss="cross_entropy", train=(X, Y), batch_size=48)
    torch.manual_seed(0)
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)

    for _ in range(4):
        rows = torch.randperm(48, generator=generator)

        def closure(rows=rows):
            optimizer.zero_grad()
            value = nn.functional.cross_entropy(net(X[rows]), Y[rows])
            value.backward()
            return value

        optimizer.step(closure)
    assert found.losses[-1] == pytest.approx(nn.functional.cross_entropy(net(X), Y).item(), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_class_indices_may_have_any_integer_dtype(dtype):
    found = result(train=(X, Y.to(dtype)), validation=(X_VAL, Y_VAL.to(dtype)), loss=nn.CrossEntropyLoss())
    assert found.metrics == result(loss=nn.CrossEntropyLoss()).metrics


class Endless(IterableDataset):
    def __init__(self):
        self.read = 0

    def __iter__(self):
        while True:
            self.read += 1
            assert self.read < 2000, "more is read than is needed"
            yield X[self.read % 48], Y[self.read % 48]


def test_of_endless_data_only_what_is_needed_is_read():
    found = found_by(train=Endless(), steps=20)
    assert found.settings["steps"] == 20
    assert found.settings["epochs"] is None
    assert found.results[0].status == "done"


def test_endless_data_without_a_number_of_steps_is_rejected(monkeypatch):
    monkeypatch.setattr(data_sources, "MAX_SECONDS", 0.0)
    with pytest.raises(InvalidValue) as caught:
        found_by(train=Endless())
    assert str(caught.value) == (
        "the training data has no length, and no end within 0 seconds (1 batch). Help: give the length of a run with "
        "--steps (steps=), or a dataset with a length."
    )


def test_endless_validation_data_is_rejected(monkeypatch):
    monkeypatch.setattr(data_sources, "MAX_SECONDS", 0.0)
    with pytest.raises(InvalidValue) as caught:
        found_by(train=Endless(), validation=Endless(), steps=20)
    assert str(caught.value) == (
        "the validation data has no length, and no end within 0 seconds (1 batch). Help: give validation data with "
        "an end, such as itertools.islice of it, or with a length."
    )
