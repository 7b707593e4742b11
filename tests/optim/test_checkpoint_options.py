"""Checkpoints: the description in them, loading by halves, options that are kept, and files without pickle."""

from __future__ import annotations

import copy
import json
import os
import pickle

import pytest
import torch

import piste
from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS, Adam, AdamW, load, save

from .cases import ELEMENTWISE, cases, label
from .reference import model, train
from .test_checkpoint import go_on, refused, started

pytestmark = pytest.mark.usefixtures("double_scalars")


def test_a_checkpoint_describes_its_optimizer():
    net = model()
    optimizer = Adam(net.named_parameters())
    described = optimizer.state_dict()["piste"]
    assert (described["optimizer"], described["version"]) == ("Adam", piste.__version__)
    assert described["parameters"] == [
        {"name": name, "shape": list(p.shape), "dtype": "float64"} for name, p in net.named_parameters()
    ]


def test_another_kind_is_rejected_by_name_even_if_its_options_fit():
    net, adam = started(Adam, {})
    saved = adam.state_dict()
    refused(AdamW(net.parameters()), saved, "not one of AdamW but of Adam", "piste.optim.Adam", 'entry "piste"')
    del saved["piste"]
    AdamW(net.parameters()).load_state_dict(saved)


def test_a_shape_is_rejected_where_no_state_tells_it():
    _, sgd = started(OPTIMIZERS["SGD"], {})
    other = OPTIMIZERS["SGD"](torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)).parameters())
    refused(other, sgd.state_dict(), "parameter 0 has shape (5, 4) in the checkpoint; the parameter has (6, 4)")


def test_a_custom_optimizer_is_not_looked_for_in_piste():
    net, adam = started(Adam, {})
    saved = adam.state_dict()
    saved["piste"]["optimizer"] = "Signum"
    refused(Adam(net.parameters()), saved, "not one of Adam but of Signum. Help: load it with Signum; where another")


def named(net, **options):
    return Adam(net.named_parameters(), **options)


def test_without_strict_parameters_that_both_have_are_loaded_by_name():
    net = model()
    optimizer = named(net, lr=0.02)
    train(net, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3), torch.nn.Linear(3, 3))
    loaded = Adam([(n, p) for n, p in other.double().named_parameters() if n != "0.bias"][::-1])
    refused(loaded, saved, "has 4 parameters in the checkpoint and 5", "Only in the optimizer: 3.bias, 3.weight")
    loaded.load_state_dict(saved, strict=False)
    params = dict(other.named_parameters())
    for i, name in enumerate(saved["param_groups"][0]["param_names"]):
        if name == "0.bias":
            continue
        for key, value in saved["state"][i].items():
            assert torch.equal(loaded.state[params[name]][key], value)
    assert params["3.bias"] not in loaded.state
    assert loaded.param_groups[0]["lr"] == 0.02


