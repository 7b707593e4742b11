"""Runs of sharded models, started by test_sharded_steps.py: `sharded_run.py MODE FOLDER`, with or without torchrun."""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Shard, distribute_tensor

import piste
from piste.engine import decode_eight_bits, positions
from piste.errors import InvalidValue, Unsupported

BAD_STEP = 2
KINDS = ("precision", "8 bits", "matrices")  # of checkpoints


def model(is_sharded, dtype=torch.float32):
    """A network with a frozen bias; its first dimension is odd, so that the parts differ in size."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).to(dtype)
    net[0].bias.requires_grad_(False)
    return fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),))) if is_sharded else net


def step(net, optimizer, t):
    torch.manual_seed(t)
    x = 5 * torch.randn(4, 6).to(next(net.parameters()).dtype)
    optimizer.zero_grad()
    (net(x * float("inf") if t == BAD_STEP else x) ** 2).sum().backward()
    optimizer.step()


def whole(x):
    return (x.detach().full_tensor() if hasattr(x, "full_tensor") else x.detach()).clone()


def values(net, optimizer):
    """Every parameter and state tensor, whole."""
    found = {}
    for name, p in net.named_parameters():
        found[name] = whole(p)
        found |= {f"{name}/{key}": whole(value) for key, value in optimizer.state.get(p, {}).items()}
    return found


def steps_equal_those_of_one_process():
    for name, dtype, options in (
        ("Adam", torch.float32, {"nonfinite": "skip"}),
        ("Adam", torch.float32, {"nonfinite": "skip", "max_norm": 1.0}),
        ("SGD", torch.bfloat16, {"nonfinite": "skip", "max_value": 0.5, "momentum": 0.9, "precision": "kahan"}),
        ("AdamW", torch.bfloat16, {"nonfinite": "skip", "max_norm": 1.0, "precision": "master"}),
    ):
        runs = []
        for is_sharded in (False, True):
            net = model(is_sharded, dtype)
            optimizer = getattr(piste.optim, name)(net.parameters(), lr=0.05, **options)
            for t in range(5):
                step(net, optimizer, t)
            assert optimizer.skipped == 1
            runs.append((values(net, optimizer), optimizer))
        assert "4 of 4 parameters by the fused CPU kernel" in runs[1][1].explain()
        tensors = [x for state in runs[1][1].state.values() for x in state.values() if x.dim()]
        assert tensors and all(hasattr(x, "full_tensor") for x in tensors)
        assert all(p.grad is None or hasattr(p.grad, "full_tensor") for p in runs[1][1].param_groups[0]["params"])
        alone, together = runs[0][0], runs[1][0]
        assert alone.keys() == together.keys()
        for key in alone:
            torch.testing.assert_close(together[key], alone[key], rtol=2e-6, atol=1e-7)


def sums_cover_all_parts_of_all_parameters():
    runs = []
    for is_sharded in (False, True):
        net = model(is_sharded)
        optimizer = piste.optim.Prodigy(net.parameters(), d0=1e-4, nonfinite="skip")
        for t in range(6):
            step(net, optimizer, t)
        runs.append(values(net, optimizer) | {"d": optimizer.param_groups[0]["d"].float()})
        explanation = optimizer.explain_backend()
    assert "; the sums over all parameters by torch operations, which communicate" in explanation
    assert runs[0]["d"] > 5e-4
    for key in runs[0]:
        torch.testing.assert_close(runs[1][key], runs[0][key], rtol=1e-5, atol=1e-6)


def reductions_cover_all_parts():
    for name in ("LAMB", "LARS", "StableAdamW"):
        runs = []
        for is_sharded in (False, True):
            net = model(is_sharded)
            optimizer = getattr(piste.optim, name)(net.parameters(), lr=0.05, weight_decay=0.1)
            for t in (0, 1, 3):
                step(net, optimizer, t)
            runs.append(values(net, optimizer))
            explanation = optimizer.explain_backend()
            assert ("eager" in explanation) == is_sharded, explanation
        for key in runs[0]:
            torch.testing.assert_close(runs[1][key], runs[0][key], rtol=2e-6, atol=1e-7)


def reductions_cover_parameters_of_fewer_rows_than_processes():
    """Operations of a DTensor spread the values of such a parameter in another way than the parameter is."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name, options in (
        ("Adafactor", {}),
        ("Adafactor", {"precision": "kahan"}),
        ("StableAdamW", {"cautious": True}),
        ("Prodigy", {"cautious": True, "d0": 1e-3}),
    ):
        runs = []
        for is_sharded in (False, True):
            torch.manual_seed(0)
            w = torch.randn(1, 4, 5).to(torch.bfloat16 if "precision" in options else torch.float32)
            p = (distribute_tensor(w, mesh, [Shard(0)]) if is_sharded else w).requires_grad_()
            optimizer = getattr(piste.optim, name)([p], **options)
            for t in range(3):
                step_on_equal_gradients(None, optimizer, t)
            runs.append([whole(p), *map(whole, optimizer.state[p].values())])
            assert p.shape[0] < dist.get_world_size()
        for alone, together in zip(*runs, strict=True):
            torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


