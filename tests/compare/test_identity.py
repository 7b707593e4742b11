"""The digest differs if anything that can change a run differs, and is the same in another process."""

import collections
import dataclasses
import datetime
import functools
import importlib
import logging
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

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


def nested(depth, change=lambda net: None):
    net = seeded(change)
    for _ in range(depth):
        net = nn.Sequential(net)
    return net


class Activated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation


@dataclasses.dataclass(slots=True)
class Options:
    scale: float


class MoreOptions(Options):
    """Options with attributes outside and inside a dict."""

    def __init__(self, scale):
        super().__init__(scale)
        self.name = "more"


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
    (nested(40), nested(40, freeze)),
    (nested(40), nested(40, lambda net: net[0].weight.data.mul_(1.001))),
    (Activated(torch.relu), Activated(torch.tanh)),
    (nn.functional.gelu, nn.functional.softplus),
    (torch.Tensor.abs, torch.Tensor.exp),
    (np.exp, np.log),
    (Options(1.0), Options(2.0)),
    (MoreOptions(1.0), MoreOptions(2.0)),
    (datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)),
    (range(3), range(4)),
    (slice(3), slice(4)),
    (Path("one"), Path("other")),
    (re.compile("a"), re.compile("b")),
    (collections.deque([1]), collections.deque([2])),
    (random.Random(1), random.Random(2)),
    (np.random.default_rng(1), np.random.default_rng(2)),
    (np.array([1, "a"], object), np.array([1, "b"], object)),
    (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
    (torch.channels_last, torch.contiguous_format),
    (get_ema_multi_avg_fn(0.9), get_ema_multi_avg_fn(0.99)),
]


EVERYWHERE = [one for one, _ in DIFFERENT]


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


@pytest.mark.parametrize("dtype", ["f4", "i8", "U3", "M8[s]", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_an_array_counts_by_its_dtype_shape_and_content(dtype, shape):
    array = np.zeros(shape, "i8").astype(dtype)
    assert digest(array) == digest(array.copy(order="F"))
    assert digest(array) != digest(array[None])
    if array.size:
        assert digest(array) != digest(np.ones(shape, "i8").astype(dtype))


def test_a_package_counts_by_its_name_in_any_folder_that_pip_installs_into(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(name, source):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text(source)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return digest(importlib.import_module(name).f)

    own = found("a_package_of_the_user", "def f(x): return x")
    assert found("a_package_of_the_user", "def f(x): return -x") != own
    (tmp_path / "targeted_package-1.0.dist-info").mkdir()
    installed = found("targeted_package", "def f(x): return x")
    assert found("targeted_package", "def f(x): return -x") == installed


def test_sets_that_hold_what_refers_to_them_have_a_digest():
    class Member:
        others = set()

    Member.others.add(Member)
    before = digest(Member)
    Member.others.add(1)
    assert digest(Member) != before


def test_a_model_in_a_closure_counts_with_all_of_its_modules():
    def loss_of(net):
        return lambda output, target: net(output).sum()

    assert digest(loss_of(nested(40))) == digest(loss_of(nested(40)))
    assert digest(loss_of(nested(40))) != digest(loss_of(nested(40, freeze)))


def test_the_place_of_a_module_and_of_one_that_is_shared_counts():
    torch.manual_seed(0)
    one, other, third = (nn.Linear(2, 2) for _ in range(3))
    models = [nn.Sequential(*layers) for layers in ((one, other, one), (one, one, other), (one, other), (one, third))]
    assert len({digest(net) for net in models}) == len(models)


def test_other_loggers_and_levels_that_were_asked_for_do_not_count():
    log = logging.getLogger("a task")
    before = digest(log)
    logging.getLogger(f"{log.name}.part").isEnabledFor(logging.DEBUG)
    assert log.isEnabledFor(logging.ERROR)
    assert digest(log) == before != digest(logging.getLogger("another task"))


@pytest.mark.parametrize(
    "task",
    [
        "import {outer}\ndef loss(x): return {outer}.loss(x)",
        "from {outer} import loss as inner\ndef loss(x): return inner(x)",
        "def loss(x):\n    import {outer}\n    return {outer}.loss(x)",
        "def loss(x):\n    from {outer} import loss\n    return loss(x)",
        "import {outer}\ndef loss(x): return {outer}.{inner}.FACTOR * x",
    ],
    ids=["module", "name", "module inside", "name inside", "module of a module"],
)
@pytest.mark.parametrize("change", [("2", "3"), ("2", "1 + 1")], ids=["value", "code"])
def test_modules_that_a_module_of_the_user_imports_are_part_of_a_function(task, change, tmp_path, monkeypatch, request):
    monkeypatch.syspath_prepend(str(tmp_path))
    number = re.sub(r"\W", "_", request.node.callspec.id)
    outer, inner = f"outer_{number}", f"inner_{number}"
    (tmp_path / f"{outer}.py").write_text(f"import {inner}\ndef loss(x): return {inner}.scaled(x)")
    source = "FACTOR = 2\ndef scaled(x): return FACTOR * x"

    def found():
        """The digest in a process that has read the files as they are."""
        for name in (outer, inner):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        own = types.ModuleType("a_task")
        exec(task.format(outer=outer, inner=inner), vars(own))
        own.loss(1.0)
        return digest(own.loss)

    (tmp_path / f"{inner}.py").write_text(source)
    before = found()
    assert found() == before
    (tmp_path / f"{inner}.py").write_text(source.replace(*change) + "\n")
    assert found() != before


def test_another_process_finds_the_same_digest():
    code = (
        "from tests.compare.test_identity import *; "
        "print(digest(seeded(), closure(2.0), partial(lr=0.1), scaled, {'a', 'b', 'c'}, *EVERYWHERE))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == digest(seeded(), closure(2.0), partial(lr=0.1), scaled, {"a", "b", "c"}, *EVERYWHERE)
