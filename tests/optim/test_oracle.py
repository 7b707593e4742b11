"""Every optimizer against its formula, written again from its paper: update and state, to the last bits."""

from __future__ import annotations

import pytest
import torch

from .cases import cases, label
from .judge import first_fault

TORCHS = [case for case in cases() if hasattr(torch.optim, case[0])]


@pytest.fixture(autouse=True)
def double_scalars():
    """Scalar state (`mu_product`, `eta`) has the default dtype: with float64 the judge sees the last bits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=label)
def test_the_oracle_says_what_torch_does(name, options, dtype):
    """What the oracle calls right is also PyTorch's meaning of every option."""
    fault = first_fault(getattr(torch.optim, name), name, options, dtype)
    assert fault is None, fault
