"""NorMuon: the average of each row, parts of fused matrices, state and checkpoints; trajectories are elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch

from piste import optim
from piste.errors import InvalidValue

from .test_muon import Block, trained

FUSED = pytest.mark.parametrize("fused", [None, False])
EXACT = {"lr": 0.5, "momentum": 0.0, "ns_steps": 0, "ns_dtype": "float32"}  # o is g over its norm


def stepped(start, gradients, **options):
    """Return a parameter after steps, and its optimizer."""
    p = start.clone().requires_grad_()
    optimizer = optim.NorMuon([p], **EXACT, **options)
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    return p, optimizer


@FUSED
def test_rows_are_divided_by_the_root_of_an_average_of_their_squares(fused):
    first, second = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.6], [0.8, 0.0]])
    p, optimizer = stepped(torch.zeros(2, 2), [first, second], beta2=0.75, fused=fused)
    v1 = torch.tensor([[0.36 / 2], [0.64 / 2]]) / 4  # both gradients have o of rows 0.6 and 0.8
    v2 = v1 * 1.75
    torch.testing.assert_close(optimizer.state[p]["second_momentum_buffer"], v2)
    expected = torch.zeros(2, 2)
    for o, v in ((first / 5, v1), (second, v2)):
        n = o / v.sqrt()
        expected -= 0.5 * n / n.norm()  # o has the norm 1
    torch.testing.assert_close(p.detach(), expected)
    torch.testing.assert_close(p.detach()[0].abs().sum(), p.detach()[1].abs().sum())


@FUSED
def test_a_convolution_has_an_average_for_each_output_channel(fused):
    make = torch.Generator().manual_seed(0)
    start, g = torch.randn(3, 2, 2, generator=make), torch.randn(3, 2, 2, generator=make)
    p, optimizer = stepped(start, [g, -g], fused=fused)
    flat, other = stepped(start.flatten(1), [g.flatten(1), -g.flatten(1)], fused=fused)
    torch.testing.assert_close(p.detach().flatten(1), flat.detach())
    found, expected = (o.state[x]["second_momentum_buffer"] for o, x in ((optimizer, p), (other, flat)))
    assert found.shape == (3, 1, 1) and expected.shape == (3, 1)
    torch.testing.assert_close(found.flatten(), expected.flatten())


@FUSED
def test_parts_of_a_fused_matrix_step_as_matrices_of_their_own(fused):
    make = torch.Generator().manual_seed(1)
    start, g = torch.randn(6, 4, generator=make), torch.randn(6, 4, generator=make)
    p, _ = stepped(start, [g, g * g], split=2, fused=fused)
    parts = [stepped(a, [b, b * b], fused=fused)[0] for a, b in zip(start.split(3), g.split(3), strict=True)]
    torch.testing.assert_close(p, torch.cat(parts))
    assert not torch.allclose(p, stepped(start, [g, g * g], fused=fused)[0])


@pytest.mark.parametrize("options", [{}, {"state_dtype": "bfloat16"}, {"state_dtype": "int8"}], ids=str)
def test_a_checkpoint_of_routed_groups_resumes_the_run(options):
    torch.manual_seed(0)
    net = Block()
    make = lambda model: optim.NorMuon(optim.matrix_groups(model, split={"qkv": 3}), **options)  # noqa: E731
    optimizer = make(net)
    trained(net, optimizer)
    resumed = copy.deepcopy(net)
    loaded = make(resumed)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(trained(net, optimizer).values(), trained(resumed, loaded).values(), strict=True):
        assert torch.equal(a, b)
    dtype = torch.bfloat16 if options.get("state_dtype") == "bfloat16" else torch.float32
    assert optimizer.state[net.qkv.weight]["second_momentum_buffer"].dtype == dtype


def test_a_bfloat16_matrix_steps_as_one_in_float32_that_is_rounded():
    g = torch.randn(8, 300, generator=torch.Generator().manual_seed(2)).bfloat16()
    p, _ = stepped(torch.zeros(8, 300, dtype=torch.bfloat16), [g])
    wide, _ = stepped(torch.zeros(8, 300), [g.float()])
    torch.testing.assert_close(p.detach().float(), wide.detach(), rtol=2**-7, atol=0)


def test_complex_matrices_are_refused():
    p = torch.ones(2, 2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(InvalidValue, match="complex64"):
        optim.NorMuon([p])


def test_the_backend_of_both_formulas_is_named_before_the_first_step_and_after_it():
    p, optimizer = stepped(torch.zeros(2, 2), [])
    line = (
        "NorMuon, group 0: 1 of 1 parameters by the fused CPU kernel, all in one pass; the matrix stage by torch "
        "operations"
    )
    assert optimizer.explain_backend() == line
    p.grad = torch.ones(2, 2)
    optimizer.step()
    assert optimizer.explain_backend() == line
