"""SOAP: the oracle of its paper, tensors of every shape, its state, checkpoints and refusals."""

from __future__ import annotations

import copy

import pytest
import torch

import piste
from piste import optim
from piste.errors import InvalidValue
from tests.oracle.soap import soap

from .rejections import assert_rejected

FUSED = pytest.mark.parametrize("fused", [None, False])
SHAPES = [(4, 4), (4, 4), (5,), (3, 4, 2, 2), (), (7, 1)]
OPTIONS = [
    {},
    {"precondition_frequency": 2, "betas": (0.5, 0.75), "shampoo_beta": 0.9},
    {"precondition_1d": True, "normalize_grads": True, "correct_bias": False, "precondition_frequency": 3},
]


def gradient_of(t, shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64).to(dtype)


def params(dtype=torch.float64, shapes=SHAPES):
    return [gradient_of(100 + i, shape, dtype).requires_grad_() for i, shape in enumerate(shapes)]


def train(ps, optimizer, ts):
    for t in ts:
        for i, p in enumerate(ps):
            p.grad = gradient_of(1000 * t + i, p.shape, p.dtype)
        optimizer.step()


@FUSED
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(3, 2), (4, 4)])
def test_a_matrix_takes_the_steps_of_the_paper(shape, maximize, fused):
    p = gradient_of(7, shape).requires_grad_()
    start, gradients = p.detach().clone(), [gradient_of(t, shape) for t in range(9)]
    optimizer = optim.SOAP(
        [p], lr=0.1, betas=(0.5, 0.75), shampoo_beta=0.9, eps=1e-3, weight_decay=0.3, precondition_frequency=3,
        maximize=maximize, fused=fused,
    )  # fmt: skip
    expected = soap(start, gradients, lr=0.1, beta1=0.5, beta2=0.75, beta=0.9, eps=1e-3, decay=0.3, every=3)
    for g, w in zip(gradients, expected, strict=True):
        p.grad = -g if maximize else g.clone()
        optimizer.step()
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-10)


