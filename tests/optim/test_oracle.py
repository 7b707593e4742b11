"""Every optimizer against an independent statement of its paper's formula: update and state, to the last bits."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from piste.optim import OPTIMIZERS
from tests.oracle.optim import DEFAULTS, RULES, WHOLE_RULES

from .assertions import find_fault
from .cases import ELEMENTWISE, OPTIONS, cases, kernels, label

pytestmark = pytest.mark.usefixtures("double_scalars")
TORCHS = [case for case in cases() if hasattr(torch.optim, case[0])]


@pytest.mark.sample(2, per="name")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "options"), TORCHS, ids=label)
def test_the_oracle_matches_torch(name, options, dtype):
    """The oracle agrees with PyTorch for every option."""
    fault = find_fault(getattr(torch.optim, name), name, options, dtype)
    assert fault is None, fault


@pytest.mark.sample(4, per="name")
@pytest.mark.parametrize(
    ("name", "options", "dtype"), [*kernels(), *((*case, torch.float32) for case in cases())], ids=label
)
def test_the_eager_backend_matches_the_oracle(name, options, dtype):
    fault = find_fault(partial(OPTIMIZERS[name], fused=False), name, options, dtype)
    assert fault is None, fault


@pytest.mark.sample(1, per="name")
@pytest.mark.parametrize(("name", "options", "dtype"), kernels(), ids=label)
def test_the_kernel_matches_the_oracle(name, options, dtype):
    fault = find_fault(partial(OPTIMIZERS[name], fused=True), name, options, dtype)
    assert fault is None, fault


def test_every_optimizer_has_an_oracle_and_cases():
    assert ELEMENTWISE.keys() == RULES.keys() | WHOLE_RULES.keys() == OPTIONS.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_cases_use_every_option_of_the_rule(name):
    """Some case gives each option of a rule a value other than its default."""
    declared = OPTIMIZERS[name].options
    tried = {key for options in OPTIONS[name] for key, value in options.items() if value != declared.get(key)}
    assert set(declared) <= tried | {"lr"}
    assert set(DEFAULTS[name]) == set(declared) | {"maximize"} | {"decoupled_weight_decay"} & set(DEFAULTS[name])
