"""Precision of 16-bit parameters and dtypes of state: small updates add up, on every backend alike."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import piste
from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS as ALL
from piste.optim import lost_updates

from .backends import assert_close, states
from .cases import OPTIONS, fullest

# LBFGS refuses it; SparseAdam takes sparse gradients alone; Prodigy and rules of matrices have their own tests.
OTHERS = {"LBFGS", "Muon", "NorMuon", "Prodigy", "SOAP", "SparseAdam"}
OPTIMIZERS = {name: cls for name, cls in ALL.items() if name not in OTHERS}
NARROW = (torch.bfloat16, torch.float16)
MODES = ("kahan", "master", "stochastic")
KEYS = {"kahan": {"compensation"}, "master": {"master"}, "stochastic": {"rounding_key", "rounding_step"}}


def ones(dtype=torch.bfloat16, size=400):
    return torch.ones(size, dtype=dtype).requires_grad_()


def walk(name, p, steps=200, **options):
    """Step down a slope of 1, and return the optimizer."""
    optimizer = OPTIMIZERS[name]([p], **options)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return optimizer


# Rprop doubles its steps as long as the sign of the gradient stays; a step of Adadelta from rest is 1e-6 of its rate.
SLOW = sorted(set(OPTIMIZERS) - {"Rprop", "Adadelta"})


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("precision", MODES)
@pytest.mark.parametrize("name", SLOW)
def test_200_small_steps_of_a_bfloat16_parameter_land_where_float32_does(name, precision):
    wide, narrow = ones(torch.float32), ones()
    lr = 0.2 if name == "LARS" else 1e-3  # which trust_coefficient, 1e-3, multiplies
    walk(name, wide, lr=lr, fused=False)
    walk(name, narrow, lr=lr, precision=precision, state_dtype="float32", fused=False)
    assert wide[0].item() < 0.98  # far from where plain bfloat16 stands
    assert narrow.float().mean().item() == pytest.approx(wide[0].item(), rel=0.01)


@pytest.mark.parametrize("precision", MODES)
def test_adam_keeps_small_updates_with_16_bit_state(precision):
    for dtype in NARROW:
        p = ones(dtype)
        walk("Adam", p, lr=1e-3, precision=precision)
        assert p.float().mean().item() == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize("precision", MODES)
@pytest.mark.parametrize("dtype", NARROW)
def test_a_compiled_step_keeps_small_updates(dtype, precision):
    """Compiled code leaves out a conversion to 16 bits and back, and with it what a step keeps."""
    torch._dynamo.reset()
    p = ones(dtype)
    optimizer = OPTIMIZERS["SGD"]([p], lr=1e-4, precision=precision)
    step = torch.compile(optimizer.step, fullgraph=True)
    for _ in range(100):
        p.grad = torch.ones_like(p)
        step()
    assert p.float().mean().item() == pytest.approx(0.99, abs=2e-3 if dtype == torch.bfloat16 else 3e-4)


@pytest.mark.filterwarnings("ignore:.*rounded")
def test_plain_bfloat16_stands_still():
    p = ones()
    walk("Adam", p, lr=1e-3)
    assert torch.equal(p, ones())


def test_rounding_at_random_is_right_in_the_mean_over_seeds():
    ends = []
    for seed in range(20):
        p = ones(size=8)
        walk("SGD", p, lr=1e-3, precision="stochastic", rounding_seed=seed)
        ends.append(p.detach().float())
    found = torch.stack(ends)
    assert found.std() > 1e-3
    assert found.mean().item() == pytest.approx(0.8, rel=0.01)


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.bfloat16) for name in OPTIMIZERS if name in OPTIONS), ("NAdam", torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("precision", MODES)
def test_the_kernel_and_the_eager_backend_agree(name, precision, dtype):
    make = torch.Generator().manual_seed(3)
    start = [torch.randn(s, generator=make).to(dtype) for s in ((3, 5), (7,), (), (0,))]
    both = [[p.clone().requires_grad_() for p in start] for _ in range(2)]
    options = {**fullest(name), "precision": precision, "rounding_seed": 5}
    kernel, eager = (OPTIMIZERS[name](ps, **options, fused=f) for ps, f in zip(both, (True, False), strict=True))
    for _ in range(3):
        for p, q in zip(*both, strict=True):
            p.grad = torch.randn(p.shape, generator=make).to(dtype)
            q.grad = p.grad.clone()
        kernel.step()
        eager.step()
        if precision != "stochastic":  # where float32 differs in the last bit, so may the choice
            for p, q in zip(*both, strict=True):
                mine, theirs = ({**o.state[x], "p": x} for o, x in ((kernel, p), (eager, q)))
                if precision == "kahan":  # the sum is what both keep
                    for entry in (mine, theirs):
                        entry["p"] = entry.pop("compensation").float() + entry["p"].float()
                    assert_close([mine.pop("p")], [theirs.pop("p")], ulps=2**9)
                assert_close(mine.values(), theirs.values(), ulps=64)
        with torch.no_grad():
            for p, q in zip(*both, strict=True):
                q.copy_(p)
                for key, value in kernel.state[p].items():
                    eager.state[q][key].copy_(value)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("layout", ["dense", "transposed", "strided"])
def test_both_backends_round_by_the_same_bits(dtype, layout):
    """With exact arithmetic the backends agree to the last bit."""
    ends = []
    for fused in (True, False):
        whole = torch.ones(40, 60, dtype=dtype)
        p = {"dense": whole, "transposed": whole.T, "strided": whole[::2, 1::3]}[layout].detach().requires_grad_()
        optimizer = piste.optim.SGD([p], lr=2.0**-13, precision="stochastic", fused=fused)
        for _ in range(5):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends.append(p.detach().clone())
    assert len(ends[0].unique()) > 1
    assert torch.equal(*ends)


def test_rounding_depends_on_seed_tensor_and_step_and_not_on_threads():
    def run(seed, threads=1, steps=1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            ps = [ones(size=300_000), ones(size=300_000)]
            optimizer = piste.optim.SGD(ps, lr=1e-3, precision="stochastic", rounding_seed=seed, fused=True)
            for _ in range(steps):
                for p in ps:
                    p.grad = torch.ones_like(p)
                optimizer.step()
            return [p.detach() for p in ps]
        finally:
            torch.set_num_threads(before)

    first = run(1)
    assert torch.equal(first[0], run(1, threads=2)[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], run(2)[0])
    moved = [x < 1 for x in (first[0], run(1, steps=2)[0])]
    assert (moved[1] & ~moved[0]).any()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", MODES)
def test_a_resumed_run_goes_on_bit_for_bit(precision, fused, tmp_path):
    def step(net, optimizer):
        for p in net.parameters():
            p.grad = torch.full_like(p, 0.25)
        optimizer.step()

    net = nn.Linear(7, 3).bfloat16()
    optimizer = piste.optim.Adam(net.parameters(), lr=1e-3, precision=precision, fused=fused)
    step(net, optimizer)
    again = copy.deepcopy(net)
    resumed = piste.optim.Adam(again.parameters(), precision=precision, fused=fused)
    piste.optim.save(optimizer, tmp_path / "file")
    piste.optim.load(resumed, tmp_path / "file")
    for _ in range(3):
        step(net, optimizer)
        step(again, resumed)
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == {"step", "exp_avg", "exp_avg_sq", *KEYS[precision]}
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, resumed.state[q][key]) and value.dtype == resumed.state[q][key].dtype


def test_a_copy_of_another_shape_is_rejected():
    p = ones(size=3)
    optimizer = walk("SGD", p, steps=1, lr=0.1, precision="master")
    saved = optimizer.state_dict()
    saved["state"][0]["master"] = torch.zeros(2)
    with pytest.raises(InvalidValue, match=r"`master` of parameter 0 has shape \(2,\) in the checkpoint"):
        optimizer.load_state_dict(saved)


def test_torch_loads_such_a_checkpoint():
    p = ones(size=3)
    theirs = torch.optim.Adam([ones(size=3)])
    theirs.load_state_dict(walk("Adam", p, steps=2, lr=1e-3, precision="kahan").state_dict())
    assert theirs.state_dict()["state"][0]["step"].item() == 2


@pytest.mark.parametrize("fused", [True, False])
def test_a_parameter_that_was_set_between_steps_is_stepped_from_there(fused):
    p = ones(size=2)
    optimizer = walk("SGD", p, steps=3, lr=1e-3, precision="master", fused=fused)
    with torch.no_grad():
        p[0] = 5.0
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["master"], torch.tensor([4.999, 0.996]))


def test_wider_parameters_of_the_group_are_stepped_as_before():
    narrow, wide, reference = ones(size=4), ones(torch.float32, 4), ones(torch.float32, 4)
    optimizer = piste.optim.Adam([narrow, wide], precision="master")
    other = piste.optim.Adam([reference])
    for p in (narrow, wide, reference):
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    other.step()
    assert torch.equal(wide, reference)
    assert optimizer.state[wide].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state[narrow].keys() == {"step", "exp_avg", "exp_avg_sq", "master"}
    assert "2 of 2 parameters by the fused CPU kernel" in optimizer.explain()


def test_precision_may_change_during_a_run():
    p = ones(size=50)
    optimizer = piste.optim.SGD([p], lr=1e-3)
    for precision in ("kahan", "master", "stochastic"):
        optimizer.param_groups[0]["precision"] = precision
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
    assert p.float().mean().item() == pytest.approx(0.7, rel=0.01)


def test_clipping_and_skipping_hold_in_a_precision():
    p = ones(size=4)
    optimizer = piste.optim.SGD([p], lr=1e-2, precision="kahan", max_norm=1.0, nonfinite="skip")
    p.grad = torch.full_like(p, 100.0)
    optimizer.step()
    kept = optimizer.state[p]["compensation"].clone()
    torch.testing.assert_close(p.float() + kept.float(), torch.full((4,), 1 - 0.005), rtol=1e-4, atol=0)
    p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    assert optimizer.skipped == 1 and torch.equal(optimizer.state[p]["compensation"], kept)


def test_a_sparse_gradient_is_stepped_in_a_precision():
    for precision in MODES:
        net = nn.Embedding(5, 300, sparse=True).bfloat16()
        nn.init.ones_(net.weight)
        optimizer = piste.optim.SGD(net.parameters(), lr=1e-3, precision=precision)
        for _ in range(100):
            optimizer.zero_grad()
            net(torch.tensor([1, 3])).sum().backward()
            optimizer.step()
        assert net.weight[[0, 2, 4]].eq(1).all()
        assert net.weight[[1, 3]].float().mean().item() == pytest.approx(0.9, rel=0.01)


# --- the dtype of state -------------------------------------------------------------------------------------------


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.filterwarnings("ignore:.*rounded")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_has_the_dtype_that_is_asked_for_on_both_backends(name):
    for word, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        made = []
        for fused in (True, False):
            p = torch.linspace(-1, 1, 6).to(torch.bfloat16 if word == "float32" else torch.float32).requires_grad_()
            optimizer = OPTIMIZERS[name]([p], state_dtype=word, fused=fused)
            for _ in range(2):
                p.grad = torch.linspace(-2, 2, 6).to(p.dtype)
                optimizer.step()
            kept = {key: value for key, value in optimizer.state[p].items() if value.dim()}
            assert {value.dtype for value in kept.values()} <= {dtype}
            made.append((optimizer, p))
        assert_close(states(made[0][0]), states(made[1][0]), ulps=64)
        assert_close([made[0][1]], [made[1][1]], ulps=64)


def test_state_is_like_the_parameter_or_its_float32_copy():
    for precision, dtype in (("plain", torch.bfloat16), ("kahan", torch.bfloat16), ("master", torch.float32)):
        p = ones(size=3)
        optimizer = walk("Adam", p, steps=1, lr=0.1, precision=precision)
        assert optimizer.state[p]["exp_avg"].dtype == dtype


def test_complex_parameters_have_no_other_dtype_of_state():
    p = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(InvalidValue, match=r"`state_dtype` is for real parameters; received parameter 0 .*complex64"):
        piste.optim.Adam([p], state_dtype="float32")


# --- messages -----------------------------------------------------------------------------------------------------


def test_options_out_of_range_are_rejected():
    with pytest.raises(InvalidValue, match=r'`precision` must be one of "plain", .*; received \'kahn\'. Did you mean'):
        piste.optim.SGD([ones()], precision="kahn")
    with pytest.raises(
        InvalidValue, match=r'`state_dtype` must be None or "float32" or "bfloat16" or "int8"; received'
    ):
        piste.optim.SGD([ones()], state_dtype=torch.float64)
    with pytest.raises(InvalidValue, match=r"`rounding_seed` must be a whole number from 0 to 4294967295; received -1"):
        piste.optim.SGD([ones()], rounding_seed=-1)
    with pytest.raises(InvalidType, match="`rounding_seed` must be a whole number"):
        piste.optim.SGD([ones()], rounding_seed=0.5)
    with pytest.raises(InvalidValue, match=r'differentiable=True records .*; received precision="kahan"\. Help: leave'):
        piste.optim.SGD([ones()], precision="kahan", differentiable=True)


def test_lost_updates_are_reported_once():
    p = ones()
    with pytest.warns(UserWarning) as caught:
        walk("SGD", p, lr=1e-3)
    assert [str(w.message) for w in caught] == [
        "SGD.step() rounded 100% of its updates of bfloat16 parameters away: they are less than half the distance to "
        'the next number. Help: precision="kahan", "master" or "stochastic" keeps them; so do float32 parameters under '
        "torch.autocast."
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.bfloat16, {"lr": 0.1}),
        (torch.bfloat16, {"lr": 0.0}),
        (torch.float32, {"lr": 1e-9}),
        *((torch.bfloat16, {"lr": 1e-3, "precision": mode}) for mode in MODES),
    ],
)
def test_updates_that_are_kept_are_not_reported(dtype, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk("SGD", ones(dtype), steps=40, **options)


def test_entries_without_a_gradient_are_no_lost_updates():
    p = ones()
    optimizer = piste.optim.SGD([p], lr=0.1)
    p.grad = torch.zeros_like(p)
    p.grad[:40] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            optimizer.step()


def test_the_step_does_not_wait_for_the_count_of_lost_updates(monkeypatch):
    asked = []

    class Event:
        def query(self):
            asked.append(len(asked))
            return len(asked) > 3

    counted = lost_updates._counted
    monkeypatch.setattr(lost_updates, "_counted", lambda sample: [c._replace(arrived=Event()) for c in counted(sample)])
    p = ones()
    optimizer = piste.optim.SGD([p], lr=1e-3)
    p.grad = torch.ones_like(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):  # the first count is made in step 2, another one replaces it in step 4
            optimizer.step()
    assert len(asked) == 3
    with pytest.warns(UserWarning, match="rounded 100% of its updates"):
        optimizer.step()
    assert len(asked) == 4


def test_a_learning_rate_on_a_device_is_not_read():
    """A rate without values stands for one that the host would have to wait for."""
    p = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    group = {"params": [p], "precision": "plain", "capturable": False}
    assert len(lost_updates._sampled({**group, "lr": torch.zeros((), device="meta")})) == 1
    assert lost_updates._sampled({**group, "lr": torch.zeros(())}) == []


def test_updates_that_a_schedule_makes_too_small_are_reported_later():
    p = torch.full((400,), 100.0, dtype=torch.bfloat16, requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            p.grad = torch.ones_like(p)
            optimizer.step()
    optimizer.param_groups[0]["lr"] = 1e-3
    with pytest.warns(UserWarning, match="rounded 100% of its updates"):
        for _ in range(5):
            p.grad = torch.ones_like(p)
            optimizer.step()
