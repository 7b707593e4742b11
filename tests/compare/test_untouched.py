"""Nothing that was handed in, and no random number outside, notices a comparison."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import piste
from piste.compare import compare
from tests.compare.small import data


def random_state():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def same_random_state(a, b):
    return torch.equal(a[0], b[0]) and all(map(np.array_equal, a[1], b[1])) and a[2] == b[2]


def run(model, train, validation, **options):
    return compare(
        model, (train, validation), optimizers=["SGD", "Adam"], lr=0.1, epochs=2, seeds=2, progress=False, **options
    )


@pytest.fixture
def net():
    made = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    made[1].eval()  # a mixed mode is kept too
    made(torch.randn(4, 2)).sum().backward()
    return made


def test_the_model_its_buffers_modes_gradients_and_the_random_state_are_bit_equal(net):
    before = copy.deepcopy(net.state_dict())
    gradients = [p.grad.clone() for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    torch.rand(3), np.random.rand(3), random.random()
    state = random_state()
    run(net, data(), data(40, 1))
    assert same_random_state(state, random_state())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert [m.training for m in net.modules()] == modes


def test_a_rejected_call_leaves_the_random_state(net):
    state = random_state()
    with pytest.raises(piste.errors.InvalidValue, match="failed on the model's output"):
        run(net, data(), data(40, 1), loss="mse")
    assert same_random_state(state, random_state())


def test_tensors_are_the_same_even_if_the_model_works_in_place():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x.mul_(2.0))

    train, validation = data(), data(40, 1)
    copies = copy.deepcopy((train, validation))
    run(InPlace(), train, validation)
    for pair, kept in zip((train, validation), copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, kept, strict=True))


class Counting(Dataset):
    """A dataset that remembers being read, and augments with every kind of random number."""

    def __init__(self):
        self.x, self.y = data()
        self.reads = 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.reads += 1
        noise = torch.rand(()) + np.random.rand() + random.random()
        return self.x[i] + 0.01 * noise.float(), self.y[i]


def test_a_loader_with_generators_and_a_dataset_that_counts_are_as_before():
    made, dataset, generator = nn.Linear(2, 2), Counting(), torch.Generator().manual_seed(5)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, generator=generator)
    next(iter(loader))
    reads, state, outside = dataset.reads, generator.get_state(), random_state()
    found = run(made, loader, TensorDataset(*data(40, 1)))
    assert dataset.reads == reads
    assert torch.equal(generator.get_state(), state)
    assert same_random_state(outside, random_state())
    assert found.settings["steps"] == 2 * len(loader)


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    run(nn.Linear(2, 2), data(), data(40, 1))
    assert torch.get_num_threads() == before


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def test_a_model_that_cannot_be_copied_may_be_made_again_each_time():
    made = []

    def again():
        made.append(Uncopyable(2, 2))
        return made[-1]

    plain = run(lambda: nn.Linear(2, 2), data(), data(40, 1))
    found = run(again, data(), data(40, 1))
    assert len(made) > 4
    assert [r.metrics for r in found.results] == [r.metrics for r in plain.results]


def test_a_function_that_returns_the_same_model_again_is_rejected():
    kept = Uncopyable(2, 2)
    before = kept.weight.detach().clone()
    with pytest.raises(
        piste.errors.InvalidValue, match=r"can't be copied \(no copies\). Help: pass a function that makes a new"
    ):
        run(lambda: kept, data(), data(40, 1))
    assert torch.equal(kept.weight, before)
