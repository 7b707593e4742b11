"""Adafactor against torch.optim.Adafactor, the options that it lacks, checkpoints, and what is refused."""

from __future__ import annotations

import copy
import math
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


def test_explain_backend_states_the_passes_of_matrices_and_of_others() -> None:
    assert piste.optim.Adafactor(params(torch.float32)).explain_backend() == (
        "Adafactor, group 0: 3 of 6 parameters by the fused CPU kernel, all together, in 3 passes\n"
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


MORE_OPTIONS: list[dict[str, Any]] = [
    {"lr": 1.5, "relative_step": False},
    {"lr": 0.5, "scale_parameter": False},
    {"lr": 3e-6, "warmup_init": True, "weight_decay": 0.1},
    {"lr": 0.5, "beta1": 0.75, "weight_decay": 0.1},
    {"lr": 0.5, "beta2_cap": 0.25},
    {"lr": 0.5, "d": None},
    {"lr": 0.5, "min_dim_size_to_factor": 4, "eps": (0.75, 2.0)},
]
"""Options that torch.optim lacks."""


class Stated:
    """The rule in words of lists, for a parameter of rows."""

    def __init__(self, p: torch.Tensor, options: dict[str, Any]) -> None:
        self.p = p.detach().reshape(-1, p.shape[-1]).tolist()
        self.o = {"beta2_decay": -0.8, "eps": (2.0**-52, 1e-3), "d": 1.0, "weight_decay": 0.0, "beta1": 0.0} | options
        self.t, self.averages, self.sizes = 0, {}, (len(self.p), len(self.p[0]))
        self.is_matrix = p.dim() > 1 and min(self.sizes) >= options.get("min_dim_size_to_factor", 0)

    def average(self, name: Any, new: float, share: float) -> float:
        old = self.averages.get(name, 0.0)
        self.averages[name] = old + share * (new - old)
        return self.averages[name]

    def step(self, g: torch.Tensor) -> torch.Tensor:
        self.t += 1
        o, (n, k) = self.o, self.sizes
        rows = g.reshape(n, k).tolist()
        cells = [(i, j) for i in range(n) for j in range(k)]
        share = max(self.t ** o["beta2_decay"], 1 - o.get("beta2_cap", 1.0))
        if self.is_matrix:
            r = [self.average(("row", i), sum(x * x for x in rows[i]) / k, share) for i in range(n)]
            c = [self.average(("column", j), sum(row[j] ** 2 for row in rows) / n, share) for j in range(k)]
            s = {(i, j): r[i] * c[j] / max(sum(r) / n, o["eps"][0]) for i, j in cells}
        else:
            s = {(i, j): self.average((i, j), rows[i][j] ** 2, share) for i, j in cells}
        u = {(i, j): rows[i][j] / max(math.sqrt(s[i, j]), o["eps"][0]) for i, j in cells}
        rate = min(o["lr"], 1 / math.sqrt(self.t)) if o.get("relative_step", True) else o["lr"]
        if o.get("warmup_init"):
            rate = min(rate, self.t / 1e6)
        if o.get("scale_parameter", True):
            rate *= max(o["eps"][1], math.sqrt(sum(x * x for row in self.p for x in row) / (n * k)))
        if o["d"] is not None:
            rate /= max(1, math.sqrt(sum(x * x for x in u.values()) / (n * k)) / o["d"])
        for i, j in cells:
            step = rate * u[i, j]
            if o["beta1"]:
                step = self.average(("step", i, j), step, 1 - o["beta1"])
            self.p[i][j] -= o["lr"] * o["weight_decay"] * self.p[i][j] + step
        return torch.tensor(self.p, dtype=torch.float64).reshape(g.shape)


def find_fault(make: Any, options: dict[str, Any]) -> str | None:
    """The first difference from the rule in words, of a matrix, a small one and a vector."""
    ps = [p for p in params(torch.float64) if p.shape in ((3, 4), (7,))]
    ps.append(torch.linspace(-1, 2, 20, dtype=torch.float64).reshape(4, 5).requires_grad_())
    stated, optimizer = [Stated(p, options) for p in ps], make(ps, **options)
    for seed in range(4):
        step(optimizer, seed)
        for p, rule in zip(ps, stated, strict=True):
            expected = rule.step(p.grad)
            if not torch.allclose(p, expected, rtol=1e-12, atol=1e-14):
                return f"{options}: {p.tolist()} at step {seed + 1}, expected {expected.tolist()}"
    return None


@pytest.mark.parametrize("options", MORE_OPTIONS, ids=str)
def test_options_that_torch_lacks_follow_the_rule_in_words(options: dict[str, Any]) -> None:
    assert (fault := find_fault(piste.optim.Adafactor, options)) is None, fault


def test_a_matrix_below_the_least_size_keeps_the_whole_average_and_resumes() -> None:
    p = torch.ones(3, 4, requires_grad=True)
    optimizer = piste.optim.Adafactor([p], min_dim_size_to_factor=4, beta1=0.5)
    p.grad = torch.ones(3, 4)
    optimizer.step()
    state = optimizer.state[p]
    assert {key: tuple(x.shape) for key, x in state.items()} == {"step": (), "variance": (3, 4), "exp_avg": (3, 4)}
    saved, before = copy.deepcopy(optimizer.state_dict()), p.detach().clone()
    optimizer.step()
    q = before.clone().requires_grad_()
    other = piste.optim.Adafactor([q])
    other.load_state_dict(saved)
    q.grad = torch.ones(3, 4)
    other.step()
    assert torch.equal(p, q)


def test_other_largest_dimensions_are_rejected_with_the_convention_of_optax() -> None:
    def make(*shape: int, **options: Any) -> None:
        piste.optim.Adafactor([torch.zeros(shape, requires_grad=True)], lr=0.1, convention="optax", **options)

    make(3, 128, 256)
    make(256, 64, 3, 3)
    words = (
        r"optax's Adafactor reduces over the two largest dimensions of a parameter, Piste over the last two; received "
        r"parameter 0 of param group 0 with shape \(256, 128, 3, 3\). Help: put it in a group with "
        "min_dim_size_to_factor=129, which keeps its whole average."
    )
    with pytest.raises(Unsupported, match=words):
        make(256, 128, 3, 3)
    make(256, 128, 3, 3, min_dim_size_to_factor=129)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta2_decay": 0.5}, r"`beta2_decay` must be in \(-inf, 0\]; received beta2_decay=0.5"),
        ({"d": 0.5}, r"`d` must be in \[1, inf\); received d=0.5"),
        ({"eps": (-1.0, 1e-3)}, r"`eps\[0\]` must be in \[0, inf\)"),
        ({"eps": (None, -1.0)}, r"`eps\[1\]` must be in \[0, inf\)"),
        ({"beta2_cap": 1.5}, r"`beta2_cap` must be in \[0, 1\]; received beta2_cap=1.5"),
        ({"min_dim_size_to_factor": -1}, "`min_dim_size_to_factor` must be a whole number, at least 0; received -1"),
        (
            {"warmup_init": True, "relative_step": False},
            "warmup_init=True requires relative_step=True; received relative_step=False. Help: warm up the rate with a",
        ),
        (
            {"lr": 0.1, "convention": "transformers"},
            r'`lr` must be None with relative_step=True and convention="transformers", whose rate is then min\(1e-2, '
            r"1 / sqrt\(t\)\); received lr=0.1. Help: set relative_step=False.",
        ),
        ({"state_dtype": "int8", "beta1": 0.9}, "because its state is a number for each row and column; received"),
    ],
)
def test_options_out_of_range_are_rejected(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        piste.optim.Adafactor([torch.ones(2, requires_grad=True)], **wrong)
