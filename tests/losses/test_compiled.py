"""Losses under torch.compile: one graph, an operator or traced operations, value checks, and the eager values."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

import piste
from piste import losses, torch_internals
from piste.errors import InvalidValue
from piste.losses.pairs import PairLoss
from piste.losses.rowwise import RowwiseLoss
from tests.losses.cases import CASES, MODULES, Case, seeded

F = losses.functional
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0, 1])


class Compiled:
    """A function compiled to one graph, and the operators of Piste in it."""

    def __init__(self, function: Callable[..., Any], backend: Any = aot_eager, **options: Any) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

        def keep(graph, inputs):
            self.graphs.append(graph)
            return backend(graph, inputs)

        self.function = torch.compile(function, backend=keep, fullgraph=True, **options)

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands)

    @property
    def operators(self) -> list[str]:
        targets = [str(n.target) for graph in self.graphs for n in graph.graph.nodes]
        return [target for target in targets if target.startswith("piste")]


def trained(function, operands):
    """The value of a function, and the gradients by its floating operands for an incoming gradient of 3."""
    leaves = [o.detach().clone().requires_grad_(o.is_floating_point()) for o in operands]
    value = function(*leaves)
    (value.sum() * 3).backward()
    return [value.detach(), *[x.grad for x in leaves]]


def has_operator(case: Case) -> bool:
    """Whether a kernel, or the scoring in chunks, is what torch.compile calls; it traces options that are functions."""
    is_traced = case.options.get("absent") == "skip" or any(map(callable, case.options.values()))
    return issubclass(case.loss, (RowwiseLoss, PairLoss)) and not is_traced


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_loss_compiles_to_one_graph_with_the_eager_value_and_gradients(case: Case, dynamic: bool) -> None:
    operands, function = seeded(case), case.function

    def step(x, *rest):
        return function(x * 0.9, *rest, **case.options)

    compiled = Compiled(step, dynamic=dynamic)
    torch.testing.assert_close(trained(compiled, operands), trained(step, operands))
    assert bool(compiled.operators) is has_operator(case)


def has_batch(case: Case) -> bool:
    """Whether the operands of a loss have a dimension that no option fixes."""
    size = seeded(case)[0].shape[:1]
    options = [v for v in case.options.values() if isinstance(v, torch.Tensor)]
    return size.numel() > 2 and all(v.dim() == 0 or v.shape[:1] != size for v in options)


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", [c for c in CASES if has_operator(c) and has_batch(c)], ids=str)
def test_one_graph_takes_batches_of_every_size(case: Case, reduction: str) -> None:
    operands = seeded(case)
    size = operands[0].shape[0]
    is_batched = [o.dim() > 0 and o.shape[0] == size for o in operands]

    def step(*given):
        return case.function(*given, reduction=reduction, **case.options)

    compiled = Compiled(step)
    counters.clear()
    for n in (size, size - 1):
        batch = [o[:n].clone() if flag else o for o, flag in zip(operands, is_batched, strict=True)]
        for x, flag in zip(batch, is_batched, strict=True):
            if flag:
                torch._dynamo.mark_dynamic(x, 0)
        leaves = [x.requires_grad_(x.is_floating_point()) for x in batch]
        value = compiled(*leaves)
        wanted = [x for x in leaves if x.requires_grad]
        found = torch.autograd.grad(value.sum() * 3, wanted, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close([value.detach(), *found], [x for x in trained(step, batch) if x is not None])
    assert set(compiled.operators) == {"piste.loss"}
    # torch compiles a graph with a number of float64 on the CPU in two passes, and the backend sees both.
    assert counters["stats"]["unique_graphs"] == 1


def test_eager_calls_in_between_compile_nothing_again():
    compiled = Compiled(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.125))
    compiled(X, Y)
    for k in range(3):
        F.cross_entropy(X, Y, label_smoothing=0.125)
        F.mse_loss(X, X, normalizer=7.5 + k)
        compiled(X, Y)
    assert len(compiled.operators) == 1


@pytest.mark.sample(1, per="case.name", of=4)
@pytest.mark.parametrize("case", [c for c in MODULES if not c.options], ids=str)
def test_every_loss_compiles_to_one_graph_without_gradients(case: Case) -> None:
    operands, loss = seeded(case), case.loss()
    compiled = Compiled(lambda *o: loss(*o))
    torch.testing.assert_close(compiled(*operands), loss(*operands))
    leaf = operands[0].clone().requires_grad_()
    with torch.no_grad():
        value = compiled(leaf, *operands[1:])
    assert not value.requires_grad


@pytest.mark.sample(1, per="case.name", of=2)
@pytest.mark.parametrize("case", [c for c in MODULES if has_operator(c)], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_operators_have_every_reduction_and_16_bit_floats(case: Case, reduction: str) -> None:
    module = case.loss(**case.options, reduction=reduction).to(torch.float32)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        operands = seeded(case, dtype=dtype)
        torch._dynamo.reset()
        compiled = Compiled(lambda *o: module(*o))
        try:
            wanted = trained(module, operands)
        except piste.errors.PisteError:  # float64 weights and narrow rows
            continue
        torch.testing.assert_close(trained(compiled, operands), wanted)


OPERATORS = [losses.CrossEntropyLoss(), losses.CrossEntropyLoss(reduction="none"), losses.NLLLoss(check="off")]


@pytest.mark.parametrize("loss", OPERATORS, ids=str)
def test_the_operators_pass_the_checks_of_pytorch(loss) -> None:
    compiled = Compiled(lambda x, y: loss(x, y))
    compiled(X.clone().requires_grad_(), Y)
    (node,) = [n for n in compiled.graphs[0].graph.nodes if str(n.target).startswith("piste")]
    handle, x = node.args[0], X.log_softmax(1).requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for wanted in [[False, False]] + [[True, False]] * (loss.reduction == "mean"):
        torch.library.opcheck(torch.ops.piste.loss.default, (handle, [x, Y], wanted), test_utils=tests)
    grad = torch.ones_like(loss(x, Y))
    backward = torch.ops.piste.loss_backward.default
    torch.library.opcheck(
        backward, (handle, [x.detach(), Y], grad, [True, False]), test_utils=("test_schema", "test_faketensor")
    )


REGIONS = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("loss", "good", "bad"),
    [
        (losses.CrossEntropyLoss(), (X, Y), (X, Y + 1)),
        (losses.NLLLoss(), (X.log_softmax(1), Y), (X.abs(), Y)),
        (losses.DiceLoss(), (REGIONS, REGIONS), (REGIONS, REGIONS + 1)),
        (losses.CrossEntropyLoss(check="nan"), (X, Y), (X / 0 * 0, Y)),
    ],
    ids=str,
)
def test_a_compiled_step_rejects_the_values_that_the_eager_call_rejects(loss, good, bad) -> None:
    with pytest.raises(InvalidValue) as eager:
        loss(*bad)
    compiled = Compiled(lambda x, y: loss(x * 1.0, y))
    for _ in range(2):
        with pytest.raises(InvalidValue) as found:
            compiled(*bad)
        assert str(found.value).startswith(str(eager.value))
        torch.testing.assert_close(compiled(*good), loss(*good))


def test_a_compiled_step_without_checks_rejects_nothing() -> None:
    loss = losses.NLLLoss(check="off")
    assert Compiled(lambda x, y: loss(x * 1.0, y))(X, Y) == loss(X, Y)


def test_operands_that_do_not_fit_are_rejected_while_the_step_is_compiled() -> None:
    loss = losses.CrossEntropyLoss()
    with pytest.raises(InvalidValue, match=r"received torch.int64 of shape \(2,\) for an input \(6, 4\)"):
        torch.compile(lambda x, y: loss(x * 1.0, y), backend="aot_eager")(X, Y[:2])


def test_a_compiled_step_in_place_is_refused_with_nothing_changed() -> None:
    loss, logits = losses.CrossEntropyLoss(inplace=True), X.clone().requires_grad_()
    with pytest.raises(piste.errors.Unsupported, match=r"torch\.compile traces the formula"):
        torch.compile(lambda x, y: loss(x * 1.0, y), backend="aot_eager")(logits, Y)


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    loss = losses.CrossEntropyLoss()
    compiled = Compiled(lambda x, y: loss(x * 1.0, y))
    compiled(X, Y)
    with torch.no_grad():
        compiled(X.clone().requires_grad_(), Y)
    nodes = [n for graph in compiled.graphs for n in graph.graph.nodes if str(n.target).startswith("piste")]
    assert [n.args[2] for n in nodes] == [[False, False]] * 2
    compiled(X.clone().requires_grad_(), Y)
    (node,) = [n for n in compiled.graphs[-1].graph.nodes if str(n.target).startswith("piste")]
    assert node.args[2] == [True, False]


def test_second_derivatives_of_a_graph_that_runs_as_it_is() -> None:
    loss = losses.CrossEntropyLoss()

    def second(function):
        x = X.double().requires_grad_()
        (slope,) = torch.autograd.grad(function(x, Y), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)

    compiled = Compiled(lambda x, y: loss(x, y), backend=lambda graph, inputs: graph)
    torch.testing.assert_close(second(compiled), second(loss))
    assert compiled.operators == ["piste.loss"]


@pytest.mark.parametrize("loss", [losses.CrossEntropyLoss(), losses.MSELoss()], ids=str)
def test_transforms_and_autocast_are_traced(loss) -> None:
    y = Y if isinstance(loss, losses.CrossEntropyLoss) else X.flip(0)

    def narrowed(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(x @ torch.eye(4), y)

    for function in (
        torch.func.grad(lambda x: loss(x, y)),
        torch.func.vmap(lambda x: loss(x, y[0])),
        lambda x: torch.func.jvp(lambda x: loss(x, y), (x,), (x.flip(0),)),
        narrowed,
    ):
        torch._dynamo.reset()
        compiled = Compiled(function)
        torch.testing.assert_close(compiled(X), function(X), rtol=1e-3, atol=1e-3)
        assert compiled.operators == []


def test_calls_that_no_operator_takes_are_traced() -> None:
    for function, x in (
        (lambda x: F.cross_entropy(x, Y, normalizer=7), X),
        (lambda x: F.cross_entropy(x, Y, normalizer=x.sum().abs()), X),
        (lambda x: F.cross_entropy(x[:, :1], Y * 0, check="off"), X),
        (lambda x: F.clip_loss(x, x.flip(0), 10.0), X),
        (lambda x: F.triplet_margin_with_distance_loss(x, x + 1, x - 1, distance_function=torch.dist), X),
    ):
        torch._dynamo.reset()
        compiled = Compiled(function)
        torch.testing.assert_close(compiled(x), function(x))
        assert compiled.operators == []


def test_losses_of_rows_are_traced_where_pytorch_can_not_record_in_operators(monkeypatch) -> None:
    monkeypatch.setattr(torch_internals, "_force_keys", None)
    compiled = Compiled(lambda x: F.cross_entropy(x, Y))
    torch.testing.assert_close(compiled(X), F.cross_entropy(X, Y))
    assert compiled.operators == []


def test_an_option_with_another_value_is_another_call() -> None:
    compiled = Compiled(lambda x, e: F.cross_entropy(x, Y, label_smoothing=e))
    for smoothing in (0.0, 0.1, 0.25, 0.1):
        torch.testing.assert_close(compiled(X, smoothing), F.cross_entropy(X, Y, label_smoothing=smoothing))
    handles = {n.args[0] for graph in compiled.graphs for n in graph.graph.nodes if str(n.target) == "piste.loss"}
    assert len(handles) == 3
    assert any("label_smoothing=0.25" in handle for handle in handles)


def live_tensors() -> list[torch.Tensor]:
    gc.collect()
    return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]


def test_the_shape_of_the_general_robust_loss_may_be_a_symbol() -> None:
    """torch.compile makes a symbol of a number that changes, and traces no logarithm of one."""
    compiled = Compiled(lambda x, alpha: F.general_robust_loss(x, torch.zeros(3), alpha=alpha))
    for alpha in (-2.0, -1.0, 0.5):
        x = torch.tensor([0.5, -3.0, 40.0], requires_grad=True)
        torch.testing.assert_close(compiled(x, alpha), F.general_robust_loss(x, torch.zeros(3), alpha=alpha))


def test_a_handle_is_made_for_each_kind_of_call_and_not_for_each_call() -> None:
    from piste.losses import operators

    loss = losses.CrossEntropyLoss(label_smoothing=0.125)
    compiled = Compiled(lambda x, y: loss(x, y))
    compiled(X, Y)
    count = len(operators._calls)
    for n in range(5):
        before = live_tensors()  # held, so that no tensor of another test dies meanwhile
        compiled(X.clone().requires_grad_(), Y).backward()
        assert n < 2 or len(live_tensors()) == len(before), "a call leaves a tensor behind"
    torch._dynamo.reset()
    other = copy.deepcopy(loss)
    Compiled(lambda x, y: other(x, y))(X, Y)
    assert len(operators._calls) == count


def test_classes_of_one_name_have_handles_of_their_own() -> None:
    def defined(factor):
        class Scaled(losses.MultiMarginLoss):
            def formula(x, k, w=None, *, p, margin):
                return factor * losses.MultiMarginLoss.formula(x, k, w, p=p, margin=margin)

        return Scaled()

    single, triple = defined(1), defined(3)
    one, three = Compiled(lambda x: single(x, Y)), Compiled(lambda x: triple(x, Y))
    torch.testing.assert_close(3 * one(X), three(X))
    torch.testing.assert_close(3 * one(X), three(X))
    assert one.operators == three.operators == ["piste.loss"]


def test_pairs_are_scored_in_chunks_in_compiled_code() -> None:
    loss = losses.NTXentLoss(chunk_size=64)
    a, b = (torch.randn(512, 8).requires_grad_() for _ in range(2))
    compiled = Compiled(lambda a, b: loss(a, b))
    compiled(a, b).backward()
    largest = max(torch_internals.record_allocations(lambda: compiled(a, b).backward()))
    assert largest < 4 * 1024 * 1024 / 4, "the scores of 1024 x 1024 pairs take 4 MiB"


def test_explain_backend_states_the_way_under_torch_compile() -> None:
    said = losses.CrossEntropyLoss().explain_backend(X, Y)
    assert said.endswith("in one pass. Under torch.compile it is the operator piste::loss")
    said = losses.MSELoss().explain_backend(X, X)
    assert said.endswith(
        "in one pass. Under torch.compile it is traced: its formula is fused with the operations next to it"
    )
    for call, reason in (
        (lambda: losses.CrossEntropyLoss(normalizer=7).explain_backend(X, Y), "the normalizer is a number or a tensor"),
        (lambda: losses.CLIPLoss().explain_backend(X, X, 10.0), "an operand is a number, or a tensor subclass"),
        (lambda: losses.CrossEntropyLoss(inplace=True).explain_backend(X, Y), "an operator changes no operand"),
        (lambda: losses.DiceLoss(absent="skip").explain_backend(), "regions without target are counted"),
    ):
        assert f"Under torch.compile it is traced: {reason}" in call()
