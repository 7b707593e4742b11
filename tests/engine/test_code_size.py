"""Code generation takes time proportional to the number of distinct operations of a formula."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from piste.engine.cpu import elementwise_kernel, rowwise_kernel
from piste.engine.cpu.step_source import Layout, source
from piste.engine.specs import LossKernelSpec, Operand, StepSpec
from piste.formula import row_functions
from piste.formula.expression import topological_order


def deepened(x: Any, y: Any, operations: int) -> Any:
    """Return a value of operations that each use the previous one twice: as a tree it has 2**operations nodes."""
    for k in range(operations // 2):
        x = x * x if k % 2 else x + x
        x = x / y if k % 3 else y - x
    return x


def step_source(operations: int) -> str:
    spec = StepSpec(
        name="Deep",
        element=lambda p, g, buffers, scalars: (deepened(p, scalars["c"], operations), [deepened(g, p, operations)]),
        numbers=("lr",),
        buffers=("m",),
        counters=("t",),
        per_step={"c": lambda lr, t: deepened(lr, t, operations)},
    )
    return source.__wrapped__(spec, Layout(("float32",) * 3, "float32"))[0]


def element_source(operations: int) -> str:
    form = loss_lines("element", lambda x, y: deepened(x, y, operations))
    derivatives = lambda x, y: (deepened(x, y, operations), None)  # noqa: E731
    return elementwise_kernel.source(form._replace(derivatives=derivatives))


def row_source(operations: int) -> str:
    def formula(x: Any, y: Any) -> Any:
        z = row_functions.log_softmax(deepened(x, y, operations))
        return deepened(row_functions.total(z * y), row_functions.total(y), operations)

    return rowwise_kernel.source(loss_lines("row", formula))[0]


def loss_lines(kind: str, formula: Callable[..., Any]) -> LossKernelSpec:
    columns = Operand("x", kind, "float32"), Operand("y", kind, "float32")
    return LossKernelSpec(formula, None, columns, (), (), (True, False), (), "sum", "given")


SOURCES = [step_source, element_source, row_source]


def calls_of(function: Callable[[int], str], operations: int) -> int:
    """Return the number of Python and C function calls of an action."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        function(operations)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_ten_times_the_operations_take_ten_times_the_calls(source: Callable[[int], str]) -> None:
    small, large = calls_of(source, 50), calls_of(source, 500)
    assert large < 12 * small


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_formula_deeper_than_the_recursion_limit_is_emitted(source: Callable[[int], str]) -> None:
    operations = 2 * sys.getrecursionlimit()
    text = source(operations)
    assert sum(" = " in line for line in text.splitlines()) > operations


def test_each_operation_is_emitted_once() -> None:
    spec_lines = step_source(500).splitlines()
    assigned = [line.strip().split(" = ")[0] for line in spec_lines if line.strip()[:1] in ("x", "s") and " = " in line]
    assert len(assigned) == len(set(assigned))
    element = [line for line in spec_lines if line.strip().startswith("x") and " = " in line]
    assert len(element) <= 2 * 500


def test_a_graph_is_walked_once() -> None:
    from piste.formula import Expr

    x, y = Expr("input", "x"), Expr("input", "y")
    assert len(topological_order(deepened(x, y, 5000))) == 5000 + 2
