"""The options of every optimizer in rules of matrices: precision, state in 8 bits, and bad steps on the device."""

from __future__ import annotations

import pytest
import torch

from piste import optim
from piste.engine import decode_eight_bits, positions
from piste.optim import clipping
from piste.optim import optimizer as optimizer_module

FUSED = pytest.mark.parametrize("fused", [None, False])
NAMES = pytest.mark.parametrize("name", ["Muon", "NorMuon", "SOAP"])
MODES = ("kahan", "master", "stochastic")
OPTIONS = {
    "Muon": {"weight_decay": 0.0, "ns_dtype": "float32"},
    "NorMuon": {"weight_decay": 0.0, "ns_dtype": "float32"},
    "SOAP": {"weight_decay": 0.0, "eps": 1e-2, "precondition_frequency": 5},
}
SHAPES = ((12, 8), (8, 8), (12, 8))


def make(name, ps, **options):
    return getattr(optim, name)(ps, **{**OPTIONS[name], **options})


def gradient_of(t, shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(t)).bfloat16().to(dtype)


def params(dtype):
    return [gradient_of(100 + i, shape, dtype).requires_grad_() for i, shape in enumerate(SHAPES)]


def train(ps, optimizer, ts):
    for t in ts:
        for i, p in enumerate(ps):
            p.grad = gradient_of(10 * t + i, p.shape, p.dtype)
        optimizer.step()


def slope(name, dtype, steps=200, **options):
    """Return weights of 1 after steps of nearly 1e-3 down a slope."""
    p = torch.ones(20, 20, dtype=dtype, requires_grad=True)
    optimizer = make(name, [p], lr=0.02, **options)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return p.detach(), optimizer


@NAMES
@pytest.mark.filterwarnings("ignore:.*rounded")
def test_200_small_steps_of_a_bfloat16_matrix_land_where_float32_does(name):
    wide, _ = slope(name, torch.float32)
    assert wide.mean() < 0.9
    plain, _ = slope(name, torch.bfloat16, state_dtype="float32")
    assert plain.eq(1).all()
    for precision in MODES:
        narrow, _ = slope(name, torch.bfloat16, precision=precision, state_dtype="float32")
        assert narrow.float().mean().item() == pytest.approx(wide.mean().item(), rel=0.01), precision


@FUSED
@NAMES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_copy_of_master_takes_the_steps_of_a_float32_matrix(name, dtype, fused):
    narrow, wide = params(dtype), params(torch.float32)
    a = make(name, narrow, lr=0.02, precision="master", fused=fused)
    train(narrow, a, range(7))
    train(wide, make(name, wide, lr=0.02, fused=fused), range(7))
    for p, q in zip(narrow, wide, strict=True):
        torch.testing.assert_close(a.state[p]["master"], q.detach(), rtol=0, atol=1e-6)
        assert torch.equal(p.detach(), a.state[p]["master"].to(dtype))


@FUSED
@NAMES
def test_the_compensation_of_kahan_is_what_rounding_lost(name, fused):
    narrow, wide = params(torch.bfloat16), params(torch.float32)
    a = make(name, narrow, lr=0.02, precision="kahan", state_dtype="float32", fused=fused)
    train(narrow, a, range(7))
    train(wide, make(name, wide, lr=0.02, fused=fused), range(7))
    for p, q in zip(narrow, wide, strict=True):
        kept = a.state[p]["compensation"].float()
        assert kept.abs().max() > 1e-4
        torch.testing.assert_close(p.detach().float() + kept, q.detach(), rtol=0, atol=2e-4)


