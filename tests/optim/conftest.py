"""What the tests of the optimizers share."""

import pytest
import torch


@pytest.fixture
def double_scalars():
    """Scalar state (`mu_product`, `eta`) has torch's default dtype: in float64 the last digits can be compared."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
