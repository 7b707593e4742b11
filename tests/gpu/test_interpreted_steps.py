"""Every optimizer with every option: the GPU kernel, run by Triton's interpreter, against the eager backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from piste.optim import clipping
from piste.optim import optimizer as optimizer_module
from tests.optim.cases import OPTIONS, fullest

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting

SIZES = ((5, 3), (4096,), (1,), (4100,), (0,), (2, 2))
REDUCING = ("LAMB", "LARS", "StableAdamW")
ULPS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3, torch.float16: 2e-3, torch.complex64: 2e-6}


def params(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in SIZES]


def stepped(name: str, options: dict[str, Any], dtype: torch.dtype, steps: int = 3, **more: Any) -> Any:
    weights = params(dtype)
    optimizer = getattr(piste.optim, name)(weights, **options, **more)
    generator = torch.Generator().manual_seed(2)
    for k in range(steps):
        for i, p in enumerate(weights):
            p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
            if k == 0 and i == 1:
                p.grad = None  # this one counts a step less than the others
        optimizer.step()
    return weights, optimizer


def compare(name: str, options: dict[str, Any], dtype: torch.dtype, on_device: bool) -> None:
    steps = 1 if dtype == torch.bfloat16 else 3  # the interpreter rounds to bfloat16 towards zero
    with interpreting(on_device) as backend:
        ours, optimizer = stepped(name, options, dtype, steps)
        assert "6 of 6 parameters by the fused GPU kernel" in optimizer.explain()
    theirs, reference = stepped(name, options, dtype, steps, fused=False)
    reduced = ["reduce0", "finish0"] * (name in REDUCING)
    assert [entry for entry, _ in backend.device.launches] == [*["prepare"] * on_device, *reduced, "step"] * steps
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=ULPS[dtype], atol=ULPS[dtype])
        mine, wanted = optimizer.state[p], reference.state[q]
        assert mine.keys() == wanted.keys()
        for key in wanted:
            tolerance = 1e-6 if not wanted[key].dim() else ULPS[dtype]
            torch.testing.assert_close(mine[key], wanted[key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_equal_those_of_the_eager_backend(name, on_device):
    compare(name, {}, torch.float32, on_device)
    compare(name, fullest(name), torch.float32, on_device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_of_other_dtypes_equal_those_of_the_eager_backend(name, dtype):
    compare(name, fullest(name), dtype, False)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("kahan", torch.float16),
        ("master", torch.float16),
        ("stochastic", torch.float16),
        ("stochastic", torch.bfloat16),
    ],
    ids=str,
)
def test_steps_in_a_precision_equal_those_of_the_eager_backend(precision, dtype, on_device):
    compare("NAdam", {"precision": precision, "rounding_seed": 3}, dtype, on_device)
    compare("SGD", {"precision": precision, "state_dtype": "float32", "momentum": 0.5}, dtype, on_device)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("kind", ["lr", "independent", "lr_squared"])
def test_steps_with_decoupled_decay_equal_those_of_the_eager_backend(kind, on_device):
    compare("Adam", {"weight_decay": 0.3, "decoupled_decay": kind, "lr_max": None if kind == "lr" else 0.5},
            torch.float32, on_device)  # fmt: skip


def scaled(name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Three steps with a GradScaler, of which the second has an infinite gradient."""
    for module in (clipping, optimizer_module):
        monkeypatch.setattr(module, "steps_on_gpu", lambda optimizer: True)
    weights = params(torch.float32)
    optimizer = getattr(piste.optim, name)(weights, capturable=True, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for k in range(3):
        optimizer.zero_grad()
        scaler.scale(sum((w * w).sum() for w in weights)).backward()  # type: ignore[arg-type]
        if k == 1:
            weights[0].grad[0, 0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
    return weights, optimizer


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "LAMB"])
def test_a_gradient_scaler_is_served_by_the_kernel(name, on_device, monkeypatch):
    with interpreting(on_device) as backend:
        ours, optimizer = scaled(name, monkeypatch, max_norm=2.0)
    theirs, reference = scaled(name, monkeypatch, max_norm=2.0, fused=False)
    launches = 3 if name in REDUCING else 1
    assert len(backend.device.launches) == (3 * (1 + launches) if on_device else 2 * launches)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-6)
        for key, wanted in reference.state[q].items():
            torch.testing.assert_close(optimizer.state[p][key], wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_the_first_step_after_left_out_ones_is_the_first_for_the_rule_too(on_device, fused, monkeypatch):
    """SGD with dampening begins with the gradient; torch has no momentum buffer before."""
    for module in (clipping, optimizer_module):
        monkeypatch.setattr(module, "steps_on_gpu", lambda optimizer: True)
    first, second = torch.ones(5, requires_grad=True), torch.ones(3, requires_grad=True)
    with interpreting(on_device):
        optimizer = piste.optim.SGD(
            [first, second], lr=1.0, momentum=0.5, dampening=0.25, nonfinite="skip", fused=fused
        )
        first.grad = torch.full((5,), torch.inf)
        optimizer.step()
        for step, gradient in enumerate((2.0, 4.0)):
            first.grad, second.grad = torch.full((5,), gradient), None if step else torch.ones(3)
            optimizer.step()  # with another plan each
        assert optimizer.skipped == 1
    assert first.tolist() == [1 - 2.0 - (0.5 * 2.0 + 0.75 * 4.0)] * 5
    assert second.tolist() == [0.0] * 3


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("name", ["Adam", "LAMB", "Adafactor", "NAdam"])
def test_parameters_without_elements_count_their_steps(name, on_device):
    with interpreting(on_device):
        p = torch.zeros(0, 3, requires_grad=True)
        p.grad = torch.zeros(0, 3)
        optimizer = getattr(piste.optim, name)([p])
        for _ in range(2):
            optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_steps_in_a_compiled_backward_pass_are_those_of_the_kernel():
    """Compiled autograd traces the hooks of parameters, in which a tensor has no address."""
    compiled_autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    found = []
    with interpreting() as backend:
        for is_compiled in (False, True):
            p = torch.linspace(-1, 1, 6).requires_grad_()
            optimizer = piste.optim.AdamW([p], lr=0.1)
            for _ in range(2):
                with optimizer.step_in_backward():
                    loss = p.square().sum()
                    if is_compiled:
                        with compiled_autograd._enable(torch.compile(backend="eager")):
                            loss.backward()
                    else:
                        loss.backward()
            found.append(p.detach())
    assert torch.equal(*found)
    assert [entry for entry, _ in backend.device.launches] == ["step"] * 4
