"""Rules that reduce over rows and columns: layouts, tiles, levels, threads, and the backends that step them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.engine.cpu.line_kernel import Tiling, tiles
from piste.errors import PisteError
from piste.formula import maximum, mean, norm, sqrt, total
from piste.optim import Buffer
from piste.optim.options import rate

SHAPES = [(3, 4), (1, 5), (5, 1), (2, 3, 4), (0, 3), (2, 0), (600, 500), (3, 70_000), (70_000, 3), (40, 20, 3, 3)]


class Lined(piste.optim.Optimizer):
    """Has values of the tensor, of matrices, rows and columns, and three levels."""

    options = {"lr": rate(0.5)}
    buffers = {"rows": Buffer("r", shape="rows"), "columns": Buffer("c", shape="columns"), "whole": "w"}

    def update(p: Any, g: Any, r: Any, c: Any, w: Any) -> Any:
        old = c
        r = 0.5 * r + norm(g, over="row")
        c = 0.5 * c + mean(abs(p), over="column")
        u = g / (1 + r + c + old) / (1 + mean(r, over="column"))
        v = u - mean(u, over="row") + total(r, over="row") / 64
        k = total(v * v, over="column")
        size = mean(k) + mean(total(c, over="row")) + mean(r)
        return v / sqrt(1 + k) * maximum(size, 0.5), r, c, 0.5 * w + v * norm(c)


def expected(p: Any, g: Any, r: Any, c: Any, w: Any) -> tuple[Any, ...]:
    p, g, r, c, w = (x.double() for x in (p, g, r, c, w))
    old = c
    r = 0.5 * r + g.square().sum(-1, keepdim=True).sqrt()
    c = 0.5 * c + p.abs().mean(-2, keepdim=True)
    u = g / (1 + r + c + old) / (1 + r.mean(-2, keepdim=True))
    v = u - u.mean(-1, keepdim=True) + r / 64
    k = v.square().sum(-2, keepdim=True)
    size = k.mean() + c.sum(-1, keepdim=True).mean() + r.mean()
    return p - 0.5 * v / (1 + k).sqrt() * size.clamp(min=0.5), r, c, 0.5 * w + v * c.square().sum().sqrt()


def first_state(p: torch.Tensor) -> list[torch.Tensor]:
    *outer, height, breadth = p.shape
    return [p.new_zeros((*outer, height, 1)), p.new_zeros((*outer, 1, breadth)), torch.zeros_like(p)]


def contiguous(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape)


def transposed(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((*shape[:-2], shape[-1], shape[-2])).mT


def strided(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((*shape, 2))[..., 0]


def turned(shape: tuple[int, ...]) -> torch.Tensor:
    """Outer dimensions in the order of images whose channels lie together."""
    return torch.randn(shape[::-1]).permute(*reversed(range(len(shape))))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [contiguous, transposed, strided, turned])
@pytest.mark.parametrize("makes_gradient", [contiguous, transposed, strided])
def test_values_of_every_extent_are_those_of_the_formula(make: Any, makes_gradient: Any, fused: bool) -> None:
    torch.manual_seed(0)
    params = [make(shape).requires_grad_() for shape in SHAPES]
    optimizer = Lined(params, fused=fused)
    states = [first_state(p) for p in params]
    for _ in range(3):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = makes_gradient(p.shape)
        optimizer.step()
        for i, p in enumerate(params):
            new, *kept = expected(before[i], p.grad, *states[i])
            states[i] = [optimizer.state[p][key].clone() for key in Lined.buffers]
            torch.testing.assert_close(p.detach(), new.float(), rtol=1e-5, atol=2e-6, equal_nan=True)
            for buffer, value in zip(states[i], kept, strict=True):
                torch.testing.assert_close(buffer, value.float(), rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_agree_with_the_eager_backend(dtype: torch.dtype) -> None:
    paths = []
    for fused in (False, True):
        torch.manual_seed(0)
        params = [torch.randn(shape).to(dtype).requires_grad_() for shape in [(3, 4), (2, 30, 50)]]
        optimizer = Lined(params, fused=fused)
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype)
        optimizer.step()
        paths.append([x.detach().double() for p in params for x in (p, *map(optimizer.state[p].get, Lined.buffers))])
    close = {torch.float64: 1e-13, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]  # one rounding apart
    for ours, theirs in zip(*paths, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("make", [contiguous, transposed])
def test_results_do_not_depend_on_the_number_of_threads(make: Any) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            params = [make(shape).requires_grad_() for shape in SHAPES]
            optimizer = piste.optim.Adafactor(params, lr=0.1, fused=True)
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn(p.shape)
                optimizer.step()
            found.append([x for p in params for x in (p.detach(), *optimizer.state[p].values())])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(first, other, rtol=0, atol=0, equal_nan=True)  # the mean of nothing is NaN


@pytest.mark.parametrize("shape", [(3, 4), (600, 500), (3, 70_000), (70_000, 3), (40, 20, 3, 3), (5, 300, 200)])
def test_tiles_cover_each_element_once(shape: tuple[int, ...]) -> None:
    tiling = Tiling.of(shape, 1 << 14)
    counted = torch.zeros(tiling.sizes)
    items, ends = tiles([tiling], 1 << 14)
    for k in range(0, len(items), 7):
        _, m, m_last, r, r_last, c, c_last = items[k : k + 7]
        counted[m:m_last, r:r_last, c:c_last] += 1
        assert (r % tiling.tall, c % tiling.wide) == (0, 0)
        assert (r // tiling.tall, c // tiling.wide) < (tiling.down, tiling.across)
    assert counted.eq(1).all()
    assert ends[-1] == len(items) // 7
    assert list(ends) == sorted(set(ends))


@pytest.mark.parametrize("precision", ["stochastic", "kahan", "master"])
def test_16_bit_matrices_step_in_every_precision(precision: str) -> None:
    paths = []
    for fused in (False, True):
        torch.manual_seed(0)
        p = torch.randn(20, 50, dtype=torch.bfloat16).requires_grad_()
        optimizer = piste.optim.Adafactor([p], lr=0.01, precision=precision, fused=fused)
        for _ in range(3):
            p.grad = torch.randn(20, 50).bfloat16()
            optimizer.step()
        paths.append(p.detach().float())
    torch.testing.assert_close(*paths, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "options", [{"cautious": True}, {"max_norm": 0.5}, {"maximize": True, "weight_decay": 0.1}], ids=str
)
def test_shared_options_agree_with_the_eager_backend(options: dict[str, Any]) -> None:
    paths = []
    for fused in (False, True):
        torch.manual_seed(0)
        params = [torch.randn(shape).requires_grad_() for shape in [(30, 50), (2, 3, 4)]]
        optimizer = piste.optim.Adafactor(params, lr=0.1, fused=fused, **options)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
        paths.append([p.detach() for p in params])
    for ours, theirs in zip(*paths, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_explain_backend_states_the_passes() -> None:
    params = [torch.ones(shape, requires_grad=True) for shape in [(3, 4), (7,)]]
    assert piste.optim.Adafactor(params).explain_backend() == (
        "Adafactor, group 0: 1 of 2 parameters by the fused CPU kernel, all together, in 3 passes\n"
        "Adafactor, group 0: 1 of 2 parameters by the fused CPU kernel, all together, in 2 passes"
    )
    assert Lined(params[:1]).explain_backend().endswith("in 4 passes")


class Rowed(piste.optim.Optimizer):
    """Reduces over the rows of any parameter."""

    options = {"lr": rate(0.5)}

    def update(g: Any) -> Any:
        return g / norm(g, over="row")


def test_a_vector_is_a_row_for_the_eager_backend() -> None:
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.tensor([3.0, 4.0])
    optimizer = Rowed([p])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.3, -0.4]))
    assert optimizer.explain_backend().endswith(
        "by the eager backend: it has fewer than two dimensions, and its rule reduces over rows or columns"
    )


@pytest.mark.parametrize("kind", ["complex", "random"])
def test_what_the_kernel_declines_steps_eagerly(kind: str) -> None:
    p = torch.ones(3, 4, dtype=torch.complex64 if kind == "complex" else torch.bfloat16)
    p = p.requires_grad_() if kind == "complex" else p.mT.requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = Rowed([p], precision="plain" if kind == "complex" else "stochastic")
    optimizer.step()
    assert {"complex": "it is complex", "random": "it is not contiguous"}[kind] in optimizer.explain_backend()


def test_state_of_another_layout_steps_eagerly() -> None:
    p = torch.ones(3, 4, requires_grad=True)
    p.grad = torch.ones(3, 4)
    optimizer = piste.optim.Adafactor([p], lr=0.1)
    optimizer.step()
    optimizer.state[p]["row_var"] = torch.ones(3, 2)[:, :1]
    optimizer.step()
    assert "a part of its state has another shape or layout than its rows or columns" in optimizer.explain_backend()


class Mixed(piste.optim.Optimizer):
    """Gives a buffer of rows a number for each element."""

    options = {"lr": rate(0.5)}
    buffers = {"rows": Buffer("r", shape="rows")}

    def update(g: Any, r: Any) -> Any:
        return g, r + g


def test_a_buffer_of_rows_takes_a_number_for_each_row() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    p.grad = torch.ones(2, 3)
    with pytest.raises(PisteError, match="the new value of the buffer `r` must be one number for each row"):
        Mixed([p], fused=True).step()


class Spread(piste.optim.Optimizer):
    options = {"lr": rate(1.0)}

    def update(g: Any) -> Any:
        return total(g, over="row") + 10 * mean(g, over="row") + 100 * total(g, over="column") * mean(g, over="column")


@pytest.mark.parametrize("fused", [None, False])
def test_a_vector_is_one_row(fused):
    params = [torch.zeros(shape, requires_grad=True) for shape in ((2,), (), (1, 2))]
    for p, grad in zip(params, ([1.0, 3.0], 2.0, [[1.0, 3.0]]), strict=True):
        p.grad = torch.tensor(grad)
    Spread(params, fused=fused).step()
    assert [p.tolist() for p in params] == [[-124.0, -924.0], -422.0, [[-124.0, -924.0]]]
