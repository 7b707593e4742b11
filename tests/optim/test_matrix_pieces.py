"""A matrix stage runs in pieces that the caches of a CPU hold; each piece has the matrices and the state of its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from piste import optim
from piste.engine import matrix_step
from piste.optim.options import rate
from piste.optim.state import Buffer

SEEN: list[list[int]] = []


class FirstColumns(optim.Optimizer):
    """Steps by the gradient, and adds up the first column of each gradient."""

    options = {"lr": rate(0.5)}
    buffers = {"columns": Buffer("v", shape="first")}
    elementwise = False

    def before(g):
        return g

    def matrix(u, v):
        SEEN.append(list(u.shape))
        return u, v + u[:, :, 0]


class SumsInPlace(optim.Optimizer):
    """Steps by the gradient, and adds up the gradients in the memory that the stage is given."""

    options = {"lr": rate(0.5)}
    buffers = {"sums": "s"}
    elementwise = False

    def before(g):
        return g

    def matrix(u, s):
        s.add_(u.flatten(1))
        return u, None


def matrices(*shapes):
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64)
    return params


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(
    ("cached", "pieces"),
    [(1, [[1, 4, 6]] * 5), (56, [[2, 4, 6], [2, 4, 6], [1, 4, 6]]), (83, [[2, 4, 6], [2, 4, 6], [1, 4, 6]])],
)
def test_pieces_have_the_matrices_that_fit_and_their_own_state(cached, pieces, fused, monkeypatch):
    monkeypatch.setattr(matrix_step, "CACHED", cached)
    params = matrices(*[(4, 6)] * 5, (6, 3))
    starts = [p.detach().clone() for p in params]
    optimizer = FirstColumns(params, fused=fused)
    SEEN.clear()
    optimizer.step()
    optimizer.step()
    assert [*pieces, [1, 6, 3]] * 2 == SEEN
    for p, start in zip(params, starts, strict=True):
        torch.testing.assert_close(p.detach(), start - 0.5 * p.grad - 0.5 * p.grad, rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state[p]["columns"], 2 * p.grad[:, :1], rtol=0, atol=0)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("cached", [1, 2**19])
def test_a_buffer_renewed_in_place_is_the_state(cached, fused, monkeypatch):
    monkeypatch.setattr(matrix_step, "CACHED", cached)
    params = [*matrices((4, 6), (4, 6), (6, 3)), matrices((6, 5))[0].detach().T.requires_grad_()]
    params[-1].grad = torch.arange(30.0, dtype=torch.float64).view(5, 6)
    optimizer = SumsInPlace(params, fused=fused)
    optimizer.step()
    optimizer.step()
    for p in params:
        torch.testing.assert_close(optimizer.state[p]["sums"], 2 * p.grad, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Muon", "NorMuon", "SOAP"])
def test_pieces_take_the_steps_of_the_whole(name, monkeypatch):
    shapes = [*[(8, 6)] * 5, (6, 8), (6, 8), (7, 7)]
    options = {"precondition_frequency": 2} if name == "SOAP" else {"ns_dtype": "float32"}
    moved = {}
    for cached in (1, 100, 2**19):
        monkeypatch.setattr(matrix_step, "CACHED", cached)
        params = matrices(*shapes)
        starts = [p.detach().clone() for p in params]
        optimizer = getattr(optim, name)(params, lr=1.0, weight_decay=0, **options)
        for _ in range(6):
            optimizer.step()
        moved[cached] = [p.detach() - start for p, start in zip(params, starts, strict=True)]
    for cached in (1, 100):
        for a, b in zip(moved[cached], moved[2**19], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # of 6, by iterations in float32
            assert b.abs().max() > 0.5


@pytest.mark.parametrize(("whole", "pieces"), [(None, [1, 1, 1]), (torch.empty(5, 4), [3])], ids=["whole", "part"])
def test_parts_of_sharded_matrices_are_gathered_in_one_piece_whatever_their_size(whole, pieces, monkeypatch):
    """Processes with parts of other sizes would make other pieces, and gather in another order."""
    monkeypatch.setattr(matrix_step, "CACHED", 1)
    found = []
    stacks = object.__new__(matrix_step._Stacks)
    monkeypatch.setattr(stacks, "_run_once", lambda part, states, *others: found.append(len(states)), raising=False)
    states = [SimpleNamespace(whole=whole, buffers=[torch.empty(3, 4)]) for _ in range(3)]
    stacks._run_alike(torch.empty(3, 3, 4), states, {}, None)
    assert found == pieces