@FUSED
def test_vectors_take_the_steps_of_adam_after_the_first_gradient(fused):
    ours, theirs = params(shapes=[(5,), ()]), params(shapes=[(5,), ()])
    a = optim.SOAP(ours, lr=0.1, eps=0.0, weight_decay=0.0, fused=fused)
    b = torch.optim.Adam(theirs, lr=0.1, betas=(0.95, 0.95), eps=0.0)
    before = [p.detach().clone() for p in ours]
    train(ours, a, [0])
    assert all(map(torch.equal, ours, before))
    train(ours, a, range(1, 6))
    train(theirs, b, range(1, 6))
    torch.testing.assert_close([p.detach() for p in ours], [p.detach() for p in theirs], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tensors_of_one_shape_step_as_they_do_alone(options):
    together = params()
    train(together, optim.SOAP(together, lr=0.1, **options), range(7))
    alone = params()
    optimizers = [optim.SOAP([p], lr=0.1, **options) for p in alone]
    for t in range(7):
        for i, (p, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            p.grad = gradient_of(1000 * t + i, p.shape)
            optimizer.step()
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-10)


def test_turned_gradients_give_turned_steps():
    """The step of a matrix does not depend on the axes that its rows and columns are written in."""
    turn = torch.linalg.qr(gradient_of(3, (4, 4))).Q
    plain, turned = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    a, b = (optim.SOAP([p], lr=0.1, precondition_frequency=2) for p in (plain, turned))
    for t in range(8):
        plain.grad = gradient_of(t, (4, 4))
        turned.grad = turn @ plain.grad
        a.step()
        b.step()
    torch.testing.assert_close(turned, turn @ plain, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(torch.optim.Adam([plain]).param_groups[0]["params"][0], torch.zeros(4, 4).double())


def test_normalized_steps_have_the_root_mean_square_of_the_corrected_rate():
    p = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SOAP([p], lr=0.1, betas=(0.5, 0.75), weight_decay=0.0, normalize_grads=True)
    for t in range(3):
        before = p.detach().clone()
        p.grad = gradient_of(t, (4, 4))
        optimizer.step()
    rms = (p.detach() - before).square().mean().sqrt()
    torch.testing.assert_close(float(rms), 0.1 * (1 - 0.75**2) ** 0.5 / (1 - 0.5**2))


def test_the_size_of_the_state_follows_from_the_dimensions():
    ps = params(torch.float32)
    optimizer = optim.SOAP(ps, max_precond_dim=6)
    train(ps, optimizer, range(2))
    sizes = [32, 32, 0, 9 + 16 + 4 + 4, 0, 1]
    assert [optimizer.state[p]["GG"].shape for p in ps] == [(n,) for n in sizes]
    assert [optimizer.state[p]["Q"].shape for p in ps] == [(n,) for n in sizes]
    q = optimizer.state[ps[0]]["Q"][16:].view(4, 4)
    torch.testing.assert_close(q.T @ q, torch.eye(4), rtol=0, atol=1e-5)


@FUSED
def test_a_parameter_that_had_no_gradient_begins_with_its_own_eigenbasis(fused):
    ps, alone = params(shapes=[(3, 2), (3, 2)]), params(shapes=[(3, 2), (3, 2)])[1:]
    optimizer = optim.SOAP(ps, lr=0.1, precondition_frequency=2, fused=fused)
    other = optim.SOAP(alone, lr=0.1, precondition_frequency=2, fused=fused)
    for t in range(7):
        ps[0].grad = gradient_of(t, (3, 2))
        ps[1].grad = gradient_of(50 + t, (3, 2)) if t > 1 else None
        optimizer.step()
        if t > 1:
            alone[0].grad = gradient_of(50 + t, (3, 2))
            other.step()
    torch.testing.assert_close(ps[1], alone[0], rtol=1e-10, atol=1e-12)
    assert optimizer.state[ps[0]]["step"] == 7 and optimizer.state[ps[1]]["step"] == 5


@pytest.mark.parametrize("options", [*OPTIONS, {"state_dtype": "bfloat16", "precondition_frequency": 2}], ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_checkpoint_resumes_the_run_bit_for_bit(steps, options, tmp_path):
    ps = params(torch.float32)
    optimizer = optim.SOAP(ps, lr=0.1, **options)
    train(ps, optimizer, range(steps))
    resumed = [p.detach().clone().requires_grad_() for p in ps]
    loaded = optim.SOAP(resumed, lr=0.1)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    saved = [p.detach().clone().requires_grad_() for p in ps]
    optim.save(optimizer, tmp_path / "soap.safetensors")
    optim.load(third := optim.SOAP(saved), tmp_path / "soap.safetensors")
    for many, each in ((ps, optimizer), (resumed, loaded), (saved, third)):
        train(many, each, range(steps, steps + 5))
    assert all(map(torch.equal, ps, resumed)) and all(map(torch.equal, ps, saved))


def test_a_checkpoint_of_another_shape_is_refused():
    ps = params(shapes=[(4, 6)])
    optimizer = optim.SOAP(ps)
    train(ps, optimizer, range(2))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["max_precond_dim"] = 5
    text = assert_rejected(InvalidValue, lambda: optim.SOAP(params(shapes=[(4, 6)])).load_state_dict(saved))
    assert text.startswith("`GG` of parameter 0 has shape (52,) in the checkpoint; the parameter has (16,).")


def test_16_bit_weights_have_eigenbases_of_float32():
    p = gradient_of(1, (4, 6), torch.bfloat16).requires_grad_()
    wide = p.detach().float().requires_grad_()
    a, b = (optim.SOAP([x], lr=0.25, precondition_frequency=2, state_dtype="float32") for x in (p, wide))
    for t in range(2):
        p.grad = gradient_of(t, (4, 6), torch.bfloat16)
        wide.grad = p.grad.float()
        a.step()
        b.step()
    assert {key: x.dtype for key, x in a.state[p].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq", "GG", "Q"), torch.float32
    )
    torch.testing.assert_close(p.detach().float(), wide.detach(), rtol=2**-7, atol=2**-7)


@FUSED
def test_a_cautious_step_leaves_out_elements_against_the_gradient(fused):
    ours, theirs = params(shapes=[(4, 6)]), params(shapes=[(4, 6)])
    a = optim.SOAP(ours, lr=0.1, weight_decay=0.0, cautious=True, fused=fused)
    b = optim.SOAP(theirs, lr=0.1, weight_decay=0.0, fused=fused)
    train(ours, a, range(2))
    train(theirs, b, range(2))
    step = params(shapes=[(4, 6)])[0].detach() - theirs[0].detach()
    agrees = step * theirs[0].grad > 0
    expected = params(shapes=[(4, 6)])[0].detach() - step * agrees * 24 / (agrees.sum() + 1)
    assert 0 < agrees.sum() < 24
    torch.testing.assert_close(ours[0].detach(), expected)


@FUSED
def test_clipped_gradients_make_the_eigenbases(fused):
    ours, theirs = params(shapes=[(4, 4)]), params(shapes=[(4, 4)])
    a = optim.SOAP(ours, max_norm=0.5, fused=fused)
    b = optim.SOAP(theirs, fused=fused)
    for t in range(4):
        ours[0].grad = gradient_of(t, (4, 4))
        theirs[0].grad = ours[0].grad * 0.5 / (ours[0].grad.norm() + 1e-6)
        a.step()
        b.step()
    torch.testing.assert_close(a.state[ours[0]]["GG"], b.state[theirs[0]]["GG"])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shampoo_beta": 1.0}, "`shampoo_beta` must be in [0, 1); received shampoo_beta=1.0."),
        ({"precondition_frequency": 0}, "`precondition_frequency` must be a whole number, at least 1; received 0."),
        ({"max_precond_dim": -1}, "`max_precond_dim` must be a whole number, at least 0; received -1."),
        (
            {"capturable": True},
            "`capturable` must be False for SOAP, because the host counts the steps from one renewal of the eigenbases "
            "to the next; received capturable=True. Help: capture the forward and the backward pass alone, and call "
            "`step` outside of the CUDA graph.",
        ),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options, message):
    assert assert_rejected(InvalidValue, lambda: optim.SOAP([torch.ones(1, requires_grad=True)], **options)) == message


def test_complex_parameters_are_refused():
    z = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    text = assert_rejected(InvalidValue, lambda: optim.SOAP([z]))
    assert text == (
        "SOAP takes real parameters; received parameter 0 of param group 0 with dtype torch.complex64. Help: optimize "
        "its real and imaginary parts as two parameters."
    )


def test_a_first_gradient_with_nan_is_named():
    p = torch.ones(3, 3, requires_grad=True)
    p.grad = torch.full((3, 3), float("nan"))
    text = assert_rejected(InvalidValue, optim.SOAP([p]).step)
    assert text.startswith("SOAP finds no eigenbasis of the first gradient of a parameter (linalg.eigh:")
    assert text.endswith('Help: nonfinite="skip" leaves out gradients with NaN or an infinity.')


def test_a_changed_size_of_the_eigenbases_is_refused():
    ps = params(shapes=[(4, 6)])
    optimizer = optim.SOAP(ps)
    train(ps, optimizer, range(2))
    optimizer.param_groups[0]["max_precond_dim"] = 5
    text = assert_rejected(InvalidValue, lambda: train(ps, optimizer, [2]))
    assert text == (
        "`max_precond_dim` and `precondition_1d` of SOAP must stay as they were at the first step; received eigenbases "
        "of 52 numbers where the options ask for 16."
    )


def test_both_backends_step_alike():
    nets = [params(torch.float32) for _ in range(2)]
    for ps, fused in zip(nets, (True, False), strict=True):
        train(ps, optim.SOAP(ps, lr=0.1, precondition_frequency=2, fused=fused), range(6))
    torch.testing.assert_close(*nets, rtol=1e-4, atol=1e-5)


def test_the_backend_is_named_and_the_explanation_refused():
    assert optim.SOAP(params()).explain_backend() == (
        "SOAP, group 0: 6 of 6 parameters by the fused CPU kernel, all in one pass; the matrix stage by torch "
        "operations"
    )
    with pytest.raises(InvalidValue, match="received SOAP, whose step is of whole tensors"):
        piste.explain("soap", grad=0.5)
