"""Tools that look for losses, trace them or compile them work with Piste's, or the message names one that does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.modules.loss import _Loss, _WeightedLoss

import piste
from piste.errors import Unsupported
from tests.losses.cases import CASES, MODULES, Case, seeded
from tests.losses.test_rejections import rejects

nn, F = piste.losses, piste.losses.functional
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
K = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("name", [n for n in nn.LOSSES if hasattr(torch.nn, n)])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_losses_are_instances_of_the_base_classes_of_torch(name: str) -> None:
    ours, theirs = getattr(nn, name)(), getattr(torch.nn, name)()
    assert isinstance(ours, _Loss)
    assert isinstance(ours, _WeightedLoss) == isinstance(theirs, _WeightedLoss)


class OfOne(torch.nn.Module):
    """A model that is a loss. Symbolic traces read the operands from the signature of `forward`."""

    def __init__(self, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, a):
        return self.loss(a)


class OfTwo(OfOne):
    def forward(self, a, b):
        return self.loss(a, b)


class OfThree(OfOne):
    def forward(self, a, b, c):
        return self.loss(a, b, c)


class OfFour(OfOne):
    def forward(self, a, b, c, d):
        return self.loss(a, b, c, d)


MODELS = {1: OfOne, 2: OfTwo, 3: OfThree, 4: OfFour}
"""Models by the number of operands of their loss."""


def float32_options(case: Case) -> dict:
    return {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}


def modules() -> list:
    return [pytest.param(case, case.loss(**float32_options(case)), id=f"{case}-module") for case in MODULES]


def functions() -> list:
    def of(case: Case) -> Callable[..., torch.Tensor]:
        return lambda *operands: case.function(*operands, **float32_options(case))

    return [pytest.param(case, of(case), id=f"{case}-function") for case in CASES if case.name != "nll2d"]


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize(("case", "loss"), [*modules(), *functions()])
def test_symbolic_trace_records_a_loss(case: Case, loss) -> None:
    operands = seeded(case, dtype=torch.float32)
    traced = torch.fx.symbolic_trace(MODELS[len(operands)](loss))
    assert torch.equal(traced(*operands), loss(*operands))


def test_a_recorded_loss_rejects_invalid_values() -> None:
    traced = torch.fx.symbolic_trace(OfTwo(nn.CrossEntropyLoss()))
    rejects(lambda: traced(X, K + 5), "`target` must hold class indices")


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("case", "loss"), [*modules(), *functions()])
def test_jit_trace_records_the_formula(case: Case, loss) -> None:
    """A trace runs on other values than those that it was made with."""
    first = seeded(case, dtype=torch.float32)
    torch.manual_seed(11)
    second = case.operands(case.shapes[0], torch.float32)
    module = MODELS[len(first)](loss)
    module(*first)  # so that a kernel is cached
    traced = torch.jit.trace(module, first)
    results = []
    for call in (module, traced):
        x = second[0].clone().requires_grad_()
        value = call(x, *second[1:])
        results.append((value, *torch.autograd.grad(value, x)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", sorted({"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"} & {*dir(nn)}))
def test_losses_with_a_layer_are_recorded_as_one_call(name: str) -> None:
    loss = nn.LinearCrossEntropyLoss(3, 10) if name.startswith("L") else nn.AdaptiveLogSoftmaxWithLoss(3, 10, [3, 6])
    traced = torch.fx.symbolic_trace(OfTwo(loss))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "placeholder", "call_module", "output"]
    torch.testing.assert_close(traced(X, K), loss(X, K))


SCRIPTED = {
    "MSELoss": nn.MSELoss(),
    "CTCLoss": nn.CTCLoss(),
    "AdaptiveLogSoftmaxWithLoss": nn.AdaptiveLogSoftmaxWithLoss(3, 10, [3, 6]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SCRIPTED)
def test_jit_script_names_the_tools_that_work(name: str) -> None:
    with pytest.raises(Unsupported, match=rf"torch.jit.script can't compile .*{name}.*Help: torch.compile"):
        torch.jit.script(OfTwo(SCRIPTED[name]))
