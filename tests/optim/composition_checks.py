"""Rules whose steps are computed by hand, for what the base adds to every rule: each check returns the first fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from piste.formula.reductions import mean
from piste.optim import Buffer
from piste.optim.options import Flag, Number, rate, weight_decay


def stepped(make: Any, start: Any, gradient: Any, **options: Any) -> Iterator[Any]:
    """Yield the parameter after a step of the eager backend, and then after one of the kernel."""
    for fused in (False, True):
        p = torch.tensor(start, requires_grad=True)
        p.grad = torch.tensor(gradient)
        make([p], fused=fused, **options).step()
        yield p.tolist()


def find_fault_without_buffers(base: Any) -> str | None:
    """A rule without buffers may return its step alone."""

    class Plain(base):
        options = {"lr": rate(0.5)}

        def update(g: Any) -> Any:
            return g * g

    for found in stepped(Plain, [1.0, 2.0], [3.0, 4.0]):
        if found != [-3.5, -6.0]:
            return f"a rule without buffers moved to {found}"
    return None


def find_fault_of_matrices(base: Any) -> str | None:
    """Both formulas of a rule of matrices read the parameter, numbers and flags."""

    class Whole(base):
        options = {"lr": rate(0.5), "weight_decay": weight_decay(0.0), "scale": Number(1.0), "squared": Flag(False)}
        buffers = {"sum": "s"}

        def before(p: Any, g: Any, s: Any, *, scale: Any, squared: bool) -> Any:
            s = s + g
            return scale * p * (s * s if squared else s), s

        def matrix(u: Any) -> Any:
            return 2 * u

        def after(p: Any, u: Any, *, scale: Any, squared: bool) -> Any:
            return scale * p * u if squared else u

    options: dict[str, Any] = {"weight_decay": 0.5, "scale": 0.25, "maximize": True}
    # s = -g + 0.5 p = (-2.5, -4); u = 2 * 0.25 p s^2 = (3.125, 16); d = 0.25 p u = (0.78125, 8)
    for found in stepped(Whole, [[1.0, 2.0]], [[3.0, 5.0]], squared=True, **options):
        if found != [[1 - 0.390625, 2 - 4.0]]:
            return f"a rule of matrices moved to {found}"
    # s = (-2.5, -6, 0.5, 0.5); d = 2 * 0.25 p s = (-1.25, 6, 0.75, -0.25): two agree, times 4 / 3
    expected = [1 + 0.5 * 4 / 3 * 1.25, -2.0, 3 - 0.5 * 4 / 3 * 0.75, -1.0]
    for [found] in stepped(Whole, [[1.0, -2.0, 3.0, -1.0]], [[3.0, 5.0, 1.0, -1.0]], cautious=True, **options):
        if found != pytest.approx(expected, rel=1e-6):
            return f"a cautious rule of matrices moved to {found}"
    return None


def find_fault_of_state_of_matrices(base: Any) -> str | None:
    """The matrix stage has the last buffers declared, and the formula before it the others."""

    class Stateful(base):
        options = {"lr": rate(1.0), "scale": Number(2.0)}
        buffers = {"sum": "s", "count": "c", "last": "b"}

        def before(g: Any, s: Any) -> Any:
            return s + g, s + g

        def matrix(u: Any, c: Any, b: Any, *, scale: float) -> Any:
            return scale * u + b.view(u.shape), c + 1, u.flatten(1).clone()

    for fused in (False, True):
        p = torch.zeros(1, 2, requires_grad=True)
        optimizer = Stateful([p], fused=fused)
        for _ in range(2):
            p.grad = torch.tensor([[1.0, 3.0]])
            optimizer.step()
        # s = (1, 3) and (2, 6); steps 2 s, and 2 s + (1, 3)
        found = {"p": p.tolist(), **{key: optimizer.state[p][key].tolist() for key in Stateful.buffers}}
        if found != {"p": [[-7.0, -21.0]], "sum": [[2.0, 6.0]], "count": [[2.0, 2.0]], "last": [[2.0, 6.0]]}:
            return f"a rule with state of matrices is at {found}"
    return None


def find_fault_of_own_decay(base: Any) -> str | None:
    """A rule that reads the weight decay steps without its own where the base shrinks the weights."""

    class Reading(base):
        options = {"lr": rate(0.5), "weight_decay": weight_decay(0.2)}

        def update(p: Any, g: Any, *, weight_decay: Any) -> Any:
            return g + 2 * weight_decay * p

    for options, expected in (
        ({}, 2 - 0.5 * (3 + 0.8)),
        ({"decoupled_decay": "lr"}, 2 * (1 - 0.1) - 0.5 * 3),
        ({"decoupled_decay": "lr", "weight_decay": 0.0}, 2 - 0.5 * 3),
    ):
        for found in stepped(Reading, [2.0], [3.0], **options):
            if found != pytest.approx([expected], rel=1e-6):
                return f"a rule that reads the weight decay moved to {found} with {options}"
    return None


def find_fault_of_shared_formulas(base: Any) -> str | None:
    """The kinds of decoupled weight decay, and cautious steps."""

    class Plain(base):
        options = {"lr": rate(0.5), "weight_decay": weight_decay(0.0), "shift": Number(1.0, low=-1.0)}

        def update(g: Any, *, shift: Any) -> Any:
            return g - shift

    decays: list[tuple[dict[str, Any], list[float]]] = [
        ({"decoupled_decay": "lr"}, [1 - 0.1 - 1.0, 2 - 0.2 + 0.25]),
        ({"decoupled_decay": "independent", "lr_max": 2.0}, [1 - 0.05 - 1.0, 2 - 0.1 + 0.25]),
        ({"decoupled_decay": "lr_squared", "lr_max": 2.0}, [1 - 0.025 - 1.0, 2 - 0.05 + 0.25]),
    ]
    for options, expected in decays:
        for found in stepped(Plain, [1.0, 2.0], [3.0, 0.5], weight_decay=0.2, **options):
            if found != pytest.approx(expected, rel=0, abs=1e-6):
                return f"{options} moved to {found}"
    # steps 2, -0.5, 3 and -1: two agree, times 4 / 3
    for found in stepped(Plain, [1.0, 2.0, 1.0, 1.0], [3.0, 0.5, 4.0, 0.0], cautious=True):
        if found != pytest.approx([1 - 4 / 3, 2.0, 1 - 2.0, 1.0], abs=1e-6):
            return f"a cautious step moved to {found}"
    # steps -2, 1.25 and 1: two agree, times 3 / 3
    for found in stepped(Plain, [1.0, 2.0, 1.0], [-3.0, 0.25, 0.0], shift=-1.0, cautious=True):
        if found != pytest.approx([2.0, 1.375, 1.0], abs=1e-6):
            return f"an odd one moved to {found}"
    return None


def find_fault_of_lines(base: Any) -> str | None:
    """Buffers of a number for each row or column are such in the kernel too, and other buffers are not."""

    class OfLines(base):
        options = {"lr": rate(1.0)}
        buffers = {"row": Buffer("r", shape="rows"), "column": Buffer("c", shape="columns"), "sum": Buffer("s")}

        def update(g: Any, r: Any, c: Any, s: Any) -> Any:
            r, c, s = r + mean(g, over="row"), c + mean(g, over="column"), s + g
            return r + 10 * c + s, r, c, s

    # means of the rows 2 and 7, of the columns 3.5, 4.5 and 5.5
    expected = [[-2.0 - 35 - 1, -2.0 - 45 - 2, -2.0 - 55 - 3], [-7.0 - 35 - 6, -7.0 - 45 - 7, -7.0 - 55 - 8]]
    for found in stepped(OfLines, [[0.0] * 3] * 2, [[1.0, 2.0, 3.0], [6.0, 7.0, 8.0]]):
        if found != expected:
            return f"a rule with buffers of rows and columns moved to {found}"
    return None


CHECKS = (
    find_fault_without_buffers,
    find_fault_of_lines,
    find_fault_of_matrices,
    find_fault_of_state_of_matrices,
    find_fault_of_own_decay,
    find_fault_of_shared_formulas,
)
"""Take the base of all optimizers, and return the first fault."""
