"""Rows taken from tensors, whatever their layout in memory."""

import pytest
import torch

from piste.compare.batches import select_rows, take_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last", "numbers"])
def test_rows_are_those_of_indexing(layout, dtype):
    x = torch.randn(6, 3, 4, 5).mul(9).to(dtype)
    x = {
        "contiguous": x,
        "transposed": x.transpose(0, 1),
        "channels_last": x.to(memory_format=torch.channels_last),
        "numbers": x[:, 0, 0, 0].contiguous(),
    }[layout]
    rows = torch.tensor([2, 0, 2, 1])
    taken = select_rows(x, rows)
    assert torch.equal(taken, x[rows])
    taken.zero_()
    assert x.any()  # a copy
    found = take_rows({"a": x, "b": (x, x)}, rows)
    assert torch.equal(found["a"], x[rows]) and torch.equal(found["b"][1], x[rows])
