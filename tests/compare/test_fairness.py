"""The same weights, the same batches, each optimizer's own rate: seen from inside the model, the loss and the rule."""

import functools
import math
import random

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import piste
from piste.compare import compare, compare_task
from piste.errors import InvalidValue
from tests.compare.small import data, model, task
from tests.compare.test_untouched import Counting


class Spy(nn.Module):
    """Remembers the weights it began with and every batch it was trained on."""

    seen: list

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        if self.training:
            if not any(entry[0] is self.layer for entry in Spy.seen):
                Spy.seen.append((self.layer, self.layer.weight.detach().clone(), []))
            next(entry for entry in Spy.seen if entry[0] is self.layer)[2].append(x.clone())
        return self.layer(x)


class Noisy(torch.optim.SGD):
    """An optimizer that draws random numbers of every kind."""

    def step(self, closure=None):
        torch.rand(7), random.random()
        return super().step(closure)


def batches_of(train, **options):
    Spy.seen = []
    compare(
        Spy, (train, data(40, 1)), optimizers={"sgd": torch.optim.SGD, "noisy": Noisy, "adam": torch.optim.Adam},
        epochs=3, batch_size=16, progress=False, **options,
    )  # fmt: skip
    return Spy.seen


@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader", "augmenting", "function", "endless length"])
def test_every_candidate_starts_alike_and_sees_the_same_batches(kind):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(list(zip(*data(), strict=True)))

    train = {
        "tensors": data(),
        "dataset": TensorDataset(*data()),
        "loader": DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True),
        "augmenting": DataLoader(Counting(), batch_size=16, shuffle=True),
        "function": lambda: TensorDataset(*data()),
        "endless length": Stream(),
    }[kind]
    seen = batches_of(train, seeds=2)
    assert len(seen) == 6
    for first, *others in (seen[:3], seen[3:]):
        assert len(first[2]) == 9
        for other in others:
            assert torch.equal(first[1], other[1])
            assert all(map(torch.equal, first[2], other[2]))
    assert not torch.equal(seen[0][1], seen[3][1])  # another seed starts elsewhere
    if kind != "endless length":
        assert not torch.equal(seen[0][2][0], seen[3][2][0])  # and sees another order
    # every epoch shows every example once
    whole = torch.cat(seen[0][2][:3])[:, 0].sort().values
    assert torch.allclose(whole, data()[0][:, 0].sort().values, atol=0.05 if kind == "augmenting" else 1e-7)


def test_a_module_handed_in_is_every_run_s_start():
    made = model()
    metric = (nn.functional.cross_entropy, "min")
    found = compare(
        made,
        (data(), data(40, 1)),
        metric=metric,
        optimizers=["SGD", "Adam"],
        epochs=2,
        batch_size=16,
        seeds=3,
        progress=False,
    )
    assert len({r.losses[0] for r in found.results}) == 1
    assert "Every seed started from the weights of the given model" in found.verdict.limits


def test_a_run_is_what_a_plain_loop_with_torch_gives():
    found = compare_task(task(), optimizers=["Adam"], seeds=1, lr=0.05, progress=False)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = model()
    torch.set_rng_state(state)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    (x, y), generator = data(), torch.Generator().manual_seed(0)
    for _ in range(4):
        for rows in torch.randperm(48, generator=generator).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    x_val, y_val = data(40, 1)
    result = found.results[0]
    assert result.losses[-1] == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-5)
    assert result.metrics[-1] == pytest.approx((net(x_val).argmax(1) == y_val).float().mean().item(), abs=1e-6)
    assert result.steps[-1] == 12


