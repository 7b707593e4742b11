"""Prodigy: the oracle of its paper over several parameters, the numbers of its groups, checkpoints and refusals."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import piste
from piste import optim
from piste.errors import InvalidValue, Unsupported
from tests.oracle.prodigy import prodigy

from .prodigy_cases import EARLY, gradient_of, names
from .reference import assert_same, model, train
from .rejections import assert_rejected

FUSED = pytest.mark.parametrize("fused", [None, False])


@FUSED
@pytest.mark.parametrize("sign", [1, -1], ids=["minimize", "maximize"])
def test_several_groups_take_the_steps_of_the_paper_with_one_estimate(fused, sign):
    shapes, rates = [(3, 2), (4,), (1,)], [1.0, 1.0, 0.5, 0.5, 0.25, 1.0, 0.0, 0.75]
    params = [gradient_of(100 + i, shape).requires_grad_() for i, shape in enumerate(shapes)]
    start = torch.cat([p.detach().flatten() for p in params]).tolist()
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = optim.Prodigy(groups, **EARLY, weight_decay=0.1, maximize=sign < 0, fused=fused)
    flat, found = [], []
    for t, rate in enumerate(rates):
        for i, p in enumerate(params):
            p.grad = sign * gradient_of(10 * t + i, p.shape)
        flat.append(torch.cat([sign * p.grad.flatten() for p in params]).tolist())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        found.append(
            {"d": names(optimizer.param_groups[1])["d"], "x": torch.cat([p.detach().flatten() for p in params])}
        )
        for key in ("exp_avg", "exp_avg_sq", "s"):
            found[-1][key] = torch.cat([optimizer.state[p][key].flatten() for p in params])
    keys = {"x": "x", "m": "exp_avg", "v": "exp_avg_sq", "s": "s"}
    expected = prodigy(start, flat, lr=rates, d0=1e-2, beta1=0.5, beta2=0.75, decay=0.1)
    for ours, theirs in zip(found, expected, strict=True):
        for key, name in keys.items():
            torch.testing.assert_close(ours[name].tolist(), theirs[key], rtol=1e-10, atol=1e-14)
        assert ours["d"] == pytest.approx(theirs["d"], rel=1e-10)
    assert expected[-1]["d"] > 3e-2
    first, second = map(names, optimizer.param_groups)
    assert first == second and first["k"] == len(rates) and first["d"] == first["d_max"]


@FUSED
def test_the_learning_rate_is_found(fused):
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 1)
    x = torch.randn(64, 8)
    y = x @ torch.arange(8.0).reshape(8, 1) + 3
    optimizer = optim.Prodigy(net.parameters(), use_bias_correction=True, fused=fused)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert float(optimizer.param_groups[0]["d"]) > 0.1


@FUSED
def test_a_parameter_that_had_no_gradient_joins_with_the_estimate_of_the_others(fused):
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = optim.Prodigy(params, **EARLY, fused=fused)
    for t in range(6):
        params[0].grad = torch.ones(3)
        if t == 5:
            d = float(optimizer.param_groups[0]["d"])
            params[1].grad = torch.ones(3)
        optimizer.step()
    assert d > 0.03
    # m = 0.5 d, sqrt(v) = 0.5 d
    torch.testing.assert_close(params[1].detach(), torch.full((3,), 1 - d))


def test_a_step_without_gradients_changes_nothing_and_warns():
    p = torch.ones(2, requires_grad=True)
    optimizer = optim.Prodigy([p], **EARLY)
    with pytest.warns(UserWarning, match="no parameter has a gradient"):
        optimizer.step()
    assert names(optimizer.param_groups[0]) == {"d": 1e-2, "d_max": 1e-2, "d_numerator": 0.0, "k": 0.0}


@FUSED
def test_gradients_of_zero_leave_the_estimate(fused):
    p = torch.ones(2, requires_grad=True)
    optimizer = optim.Prodigy([p], **EARLY, fused=fused, eps=0.5)
    p.grad = torch.zeros(2)
    optimizer.step()
    assert p.tolist() == [1.0, 1.0]
    assert names(optimizer.param_groups[0]) == {"d": 1e-2, "d_max": 1e-2, "d_numerator": 0.0, "k": 1.0}


@pytest.mark.parametrize("path", ["dict", "torch.save", "piste.optim.save", "pickle", "deepcopy"])
@pytest.mark.parametrize("options", [{}, {"state_dtype": "int8"}, {"state_dtype": "bfloat16"}], ids=str)
def test_a_checkpoint_resumes_the_run_bit_for_bit(path, options, tmp_path):
    net = model(torch.float32)
    make = lambda net: optim.Prodigy(  # noqa: E731
        [{"params": [p], "weight_decay": 0.1 * (p.dim() > 1)} for p in net.parameters()], **EARLY, **options
    )
    optimizer = make(net)
    train(net, optimizer, range(4))
    resumed, loaded = copy.deepcopy((net, optimizer)) if path == "deepcopy" else (copy.deepcopy(net), None)
    if path == "pickle":
        resumed, loaded = pickle.loads(pickle.dumps((net, optimizer)))
    elif path == "dict":
        loaded = make(resumed)
        loaded.load_state_dict(optimizer.state_dict())
    elif path == "torch.save":
        loaded, file = make(resumed), io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    elif path == "piste.optim.save":
        loaded = make(resumed)
        optim.save(optimizer, tmp_path / "o.safetensors")
        optim.load(loaded, tmp_path / "o.safetensors")
    before = names(optimizer.param_groups[0])
    train(resumed, loaded, range(4, 8))
    assert names(optimizer.param_groups[0]) == before  # nothing is shared
    train(net, optimizer, range(4, 8))
    assert all(map(torch.equal, net.parameters(), resumed.parameters()))
    assert names(optimizer.param_groups[0]) == names(loaded.param_groups[2]) != before


def test_kept_hyperparameters_leave_the_estimate_to_the_checkpoint():
    net = model()
    optimizer = optim.Prodigy(net.parameters(), **EARLY)
    train(net, optimizer, range(4))
    loaded = optim.Prodigy(net.parameters(), **EARLY, d_coef=0.5)
    loaded.load_state_dict(optimizer.state_dict(), hyperparameters="keep")
    assert loaded.param_groups[0]["d_coef"] == 0.5
    assert names(loaded.param_groups[0]) == names(optimizer.param_groups[0])


def test_a_new_group_has_the_estimate_of_the_others():
    net = model()
    optimizer = optim.Prodigy([net[0].weight], **EARLY)
    train(net, optimizer, range(4))
    optimizer.add_param_group({"params": list(net[2].parameters())})
    assert names(optimizer.param_groups[1]) == names(optimizer.param_groups[0])
    train(net, optimizer, [5])
    assert names(optimizer.param_groups[1]) == names(optimizer.param_groups[0])


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.5), ("d_coef", 2.0), ("betas", (0.5, 0.8)), ("safeguard_warmup", True)]
)
def test_groups_that_differ_in_options_of_the_sums_are_refused_before_anything_moves(name, value):
    params = [torch.ones(2, requires_grad=True) for _ in range(2)]
    optimizer = optim.Prodigy([{"params": params[:1]}, {"params": params[1:], name: value}])
    for p in params:
        p.grad = torch.ones(2)
    with pytest.raises(InvalidValue) as error:
        optimizer.step()
    zero = ", or 0" if name == "lr" else ""
    first = optimizer.param_groups[0][name]
    assert str(error.value) == (
        f"`{name}` must be the same in all param groups of Prodigy, which adds over all parameters{zero}; received "
        f"{name}={first!r} in param group 0 and {name}={value!r} in param group 1. No parameter has changed in this "
        "step."
    )
    assert all(p.tolist() == [1.0, 1.0] for p in params) and not optimizer.state


@FUSED
def test_a_group_with_a_learning_rate_of_0_stays_and_adds_nothing(fused):
    params = [torch.ones(2, requires_grad=True) for _ in range(2)]
    optimizer = optim.Prodigy([{"params": params[:1]}, {"params": params[1:], "lr": 0.0}], **EARLY, fused=fused)
    alone = torch.ones(2, requires_grad=True)
    other = optim.Prodigy([alone], **EARLY, fused=fused)
    for t in range(5):
        for p in (*params, alone):
            p.grad = gradient_of(t, (2,)).float()
        optimizer.step()
        other.step()
    assert torch.equal(params[0], alone) and params[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta3": 1.0}, "`beta3` must be in [0, 1); received beta3=1.0."),
        ({"d0": 0.0}, "`d0` must be in (0, inf); received d0=0.0."),
        ({"d_coef": 0}, "`d_coef` must be in (0, inf); received d_coef=0.0."),
        ({"growth_rate": 0.5}, "`growth_rate` must be in [1, inf]; received growth_rate=0.5."),
        (
            {"decoupled_decay": "independent"},
            '`decoupled_decay` must be None or "lr" for Prodigy, whose learning rate is found in the training; '
            'received decoupled_decay="independent".',
        ),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options, message):
    text = assert_rejected(InvalidValue, lambda: optim.Prodigy([torch.ones(1, requires_grad=True)], **options))
    assert text == message


def test_a_step_in_the_backward_pass_is_refused():
    optimizer = optim.Prodigy(model().parameters())
    with (
        pytest.raises(Unsupported, match="and Prodigy adds over all parameters"),
        optimizer.step_in_backward(),
    ):
        pass


@FUSED
def test_clipped_gradients_are_those_of_the_sums_too(fused):
    ours, theirs = (gradient_of(9, (5,)).requires_grad_() for _ in range(2))
    a = optim.Prodigy([ours], **EARLY, max_norm=0.5, fused=fused)
    b = optim.Prodigy([theirs], **EARLY, fused=fused)
    for t in range(6):
        ours.grad = gradient_of(t, (5,))
        theirs.grad = ours.grad * (0.5 / (ours.grad.norm() + 1e-6)).clamp(max=1.0)
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert names(a.param_groups[0])["d"] == pytest.approx(names(b.param_groups[0])["d"], rel=1e-9)


@FUSED
def test_a_skipped_step_leaves_the_estimate(fused):
    p = torch.ones(2, requires_grad=True)
    optimizer = optim.Prodigy([p], **EARLY, nonfinite="skip", fused=fused)
    for g in (1.0, 0.5):
        p.grad = torch.full((2,), g)
        optimizer.step()
    before = names(optimizer.param_groups[0])
    p.grad = torch.tensor([1.0, float("nan")])
    optimizer.step()
    assert names(optimizer.param_groups[0]) == before and optimizer.skipped == 1


@FUSED
@pytest.mark.parametrize("precision", ["master", "kahan"])
def test_16_bit_weights_with_their_rest_move_like_float32_ones(precision, fused):
    wide = gradient_of(9, (64,)).bfloat16().float().requires_grad_()
    narrow = wide.detach().bfloat16().requires_grad_()
    a = optim.Prodigy([wide], fused=fused)
    b = optim.Prodigy([narrow], fused=fused, precision=precision, state_dtype="float32")
    for t in range(40):
        narrow.grad = (gradient_of(0, (64,)) + 0.1 * gradient_of(t, (64,))).bfloat16()
        wide.grad = narrow.grad.float()
        a.step()
        b.step()
    estimates = [names(o.param_groups[0])["d"] for o in (a, b)]
    assert estimates[0] > 1e-5
    assert estimates[1] == pytest.approx(estimates[0], rel=1e-3 if precision == "master" else 0.2)


@FUSED
def test_sums_read_weights_that_are_rounded_at_random_as_they_are(fused):
    found = []
    rounded = {"precision": "stochastic", "state_dtype": "float32"}
    for dtype, options in ((torch.float32, {}), (torch.bfloat16, rounded)):
        p = torch.zeros(3, dtype=dtype, requires_grad=True)
        optimizer = optim.Prodigy([p], d0=0.5, betas=(0.5, 0.75), fused=fused, **options)
        for _ in range(2):  # the first step moves p to -0.5, which both dtypes have
            p.grad = torch.ones_like(p)
            optimizer.step()
        found.append(names(optimizer.param_groups[0]))
    assert found[0] == found[1] and found[0]["d_numerator"] > 0


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_the_first_weights_keep_their_dtype_whatever_the_state_is(kind):
    p = torch.linspace(-1, 1, 700).requires_grad_()
    optimizer = optim.Prodigy([p], **EARLY, state_dtype=kind)
    for t in range(3):
        p.grad = gradient_of(t, p.shape).float()
        optimizer.step()
    state = optimizer.state[p]
    assert torch.equal(state["p0"], torch.linspace(-1, 1, 700))
    assert state["s"].dtype == getattr(torch, kind)


@pytest.mark.parametrize("kind", [None, "int8"])
def test_both_backends_step_alike(kind):
    nets = [model(torch.float32) for _ in range(2)]
    optimizers = [
        optim.Prodigy(net.parameters(), **EARLY, fused=f, state_dtype=kind, cautious=True)
        for net, f in zip(nets, (True, False), strict=True)
    ]
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer, range(6))
    assert_same(nets[0].parameters(), nets[1].parameters(), rtol=1e-4, atol=1e-5)


def test_complex_weights_step_as_pairs_of_real_ones():
    z = torch.tensor([1 + 2j, -0.5j], requires_grad=True)
    real = torch.view_as_real(z.detach()).clone().requires_grad_()
    a, b = (optim.Prodigy([p], **EARLY, fused=False) for p in (z, real))
    for t in range(4):
        real.grad = gradient_of(t, (2, 2)).float()
        z.grad = torch.view_as_complex(real.grad.clone())
        a.step()
        b.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), real.detach())


def test_a_recorded_step_has_the_gradient_of_its_estimate():
    def stepped(start):
        p = start.clone()
        optimizer = optim.Prodigy([p], d0=0.1, betas=(0.5, 0.75), differentiable=True)
        for _ in range(3):
            p.grad = start * start
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(stepped, torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_is_the_eager_one(backend):
    torch._dynamo.reset()
    nets = [model() for _ in range(2)]
    optimizers = [optim.Prodigy(net.parameters(), **EARLY, fused=False) for net in nets]
    compiled = torch.compile(optimizers[0].step, backend=backend)
    for t in range(4):
        for net, step in zip(nets, (compiled, optimizers[1].step), strict=True):
            train(net, type("Step", (), {"step": staticmethod(step)}), [t])
    assert_same(nets[0].parameters(), nets[1].parameters(), rtol=1e-9)
    assert names(optimizers[0].param_groups[0])["d"] == pytest.approx(names(optimizers[1].param_groups[0])["d"])


def test_capturable_keeps_the_numbers_in_tensors():
    nets = [model() for _ in range(2)]
    a, b = (optim.Prodigy(net.parameters(), **EARLY, capturable=c) for net, c in zip(nets, (True, False), strict=True))
    for net, optimizer in zip(nets, (a, b), strict=True):
        train(net, optimizer, range(4))
    assert_same(nets[0].parameters(), nets[1].parameters(), rtol=1e-9)


def test_the_backend_of_the_step_and_of_the_sums_is_named():
    optimizer = optim.Prodigy(model().parameters())
    assert optimizer.explain_backend() == (
        "Prodigy, group 0: 4 of 4 parameters by the fused CPU kernel, all in one pass; the sums over all parameters by "
        "the fused CPU kernel"
    )
    assert optim.Prodigy(model().parameters(), fused=False).explain_backend() == (
        "Prodigy, group 0: 4 of 4 parameters by the eager backend: fused=False asks for it; the sums over all "
        "parameters by torch operations"
    )


def test_the_explanation_has_the_sums_and_the_numbers_that_follow():
    text = str(piste.explain("prodigy", param=1.0, grad=0.5, d0=0.25, eps=0.0, steps=2))
    assert "travelled = the sum over all elements of d / d0 * lr' * g * (p0 - p)" in text
    # step 1: m = 0.1 d g, sqrt(v) = sqrt(0.001) d g, so p falls by d 0.1 / sqrt(0.001)
    moved = 0.25 * 0.1 / 0.001**0.5
    travelled = 0.25 * 0.5 * moved
    size = 0.25 * 0.5 * (1 + 0.999**0.5)
    assert f"travelled = {travelled:.6g}, a sum over all elements" in text
    assert f"size = {size:.6g}, a sum over all elements" in text
    assert f"= {travelled / size:.6g}\n  new_d_max" in text