def test_without_strict_names_are_required_on_both_sides():
    net, unnamed = started(Adam, {})
    optimizer = named(net)
    with pytest.raises(InvalidValue, match="received a checkpoint without names"):
        optimizer.load_state_dict(unnamed.state_dict(), strict=False)
    with pytest.raises(InvalidValue, match="received an optimizer without names"):
        unnamed.load_state_dict(optimizer.state_dict(), strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("described", [True, False])
def test_another_size_of_a_layer_that_both_name_has_a_help_that_works(strict, described):
    def net_with(outputs, head="head"):
        net = torch.nn.Sequential()
        net.add_module("body", torch.nn.Linear(4, 5))
        net.add_module(head, torch.nn.Linear(5, outputs))
        return net.double()

    net = net_with(3)
    optimizer = named(net)
    train(net, optimizer, [0])
    saved = optimizer.state_dict()
    what = "parameter head.weight"
    if not described:  # as torch.optim's, or one of torch.distributed.checkpoint
        del saved["piste"]
        what = "`exp_avg` of parameter head.weight"
    with pytest.raises(InvalidValue) as caught:
        named(net_with(2)).load_state_dict(saved, strict=strict)
    assert str(caught.value).endswith(
        f"{what} has shape (3, 5) in the checkpoint; the parameter has (2, 5). Both have this name, so the layer had "
        "another size when it was saved. Help: construct the model with the sizes of the checkpoint; or give the layer "
        "another name, and strict=False leaves it out."
    )
    named(net_with(3)).load_state_dict(saved, strict=strict)
    other = net_with(2, "new_head")
    loaded = named(other)
    loaded.load_state_dict(saved, strict=False)
    assert set(loaded.state) == set(other.body.parameters())


def test_the_help_against_other_names_is_one_that_works():
    net = model()
    optimizer = named(net)
    train(net, optimizer, [0])
    wrapped = Adam([(f"module.{name}", p) for name, p in copy.deepcopy(net).named_parameters()])
    refused(wrapped, optimizer.state_dict(), "Only in the checkpoint: 0.bias", "a prefix, such as `module.`")
    _, unnamed = started(Adam, {})
    words = "without names. Help: load it with strict=True into an optimizer of the same parameters"
    with pytest.raises(InvalidValue, match=words):
        optimizer.load_state_dict(unnamed.state_dict(), strict=False)
    named(model()).load_state_dict(unnamed.state_dict())


def test_without_strict_a_checkpoint_without_a_common_name_is_refused():
    """A wrapper's prefix must not lose all state silently."""
    net = model()
    optimizer = named(net)
    train(net, optimizer, range(2))
    wrapped = Adam([(f"module.{name}", p) for name, p in copy.deepcopy(net).named_parameters()])
    words = r"no parameter name in common; the first ones are `0\.weight` and `module\.0\.weight`\. Help: wrappers"
    for hyperparameters in ("checkpoint", "keep"):
        with pytest.raises(InvalidValue, match=words):
            wrapped.load_state_dict(optimizer.state_dict(), strict=False, hyperparameters=hyperparameters)
    assert not wrapped.state


def test_without_strict_a_checkpoint_with_too_few_names_is_refused():
    net = model()
    optimizer = named(net)
    train(net, optimizer, [0])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = ["0.weight"]
    with pytest.raises(InvalidValue, match="a name for each of its parameters; received 1 name for 4 parameters"):
        named(copy.deepcopy(net)).load_state_dict(saved, strict=False)
    with pytest.raises(InvalidType, match="`strict` must be True or False; received strict='no'"):
        named(net).load_state_dict(optimizer.state_dict(), strict="no")


@pytest.mark.parametrize("strict", [True, False])
def test_kept_options_take_the_estimate_of_the_checkpoint(strict):
    """The estimate of Prodigy belongs to the state, whatever becomes of the options."""
    net = model()
    optimizer = OPTIMIZERS["Prodigy"](net.named_parameters(), d0=1e-3)
    train(net, optimizer, range(5))
    other = OPTIMIZERS["Prodigy"](copy.deepcopy(net).named_parameters(), lr=0.5)
    other.load_state_dict(optimizer.state_dict(), strict=strict, hyperparameters="keep")
    for name in ("d", "d_max", "d_numerator", "k"):
        assert torch.equal(other.param_groups[0][name], optimizer.param_groups[0][name])
    assert other.param_groups[0]["k"] == 5
    assert other.param_groups[0]["lr"] == 0.5


def test_without_strict_another_number_of_groups_keeps_options():
    net = model()
    optimizer = named(net)
    train(net, optimizer, range(2))
    groups = [{"params": list(net[i].named_parameters(prefix=str(i))), "lr": 0.1 + i} for i in (0, 2)]
    split = Adam(groups)
    with pytest.raises(InvalidValue, match=r'1 param group and this Adam 2\. Help: hyperparameters="keep"'):
        split.load_state_dict(optimizer.state_dict(), strict=False)
    split.load_state_dict(optimizer.state_dict(), strict=False, hyperparameters="keep")
    assert [group["lr"] for group in split.param_groups] == [0.1, 2.1]
    assert all(torch.equal(split.state[p]["exp_avg"], optimizer.state[p]["exp_avg"]) for p in net.parameters())


def test_options_of_the_optimizer_are_kept_on_request():
    net, optimizer = started(Adam, {"lr": 0.5})
    other = Adam(copy.deepcopy(net).parameters(), lr=0.01, eps=1e-3)
    other.load_state_dict(optimizer.state_dict(), hyperparameters="keep")
    assert (other.param_groups[0]["lr"], other.param_groups[0]["eps"]) == (0.01, 1e-3)
    assert len(other.state) == 4
    with pytest.raises(InvalidValue, match='`hyperparameters` must be one of "checkpoint", "keep"; received \'kept\''):
        other.load_state_dict(optimizer.state_dict(), hyperparameters="kept")


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize(("name", "options"), cases(), ids=label)
def test_a_run_resumed_from_a_file_gives_the_same_bits(name, options, tmp_path):
    net, optimizer = started(OPTIMIZERS[name], options)
    save(optimizer, tmp_path / "run.safetensors")
    other = copy.deepcopy(net)
    resumed = OPTIMIZERS[name](other.parameters())
    load(resumed, tmp_path / "run.safetensors")
    assert (
        resumed.param_groups[0].items() >= {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}.items()
    )
    assert all(map(torch.equal, go_on(other, resumed), go_on(net, optimizer)))


def step_once(optimizer, params, t):
    """Step by gradients that depend on the parameters, the place and t alone; LBFGS evaluates again."""

    def closure():
        optimizer.zero_grad()
        loss = sum(((p - t) ** 2 + p.cos()).sum() for p in params)
        loss.backward()
        return loss

    if isinstance(optimizer, piste.optim.LBFGS):
        optimizer.step(closure)
        return
    closure()
    if isinstance(optimizer, piste.optim.SparseAdam):
        for p in params:
            p.grad = p.grad.to_sparse(1)
    optimizer.step()


@pytest.mark.parametrize("fused", [None, False], ids=["default", "eager"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ELEMENTWISE])
def test_runs_of_the_other_optimizers_resume_from_files_and_copies(name, fused, tmp_path):
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=make).requires_grad_() for shape in ((6, 4), (3, 4))]
    options = {} if name == "LBFGS" else {"fused": fused}
    optimizer = OPTIMIZERS[name](params, lr=0.1, **options)
    for t in range(3):
        step_once(optimizer, params, t)
    save(optimizer, tmp_path / "file")
    others = [p.detach().clone().requires_grad_() for p in params]
    resumed = OPTIMIZERS[name](others)
    load(resumed, tmp_path / "file")
    runs = [(resumed, others), copy.deepcopy((optimizer, params)), pickle.loads(pickle.dumps((optimizer, params)))]
    for t in range(3, 6):
        step_once(optimizer, params, t)
        for other, own in runs:
            step_once(other, own, t)
            assert all(map(torch.equal, own, params))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.complex64, torch.complex128])
