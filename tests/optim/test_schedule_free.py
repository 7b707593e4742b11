"""Schedule-Free optimizers: averaged weights put in place and taken back, checkpoints of both, batch normalization."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from piste import optim
from piste.errors import InvalidValue, Unsupported
from tests.isolation import default_dtype

from . import reference
from .reference import assert_same, model, train
from .rejections import assert_rejected

CLASSES = {
    optim.ScheduleFreeSGD: {"lr": 0.1, "momentum": 0.6},
    optim.ScheduleFreeAdamW: {"lr": 0.1, "betas": (0.6, 0.9)},
}
pytestmark = pytest.mark.usefixtures("double_scalars")
TRAIN = reference.__file__
every = pytest.mark.parametrize("cls", CLASSES)


def trained(cls, steps=4):
    net = model()
    optimizer = cls(net.parameters(), **CLASSES[cls])
    zs = []
    for t in range(steps):
        train(net, optimizer, [t])
        zs.append([optimizer.state[p]["z"].clone() for p in net.parameters()])
    return net, optimizer, zs


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch has no distributed package here")
@pytest.mark.parametrize("flatten", [False, True])
@every
def test_states_of_distributed_checkpoints_say_which_weights_they_hold(cls, flatten):
    from torch.distributed.checkpoint import state_dict as dcp

    net, optimizer, _ = trained(cls)
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
    plain = copy.deepcopy(dcp.get_state_dict(net, optimizer, options=options))
    with optimizer.averaged():
        averaged = copy.deepcopy(dcp.get_state_dict(net, optimizer, options=options))
    assert not torch.allclose(averaged[0]["0.weight"], plain[0]["0.weight"], rtol=1e-3)
    train(net, optimizer, range(4, 6))
    for of_net, of_optimizer in (plain, averaged):
        other = model()
        resumed = cls(other.parameters(), **CLASSES[cls])
        dcp.set_model_state_dict(other, of_net)
        dcp.set_optimizer_state_dict(other, resumed, of_optimizer, options=options)
        resumed.load_state_dict(resumed.state_dict())  # of trained weights again
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(other, resumed, range(4, 6))
        assert_same(other.parameters(), net.parameters())


USES = {
    "step": lambda net, optimizer: train(net, optimizer, [4]),
    "step_in_backward": lambda net, optimizer: optimizer.step_in_backward().__enter__(),
    "averaged": lambda net, optimizer: optimizer.averaged().__enter__(),
    "state_dict": lambda net, optimizer: optimizer.state_dict(),
}


@pytest.mark.parametrize("use", USES)
@every
def test_weights_that_are_loaded_after_an_averaged_state_lead_to_a_warning(cls, use):
    net, optimizer, _ = trained(cls)
    with optimizer.averaged():
        weights, state = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    other = model()
    resumed = cls(other.parameters())
    resumed.load_state_dict(state)
    other.load_state_dict(weights)
    words = r"the weights were set after it.* Help: load the model before the optimizer"
    with pytest.warns(UserWarning, match=words) as found:
        USES[use](other, resumed)
    assert [warning.filename for warning in found] == [USES[use].__code__.co_filename if use != "step" else TRAIN]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.state_dict()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch has no distributed package here")
@every
def test_weights_of_a_distributed_checkpoint_that_was_loaded_in_place_are_the_trained_ones(cls, tmp_path):
    """`set_state_dict` loads the optimizer first, and then copies the parameters onto themselves."""
    from torch.distributed import checkpoint as files
    from torch.distributed.checkpoint import state_dict as dcp

    net, optimizer, _ = trained(cls)
    with optimizer.averaged():
        of_net, of_optimizer = dcp.get_state_dict(net, optimizer)
        files.save({"net": of_net, "optimizer": of_optimizer}, checkpoint_id=tmp_path, no_dist=True)
    other = model()
    resumed = cls(other.parameters(), **CLASSES[cls])
    of_net, of_optimizer = dcp.get_state_dict(other, resumed)
    files.load({"net": of_net, "optimizer": of_optimizer}, checkpoint_id=tmp_path, no_dist=True)
    dcp.set_state_dict(other, resumed, model_state_dict=of_net, optim_state_dict=of_optimizer)
    for run in ((net, optimizer), (other, resumed)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(*run, range(4, 6))
    assert_same(other.parameters(), net.parameters())


@every
def test_in_the_context_the_weights_are_the_mean_of_z_and_after_it_every_bit_is_back(cls):
    net, optimizer, zs = trained(cls)
    before = [p.detach().clone() for p in net.parameters()]
    with optimizer.averaged():
        assert_same(net.parameters(), [torch.stack(z).mean(0) for z in zip(*zs, strict=True)])
        assert not any(map(torch.equal, before, net.parameters()))
    assert all(map(torch.equal, before, net.parameters()))


@every
def test_an_error_in_the_context_takes_the_averaged_weights_back(cls):
    net, optimizer, _ = trained(cls)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        _ = 1 / 0
    assert all(map(torch.equal, before, net.parameters()))
    train(net, optimizer, [5])


@every
def test_before_the_first_step_both_weights_are_the_same(cls):
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    with cls(net.parameters()).averaged():
        assert all(map(torch.equal, before, net.parameters()))


@every
def test_a_checkpoint_says_which_weights_it_was_saved_with_and_resumes_from_both(cls):
    net, optimizer, _ = trained(cls)
    plain = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    with optimizer.averaged():
        averaged = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    assert plain[1]["piste"]["weights"] == "training" and averaged[1]["piste"]["weights"] == "averaged"
    train(net, optimizer, range(4, 7))
    for weights, state in (plain, averaged):
        other = model()
        other.load_state_dict(weights)
        resumed = cls(other.parameters(), **CLASSES[cls])
        resumed.load_state_dict(state)
        train(other, resumed, range(4, 7))
        assert_same(other.parameters(), net.parameters())


def test_batch_normalization_has_statistics_of_the_averaged_weights_in_the_context():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = optim.ScheduleFreeSGD(net.parameters(), lr=0.5)
    batches = [torch.randn(8, 3) for _ in range(3)]
    for x in batches:
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    before = [b.clone() for b in net.buffers()]
    with optimizer.averaged(net, batches):
        outputs = torch.stack([net[0](x).mean(0) for x in batches]).mean(0)
        torch.testing.assert_close(net[1].running_mean, outputs)
        assert not torch.equal(net[1].running_mean, before[0])
    assert all(map(torch.equal, before, net.buffers()))
    assert net.training


@every
def test_the_averaged_side_refuses_steps_checkpoints_and_a_second_context(cls):
    net, optimizer, _ = trained(cls)
    name = cls.__name__
    with optimizer.averaged():
        refused = f"{name}.step() trains other weights than the averaged ones, which are in place."
        assert_rejected(Unsupported, optimizer.step, refused)
        assert_rejected(Unsupported, optimizer.step_in_backward, refused.replace("step()", "step_in_backward()"))
        assert_rejected(
            Unsupported,
            lambda: optimizer.load_state_dict(optimizer.state_dict()),
            f"{name}.load_state_dict() replaces the weights that are trained, and the averaged ones are in place.",
        )
        assert_rejected(
            Unsupported,
            lambda: optimizer.averaged().__enter__(),
            f"{name}.averaged() is entered already. Help: end its context first.",
        )
    for arguments, given in (((net,), "model"), ((None, []), "batches")):
        assert_rejected(
            InvalidValue,
            lambda arguments=arguments: optimizer.averaged(*arguments).__enter__(),
            f"{name}.averaged takes `model` and `batches` together",
            f"received `{given}` alone.",
        )


def test_an_average_without_weight_in_the_trained_weights_is_refused():
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.ones(1)
    optimizer = optim.ScheduleFreeSGD([p], momentum=0)
    optimizer.step()
    assert_rejected(
        InvalidValue,
        lambda: optimizer.averaged().__enter__(),
        "ScheduleFreeSGD.averaged needs a weight of the average above 0",
        "received 0. Help: momentum=0.9",
    )


def path_of_falling_rates(make):
    """The iterates of rates 0, 0.4 and 0.1 with gradients of 1, the largest rate, and the average."""
    p = torch.zeros(1, requires_grad=True)
    optimizer = make([p], lr=0.0, momentum=0.5)
    zs = []
    for lr in (0.0, 0.4, 0.1):
        p.grad = torch.ones(1)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        zs.append(optimizer.state[p]["z"].item())
    with optimizer.averaged():
        return [*zs, optimizer.state[p]["lr_max"].item(), p.item()]


FALLING = [0.0, -0.4, -0.5, 0.4, -0.45]
"""The first step has no weight, and the others have that of the rate 0.4."""


def test_a_falling_rate_keeps_the_weight_of_the_largest_and_a_rate_of_zero_moves_nothing():
    assert path_of_falling_rates(optim.ScheduleFreeSGD) == pytest.approx(FALLING)


@pytest.mark.parametrize("fused", [True, False])
@every
def test_weights_of_float64_have_all_digits_with_the_default_dtype(cls, fused):
    """The mean of all z, weighted by t^r lr^2, with sums in double precision whatever the default dtype is."""
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = cls([w], **CLASSES[cls], r=0.5, warmup_steps=3, fused=fused)
    total, mean = 0.0, 0.0
    with default_dtype(torch.float32):
        for t in range(1, 30):
            w.grad = torch.tensor([float(t % 4 - 1)], dtype=torch.float64)
            optimizer.step()
            weight = t**0.5 * (0.1 * min(t / 3, 1)) ** 2
            total, mean = total + weight, mean + weight * optimizer.state[w]["z"].item()
        with optimizer.averaged():
            assert w.item() == pytest.approx(mean / total, rel=1e-13)


@every
def test_a_state_of_float32_counters_steps_by_the_kernel(cls):
    _, optimizer, _ = trained(cls)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry.update({key: entry[key].float() for key in ("step", "weight_sum", "lr_max")})
    other = model()
    resumed = cls(other.parameters(), fused=True)
    resumed.load_state_dict(state)
    train(other, resumed, [4])
    assert resumed.state[other[0].weight]["step"].dtype == torch.float32
