"""Clipping inside the step, and steps whose gradients are not finite."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import piste
from piste.errors import InvalidValue
from piste.optim import OPTIMIZERS, clipping

from .cases import ELEMENTWISE
from .reference import PAIRS

FUSED = pytest.mark.parametrize("fused", [None, False])
SHAPES = ((300, 40), (7,), ())


def params(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in SHAPES]


def set_gradients(given, step, size=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for p in given:
        p.grad = size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def updates(made, before):
    return [p.detach() - b for p, b in zip(made, before, strict=True)]


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.usefixtures("double_scalars")
@FUSED
@pytest.mark.parametrize("name", PAIRS)
def test_max_norm_is_clip_grad_norm_before_the_step(name, fused):
    ours, theirs = params(), params()
    a, b = PAIRS[name][0](ours, fused=fused, max_norm=0.5), PAIRS[name][1](theirs)
    for step, size in enumerate((1.0, 1e-4, 30.0)):  # clipped, below the norm, clipped
        set_gradients(ours, step, size)
        set_gradients(theirs, step, size)
        gradients = [p.grad.clone() for p in ours]
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        before = [p.detach().clone() for p in ours], [p.detach().clone() for p in theirs]
        a.step()
        b.step()
        torch.testing.assert_close(a.grad_norm, norm)
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, gradients, strict=True))
        torch.testing.assert_close(updates(ours, before[0]), updates(theirs, before[1]), rtol=1e-7, atol=1e-12)


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.usefixtures("double_scalars")
@FUSED
@pytest.mark.parametrize("name", PAIRS)
def test_max_value_is_clip_grad_value_before_the_step(name, fused):
    ours, theirs = params(), params()
    a, b = PAIRS[name][0](ours, fused=fused, max_value=0.3), PAIRS[name][1](theirs)
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        torch.nn.utils.clip_grad_value_(theirs, 0.3)
        a.step()
        b.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert a.grad_norm is None


@FUSED
def test_the_norm_is_that_of_all_groups_and_each_group_has_its_own_limit(fused):
    a, b, c = params()
    optimizer = piste.optim.SGD([{"params": [a], "max_norm": 1.0}, {"params": [b]}, {"params": [c], "max_value": 0.01}],
                                lr=1.0, fused=fused, max_norm=2.0)  # fmt: skip
    set_gradients([a, b, c], 0)
    before = [x.detach().clone() for x in (a, b, c)]
    norm = torch.sqrt(sum((x.grad**2).sum() for x in (a, b, c)))
    optimizer.step()
    torch.testing.assert_close(before[0] - a.detach(), a.grad * (1 / norm), rtol=1e-6, atol=0)
    torch.testing.assert_close(before[1] - b.detach(), b.grad * (2 / norm), rtol=1e-6, atol=0)
    torch.testing.assert_close(before[2] - c.detach(), (c.grad * (2 / norm)).clamp(-0.01, 0.01), rtol=1e-6, atol=0)


@pytest.mark.sample(1, per="name", of=8)
@FUSED
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_step_is_skipped_with_every_bit_untouched(name, bad, fused):
    made = params(torch.float32)
    optimizer = OPTIMIZERS[name](made, fused=fused, nonfinite="skip")
    for step in range(2):
        set_gradients(made, step)
        optimizer.step()
    before = [p.detach().clone() for p in made], copy.deepcopy(optimizer.state_dict())
    made[1].grad[3] = bad
    optimizer.step()
    assert optimizer.skipped == 1
    assert all(torch.equal(p.detach(), b) for p, b in zip(made, before[0], strict=True))
    now = optimizer.state_dict()["state"]
    for index, state in before[1]["state"].items():
        assert all(torch.equal(now[index][key], value) for key, value in state.items())
    set_gradients(made, 2)
    optimizer.step()
    assert optimizer.skipped == 1
    assert not torch.equal(made[1].detach(), before[0][1])


def test_large_finite_gradients_whose_norm_overflows_are_not_skipped():
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.full((3,), 3e38)
    optimizer = piste.optim.SGD([p], lr=1e-38, nonfinite="skip")
    optimizer.step()
    assert optimizer.skipped == 0
    torch.testing.assert_close(p.detach(), torch.full((3,), -3.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str
)
def test_devices_find_bad_values_whatever_the_size_and_dtype_of_gradients(dtype, bad):
    """GPUs sum sizes, which is the way for gradients that their kernels don't take."""
    largest = torch.finfo(dtype).max if dtype != torch.float64 else 1e300
    gradients = [torch.full((3,), largest, dtype=dtype), torch.zeros(0), torch.ones(2, 2), torch.eye(2).to_sparse()]
    assert not clipping.any_nonfinite(gradients)
    assert not clipping.any_nonfinite([])
    for k in (0, 2):
        wrong = [g.clone() for g in gradients]
        wrong[k].view(-1)[1] = bad
        assert clipping.any_nonfinite(wrong)


