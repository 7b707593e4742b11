"""Cautious steps and the kinds of decoupled weight decay, which every rule takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu.backend import GpuBackend
from piste.errors import InvalidValue, Unsupported
from piste.optim import OPTIMIZERS
from piste.optim.composition import step_spec
from piste.optim.state import param_state

from .cases import ELEMENTWISE

AVERAGED = ("ScheduleFreeSGD", "ScheduleFreeAdamW")
RULES = [name for name in (*ELEMENTWISE, "Adafactor", "Muon", "NorMuon") if name not in AVERAGED]
READERS = ("LAMB", "LARS", "Adafactor")  # the size of their step is that of the shrunk weights
FUSED = pytest.mark.parametrize("fused", [None, False])
RATES = (0.1, 0.04, 0.05)
SHAPES = ((3, 4), (2, 2))

pytestmark = pytest.mark.usefixtures("double_scalars")


def params() -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in SHAPES]


def set_gradients(given: list[torch.Tensor], step: int) -> None:
    make = torch.Generator().manual_seed(step)
    for p in given:
        p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64)


def steps_from_the_same_state(name: str, ours: dict[str, Any], plain: dict[str, Any], fused: bool | None) -> Any:
    """Yield, for each step, the parameters before it, after it, and after it with the plain options."""
    made = params()
    optimizer = OPTIMIZERS[name](made, fused=fused, **({"lr": 0.1} | ours))
    for step, rate in enumerate(RATES):
        set_gradients(made, step)
        others = [p.detach().clone().requires_grad_() for p in made]
        for p, q in zip(made, others, strict=True):
            q.grad = p.grad.clone()
        other = OPTIMIZERS[name](others, fused=False, **({"lr": 0.1} | plain))
        saved = copy.deepcopy(optimizer.state_dict())
        other.load_state_dict(saved, hyperparameters="keep")
        before = [p.detach().clone() for p in made]
        optimizer.param_groups[0]["lr"] = other.param_groups[0]["lr"] = rate
        optimizer.step()
        other.step()
        for p, q in zip(made, others, strict=True):
            state = optimizer.state.get(p, {})
            assert all(torch.allclose(state[key], x) for key, x in other.state.get(q, {}).items() if key != "ax")
        yield before, made, others


@pytest.mark.sample(2, per="name", of=8)
@FUSED
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", [name for name in RULES if name != "ASGD"])
def test_a_cautious_step_keeps_what_descends_and_enlarges_it(name, maximize, fused):
    options = {"weight_decay": 0.0, "maximize": maximize} if name != "Rprop" else {"maximize": maximize}
    masked = 0
    for before, made, others in steps_from_the_same_state(name, options | {"cautious": True}, options, fused):
        for start, p, q in zip(before, made, others, strict=True):
            d = start - q.detach()  # the step that is subtracted
            agrees = d * (-p.grad if maximize else p.grad) > 0
            expected = start - agrees * d * (agrees.numel() / (agrees.sum() + 1))
            torch.testing.assert_close(p.detach(), expected, rtol=1e-9, atol=1e-12)
            masked += int((~agrees).sum())
    assert masked > 0 or name in ("SGD", "Adagrad", "Adadelta", "RMSprop", "Adafactor")  # these go along the gradient


@pytest.mark.sample(2, per="name", of=8)
@FUSED
@pytest.mark.parametrize("kind", ["lr", "independent", "lr_squared"])
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("Rprop", *READERS)])
def test_the_weights_shrink_by_the_share_of_the_kind(name, kind, fused):
    """Rules that read no weight move alike from p, so that p after the step shows the share by which it shrank."""
    plain = {"lambd": 0.0} if name == "ASGD" else {}
    ours = {"weight_decay": 0.25, "decoupled_decay": kind, **plain}
    share = {
        "lr": lambda lr: lr * 0.25,
        "independent": lambda lr: 0.25 * lr / 0.1,
        "lr_squared": lambda lr: 0.25 * lr**2 / 0.1,
    }[kind]
    pairs = steps_from_the_same_state(name, ours, {"weight_decay": 0.0, **plain}, fused)
    for step, (before, made, others) in enumerate(pairs):
        lost = share(rate_of_the_step(name, step))
        for start, p, q in zip(before, made, others, strict=True):
            torch.testing.assert_close(p.detach(), q.detach() - lost * start, rtol=1e-9, atol=1e-12)


def rate_of_the_step(name: str, step: int) -> float:
    if name == "ADOPT" and step == 0:
        return 0.0
    return RATES[max(step - 1, 0)] if name == "ASGD" else RATES[step]  # its step prepares the rate of the next one


@FUSED
@pytest.mark.parametrize("name", READERS)
def test_rules_that_read_the_weights_step_from_the_shrunk_ones_without_their_own_decay(name, fused):
    for options, share in (
        ({"decoupled_decay": "lr"}, 0.25 * 0.1),
        ({"decoupled_decay": "independent", "lr_max": 0.4}, 0.25 * 0.25),
    ):
        made, others = params(), params()
        a = OPTIMIZERS[name](made, lr=0.1, weight_decay=0.25, fused=fused, **options)
        b = OPTIMIZERS[name](others, lr=0.1, weight_decay=0.0, fused=False)
        set_gradients(made, 0)
        set_gradients(others, 0)
        with torch.no_grad():
            for q in others:
                q.mul_(1 - share)
        a.step()
        b.step()
        torch.testing.assert_close(made, others, rtol=1e-9, atol=1e-12)


def test_the_largest_rate_is_that_of_the_new_group():
    schedule = partial_schedule()
    assert schedule.optimizer.param_groups[0]["lr_max"] == 0.1  # though the warmup has set the rate to 0.01
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def partial_schedule() -> Any:
    p = torch.ones(1, requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=0.1, weight_decay=0.5, decoupled_decay="independent")
    return piste.optim.lr_scheduler.WarmupConstantLR(optimizer, warmup_steps=10)


def test_independent_decay_follows_the_schedule():
    schedule = partial_schedule()
    (p,) = schedule.optimizer.param_groups[0]["params"]
    p.grad = torch.zeros(1)
    schedule.optimizer.step()
    assert p.item() == pytest.approx(1 - 0.5 * 0.1)


def test_a_checkpoint_keeps_kind_and_largest_rate():
    optimizer = partial_schedule().optimizer
    other = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=3.0, cautious=True)
    other.load_state_dict(optimizer.state_dict())
    (group,) = other.param_groups
    assert (group["decoupled_decay"], group["lr_max"], group["cautious"]) == ("independent", 0.1, False)
    torchs = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.2)
    other.load_state_dict(torchs.state_dict())
    assert (other.param_groups[0]["decoupled_decay"], other.param_groups[0]["lr"]) == ("independent", 0.2)


def test_a_tensor_whose_step_ascends_everywhere_stays():
    p = torch.zeros(2, requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=1.0, momentum=0.9, cautious=True)
    for g in (1.0, -0.1):
        p.grad = torch.full((2,), g)
        before = p.tolist()
        optimizer.step()
    assert p.tolist() == before == pytest.approx([-2 / 3] * 2)


def test_both_options_are_in_the_kernel():
    p = torch.zeros(2, requires_grad=True)
    options = {"weight_decay": 0.1, "decoupled_decay": "independent", "cautious": True}
    assert piste.optim.Adam([p], **options).explain_backend() == (
        "Adam, group 0: 1 of 1 parameters by the fused CPU kernel, all together, in 2 passes"
    )


@pytest.mark.parametrize("kind", ["lr", "independent", "lr_squared"])
def test_the_gpu_backend_takes_every_kind_of_decay(kind):
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = piste.optim.Adam([p], weight_decay=0.1, decoupled_decay=kind)
    (group,) = optimizer.param_groups
    spec = step_spec(type(optimizer), group)
    assert GpuBackend().why_not_step(spec, param_state(optimizer, p, group), group) is None


REFUSED = [
    ("ASGD", {"cautious": True}, "`cautious` must be False for ASGD, because its average takes the whole step; "
     "received cautious=True."),
    ("ScheduleFreeSGD", {"cautious": True}, "`cautious` must be False for ScheduleFreeSGD, because its state and its "
     "weights move by the same step; received cautious=True."),
    ("ScheduleFreeAdamW", {"decoupled_decay": "lr"}, "`decoupled_decay` must be None for ScheduleFreeAdamW, because "
     "its weights are an average, which the decay would have to follow; received decoupled_decay='lr'."),
    ("SparseAdam", {"cautious": True}, "`cautious` must be False for SparseAdam, because the elements that a sparse "
     "gradient lacks have no sign; received cautious=True."),
    ("LBFGS", {"cautious": True}, "`cautious` must be False for LBFGS, because its line search moves all parameters "
     "along one direction; received cautious=True."),
    ("Rprop", {"decoupled_decay": "lr"}, "`decoupled_decay` must be None for Rprop, because it has no option "
     '`weight_decay`; received decoupled_decay="lr".'),
    ("SGD", {"decoupled_decay": "both"}, '`decoupled_decay` must be None or "lr" or "independent" or "lr_squared"; '
     "received 'both'."),
    ("SGD", {"lr_max": 0.1}, '`lr_max` is for decoupled_decay="independent" or "lr_squared"; received lr_max=0.1 and '
     "decoupled_decay=None. Help: leave lr_max out."),
    ("SGD", {"lr_max": 0.0}, "`lr_max` must be in (0, inf); received lr_max=0.0."),
    ("SGD", {"weight_decay": 1.5, "decoupled_decay": "independent"}, "weight_decay must be in [0, 1] with "
     'decoupled_decay="independent", or the decay overshoots 0; received weight_decay=1.5. Help: usual values are lr '
     "times those of AdamW, such as 1e-5."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_an_optimizer_cannot_have_is_refused(name, options, message):
    with pytest.raises(InvalidValue) as caught:
        OPTIMIZERS[name]([torch.ones(2, 2, requires_grad=True)], **options)
    assert str(caught.value) == message


def test_a_kind_that_needs_the_largest_rate_is_refused_without_it_before_anything_moves():
    p = torch.ones(1, requires_grad=True)
    p.grad = torch.ones(1)
    optimizer = piste.optim.SGD([p], weight_decay=0.1)
    optimizer.param_groups[0]["decoupled_decay"] = "independent"
    with pytest.raises(InvalidValue) as caught:
        optimizer.step()
    assert str(caught.value) == (
        '`lr_max` must be in (0, inf) for decoupled_decay="independent"; received lr_max=None. Help: pass the largest '
        "learning rate of the schedule, or set decoupled_decay when the group is made."
    )
    assert p.item() == 1


def test_sparse_gradients_have_no_cautious_step():
    p = torch.ones(3, 1, requires_grad=True)
    p.grad = torch.tensor([[1.0], [0.0], [0.0]]).to_sparse(1)
    with pytest.raises(Unsupported, match="cautious=True is not compatible with sparse gradients, whose missing"):
        piste.optim.SGD([p], cautious=True).step()