def test_each_optimizer_keeps_its_own_rate_unless_told():
    torch_defaults = {"SGD": 1e-3, "Adagrad": 1e-2, "Adadelta": 1.0}
    found = compare_task(task(), optimizers=list(torch_defaults), seeds=1, progress=False)
    assert {row.name: row.lr for row in found.rows} == torch_defaults
    found = compare_task(task(), optimizers=["SGD", "Adam"], seeds=1, lr={"adam": 0.5}, progress=False)
    assert {row.name: row.lr for row in found.rows} == {"SGD": 1e-3, "Adam": 0.5}
    found = compare_task(task(), optimizers=["SGD", "Adam"], seeds=1, lr=0.25, progress=False)
    assert {row.lr for row in found.rows} == {0.25}


@pytest.mark.parametrize("muon", ["Muon", functools.partial(piste.optim.Muon, momentum=0.5)], ids=["name", "partial"])
def test_muon_steps_hidden_matrices_and_adamw_the_rest(muon):
    found = compare_task(task(), optimizers={"Muon": muon}, seeds=1, lr=0.05, progress=False)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = model()
    torch.set_rng_state(state)
    options = muon.keywords if isinstance(muon, functools.partial) else {}
    hidden, *others = (net[0].weight, net[0].bias, net[2].weight, net[2].bias)
    optimizers = [torch.optim.Muon([hidden], lr=0.05, **options), torch.optim.AdamW(others)]
    (x, y), generator = data(), torch.Generator().manual_seed(0)
    for _ in range(4):
        for rows in torch.randperm(48, generator=generator).split(16):
            net.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert found.results[0].losses[-1] == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-3)
    assert found.rows[0].lr == 0.05


def test_muon_without_hidden_matrices_is_refused_with_the_help_of_its_groups():
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(model=lambda: nn.Linear(2, 2)), optimizers=["Muon", "Adam"], seeds=1, progress=False)
    assert str(caught.value) == (
        "Muon can't train this model: `model` must have trainable hidden matrices; received Linear with none. Help: "
        "use AdamW, or hidden=lambda name, p: p.dim() >= 2 to choose the matrices."
    )


def test_the_usual_seven_take_part_by_themselves_and_all_when_asked():
    found = compare_task(task(epochs=1), seeds=1, progress=False)
    usual = {"SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax"}
    assert {row.optimizer for row in found.rows} == usual
    found = compare_task(task(epochs=1), optimizers="all", seeds=1, progress=False)
    assert {row.optimizer for row in found.rows} == set(piste.optim.OPTIMIZERS) - {
        "LBFGS",
        "Muon",
        "NorMuon",
        "SparseAdam",
    }
    assert all(math.isfinite(row.metric) for row in found.rows)


def test_equal_calls_give_equal_results():
    def numbers():
        found = compare_task(task(), optimizers=["SGD", "Adam", "RMSprop"], lr=0.1, seeds=2, progress=False)
        return [(r.candidate, r.seed, r.losses, r.metrics, r.descent_share, r.evenness) for r in found.results]

    assert numbers() == numbers()


def test_losses_are_ranked_by_the_metric_and_never_by_their_own_value():
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    pair = (x, 2 * x)
    found = compare(
        lambda: nn.Linear(1, 1), (pair, pair), metric="rmse", optimizers=["SGD"], lr=0.1, epochs=30, seeds=2,
        progress=False,
        loss={"thousandth of l1": lambda a, b: 1e-3 * (a - b).abs().mean(), "mse": "mse"},
    )  # fmt: skip
    assert [row.loss for row in found.rows] == ["mse", "thousandth of l1"]
    small, large = (next(row for row in found.rows if row.loss == name) for name in ("thousandth of l1", "mse"))
    assert small.training_loss < large.training_loss + 1  # its own value is small because of its scale
    assert small.metric > large.metric


def test_an_optimizer_of_one_s_own_and_a_function_take_part():
    class Mine(torch.optim.SGD):
        pass

    found = compare_task(
        task(), optimizers={"mine": Mine, "heavy ball": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}, seeds=1,
        progress=False,
    )  # fmt: skip
    assert {row.name for row in found.rows} == {"mine", "heavy ball"}
