"""Every scheduler of torch.optim changes the options of Piste's optimizers as in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from piste.optim import OPTIMIZERS

from .reference import (
    PAIRS,
    assert_agree,
    assert_same,
    backward,
    paired_with_torch,
    train,
)

pytestmark = pytest.mark.usefixtures("double_scalars")


paired = pytest.mark.parametrize("name", PAIRS)


SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda e: 0.9**e),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda e: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=2, gamma=0.3),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 4], gamma=0.3),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.3, total_iters=3),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.7),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=5, power=2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=4),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=3),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=3), schedulers.ExponentialLR(o, gamma=0.5)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, factor=0.1, total_iters=2), schedulers.ExponentialLR(o, gamma=0.9)]
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=cycles(o)),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=cycles(o)),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, factor=0.5, threshold=0.5),
}


def cycles(optimizer):
    return any(key in optimizer.defaults for key in ("momentum", "betas"))


@pytest.mark.sample(3, per="name", of=8)
@pytest.mark.parametrize("kind", SCHEDULERS)
@paired
def test_every_scheduler_has_the_effect_that_it_has_in_torch(name, kind):
    options = {"momentum": 0.9} if "momentum" in OPTIMIZERS[name]([torch.ones(1, requires_grad=True)]).defaults else {}
    ours, a, theirs, b = paired_with_torch(name, **options)
    runs = [(ours, a, SCHEDULERS[kind](a)), (theirs, b, SCHEDULERS[kind](b))]
    for t in range(7):
        for net, optimizer, scheduler in runs:
            loss = backward(net, t)
            optimizer.step()
            scheduler.step(*([loss.detach()] if kind == "ReduceLROnPlateau" else []))
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]
    assert_agree(ours, a, theirs, b)


def test_every_scheduler_of_torch_is_tried():
    known = {
        name
        for name, cls in vars(schedulers).items()
        if isinstance(cls, type) and issubclass(cls, schedulers.LRScheduler) and not name.startswith("_")
    }
    assert known - {"LRScheduler"} <= SCHEDULERS.keys()


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_a_schedule_continues_after_a_checkpoint(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=8, cycle_momentum=cycles(optimizer))
        for t in range(3):
            train(net, optimizer, [t])
            scheduler.step()
        saved = optimizer.state_dict(), scheduler.state_dict()
        optimizer = type(optimizer)(net.parameters())
        scheduler = schedulers.OneCycleLR(optimizer, 0.2, total_steps=9, cycle_momentum=cycles(optimizer))
        optimizer.load_state_dict(saved[0])
        scheduler.load_state_dict(saved[1])
        for t in range(3, 7):
            train(net, optimizer, [t])
            scheduler.step()
    assert_same(ours.parameters(), theirs.parameters())
