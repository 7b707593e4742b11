"""PyTorch's own table of optimizers, its inputs and error inputs, with Piste's classes in PyTorch's place.

The table ships in torch's wheel as `torch.testing._internal.common_optimizers.optim_db`.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

from .reference import PAIRS, assert_same, assert_same_state, model

INFOS = {info.name: info for info in optim_db if info.name in PAIRS}


def inputs():
    """(name, options, description): the table's inputs, also those it keeps for GPUs, without `capturable`."""
    for name, info in INFOS.items():
        seen = set()
        for device in ("cpu", "cuda"):
            for given in info.optim_inputs_func(device=device):
                options = {k: v for k, v in given.kwargs.items() if k != "capturable"}
                if repr(options) not in seen:
                    seen.add(repr(options))
                    yield pytest.param(name, options, id=f"{name}-{given.desc}".replace(" ", "_"))


def implementations(name):
    """The ways in which PyTorch runs this optimizer; Piste takes the same arguments."""
    yield {}
    for flag in INFOS[name].supported_impls:
        yield {flag: True}


def test_the_table_has_every_optimizer():
    assert INFOS.keys() == PAIRS.keys()


def double(option):
    """Options with their tensors copied in double precision, so that float32 scalars don't blur the comparison."""
    if isinstance(option, dict):
        return {key: double(value) for key, value in option.items()}
    if isinstance(option, tuple):
        return tuple(map(double, option))
    return option.double().clone() if isinstance(option, torch.Tensor) else option


@pytest.mark.sample(2, per="name", of=8)
@pytest.mark.usefixtures("double_scalars")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128], ids=str)
@pytest.mark.parametrize(("name", "options"), list(inputs()))
def test_steps_on_the_optimizer_inputs_of_torch_match_torch(name, options, dtype):
    """Every input of the table, in every implementation that PyTorch has: the same parameters and state."""
    start = [p.detach().to(dtype) for p in model().parameters()]
    make = torch.Generator().manual_seed(11)
    grads = [[torch.randn(p.shape, generator=make, dtype=dtype) for p in start] for _ in range(6)]

    def run(cls, how):
        params = [p.clone().requires_grad_() for p in start]
        if how.get("differentiable"):
            params = [p.clone() for p in params]
        optimizer = cls(params, **double(options), **how)
        for step in grads:
            for p, g in zip(params, step, strict=True):
                p.grad = g.clone()
            optimizer.step()
        return [p.detach() for p in params], optimizer

    expected, reference = run(PAIRS[name][1], {"foreach": False})
    single = dtype == torch.float32
    rtol, atol = (1e-5, 1e-7) if single else (1e-11, 1e-13)
    for how in [{"fused": False}] if single else implementations(name):  # kernels are made in double precision
        params, optimizer = run(PAIRS[name][0], how)
        assert_same(params, expected, rtol=rtol, atol=atol)
        assert_same_state(optimizer, reference, rtol=rtol, atol=atol)


RANGE = "Piste states the range and the value received, in one form for all options"
PAIRED = "Piste reads each option by itself, as a number or as a tensor"
KERNEL = "Piste has one implementation for all, so `foreach` excludes nothing"

MEANT = {
    "a param group cannot have duplicate parameters": (
        ValueError,
        "is the same tensor as parameter 0, and would be stepped twice",
        "PyTorch warns, and steps the parameter twice",
    ),
    "rho should be between 0 and 1": (ValueError, r"`rho` must be in \[0, 1\); received rho=1.1", RANGE),
    "lr_decay must be bigger than 0": (ValueError, r"`lr_decay` must be in \[0, inf\); received lr_decay=-0.5", RANGE),
    "beta1 should be between 0 and 1": (
        ValueError,
        r"`betas\[0\]` must be in \[0, 1\); received betas\[0\]=1.0",
        RANGE,
    ),
    "beta2 should be between 0 and 1": (
        ValueError,
        r"`betas\[1\]` must be in \[0, 1\); received betas\[1\]=1.0",
        RANGE,
    ),
    "weight_decay should > 0": (ValueError, r"`weight_decay` must be in \[0, inf\); received weight_decay=-", RANGE),
    "momentum_decay should > 0": (
        ValueError,
        r"`momentum_decay` must be in \[0, inf\); received momentum_decay=-0.2",
        RANGE,
    ),
    "momentum should be between 0 and 1": (ValueError, r"`momentum` must be in \[0, 1\); received momentum=-", RANGE),
    "0 < eta1 < 1 < eta2": (ValueError, r"`etas\[0\]` must be in \(0, 1\); received etas\[0\]=1.0", RANGE),
    "betas must be either both floats or both Tensors": (None, "", PAIRED),
    "lr as Tensor doesn't work with foreach & not capturable": (None, "", KERNEL),
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": (None, "", KERNEL),
}
"""Error inputs where Piste means something else than PyTorch: its error (None where it works), words, reason."""


def error_inputs():
    for name, info in INFOS.items():
        for i, given in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32)):
            desc = given.optimizer_error_input.desc
            yield pytest.param(name, i, id=f"{name}-{desc}".replace(" ", "_"))


@pytest.mark.parametrize(("name", "index"), list(error_inputs()))
def test_the_error_inputs_of_torch_are_rejected(name, index):
    """The same kind of error as PyTorch's; with its words too, except where ours are listed with the reason."""
    given = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)[index]
    wanted = given.optimizer_error_input
    kind, words, _ = MEANT.get(wanted.desc, (given.error_type, given.error_regex, ""))
    params = wanted.params if wanted.params is not None else [torch.nn.Parameter(torch.randn(2, 3))]
    make = PAIRS[name][0]
    if kind is None:
        params[0].grad = torch.ones(2, 3)
        before = params[0].detach().clone()
        make(params, **wanted.kwargs).step()
        assert not params[0].isnan().any() and (params[0] != before).all()
    elif given.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(kind, match=words):
            make(params, **wanted.kwargs)
    else:
        optimizer = make(params, **wanted.kwargs)
        with pytest.raises(kind, match=words):
            optimizer.step()
