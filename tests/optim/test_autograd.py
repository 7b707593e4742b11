"""Steps under autograd and torch.compile."""

from __future__ import annotations

import re

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from piste import torch_internals
from piste.errors import InvalidValue
from piste.optim import OPTIMIZERS
from piste.optim.lr_scheduler import WarmupCosineLR

from ..engine.process import python
from .cases import ELEMENTWISE
from .reference import (
    assert_same,
    backward,
    copies,
    model,
    train,
)

pytestmark = pytest.mark.usefixtures("double_scalars")


every = pytest.mark.parametrize("name", ELEMENTWISE)


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("name", [n for n in ELEMENTWISE])
def test_a_step_can_be_differentiated(name):
    """gradcheck holds for the parameter after three steps, with respect to the parameter and the first gradient."""
    discontinuous = name in ("Rprop", "Lion")
    options = {} if name == "Rprop" else {"weight_decay": 0.1}
    make = torch.Generator().manual_seed(5)
    p0 = torch.rand(4, generator=make, requires_grad=True)
    g0 = (torch.rand(4, generator=make) + 0.1).requires_grad_()

    def after(p0, g0):
        p = p0.clone()
        optimizer = OPTIMIZERS[name]([p], lr=0.1, differentiable=True, **options)
        for t in range(3):
            p.grad = g0 * (t + 1)
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(after, (p0, g0))
    grads = torch.autograd.grad(after(p0, g0).sum(), (p0, g0), materialize_grads=True)
    assert grads[0].abs().min() > 0
    assert (grads[1].abs().min() > 0) is not discontinuous


@pytest.mark.sample(1, per="name", of=3)
@every
def test_a_step_can_be_compiled(name):
    ours, theirs = copies(model())
    a, b = OPTIMIZERS[name](ours.parameters(), lr=0.05), OPTIMIZERS[name](theirs.parameters(), lr=0.05)
    step = torch.compile(lambda: a.step(), backend="eager")
    for t in range(3):
        backward(ours, t)
        step()
        train(theirs, b, [t])
    assert_same(ours.parameters(), theirs.parameters())


SCHEDULED = {
    "betas": ("AdamW", {}, lambda a: torch.optim.lr_scheduler.OneCycleLR(a, 0.1, 20)),
    "max_value": ("SGD", {"max_value": 0.5}, lambda a: WarmupCosineLR(a, 20, 5, 0.1, option="max_value")),
    "alpha": ("ASGD", {}, lambda a: WarmupCosineLR(a, 20, 5, 0.1, option="alpha")),
    "lr": ("NAdam", {}, lambda a: torch.optim.lr_scheduler.CosineAnnealingLR(a, 20)),
}


@pytest.mark.parametrize(("name", "options", "schedule"), SCHEDULED.values(), ids=SCHEDULED)
def test_a_step_is_not_compiled_again_when_a_schedule_changes_a_number(name, options, schedule):
    """The second graph has the state, and takes numbers that changed as inputs."""
    ours, theirs = copies(model())
    a, b = (OPTIMIZERS[name](m.parameters(), lr=0.05, **options) for m in (ours, theirs))
    graphs, found = [], []

    def count(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    schedules = schedule(a), schedule(b)
    step = torch.compile(a.step, backend=count)
    for t in range(5):
        backward(ours, t)
        step()
        found.append(len(graphs))
        train(theirs, b, [t])
        for each in schedules:
            each.step()
    assert found[0] > 0 and found[1] == found[4]
    assert_same(ours.parameters(), theirs.parameters())


@pytest.mark.parametrize(
    ("option", "value"), [("lr", -1.0), ("lr", float("nan")), ("max_norm", 0.0), ("precision", "kahann")]
)
def test_a_compiled_step_refuses_an_invalid_option_as_any_step_does(option, value):
    messages = []
    for wrap in (lambda step: step, lambda step: torch.compile(step, backend="aot_eager")):
        net = model()
        optimizer = OPTIMIZERS["AdamW"](net.parameters(), max_norm=1.0)
        step = wrap(optimizer.step)
        for t in range(3):
            backward(net, t)
            step()
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.param_groups[0][option] = value
        backward(net, 3)
        with pytest.raises(InvalidValue) as caught:
            step()
        messages.append(str(caught.value))
        assert all(map(torch.equal, before, net.parameters()))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"a schedule, or an assignment, set {option}={value!r} in param group 0 of AdamW: ")


@pytest.mark.parametrize("name", ["ASGD", "Rprop", "AdamW"])
def test_a_first_step_with_a_rate_in_a_tensor_is_one_graph(name):
    """The state of some rules starts at the rate, which compiled steps don't read on the host."""
    ours, theirs = copies(model())
    a, b = (OPTIMIZERS[name](m.parameters(), lr=torch.tensor(0.05)) for m in (ours, theirs))
    step = torch.compile(a.step, backend="aot_eager", fullgraph=True)
    for t in range(2):
        backward(ours, t)
        step()
        train(theirs, b, [t])
    assert_same(ours.parameters(), theirs.parameters())


