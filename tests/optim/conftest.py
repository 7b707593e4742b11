"""Fixtures of the tests of optimizers."""

import pytest
import torch


@pytest.fixture
def double_scalars():
    """Keep scalar state (`mu_product`, `eta`) in float64, so that the last digits can be compared."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
