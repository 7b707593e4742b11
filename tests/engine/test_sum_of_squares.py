"""The norm of gradients on the CPU: one native pass over tensors of every dtype, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from piste.engine import GradientSquares, sum_of_squares

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def exact(tensors):
    return math.fsum(v * v for x in tensors for v in x.double().flatten().tolist())


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [[1], [0, 3], [16384], [16385, 7], [1023, 1024, 1027], [70_001, 32, 5]], ids=str)
def test_the_sum_is_that_of_exact_arithmetic(dtype, sizes, generator):
    tensors = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
    total, rest = sum_of_squares(tensors)
    assert rest == []
    assert total == pytest.approx(exact(tensors), rel=1e-12)


def test_dtypes_and_dense_layouts_may_be_mixed(generator):
    tensors = [torch.randn(6, 4, generator=generator).to(dtype).t() for dtype in DTYPES]
    tensors.append(torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last))
    total, rest = sum_of_squares(tensors)
    assert rest == []
    assert total == pytest.approx(exact(tensors), rel=1e-12)


def test_the_number_of_threads_changes_no_bit(generator):
    tensors = [torch.randn(size, generator=generator) for size in (100_003, 7, 40_000)]
    before = torch.get_num_threads()
    try:
        sums = set()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums |= {sum_of_squares(tensors)[0] for _ in range(5)}
    finally:
        torch.set_num_threads(before)
    assert len(sums) == 1


def test_tensors_that_the_kernel_cannot_read_are_left_out():
    class Own(torch.Tensor):
        pass

    view, own = torch.ones(4, 4)[:, ::2], torch.ones(3).as_subclass(Own)
    numbers, meta = torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta")
    total, rest = sum_of_squares([torch.full((2,), 3.0), view, own, numbers, meta])
    assert total == 18.0
    assert [id(x) for x in rest] == [id(x) for x in (view, own, numbers, meta)]


def test_large_numbers_of_float32_do_not_overflow():
    assert sum_of_squares([torch.full((3,), 3e38)])[0] == pytest.approx(3 * float(torch.tensor(3e38)) ** 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_value_that_is_not_finite_shows_in_the_sum(value, dtype):
    x = torch.ones(50_000).to(dtype)
    x[41_000] = value
    assert not math.isfinite(sum_of_squares([x])[0])


def test_nothing_has_the_sum_0():
    assert sum_of_squares([]) == (0.0, [])
    assert sum_of_squares([torch.ones(0)]) == (0.0, [])


def test_a_forced_eager_backend_leaves_everything_out(monkeypatch):
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    x = torch.ones(2)
    assert sum_of_squares([x]) == (0.0, [x])


# --- gradients that machine code finds ----------------------------------------------------------------------------


def with_gradients(generator, dtype=torch.float32, sizes=(70_001, 5, 0)):
    params = [torch.zeros(size, dtype=dtype, requires_grad=True) for size in sizes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return params


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_sum_that_tensors_have_at_every_step(dtype, generator):
    params = with_gradients(generator, dtype)
    squares = GradientSquares.of(params)
    assert squares.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for _ in range(3):
        assert squares(params) == sum_of_squares([p.grad for p in params])[0]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)


def test_parameters_without_a_gradient_are_passed_over(generator):
    params = [torch.ones(3, requires_grad=True), *with_gradients(generator)]
    assert GradientSquares.of(params)(params) == sum_of_squares([p.grad for p in params[1:]])[0]
    assert GradientSquares.of(params[:1]) is None


def test_a_sum_counts_no_version_of_the_parameters(generator):
    params = with_gradients(generator)
    GradientSquares.of(params)(params)
    assert [p._version for p in params] == [0, 0, 0]


def changes():
    def drop(params):
        params[0].grad = None

    def transpose(params):
        params[0].grad = torch.ones(3, 2).t()

    def narrow(params):
        params[0].grad = None
        params[0].data = params[0].data.double()
        params[0].grad = torch.ones(2, 3, dtype=torch.float64)

    def replace(params):
        params[0] = torch.ones(2, 3, requires_grad=True)
        params[0].grad = torch.ones(2, 3)

    def append(params):
        params.append(torch.ones(1))

    return {change.__name__: change for change in (drop, transpose, narrow, replace, append)}


@pytest.mark.parametrize("name", changes())
def test_a_change_of_a_gradient_other_than_in_its_values_gives_no_sum(name):
    params = [torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)]
    for p in params:
        p.grad = torch.ones_like(p)
    squares = GradientSquares.of(params)
    assert squares(params) == 10.0
    changes()[name](params)
    assert squares(params) is None


def test_gradients_that_the_kernel_cannot_read_are_left_to_python(monkeypatch):
    p = torch.ones(4, 4, requires_grad=True)
    p.grad = torch.ones(4, 4).to_sparse()
    assert GradientSquares.of([p]) is None
    p.grad = torch.ones(4, 4)
    squares = GradientSquares.of([p])
    monkeypatch.setenv("PISTE_BACKEND", "eager")
    assert squares([p]) is None and GradientSquares.of([p]) is None