def test_a_gradient_that_is_not_finite_is_named_before_anything_changes():
    model = torch.nn.Linear(3, 2)
    optimizer = piste.optim.Adam(model.named_parameters(), nonfinite="raise")
    model(torch.ones(1, 3)).sum().backward()
    model.bias.grad[1] = float("inf")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(InvalidValue) as error:
        optimizer.step()
    assert str(error.value) == (
        'Adam: nonfinite="raise" requires finite gradients; received inf and 0 more among the 2 values of the gradient '
        "of parameter 1 (bias) in param group 0. No parameter has changed in this step. Help: "
        'nonfinite="skip" leaves such steps out; a smaller learning rate, max_norm=1.0 or a look at the loss for 0/0 '
        "and log(0) may prevent them."
    )
    assert all(torch.equal(p.detach(), b) for p, b in zip(model.parameters(), before, strict=True))
    assert not optimizer.state_dict()["state"]


@FUSED
def test_gradients_of_16_bits_are_reduced_in_float32(fused):
    p = torch.zeros(4096, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.full((4096,), 0.1, dtype=torch.bfloat16)
    optimizer = piste.optim.SGD([p], lr=1.0, max_norm=1.0, fused=fused)
    optimizer.step()
    assert optimizer.grad_norm.dtype == torch.float32
    torch.testing.assert_close(optimizer.grad_norm, p.grad.float().norm())
    torch.testing.assert_close(p.detach(), -(p.grad.float() / p.grad.float().norm()).bfloat16())


def test_sparse_gradients_are_clipped_by_their_values():
    weight = torch.zeros(5, 2, requires_grad=True)
    optimizer = piste.optim.SGD([weight], lr=1.0, max_norm=1.0)
    weight.grad = torch.sparse_coo_tensor([[1, 1]], [[3.0, 0.0], [0.0, 4.0]], (5, 2))
    optimizer.step()
    expected = torch.zeros(5, 2)
    expected[1] = torch.tensor([-0.6, -0.8])
    torch.testing.assert_close(weight.detach(), expected)


def norm_of(given):
    return torch.sqrt(sum((p.grad**2).sum() for p in given if p.grad is not None))


def test_the_norm_follows_gradients_that_come_move_and_go():
    made = params()
    optimizer = piste.optim.SGD(made, lr=0.1, max_norm=0.5)

    def assert_norm():
        optimizer.step()
        torch.testing.assert_close(optimizer.grad_norm, norm_of(made))

    for step, trained in enumerate([(0, 1, 2), (0,), (1, 2), (0, 1, 2), (0,), (2,), (0, 2), (1,), (0, 1)]):
        for p in made:
            p.grad = None
        set_gradients([made[i] for i in trained], step)
        assert_norm()
        made[trained[0]].grad *= 2  # in place
        assert_norm()
    made[0].grad = torch.ones(40, 300, dtype=torch.float64).t()
    assert_norm()
    made[0].data = made[0].data.clone()
    assert_norm()
    made.append(torch.ones(3, dtype=torch.float64, requires_grad=True))
    optimizer.add_param_group({"params": made[-1:]})
    set_gradients(made, 20)
    assert_norm()


def test_a_sparse_gradient_may_become_dense():
    weight = torch.zeros(5, 2, requires_grad=True)
    optimizer = piste.optim.SGD([weight], lr=0.1, max_norm=1.0)
    for gradient in (torch.ones(5, 2).to_sparse(1), torch.ones(5, 2), 2 * torch.ones(5, 2), torch.ones(5, 2)):
        weight.grad = None
        weight.grad = gradient
        optimizer.step()
        torch.testing.assert_close(optimizer.grad_norm, gradient.to_dense().norm())


def test_a_skipped_step_counts_no_version_of_a_parameter():
    made = params()
    optimizer = piste.optim.SGD(made, lr=0.1, nonfinite="skip")
    for bad in (False, True):
        set_gradients(made, 0)
        if bad:
            made[0].grad[0, 0] = float("nan")
        before = [p._version for p in made]
        optimizer.step()
        assert ([p._version for p in made] == before) is bad


@pytest.mark.parametrize("source", ["piste", "torch"])
def test_a_checkpoint_without_these_options_leaves_them_as_they_are(source):
    made = params()
    old = torch.optim.Adam(made) if source == "torch" else piste.optim.Adam(made)
    set_gradients(made, 0)
    old.step()
    saved = old.state_dict()
    for group in saved["param_groups"]:
        for name in ("max_norm", "max_value", "nonfinite"):
            group.pop(name, None)
    optimizer = piste.optim.Adam(params(), max_norm=0.5, max_value=0.25, nonfinite="skip")
    optimizer.load_state_dict(saved)
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("max_norm", "max_value", "nonfinite")] == [0.5, 0.25, "skip"]
    optimizer.load_state_dict(piste.optim.Adam(params(), max_norm=3.0).state_dict())
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("max_norm", "max_value", "nonfinite")] == [3.0, None, "ignore"]