COMPILE = """
import warnings
import torch, piste
warnings.simplefilter("error")
for cls in (piste.optim.Adam, piste.optim.SGD):
    torch._dynamo.reset()
    net, twin = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    twin.load_state_dict(net.state_dict())
    optimizer, other = cls(net.parameters(), lr=0.05), cls(twin.parameters(), lr=0.05)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for t in range(3):
        for model in (net, twin):
            for p in model.parameters():
                p.grad = torch.full_like(p, t + 1.0)
        step()
        other.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
print("same")
"""


def test_bound_steps_compile_without_a_warning():
    assert python(COMPILE) == "same"


@pytest.mark.sample(1, per="name", of=3)
@every
def test_a_compiled_step_moves_a_single_number(name):
    """Compilers leave out `copy_` to a 0-d tensor of float64 on the CPU; step counts are such tensors here too."""
    ours, theirs = (torch.nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    a, b = OPTIMIZERS[name]([ours], lr=0.05), OPTIMIZERS[name]([theirs], lr=0.05)
    step = torch.compile(a.step, backend="aot_eager")
    for t in range(3):
        ours.grad, theirs.grad = torch.tensor(t + 1.0), torch.tensor(t + 1.0)
        step()
        b.step()
    assert ours.item() != 1.0
    assert_same([ours, *a.state[ours].values()], [theirs, *b.state[theirs].values()])


HOST = {
    "SOAP": ({"precondition_frequency": 2}, "The matrix stage of this optimizer reads the step count on the host"),
    "skip": ({"nonfinite": "skip"}, 'nonfinite="skip" on a CPU and nonfinite="raise" read the gradients on the host'),
    "raise": ({"nonfinite": "raise"}, 'nonfinite="skip" on a CPU and nonfinite="raise" read the gradients on the host'),
}


@pytest.mark.parametrize(("options", "reason"), HOST.values(), ids=HOST)
def test_a_step_that_asks_the_host_runs_outside_of_the_graphs(options, reason):
    """The closure is compiled, the values are those of an uncompiled step, and fullgraph=True shows the reason."""
    ours, theirs = copies(model())
    name = "SOAP" if "precondition_frequency" in options else "Adam"
    a, b = (OPTIMIZERS[name](m.parameters(), lr=0.05, **options) for m in (ours, theirs))
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    def closure():
        a.zero_grad()
        loss = sum(p.square().sum() for p in ours.parameters())
        loss.backward()
        return loss

    compiled = torch.compile(lambda: a.step(closure), backend=count)
    for _ in range(4):
        compiled()
        b.zero_grad()
        sum(p.square().sum() for p in theirs.parameters()).backward()
        b.step()
    assert graphs
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=re.escape(reason)):
        torch.compile(a.step, backend="eager", fullgraph=True)()


@pytest.mark.parametrize("name", ["SparseAdam", "SGD", "Adagrad"])
def test_sparse_gradients_are_stepped_outside_of_the_graphs(name):
    def run(wrap):
        torch.manual_seed(0)
        torch._dynamo.reset()
        layer = torch.nn.Embedding(10, 3, sparse=True)
        optimizer = OPTIMIZERS[name](layer.parameters(), lr=0.1)
        step = wrap(optimizer.step)
        for k in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([1, 2, 1 + k])).square().sum().backward()
            step()
        return layer.weight.detach(), *optimizer.state[layer.weight].values()

    for mine, wanted in zip(
        run(lambda step: torch.compile(step, backend="eager")), run(lambda step: step), strict=True
    ):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("is_private", [True, False])
def test_a_function_outside_of_the_compiler_is_not_traced(is_private, monkeypatch):
    if not is_private:
        monkeypatch.setattr(torch_internals, "_disable_dynamo", None)
    seen = []
    hidden = torch_internals.outside_of_compiler(lambda: seen.append(torch.compiler.is_compiling()), "a reason")

    def function(x):
        hidden()
        return x + 1

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager")
    for _ in range(2):
        assert compiled(torch.zeros(1)) == 1
    assert seen == [False, False]
    torch._dynamo.reset()
    with pytest.raises(Exception, match="a reason"):
        torch.compile(function, backend="eager", fullgraph=True)(torch.zeros(2))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state_dtype": "int8"}),
        (torch.bfloat16, {"precision": "stochastic"}),
        (torch.bfloat16, {"precision": "kahan"}),
    ],
)
def test_torch_compile_steps_a_parameter_of_one_number(dtype: torch.dtype, options: dict) -> None:
    torch._dynamo.reset()
    a, b = (torch.tensor(1.5, dtype=dtype, requires_grad=True) for _ in range(2))
    plain, compiled = (OPTIMIZERS["AdamW"]([p], lr=0.1, **options) for p in (a, b))
    step = torch.compile(compiled.step, backend="eager", fullgraph=True)
    for _ in range(3):
        a.grad, b.grad = torch.full_like(a, 0.5), torch.full_like(b, 0.5)
        plain.step()
        step()
    torch.testing.assert_close(b, a)
    torch.testing.assert_close([*compiled.state[b].values()], [*plain.state[a].values()])
