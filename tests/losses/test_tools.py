"""Tools that look for losses, trace them or compile them work with Piste's, or the message names one that does."""

from __future__ import annotations

import inspect
import warnings
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


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_symbolic_trace_takes_a_loss_itself_with_its_operands_by_name(case: Case) -> None:
    operands, loss = seeded(case, dtype=torch.float32), case.loss(**float32_options(case))
    for _ in range(2):
        traced = torch.fx.symbolic_trace(loss)
        assert tuple(n.target for n in traced.graph.nodes if n.op == "placeholder") == case.loss.arguments
        assert torch.equal(traced(*operands), loss(*operands))


def test_the_signature_of_a_call_names_the_operands() -> None:
    for name, signature in {
        "MSELoss": "(input: 'Tensor', target: 'Tensor') -> 'Tensor'",
        "CLIPLoss": "(image: 'Tensor', text: 'Tensor', logit_scale: 'float | Tensor') -> 'Tensor'",
        "InfoNCELoss": "(query: 'Tensor', key: 'Tensor', negatives: 'Tensor | None' = None) -> 'Tensor'",
    }.items():
        assert str(inspect.signature(getattr(nn, name)().forward)) == signature
    assert "operands" in inspect.getsource(nn.MSELoss.forward)
    renamed = type("Renamed", (nn.InfoNCELoss,), {"arguments": ("anchor", "positive")})
    assert [*inspect.signature(renamed().forward).parameters] == ["anchor", "positive", "negatives"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
def test_an_exported_loss_takes_batches_of_every_size_that_dimensions_by_name_allow(strict: bool) -> None:
    n = torch.export.Dim("n", min=2)
    for loss, given in (
        (nn.CrossEntropyLoss(), {"input": X, "target": K}),
        (nn.MSELoss(), {"input": X, "target": X.flip(0)}),
        (nn.TripletMarginLoss(), {"anchor": X, "positive": X.flip(0), "negative": X + 1}),
    ):
        first, *rest = given.values()
        names = dict(list(given.items())[1:])
        for args, kwargs in (((first, *rest), {}), ((first,), names)):
            sizes = {name: {0: n} for name in given}
            program = torch.export.export(loss, args, kwargs, dynamic_shapes=sizes, strict=strict).module()
            call = [x[:3] for x in args], {name: x[:3] for name, x in kwargs.items()}
            torch.testing.assert_close(program(*call[0], **call[1]), loss(*[x[:3] for x in given.values()]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_traced_call_leaves_the_settings_of_a_loss_alone() -> None:
    loss, operands = nn.KLDivLoss(reduction="batchmean"), (X.log_softmax(1), X.softmax(1))
    loss(*operands)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.export.export(loss, operands, strict=True)
    assert not [w for w in seen if "_validated_settings" in str(w.message)]


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
