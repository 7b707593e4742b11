"""Every optimizer on a CUDA device: the fused kernel against steps in double precision on the same device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import piste
from tests.optim.cases import OPTIONS, fullest

from .double_precision import excess, reals, reference, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SIZES = ((5, 3), (4096,), (1,), (70_001,), (0,), (64, 64))
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3, torch.complex64: 2e-6}


def random(dtype: torch.dtype, steps: int, late: bool) -> tuple[list[torch.Tensor], list[list[torch.Tensor | None]]]:
    """Return start values and gradients; with `late`, one parameter has no gradient at the first step."""
    make = torch.Generator("cuda").manual_seed(1)
    starts, *gradients = (
        [torch.randn(size, generator=make, dtype=dtype, device="cuda") for size in SIZES] for _ in range(1 + steps)
    )
    first: list[torch.Tensor | None] = [None if late and i == 1 else g for i, g in enumerate(gradients[0])]
    return starts, [first, *gradients[1:]]


def compare(name: str, options: dict[str, Any], dtype: torch.dtype, *, late: bool = False) -> None:
    """Compare the kernel with steps in double precision, within a bound that follows the condition of the step."""
    starts, gradients = random(dtype, 1 if dtype == torch.bfloat16 else 3, late)
    weights = [p.clone().requires_grad_() for p in starts]
    ours = run(getattr(piste.optim, name)(weights, **options, fused=True), gradients)
    assert "6 of 6 parameters by the fused GPU kernel" in ours.explain()
    exact, shifted = reference(name, options, starts, gradients)
    of_all = [o.param_groups[0]["params"] for o in (exact, *shifted)]
    for p, wanted, *others in zip(weights, *of_all, strict=True):
        assert bool((excess(p, wanted, others, TOLERANCE[dtype]) <= 1).all())
        assert ours.state[p].keys() == exact.state[wanted].keys()
        for key, value in exact.state[wanted].items():
            spread = [o.state[q][key] for o, q in zip(shifted, others, strict=True)]
            near = TOLERANCE[dtype] if value.dim() else 1e-6
            assert bool((excess(ours.state[p][key], value, spread, near) <= 1).all()), key


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_rmsprop_is_no_further_from_double_precision_than_torchs(dtype):
    options = fullest("RMSprop")
    starts, gradients = random(dtype, 1 if dtype == torch.bfloat16 else 3, False)
    wanted = reference("RMSprop", options, starts, gradients)[0].param_groups[0]["params"]

    def error(optimizer: Any) -> float:
        weights = run(optimizer, gradients).param_groups[0]["params"]
        pairs = zip(weights, wanted, strict=True)
        return max(float((reals(p) - reals(q)).abs().max()) for p, q in pairs if p.numel())

    def copies() -> list[torch.Tensor]:
        return [p.clone().requires_grad_() for p in starts]

    kernel, eager = (error(piste.optim.RMSprop(copies(), **options, fused=fused)) for fused in (True, False))
    foreach = error(torch.optim.RMSprop(copies(), **options, foreach=True))
    print(f"RMSprop in {dtype}, largest error: kernel {kernel:.1e}, eager {eager:.1e}, torch foreach {foreach:.1e}")
    assert kernel <= 2 * foreach


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_equal_those_in_double_precision(name, dtype):
    compare(name, fullest(name), dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_parameters_may_differ_in_their_step_counts(name):
    compare(name, fullest(name), torch.float32, late=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_step_counts_on_the_device_are_advanced_there(name):
    compare(name, fullest(name) | {"capturable": True}, torch.float32, late=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_step_follows_the_learning_rate_in_a_tensor(name):
    def run(captured: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        p = torch.randn(5000, device="cuda").requires_grad_()
        p.grad = torch.randn_like(p)
        lr = torch.tensor(0.01, device="cuda")
        optimizer = getattr(piste.optim, name)([p], lr=lr, capturable=True, fused=captured)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        step = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for value in (0.01, 0.001, 0.02):
            lr.fill_(value)
            p.grad.mul_(-0.5)
            step()
        return [p.detach(), *(x for x in optimizer.state[p].values())]

    for mine, wanted in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-6, atol=2e-6)


SHAPES = ((5, 3), (300, 700), (2, 3, 64, 64), (4096,), (1,), (4, 1100))
REDUCING: dict[str, list[dict[str, Any]]] = {
    "Adafactor": [
        {},
        {"beta1": 0.9, "weight_decay": 0.1},
        {"lr": 0.1, "relative_step": False, "scale_parameter": False, "eps": (1e-3, 1e-2)},
        {"warmup_init": True, "min_dim_size_to_factor": 32, "maximize": True},
    ],
    "Prodigy": [
        {"d0": 1e-2},
        {"d0": 1e-2, "use_bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.1, "beta3": 0.5},
    ],
    "AdamW": [{"cautious": True, "max_norm": 1.0}, {"max_value": 0.5, "decoupled_decay": "independent"}],
}
"""Rules that add over rows, columns or all parameters, and options of the step that do."""


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), [(k, o) for k, many in REDUCING.items() for o in many], ids=str)
def test_steps_that_reduce_equal_those_of_the_eager_backend(name, options, dtype, capturable):
    found = []
    for fused in (None, False):
        make = torch.Generator("cuda").manual_seed(1)
        weights = [torch.randn(s, generator=make, dtype=dtype, device="cuda").requires_grad_() for s in SHAPES]
        optimizer = getattr(piste.optim, name)(weights, **options, capturable=capturable, fused=fused)
        for _ in range(3):
            for p in weights:
                p.grad = torch.randn(p.shape, generator=make, dtype=dtype, device="cuda") / 2 - 1
            optimizer.step()
        assert ("by the eager backend" in optimizer.explain()) == (fused is False)
        found.append([*weights, *(x for p in weights for x in optimizer.state[p].values())])
    # The eager backend adds float32 in float32, and counts elements of a cautious step so in every dtype.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6 if "cautious" in options else 1e-11
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=tolerance, atol=tolerance)


def test_steps_that_reduce_have_the_same_bits_in_every_run():
    def run(name: str) -> torch.Tensor:
        make = torch.Generator("cuda").manual_seed(1)
        weights = [torch.randn(s, generator=make, device="cuda").requires_grad_() for s in SHAPES]
        optimizer = getattr(piste.optim, name)(weights)
        for _ in range(2):
            for p in weights:
                p.grad = torch.cos(p.detach()) - 0.5
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in weights])

    for name in ("Adafactor", "Prodigy", "LAMB"):
        first = run(name)
        assert all(torch.equal(run(name), first) for _ in range(99))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "Adagrad"])
def test_steps_with_state_in_8_bits_equal_those_of_the_eager_backend(name, dtype):
    """The second step begins with the same codes, of which a few differ after the first."""
    starts, gradients = random(dtype, 2, late=False)
    sides = []
    for fused in (None, False):
        weights = [p.clone().requires_grad_() for p in starts]
        sides.append(getattr(piste.optim, name)(weights, lr=0.01, state_dtype="int8", fused=fused))
    ours, theirs = sides
    for of_step in gradients:
        for side in sides:
            run(side, [of_step])
        assert ["eager" in side.explain_backend() for side in sides] == [False, True]
        for p, q in zip(*(side.param_groups[0]["params"] for side in sides), strict=True):
            torch.testing.assert_close(p, q, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
            for key, value in theirs.state[q].items():
                if value.dtype == torch.int8 and value.numel():
                    apart = (ours.state[p][key].int() - value.int()).abs()
                    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.02, key
                elif value.is_floating_point():
                    torch.testing.assert_close(ours.state[p][key], value, rtol=2e-6, atol=2e-6)
        ours.load_state_dict(theirs.state_dict(), hyperparameters="keep")  # `fused` among them
        with torch.no_grad():
            for p, q in zip(*(side.param_groups[0]["params"] for side in sides), strict=True):
                p.copy_(q)
