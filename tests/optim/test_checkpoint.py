"""Checkpoints: to and from torch.optim, through files and copies, and the rejection of mismatches."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from piste.errors import InvalidValue
from piste.optim import OPTIMIZERS
from piste.optim.options import REDUCED

from .cases import ELEMENTWISE, cases, label
from .reference import PAIRS, assert_same, assert_same_state, copies, model, train

pytestmark = pytest.mark.usefixtures("double_scalars")
TORCHS = [case for case in cases() if case[0] in PAIRS]
every = pytest.mark.parametrize("name", ELEMENTWISE)


def started(cls, options, steps=3):
    """Return a model and its optimizer in the middle of a run."""
    net = model()
    optimizer = cls(net.parameters(), **options)
    train(net, optimizer, range(steps))
    return net, optimizer


def go_on(net, optimizer):
    train(net, optimizer, range(3, 7))
    return [p.detach() for p in net.parameters()]


def through_a_file(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- both ways ------------------------------------------------------------------------------------------------


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=label)
def test_checkpoints_load_in_both_directions_between_torch_and_piste(name, options, direction):
    """The optimizer of the other library, with its defaults, takes options and state from the checkpoint."""
    piste, torchs = PAIRS[name]
    old, new = (torchs, piste) if direction == "from torch" else (piste, torchs)
    net, optimizer = started(old, options)
    other = copy.deepcopy(net)
    moved = new(other.parameters())
    moved.load_state_dict(through_a_file(optimizer.state_dict()))
    assert_same(go_on(other, moved), go_on(net, optimizer))
    assert_same_state(*((moved, optimizer) if new is piste else (optimizer, moved)))


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=label)
def test_the_checkpoint_has_the_keys_of_torch(name, options):
    ours, theirs = (started(cls, options)[1].state_dict() for cls in PAIRS[name])
    assert ours.keys() == theirs.keys() | {"piste"}
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        for key, value in state.items():
            assert ours["state"][index][key].dtype == value.dtype
            assert ours["state"][index][key].shape == value.shape
    (a,), (b,) = ours["param_groups"], theirs["param_groups"]
    assert b.items() <= a.items()
    assert set(a) - set(b) <= {"capturable", "fused", "differentiable", "maximize", "foreach", *REDUCED}


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize(("name", "options"), cases(), ids=label)
def test_a_run_resumed_from_a_checkpoint_gives_the_same_bits(name, options):
    """The checkpoint goes through a file, a deep copy and a pickle."""
    net, optimizer = started(OPTIMIZERS[name], options)
    saved = through_a_file(optimizer.state_dict())
    loaded_net = copy.deepcopy(net)
    loaded = OPTIMIZERS[name](loaded_net.parameters())
    loaded.load_state_dict(saved)
    runs = [
        (loaded_net, loaded),
        copy.deepcopy((net, optimizer)),
        pickle.loads(pickle.dumps((net, optimizer))),
    ]
    expected = go_on(net, optimizer)
    for other, continued in runs:
        assert all(torch.equal(a, b) for a, b in zip(go_on(other, continued), expected, strict=True))


@pytest.mark.sample(1, per="name", of=8)
@every
def test_a_checkpoint_before_the_first_step_loads(name):
    net, theirs = copies(model())
    fresh = OPTIMIZERS[name](net.parameters(), lr=0.3)
    loaded = OPTIMIZERS[name](theirs.parameters())
    loaded.load_state_dict(through_a_file(fresh.state_dict()))
    assert loaded.param_groups[0]["lr"] == 0.3
    assert all(torch.equal(a, b) for a, b in zip(go_on(net, fresh), go_on(theirs, loaded), strict=True))


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("name", [n for n in PAIRS if n != "SGD"])
def test_a_step_count_saved_as_a_number_loads(name):
    """Checkpoints of PyTorch before 1.12 have numbers in place of tensors."""
    net, optimizer = started(PAIRS[name][0], {})
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        for key, value in state.items():
            state[key] = value.item() if value.dim() == 0 else value
        state["step"] = int(state["step"])
    other = copy.deepcopy(net)
    loaded = PAIRS[name][0](other.parameters())
    loaded.load_state_dict(saved)
    assert_same(go_on(other, loaded), go_on(net, optimizer))
    assert loaded.state_dict()["state"][0]["step"].item() == 7.0


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("name", PAIRS)
def test_a_checkpoint_without_the_newest_options_loads(name):
    """Groups of an older PyTorch lack `maximize` and other options."""
    net, optimizer = started(PAIRS[name][0], {})
    saved = through_a_file(optimizer.state_dict())
    for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        saved["param_groups"][0].pop(key, None)
    other = copy.deepcopy(net)
    loaded = PAIRS[name][0](other.parameters())
    loaded.load_state_dict(saved)
    assert_same(go_on(other, loaded), go_on(net, optimizer))


# --- dtypes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_in", [torch.bfloat16, torch.float32], ids=str)
def test_state_keeps_the_dtype_it_was_saved_in(saved_in):
    net, optimizer = started(OPTIMIZERS["Adam"], {})
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["exp_avg_sq"] = state["exp_avg_sq"].to(saved_in)
    loaded = OPTIMIZERS["Adam"](net.parameters())
    loaded.load_state_dict(saved)
    train(net, loaded, [3])
    state = loaded.state[next(net.parameters())]
    assert state["exp_avg_sq"].dtype == saved_in
    assert state["exp_avg"].dtype == torch.float64
    assert state["step"].dtype == torch.float64


# --- names --------------------------------------------------------------------------------------------------------


def test_names_are_saved_and_match_parameters_in_another_order():
    net = model()
    optimizer = OPTIMIZERS["Adam"](net.named_parameters())
    train(net, optimizer, range(3))
    saved = through_a_file(optimizer.state_dict())
    assert saved["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    other = copy.deepcopy(net)
    turned = OPTIMIZERS["Adam"](list(other.named_parameters())[::-1])
    turned.load_state_dict(saved)
    assert turned.param_groups[0]["param_names"] == ["2.bias", "2.weight", "0.bias", "0.weight"]
    assert all(torch.equal(a, b) for a, b in zip(go_on(other, turned), go_on(net, optimizer), strict=True))


def test_names_match_in_both_directions_between_torch_and_piste():
    net = model()
    optimizer = torch.optim.Adam(net.named_parameters())
    train(net, optimizer, range(3))
    other = copy.deepcopy(net)
    loaded = OPTIMIZERS["Adam"](other.named_parameters())
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    back = copy.deepcopy(net)
    returned = torch.optim.Adam(back.named_parameters())
    returned.load_state_dict(through_a_file(loaded.state_dict()))
    expected = go_on(net, optimizer)
    assert_same(go_on(other, loaded), expected)
    assert_same(go_on(back, returned), expected)


# --- what doesn't fit is refused, and nothing has changed ------------------------------------------------------------


def refused(optimizer, saved, *words):
    """Assert that a checkpoint is rejected in these words, and that the optimizer has not changed."""
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InvalidValue) as caught:
        optimizer.load_state_dict(saved)
    for word in words:
        assert word in str(caught.value)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for index, state in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in state.items())


@pytest.mark.sample(4, per="name", of=8)
@pytest.mark.parametrize("other", ELEMENTWISE)
@every
def test_the_checkpoint_of_another_optimizer_is_rejected(name, other):
    if {name, other} <= {"Adam", "AdamW"} or name == other:
        return  # the same rule
    _, theirs = started(OPTIMIZERS[other], {})
    _, ours = started(OPTIMIZERS[name], {})
    refused(ours, theirs.state_dict(), f"this checkpoint is not one of {name}")


def test_the_rejection_of_a_checkpoint_lists_its_options():
    _, theirs = started(torch.optim.Adam, {})
    _, ours = started(OPTIMIZERS["SGD"], {"momentum": 0.9})
    refused(ours, theirs.state_dict(), "this checkpoint is not one of SGD", "`momentum`", "betas")


def test_another_optimizers_checkpoint_is_named_with_its_state():
    _, theirs = started(torch.optim.Adam, {})
    _, ours = started(OPTIMIZERS["SGD"], {"momentum": 0.9})
    refused(
        ours,
        theirs.state_dict(),
        "this checkpoint is not one of SGD but of Adam or AdamW (its state holds `exp_avg`, `exp_avg_sq`): ",
    )
    _, adam = started(OPTIMIZERS["Adam"], {})
    _, theirs = started(torch.optim.RMSprop, {})
    refused(adam, theirs.state_dict(), "not one of Adam but of RMSprop (its state holds `square_avg`)")


def test_a_checkpoint_of_a_parameter_of_another_shape_is_rejected():
    _, saved = started(OPTIMIZERS["Adam"], {})
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, range(2))
    refused(
        optimizer,
        saved.state_dict(),
        "`exp_avg` of parameter 0 has shape (5, 4) in the checkpoint; the parameter has (6, 4)",
        "model.named_parameters()",
    )


def test_unnamed_parameters_in_another_order_are_rejected():
    _, saved = started(OPTIMIZERS["Adam"], {})
    net = model()
    turned = OPTIMIZERS["Adam"](list(net.parameters())[::-1])
    refused(turned, saved.state_dict(), "has shape (5, 4) in the checkpoint; the parameter has (3,)", "another order")


def test_other_parameter_names_are_rejected():
    net = model()
    optimizer = OPTIMIZERS["Adam"](net.named_parameters())
    train(net, optimizer, [0])
    renamed = OPTIMIZERS["Adam"]([(f"net.{name}", p) for name, p in net.named_parameters()])
    refused(
        renamed,
        optimizer.state_dict(),
        "param group 0 have other names in the checkpoint",
        "Only in the optimizer: net.0.bias",
        "Only in the checkpoint: 0.bias",
    )


def test_a_checkpoint_of_another_number_of_groups_or_parameters_is_rejected():
    net, saved = started(OPTIMIZERS["Adam"], {})
    two = OPTIMIZERS["Adam"]([{"params": net[0].parameters()}, {"params": net[2].parameters()}])
    refused(two, saved.state_dict(), "a different number of parameter groups: 1; this Adam has 2")
    fewer = OPTIMIZERS["Adam"](net[0].parameters())
    refused(fewer, saved.state_dict(), "group 0 has 4 parameters in the checkpoint and 2 in the optimizer")
    single = OPTIMIZERS["Adam"]([net[0].bias])
    refused(fewer, single.state_dict(), "group 0 has 1 parameter in the checkpoint and 2 in the optimizer")


WRONG = [{"lr": -1.0}, {"lr": float("nan")}, {"betas": (0.9, 1.5)}, {"eps": -1e-8}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_options_in_a_checkpoint_are_checked_too(wrong):
    _, optimizer = started(OPTIMIZERS["Adam"], {})
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0].update(wrong)
    refused(optimizer, saved, f"`{next(iter(wrong))}", "must be in", "In the checkpoint's param group 0.")


@pytest.mark.parametrize("wrong", [None, [], {"model": 1, "optimizer": 2}, {"state": {}}], ids=str)
def test_an_object_that_is_not_a_checkpoint_is_rejected(wrong):
    _, optimizer = started(OPTIMIZERS["Adam"], {})
    refused(optimizer, wrong, "Adam.load_state_dict takes the result of optimizer.state_dict()")


def test_an_incomplete_checkpoint_is_rejected():
    _, optimizer = started(OPTIMIZERS["Adam"], {})
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][1]["exp_avg_sq"]
    refused(optimizer, saved, "or incomplete: parameter 1 has no `exp_avg_sq`")
