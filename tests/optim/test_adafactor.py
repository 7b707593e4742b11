"""Adafactor against torch.optim.Adafactor: values, state, checkpoints, and what each refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import piste
from piste.errors import InvalidValue, Unsupported

SHAPES = [(3, 4), (7,), (2, 3, 4), (), (1,), (1, 5)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"maximize": True, "weight_decay": 0.1},
    {"lr": 0.5, "beta2_decay": -0.5, "eps": (1e-3, 0.5), "d": 1.5, "weight_decay": 0.1},
    {"eps": (0.75, 2.0), "lr": 0.25},
    {"eps": (0.0, 1e-3), "lr": 2.0},
]


def params(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    size = 10.0 ** (seed - 2) if seed else 5e-9  # whose square is below the machine epsilon
    for p in optimizer.param_groups[0]["params"]:
        p.grad = (torch.randn(p.shape, dtype=torch.float64) * size).to(p.dtype)
    optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_state_are_those_of_torch(options: dict[str, Any], dtype: torch.dtype, fused: bool | None) -> None:
    ours, theirs = params(dtype), params(dtype)
    mine, torchs = piste.optim.Adafactor(ours, fused=fused, **options), torch.optim.Adafactor(theirs, **options)
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 5e-6, "atol": 1e-6}
    for seed in range(5):
        step(mine, seed)
        step(torchs, seed)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, **close)
            assert mine.state[p].keys() == torchs.state[q].keys()
            for key, value in torchs.state[q].items():
                torch.testing.assert_close(mine.state[p][key], value, **close)


def test_a_checkpoint_of_either_loads_into_the_other() -> None:
    ours, theirs = params(torch.float64), params(torch.float64)
    mine, torchs = piste.optim.Adafactor(ours), torch.optim.Adafactor(theirs)
    step(torchs, 1)
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q.data)
    mine.load_state_dict(copy.deepcopy(torchs.state_dict()))
    step(mine, 2)
    step(torchs, 2)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    torchs.load_state_dict(copy.deepcopy(mine.state_dict()))
    step(mine, 3)
    step(torchs, 3)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_explain_backend_states_which_parameters_have_no_kernel() -> None:
    assert piste.optim.Adafactor(params(torch.float32)).explain_backend() == (
        "Adafactor, group 0: 3 of 6 parameters by the eager backend: its rule reduces over rows and columns, for which "
        "there is no kernel\n"
        "Adafactor, group 0: 3 of 6 parameters by the fused CPU kernel, all together, in 2 passes"
    )


def test_state_of_another_shape_is_rejected() -> None:
    p = torch.ones(3, 4, requires_grad=True)
    optimizer = piste.optim.Adafactor([p])
    p.grad = torch.ones(3, 4)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["row_var"] = torch.ones(1, 4)
    with pytest.raises(InvalidValue, match=r"`row_var` of parameter 0 has shape \(1, 4\) .* has \(3, 1\)"):
        optimizer.load_state_dict(saved)


def test_complex_parameters_are_rejected() -> None:
    p = torch.ones(2, 2, dtype=torch.complex64, requires_grad=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(Unsupported, match=r"does not support complex parameters; received one of shape \(2, 2\)"):
        piste.optim.Adafactor([p]).step()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta2_decay": 0.5}, r"`beta2_decay` must be in \(-inf, 0\]; received beta2_decay=0.5"),
        ({"d": 0.5}, r"`d` must be in \[1, inf\); received d=0.5"),
        ({"eps": (-1.0, 1e-3)}, r"`eps\[0\]` must be in \[0, inf\)"),
        ({"eps": (None, -1.0)}, r"`eps\[1\]` must be in \[0, inf\)"),
    ],
)
def test_options_out_of_range_are_rejected(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        piste.optim.Adafactor([torch.ones(2, requires_grad=True)], **wrong)
