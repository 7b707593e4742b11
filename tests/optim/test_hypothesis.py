"""Random shapes, layouts, dtypes, options and values against the oracle, and NaN as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from piste.optim import OPTIMIZERS
from tests.oracle.optim import step_tensor

from .assertions import PRECISION
from .cases import HALVES, fullest, kernels
from .reference import PAIRS

pytestmark = [
    pytest.mark.usefixtures("double_scalars"),
    pytest.mark.filterwarnings("ignore:.*changed no parameter"),
]
quick = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

ORDINARY = [0.0, -0.0, 1.0, -1.0, 0.3, -0.7, 2.5, -20.0, 1e-3, -1e-4, 30.0]
EXTREME = [0.0, 1.0, -2.0, 0.5, float("nan"), float("inf"), float("-inf")]
LAYOUTS = ["contiguous", "transposed", "strided", "expanded"]


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """Return the same values in another layout; "expanded" repeats the first slice, like the gradient of a sum."""
    if layout == "transposed":
        return values.T.contiguous().T if values.dim() == 2 else values.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "strided":
        wide = torch.full([2 * n for n in values.shape], 7.0, dtype=values.dtype)
        return wide[tuple(slice(None, None, 2) for _ in values.shape)].copy_(values)
    if layout == "expanded" and values.numel():
        return values[:1].expand(values.shape)
    return values.clone()


@st.composite
def runs(draw, values, cases):
    """Draw a case, parameters and, for each step, the gradients, of which some are None."""
    in_order = [(*case, LAYOUTS[:1]) for case in cases]
    anyhow = ("Adam", fullest("Adam"), cases[0][2], LAYOUTS)  # each layout needs a kernel
    name, options, dtype, layouts = draw(st.sampled_from(in_order) | st.just(anyhow))
    shapes = draw(st.lists(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), min_size=1, max_size=3))

    def tensor(shape, layouts):
        numbers = draw(arrays.arrays(np.float64, shape, elements=st.sampled_from(values)))
        layout = draw(st.sampled_from(layouts)) if shape else "contiguous"
        return laid_out(torch.from_numpy(np.asarray(numbers)).to(dtype), layout)

    params = [tensor(shape, layouts[:3]) for shape in shapes]
    steps = draw(st.integers(1, 3))
    return (
        name,
        options,
        params,
        [[tensor(shape, layouts) if draw(st.integers(0, 5)) else None for shape in shapes] for _ in range(steps)],
    )


class Run:
    """Return parameters of these values and layouts with their optimizer."""

    def __init__(self, make: Any, starts: list[torch.Tensor], **options: Any) -> None:
        self.params = [torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).copy_(p) for p in starts]
        self.optimizer = make([p.requires_grad_() for p in self.params], **options)

    def step(self, grads: list[torch.Tensor | None]) -> None:
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        self.optimizer.step()

    def numbers(self, i: int) -> list[dict[str, float]]:
        """Return the state of each element of parameter i."""
        state, p = self.optimizer.state.get(self.params[i], {}), self.params[i]
        flat = {k: v.expand(p.shape).flatten().tolist() for k, v in state.items()}
        return [{k: values[e] for k, values in flat.items()} for e in range(p.numel())]


@quick
@given(data=st.data())
def test_random_runs_match_the_oracle(data, drawn):
    """Every element of parameters and state agrees after every step, and gradients don't change."""
    name, options, starts, grads = data.draw(runs(ORDINARY, drawn(kernels(), 12)))
    ours = Run(OPTIMIZERS[name], starts, **options)
    counts = [0] * len(starts)
    for now in grads:
        before = [(p.detach().clone(), ours.numbers(i)) for i, p in enumerate(ours.params)]
        kept = [None if g is None else g.clone() for g in now]
        ours.step(now)
        for i, p in enumerate(ours.params):
            (old, states), g = before[i], now[i]
            assert p.stride() == starts[i].stride()
            if g is None:
                assert torch.equal(p, old)
                continue
            assert torch.equal(g, kept[i])
            counts[i] += 1
            unit, storage, floor = PRECISION[p.dtype]
            first = [{} for _ in states] if counts[i] == 1 else states
            try:
                new, new_states = step_tensor(
                    name, old.flatten().tolist(), g.flatten().tolist(), first, counts[i], options, unit
                )
            except AssertionError:
                assume(False)  # a sign that hangs on the rounding
            rows = zip(new, new_states, p.flatten().tolist(), ours.numbers(i), strict=True)
            for expected, after, p_new, state_new in rows:
                assert expected.holds(p_new, storage, floor), (p_new, expected)
                assert after.keys() == state_new.keys()
                for key, value in after.items():
                    assert value.holds(state_new[key], storage, floor), (key, state_new[key], value)


@quick
@given(data=st.data())
def test_nan_and_infinity_agree_with_the_eager_backend_and_torch(data, drawn):
    """Finite values agree with PyTorch; infinity and NaN agree with the eager backend."""
    cases = [case for case in kernels() if case[0] in PAIRS and case[2] in (torch.float64, torch.float32)]
    name, options, starts, grads = data.draw(runs(EXTREME, drawn(cases, 12)))
    ours, theirs = PAIRS[name]
    chosen, eager, torchs = (
        Run(ours, starts, **options),
        Run(ours, starts, **options, fused=False),
        Run(theirs, starts, **options, foreach=False),
    )
    for now in grads:
        for each in (chosen, eager, torchs):
            each.step(now)
        close = {"rtol": 1e-4, "atol": 1e-5} if starts[0].dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
        for a, b, c in zip(chosen.params, eager.params, torchs.params, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, **close)
            # torch's lerp makes NaN of an infinite average, and we of an infinite parameter of ASGD
            b, c = (torch.where(x.isinf(), torch.nan, x) for x in (b.detach(), c.detach()))
            torch.testing.assert_close(b, c, equal_nan=True, **close)


@quick
@given(data=st.data())
def test_16_bit_nan_agrees_with_the_eager_backend(data, drawn):
    cases = [case for case in kernels() if case[2] in HALVES]
    name, options, starts, grads = data.draw(runs(EXTREME, drawn(cases, 8)))
    chosen, eager = Run(OPTIMIZERS[name], starts, **options), Run(OPTIMIZERS[name], starts, **options, fused=False)
    for now in grads:
        for each in (chosen, eager):
            each.step(now)
        for a, b in zip(chosen.params, eager.params, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, rtol=0.02, atol=1e-3)