def test_copies_count_their_own_skipped_steps():
    made = params()
    optimizer = piste.optim.Adam(made, nonfinite="skip")
    set_gradients(made, 0)
    made[0].grad[0, 0] = float("nan")
    optimizer.step()
    loaded = copy.deepcopy(optimizer)
    assert (optimizer.skipped, loaded.skipped) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 0.0}, r"`max_norm` must be in \(0, inf\); received max_norm=0.0."),
        ({"max_value": -1.0}, r"`max_value` must be in \(0, inf\); received max_value=-1.0."),
        ({"nonfinite": "skp"}, '`nonfinite` must be one of "ignore", "skip", "raise"; received \'skp\'. Did you mean'),
        (
            {"nonfinite": "raise", "capturable": True},
            'nonfinite="raise" reads the gradients on the host, so no CUDA graph can capture the step; received '
            'capturable=True too. Help: nonfinite="skip" leaves bad steps out on the device.',
        ),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InvalidValue, match=message):
        piste.optim.Adam(params(), **options)


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_the_options_of_keras_name_these(name):
    with pytest.raises(piste.errors.InvalidType, match="`max_norm` clips to the norm of all gradients, `max_value` by"):
        piste.optim.Adam(params(), **{name: 1.0})


def test_a_schedule_that_sets_a_wrong_norm_changes_nothing():
    made = params()
    optimizer = piste.optim.Adam(made, max_norm=1.0)
    set_gradients(made, 0)
    optimizer.step()
    optimizer.param_groups[0]["max_norm"] = -1.0
    before = made[0].detach().clone()
    with pytest.raises(InvalidValue, match=r"set max_norm=-1\.0 in param group 0 of Adam"):
        optimizer.step()
    assert torch.equal(made[0].detach(), before)


def test_torch_compile_clips_too():
    ours, theirs = params(torch.float32), params(torch.float32)
    a, b = piste.optim.SGD(ours, lr=1.0, max_norm=0.5), piste.optim.SGD(theirs, lr=1.0, max_norm=0.5, fused=False)
    step = torch.compile(a.step, backend="eager")
    for i in range(2):
        set_gradients(ours, i)
        set_gradients(theirs, i)
        step()
        b.step()
    torch.testing.assert_close(ours, theirs)


def test_a_compiled_step_with_a_gradient_that_is_not_finite_is_skipped():
    made = params()
    optimizer = piste.optim.Adam(made, nonfinite="skip")
    step = torch.compile(optimizer.step, backend="eager")
    for bad in (False, True, False):
        set_gradients(made, 0)
        if bad:
            made[0].grad[0, 0] = float("nan")
        before = made[0].detach().clone()
        step()
        assert torch.equal(made[0], before) is bad
    assert optimizer.skipped == 1