MATRICES = (
    ("Muon", {"ns_dtype": "float32", "max_norm": 1.0}),
    ("NorMuon", {"split": 3, "nonfinite": "skip"}),
    ("SOAP", {"precondition_frequency": 2}),
    ("SOAP", {"precondition_1d": True, "max_precond_dim": 6, "normalize_grads": True}),
)


def matrices(is_sharded, name, dtype=torch.float32, **options):
    """The network, and an optimizer of its matrices; SOAP takes its vector too."""
    net = model(is_sharded, dtype)
    params = [p for p in net.parameters() if p.requires_grad and (p.dim() == 2 or name == "SOAP")]
    return net, getattr(piste.optim, name)(params, lr=0.05, **options)


def step_on_equal_gradients(net, optimizer, t):
    """Step on gradients that do not depend on the number of processes."""
    torch.manual_seed(t)
    for p in optimizer.param_groups[0]["params"]:
        g = torch.randn(p.shape).to(p.dtype)
        p.grad = distribute_tensor(g, p.device_mesh, p.placements) if hasattr(p, "to_local") else g
    optimizer.step()


def matrices_are_gathered():
    for name, options in MATRICES:
        runs = []
        for is_sharded in (False, True):
            net, optimizer = matrices(is_sharded, name, **options)
            for t in range(5):
                step_on_equal_gradients(net, optimizer, t)
            runs.append(values(net, optimizer))
            assert "by the fused CPU kernel, all in one pass; the matrix stage" in optimizer.explain_backend()
        tensors = [x for state in optimizer.state.values() for x in state.values() if x.dim()]
        assert tensors and all(hasattr(x, "full_tensor") for x in tensors)
        assert runs[0].keys() == runs[1].keys()
        for key in runs[0]:
            torch.testing.assert_close(runs[1][key], runs[0][key], rtol=1e-5, atol=1e-6)


def matrices_keep_precision_and_8_bits():
    for name in ("Muon", "SOAP"):
        runs = []
        for is_sharded in (False, True):
            net, optimizer = matrices(is_sharded, name, torch.bfloat16, precision="master")
            for t in range(4):
                step_on_equal_gradients(net, optimizer, t)
            runs.append(values(net, optimizer))
        for key in runs[0]:
            torch.testing.assert_close(runs[1][key], runs[0][key], rtol=1e-5, atol=0.05 * 2**-8)
    net, _ = blocks(True)
    optimizer = piste.optim.SOAP([net[0].weight], lr=0.05, state_dtype="int8", eps=1e-2)
    for t in range(3):
        step_on_equal_gradients(net, optimizer, t)
    state = optimizer.state[net[0].weight]
    assert state["exp_avg"].to_local().dtype == torch.int8 and state["exp_avg"].to_local().shape == (128, 6)
    alone = blocks(False)[0][0].weight
    reference = piste.optim.SOAP([alone], lr=0.05, eps=1e-2)
    for t in range(3):
        step_on_equal_gradients(net, reference, t)
    torch.testing.assert_close(whole(net[0].weight), alone.detach(), rtol=0, atol=0.02)