@NAMES
def test_rounding_at_random_depends_on_the_seed_and_is_right_in_the_mean(name):
    wide, _ = slope(name, torch.float32, steps=30)
    ends = [slope(name, torch.bfloat16, steps=30, precision="stochastic", rounding_seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert len(ends[0].unique()) > 1
    torch.testing.assert_close(ends[0].float().mean(), wide.mean(), rtol=2e-3, atol=0)


@FUSED
@NAMES
@pytest.mark.parametrize("state_dtype", [None, "int8"])
@pytest.mark.parametrize("precision", MODES)
def test_a_resumed_run_goes_on_bit_for_bit(name, precision, state_dtype, fused, tmp_path):
    ps = params(torch.bfloat16)
    options = {"lr": 0.02, "precision": precision, "state_dtype": state_dtype, "fused": fused}
    optimizer = make(name, ps, **options)
    train(ps, optimizer, range(3))
    others = [p.detach().clone().requires_grad_() for p in ps]
    again = make(name, others, **options)
    optim.save(optimizer, tmp_path / "file")
    optim.load(again, tmp_path / "file")
    train(ps, optimizer, range(3, 9))
    train(others, again, range(3, 9))
    for p, q in zip(ps, others, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == again.state[q].keys()
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, again.state[q][key]) and value.dtype == again.state[q][key].dtype, key


def numbers(state, key):
    return decode_eight_bits(state[key], state[key + "_scale"], positions([state[key]]))


@FUSED
def test_soap_keeps_its_averages_in_8_bits(fused):
    """Each number is one of the two next codes, so it is right to their distance: 4 / 127 of the scale at most."""
    narrow, wide = (torch.randn(30, 20, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    a = optim.SOAP([narrow], lr=0.1, eps=1e-2, state_dtype="int8", fused=fused)
    b = optim.SOAP([wide], lr=0.1, eps=1e-2, fused=fused)
    train([narrow], a, range(2))
    train([wide], b, range(2))
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-6)  # the first step begins with averages of 0
    for key in ("exp_avg", "exp_avg_sq"):
        assert a.state[narrow][key].dtype == torch.int8 and a.state[narrow][key + "_scale"].shape == (3,)
        scale = a.state[narrow][key + "_scale"].repeat_interleave(256)[:600].view(30, 20)
        share = (b.state[wide][key].abs() / scale) ** 0.25
        distance = (numbers(a.state[narrow], key) - b.state[wide][key]).abs() / scale
        assert (distance <= (share + 1.01 / 127) ** 4 - share**4 + 1e-6).all()
        assert distance.max() > 1e-3
    assert {a.state[narrow][key].dtype for key in ("GG", "Q")} == {torch.float32}


def test_a_step_of_soap_renews_the_codes_with_other_noise():
    p = torch.zeros(40, 40, requires_grad=True)
    optimizer = optim.SOAP([p], betas=(0.5, 0.5), state_dtype="int8")
    train([p], optimizer, range(2))
    state, found = optimizer.state[p], []
    for key in ("exp_avg", "exp_avg_sq"):
        found.append((state["exp_avg"].clone(), numbers(state, key)))
    assert state["rounding_step"] == 2
    assert not torch.equal(found[0][1], found[1][1])


def test_a_rule_of_matrices_may_keep_8_bits_on_both_sides_of_the_stage():
    class Averaged(optim.Optimizer):
        options = {"lr": optim.SGD.options["lr"]}
        buffers = {"first": "b", "second": "v"}

        def before(g, b):
            return b + g, b + g

        def matrix(u, v):
            return v, v + u.flatten(1)

    ends = []
    for state_dtype in (None, "int8"):
        p = torch.zeros(16, 32, requires_grad=True)
        optimizer = Averaged([p], lr=1.0, state_dtype=state_dtype)
        for _ in range(4):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends.append((p.detach(), optimizer.state[p]))
    assert ends[0][0].eq(-(0 + 1 + 3 + 6)).all()
    torch.testing.assert_close(*(end[0] for end in ends))  # a block of equal numbers is exact in 8 bits
    for key in ("first", "second"):
        torch.testing.assert_close(numbers(ends[1][1], key), ends[0][1][key])


@pytest.mark.parametrize("name", ["Muon", "NorMuon"])
@pytest.mark.parametrize("precision", ["plain", *MODES])
def test_a_bad_step_on_the_device_changes_no_bit(name, precision, monkeypatch):
    for module in (clipping, optimizer_module):  # as where everything is on a GPU
        monkeypatch.setattr(module, "steps_on_gpu", lambda optimizer: True)
    ps = params(torch.bfloat16)
    optimizer = make(name, ps, lr=0.02, nonfinite="skip", capturable=True, precision=precision)
    train(ps, optimizer, range(2))
    before = [x.detach().clone() for p in ps for x in (p, *optimizer.state[p].values())]
    for p in ps:
        p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    assert optimizer.skipped == 1
    assert all(map(torch.equal, before, [x.detach() for p in ps for x in (p, *optimizer.state[p].values())]))


@NAMES
def test_a_compiled_step_keeps_the_precision(name):
    ours, theirs = params(torch.bfloat16), params(torch.bfloat16)
    a, b = (make(name, ps, lr=0.02, precision="kahan", fused=False) for ps in (ours, theirs))
    compiled = torch.compile(b.step, backend="eager")
    for t in range(3):
        train(ours, a, [t])
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad.clone()
        compiled()
    for p, q in zip(ours, theirs, strict=True):
        kept = [x.detach().float() + o.state[x]["compensation"].float() for o, x in ((a, p), (b, q))]
        torch.testing.assert_close(*kept, rtol=0, atol=2e-4)


@NAMES
def test_the_backend_is_that_of_the_formulas(name):
    ps = params(torch.bfloat16)
    optimizer = make(name, ps, precision="kahan", state_dtype="int8")
    for _ in range(2):
        assert optimizer.explain_backend().startswith(f"{name}, group 0: 3 of 3 parameters by the fused CPU kernel")
        train(ps, optimizer, [0])
