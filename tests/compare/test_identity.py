"""The digest differs if anything that can change a run differs, and is the same in another process."""

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from piste.compare.identity import digest
from tests.compare.small import environment, model

SCALE = 2


def scaled(output, target):
    return SCALE * (output - target).square().mean()


def partial(**options):
    return functools.partial(torch.optim.SGD, **options)


def closure(factor):
    return lambda output, target: factor * (output - target).abs().mean()


def seeded(change=lambda net: None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    change(net)
    return net


def freeze(net):
    net[0].requires_grad_(False)


DIFFERENT = [
    (partial(lr=0.1, momentum=0.9), partial(lr=0.1, momentum=0.0)),
    (closure(1.0), closure(2.0)),
    (seeded(), seeded(lambda net: net.__setitem__(1, nn.Dropout(0.2)))),
    (seeded(), seeded(freeze)),
    (seeded(), seeded(lambda net: net[1].eval())),
    (seeded(), seeded(lambda net: net.append(nn.ReLU()))),
    (seeded(), seeded(lambda net: net[0].weight.data.mul_(1.001))),
    (torch.arange(1000), torch.arange(1000).flip(0)),
    (lambda x: x + 1, lambda x: x + 2),
    (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    (torch.utils.data.TensorDataset(torch.zeros(3)), torch.utils.data.TensorDataset(torch.ones(3))),
    ({"a": 1}, {"a": 2}),
    (torch.optim.SGD, torch.optim.Adam),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_every_input_of_a_run_changes_the_digest(one, other):
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_values_made_again_have_the_same_digest():
    assert digest(seeded()) == digest(seeded())
    assert digest(partial(lr=0.1)) == digest(partial(lr=0.1))
    assert digest(closure(3.0)) == digest(closure(3.0))


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch):
    before = digest(scaled)
    monkeypatch.setitem(globals(), "SCALE", 3)
    assert digest(scaled) != before


def test_gradients_are_not_part_of_a_model():
    net = model()
    before = digest(net)
    net(torch.ones(1, 2)).sum().backward()
    assert digest(net) == before


def test_another_process_finds_the_same_digest():
    code = (
        "from tests.compare.test_identity import *; "
        "print(digest(seeded(), closure(2.0), partial(lr=0.1), scaled, {'a', 'b', 'c'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == digest(seeded(), closure(2.0), partial(lr=0.1), scaled, {"a", "b", "c"})