def replaced_state_takes_effect():
    net = model(True)
    optimizer = piste.optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
    step(net, optimizer, 0)
    p = net[2].bias
    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    before, gradient = whole(p), whole(p.grad)
    optimizer.step()
    torch.testing.assert_close(before - whole(p), 0.5 * gradient)


def blocks(is_sharded, name="AdamW"):
    """A network with a matrix whose parts hold whole blocks of 256 numbers, and its optimizer with state in 8 bits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 256, bias=False), nn.Tanh(), nn.Linear(256, 3))
    net = fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),))) if is_sharded else net
    groups = [{"params": [net[0].weight]}, {"params": [*net[2].parameters()], "lr": 0.01, "state_dtype": None}]
    return net, getattr(piste.optim, name)(groups, lr=0.05, state_dtype="int8")


def parts_step_in_8_bits_by_themselves():
    net, optimizer = blocks(True)
    rows = slice(128 * dist.get_rank(), 128 * (dist.get_rank() + 1))
    sharded = net[0].weight
    own = whole(sharded)[rows].requires_grad_()
    alone = piste.optim.AdamW([own], lr=0.05, state_dtype="int8")
    for t in range(3):
        step(net, optimizer, t if t < BAD_STEP else t + 1)
        own.grad = whole(sharded.grad)[rows]
        alone.step()
        assert torch.equal(whole(sharded)[rows], own)
    state, kept = optimizer.state[sharded], alone.state[own]
    assert state["exp_avg"].dtype == torch.int8 and state["exp_avg_scale"].shape == (6,)
    for key in ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"):
        assert torch.equal(state[key].to_local(), kept[key]), key
    assert "1 of 1 parameters by the fused CPU kernel" in optimizer.explain()
    optimizer.param_groups[0]["state_dtype"] = None
    numbers = decode_eight_bits(kept["exp_avg"], kept["exp_avg_scale"], positions([own]))
    sharded.grad = torch.zeros_like(sharded)
    optimizer.step()
    torch.testing.assert_close(whole(optimizer.state[sharded]["exp_avg"])[rows], 0.9 * numbers)
    assert optimizer.state[sharded]["exp_avg"].placements == sharded.placements


def state_in_8_bits_is_refused():
    net, _ = blocks(True)
    with pytest.raises(Unsupported, match=r'LAMB steps sharded .* parameter 0 .* Help: state_dtype="bfloat16"'):
        blocks(True, "LAMB")
    words = (
        r"requires parts of whole blocks of 256 numbers, cut along the first dimension; received parameter 0 of param "
        r"group 0 with shape \(3, 256\) and .*Shard\(dim=0\).* Help: put it in a param group with state_dtype=None"
    )
    with pytest.raises(InvalidValue, match=words):
        piste.optim.AdamW(net[2].parameters(), state_dtype="int8")


def checkpointed(kind):
    if kind == "8 bits":
        return blocks(dist.is_initialized())
    if kind == "matrices":
        net = model(dist.is_initialized())
        groups = [{"params": [p]} for p in net.parameters() if p.requires_grad]
        groups[-1]["lr"] = 0.01
        return net, piste.optim.SOAP(groups, lr=0.05)
    net = model(dist.is_initialized(), torch.bfloat16)
    weights, others = ([p for p in net.parameters() if (p.dim() == 2) is flag] for flag in (True, False))
    groups = [{"params": weights}, {"params": others, "lr": 0.01}]
    return net, piste.optim.Adam(groups, lr=0.05, precision="kahan", state_dtype="float32")


def save(folder, kind):
    net, optimizer = checkpointed(kind)
    for t in range(2):
        step(net, optimizer, t)
    of_model, of_optimizer = get_state_dict(net, optimizer)
    dcp.save({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=folder / "checkpoint")
    saved = values(net, optimizer)
    step(net, optimizer, 3)
    after = values(net, optimizer)
    if dist.get_rank() == 0:
        torch.save((saved, after), folder / "values.pt")


def load(folder, kind):
    net, optimizer = checkpointed(kind)
    optimizer.param_groups[0]["lr"] = 0.9
    of_model, of_optimizer = get_state_dict(net, optimizer)
    dcp.load({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=folder / "checkpoint")
    set_state_dict(net, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)
    assert [optimizer.param_groups[i]["lr"] for i in (0, -1)] == [0.05, 0.01]
    saved, after = torch.load(folder / "values.pt")
    # The places of numbers in a part seed the rounding to 8 bits, so another number of processes rounds otherwise.
    for expected in (saved, after) if dist.is_initialized() or kind != "8 bits" else (saved,):
        found = values(net, optimizer)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
        step(net, optimizer, 3)


def averaged_weights_go_on_from_the_trained_ones():
    def make():
        net = model(True)
        return net, piste.optim.ScheduleFreeAdamW(net.parameters(), lr=0.05)

    net, optimizer = make()
    for t in (0, 1):
        step(net, optimizer, t)
    with optimizer.averaged():
        of_model, of_optimizer = copy.deepcopy(get_state_dict(net, optimizer))
    step(net, optimizer, 3)
    other, resumed = make()
    set_model_state_dict(other, of_model)
    set_optimizer_state_dict(other, resumed, of_optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(other, resumed, 3)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(p), whole(q))
    other, resumed = make()
    set_state_dict(other, resumed, model_state_dict=of_model, optim_state_dict=of_optimizer)
    with pytest.warns(UserWarning, match="the weights were set after it"):
        step(other, resumed, 3)


def redundancy_is_removed():
    """ZeroRedundancyOptimizer gives each process some of the parameters; one of them may get none."""

    def make(has_bias, is_zero):
        torch.manual_seed(0)
        net = nn.Linear(6, 3, bias=has_bias)
        if is_zero:
            return net, ZeroRedundancyOptimizer(net.parameters(), optimizer_class=piste.optim.Adam, lr=0.1)
        return net, piste.optim.Adam(net.parameters(), lr=0.1)

    for has_bias in (True, False):
        runs = [make(has_bias, is_zero) for is_zero in (False, True)]
        for t in (0, 1):
            for net, optimizer in runs:
                step(net, optimizer, t)
        runs[1][1].consolidate_state_dict(0)
        box = [runs[1][1].state_dict() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(box, 0)
        for is_zero in (False, True):
            net, optimizer = make(has_bias, is_zero)
            net.load_state_dict(runs[0][0].state_dict())
            optimizer.load_state_dict(copy.deepcopy(box[0]))
            runs.append((net, optimizer))
        for net, optimizer in runs:
            step(net, optimizer, 3)
        for net, _ in runs[1:]:
            for p, q in zip(runs[0][0].parameters(), net.parameters(), strict=True):
                assert torch.equal(p, q)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        for kind in KINDS:
            load(folder / kind, kind)
        print("done", flush=True)
    else:
        dist.init_process_group("gloo")
        steps_equal_those_of_one_process()
        reductions_cover_all_parts()
        reductions_cover_parameters_of_fewer_rows_than_processes()
        sums_cover_all_parts_of_all_parameters()
        replaced_state_takes_effect()
        parts_step_in_8_bits_by_themselves()
        state_in_8_bits_is_refused()
        matrices_are_gathered()
        matrices_keep_precision_and_8_bits()
        for kind in KINDS:
            (folder / kind).mkdir(exist_ok=True)
            save(folder / kind, kind)
            dist.barrier()
            load(folder / kind, kind)
        averaged_weights_go_on_from_the_trained_ones()
        redundancy_is_removed()
        print("done", flush=True)
        dist.barrier()
        time.sleep(0.2)  # see tests/torchrun.py
        dist.destroy_process_group()