def test_files_keep_every_dtype_and_layout(dtype, tmp_path):
    p = torch.randn(3, 0 + 4).to(dtype).t().requires_grad_()
    empty = torch.zeros(0, 2, dtype=dtype, requires_grad=True)
    optimizer = Adam([p, empty])
    p.grad, empty.grad = torch.randn(4, 3).to(dtype), torch.zeros_like(empty)
    optimizer.step()
    save(optimizer, tmp_path / "file")
    other = Adam([p, empty])
    load(other, tmp_path / "file")
    for x in (p, empty):
        for key, value in optimizer.state[x].items():
            assert other.state[x][key].dtype == value.dtype
            assert torch.equal(other.state[x][key], value)


def test_the_file_has_the_layout_of_safetensors(tmp_path):
    """The format: 8 bytes of length, a JSON header, and tensors that fill the rest without gaps, little-endian."""
    _, optimizer = started(Adam, {})
    save(optimizer, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    ends = [0]
    for entry in header.values():
        assert entry["data_offsets"][0] == ends[-1]
        ends.append(entry["data_offsets"][1])
    assert ends[-1] == len(data) - 8 - size
    begin, end = header["state/0/exp_avg"]["data_offsets"]
    values = torch.frombuffer(bytearray(data[8 + size + begin : 8 + size + end]), dtype=torch.float64)
    first = optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"]
    assert header["state/0/exp_avg"]["dtype"] == "F64"
    assert torch.equal(values.reshape(header["state/0/exp_avg"]["shape"]), first)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file_whole_and_no_other(step, tmp_path, monkeypatch):
    net, optimizer = started(Adam, {})
    path = tmp_path / "file"
    save(optimizer, path)
    old = path.read_bytes()
    train(net, optimizer, [3])

    def crash(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="the disk is full"):
        save(optimizer, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_files_are_rejected_and_change_nothing(tmp_path):
    _, optimizer = started(Adam, {})
    path = tmp_path / "file"
    save(optimizer, path)
    whole, before = path.read_bytes(), copy.deepcopy(optimizer.state_dict())
    for damaged in (b"", whole[:5], whole[:100], whole[:-8], b"PK\x03\x04" + whole, b"\x02" + bytes(7) + b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidValue, match=r"must be a whole file written by piste\.optim\.save; received"):
            load(optimizer, path)
    assert repr(optimizer.state_dict()) == repr(before)


def test_objects_that_no_file_holds_are_named(tmp_path):
    _, optimizer = started(Adam, {})
    optimizer.param_groups[0]["tag"] = object()
    with pytest.raises(InvalidType, match="received param_groups/0/tag of type object"):
        save(optimizer, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
