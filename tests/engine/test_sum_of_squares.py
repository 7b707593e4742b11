"""The norm of gradients on the CPU: one native pass over tensors of every dtype, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from piste.engine import sum_of_squares

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def exact(tensors):
    return math.fsum(v * v for x in tensors for v in x.double().flatten().tolist())


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [[1], [0, 3], [16384], [16385, 7], [70_001, 32, 5]], ids=str)
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
