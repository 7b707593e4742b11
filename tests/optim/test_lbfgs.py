"""LBFGS: the values, evaluations, state and checkpoints of torch.optim.LBFGS."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

from piste import optim
from piste.errors import InvalidType, InvalidValue, Unsupported
from piste.optim.line_search import Point, find_wolfe_point

from .reference import assert_same, model
from .rejections import assert_rejected, weights

LIMITED = pytest.mark.skipif(
    "max_ls" not in inspect.getsource(torch.optim.LBFGS.step),
    reason="the line search of torch 2.9 evaluates more often than max_eval, by default 5/4 of max_iter",
)
OPTIONS = [
    {},
    {"lr": 0.1, "max_iter": 4},
    {"lr": 0.3, "history_size": 2, "max_iter": 9},
    {"max_eval": 3, "max_iter": 10, "lr": 0.1},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 3},
    pytest.param({"line_search_fn": "strong_wolfe", "lr": 40.0, "max_iter": 5}, marks=LIMITED),
    {"line_search_fn": "strong_wolfe", "lr": 0.01, "max_eval": 4},
    {"line_search_fn": "strong_wolfe", "tolerance_grad": 0.3},
    {"tolerance_change": 0.1, "lr": 0.1},
    {"tolerance_change": 0.0, "tolerance_grad": 0.0, "line_search_fn": "strong_wolfe", "max_iter": 4},
]


class Run:
    """Training of a small network on one batch, with the losses of all evaluations."""

    def __init__(self, make, net, **options):
        self.net, self.losses = net, []
        self.optimizer = make(net.parameters(), **options)

    def closure(self):
        self.optimizer.zero_grad()
        make = torch.Generator().manual_seed(3)
        x, y = torch.randn(7, 4, generator=make).double(), torch.randn(7, 3, generator=make).double()
        loss = ((self.net(x) - y) ** 4).mean()
        loss.backward()
        self.losses.append(loss.item())
        return loss

    def step(self):
        return self.optimizer.step(self.closure)


def runs(**options):
    """Return the same run by Piste and by PyTorch."""
    return Run(optim.LBFGS, model(), **options), Run(torch.optim.LBFGS, model(), **options)


def state_of(run):
    """Return the state, with its numbers as floats."""
    (state,) = run.optimizer.state.values()
    plain = {}
    for key, value in state.items():
        values = value if isinstance(value, list) else [value]
        if key != "al":
            plain[key] = [torch.as_tensor(x, dtype=torch.float64) for x in values]
    return plain


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(map(str, options.items())) or "defaults")
def test_steps_evaluate_and_end_where_those_of_torch_do(options):
    ours, theirs = runs(**options)
    for _ in range(4):
        assert ours.step().item() == pytest.approx(theirs.step().item(), rel=1e-9)
        assert len(ours.losses) == len(theirs.losses)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-7, atol=1e-12)
    assert_same(ours.net.parameters(), theirs.net.parameters(), rtol=1e-6, atol=1e-8)
    a, b = state_of(ours), state_of(theirs)
    assert a.keys() == b.keys()
    for key, values in b.items():
        assert len(a[key]) == len(values)
        for x, y in zip(a[key], values, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(map(str, options.items())) or "defaults")
def test_the_first_iterations_agree_to_float64_rounding(options):
    ours, theirs = runs(**{**options, "max_iter": 3})
    ours.step()
    theirs.step()
    assert_same(ours.net.parameters(), theirs.net.parameters(), rtol=1e-11, atol=1e-12)


def test_arguments_and_defaults_are_those_of_torch_in_order():
    ours, theirs = (list(inspect.signature(cls).parameters.values()) for cls in (optim.LBFGS, torch.optim.LBFGS))
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    group = optim.LBFGS(weights(), 0.5, 8).param_groups[0]
    assert (group["lr"], group["max_iter"], group["max_eval"]) == (0.5, 8, 10)


def test_checkpoints_load_in_both_directions():
    ours, theirs = runs(lr=0.1, max_iter=5)
    ours.step()
    theirs.step()
    ours_later, theirs_later = runs(lr=0.1, max_iter=5)
    ours_later.net.load_state_dict(theirs.net.state_dict())
    theirs_later.net.load_state_dict(ours.net.state_dict())
    saved = copy.deepcopy(ours.optimizer.state_dict())
    before = copy.deepcopy(saved["state"][0])
    ours_later.optimizer.load_state_dict(theirs.optimizer.state_dict())
    theirs_later.optimizer.load_state_dict(saved)
    for run in (ours, theirs, ours_later, theirs_later):
        run.step()
    for run in (theirs, ours_later, theirs_later):
        assert_same(ours.net.parameters(), run.net.parameters(), rtol=1e-8, atol=1e-10)
    again = Run(optim.LBFGS, model(), lr=0.1, max_iter=5)
    again.optimizer.load_state_dict(saved)
    again.step()
    for key in ("old_dirs", "old_stps"):  # steps leave a loaded checkpoint as it was
        assert len(before[key]) > 2 and all(map(torch.equal, before[key], saved["state"][0][key]))


def test_complex_and_missing_gradients_are_those_of_torch():
    found = []
    for make in (optim.LBFGS, torch.optim.LBFGS):
        p = torch.tensor([1 + 2j, -1j], dtype=torch.complex128, requires_grad=True)
        unused = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        optimizer = make([p, unused], lr=0.5, line_search_fn="strong_wolfe")

        def closure(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = ((p - 1).abs() ** 4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        found.append([p, unused])
    assert_same(found[0], found[1], rtol=1e-9)
    assert found[0][1].item() == 0.5


def test_maximize_ascends():
    p, q = (torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True) for _ in range(2))

    def step(x, sign, **options):
        optimizer = optim.LBFGS([x], line_search_fn="strong_wolfe", **options)

        def closure():
            optimizer.zero_grad()
            loss = sign * ((x - 1) ** 4).sum()
            loss.backward()
            return loss

        return optimizer.step(closure)

    assert step(p, 1) == -step(q, -1, maximize=True)
    assert torch.equal(p, q) and (p - 1).abs().max() < 0.2


def test_a_gradient_that_is_not_finite_skips_the_step_or_raises():
    p = torch.tensor([1.0], requires_grad=True)

    def closure():
        p.grad = torch.tensor([float("nan")])
        return p.sum()

    optimizer = optim.LBFGS([p], nonfinite="skip")
    optimizer.step(closure)
    assert p.item() == 1.0 and optimizer.skipped == 1 and not optimizer.state
    optimizer.param_groups[0]["nonfinite"] = "raise"
    assert_rejected(InvalidValue, lambda: optimizer.step(closure), 'nonfinite="raise" requires finite gradients')


def test_torch_compile_takes_the_steps_of_uncompiled_ones():
    plain, run = (Run(optim.LBFGS, model()) for _ in range(2))
    graphs = []
    step = torch.compile(
        lambda: run.optimizer.step(run.closure), backend=lambda graph, _: graphs.append(graph) or graph
    )
    for _ in range(3):
        plain.optimizer.step(plain.closure)
        step()
    assert run.losses == plain.losses and not graphs
    torch._dynamo.reset()
    with pytest.raises(Exception, match="LBFGS reads losses and gradients on the host"):
        torch.compile(run.optimizer.step, backend="eager", fullgraph=True)(run.closure)


def test_a_line_search_ends_at_a_point_with_the_strong_wolfe_conditions():
    def evaluate(t):
        loss, slope = (t - 3.0) ** 4 + 0.5 * t, 4 * (t - 3.0) ** 3 + 0.5
        return Point(t, loss, torch.tensor([slope]), slope)

    start = evaluate(0.0)
    for t in (1e-3, 1.0, 3.0, 50.0):
        point, used = find_wolfe_point(evaluate, start, t, 1.0, 1e-9, 25)
        assert point.loss <= start.loss + 1e-4 * point.t * start.slope
        assert abs(point.slope) <= 0.9 * abs(start.slope)
        assert 1 <= used <= 26


def test_hooks_and_schedulers_see_the_steps():
    ours, _ = runs(lr=0.1)
    calls = []
    ours.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    schedule = torch.optim.lr_scheduler.StepLR(ours.optimizer, 1, 0.5)
    start = [p.detach().clone() for p in ours.net.parameters()]
    ours.step()
    schedule.step()
    assert calls == ["post"] and ours.optimizer.param_groups[0]["lr"] == 0.05
    assert not any(map(torch.equal, start, ours.net.parameters()))
    ours.optimizer.param_groups[0]["lr"] = -1.0
    assert_rejected(InvalidValue, ours.step, "a schedule, or an assignment, set lr=-1.0 in param group 0 of LBFGS")


def test_explain_says_that_torch_operations_step_one_vector():
    text = "LBFGS, group 0: 2 of 2 parameters by torch operations on one vector of all"
    assert optim.LBFGS(weights(2)).explain() == optim.LBFGS(weights(2)).explain_backend() == text


REFUSED = {
    "max_norm": (1.0, "None", "its line search and its curvature need the gradient of the loss"),
    "max_value": (1.0, "None", "its line search and its curvature need the gradient of the loss"),
    "capturable": (True, "False", "it reads the loss on the host, to decide how often it evaluates"),
    "differentiable": (True, "False", "it reads the loss as a number"),
    "fused": (True, "None", "it consists of products of vectors, for which torch has kernels"),
    "precision": ("kahan", "'plain'", "its parameters are added to as they are"),
    "state_dtype": ("float32", "None", "its state is in the dtype of the parameters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_do_not_fit_are_refused_with_the_reason(name):
    value, allowed, why = REFUSED[name]
    help_ = " Help: capture the forward and the backward pass alone" * (name == "capturable")
    assert_rejected(
        InvalidValue,
        lambda: optim.LBFGS(weights(), **{name: value}),
        f"`{name}` must be {allowed} for LBFGS, because {why}; received {name}={value!r}.{help_}",
    )


def test_wrong_calls_are_refused():
    assert_rejected(Unsupported, optim.LBFGS(weights()).step_in_backward, "LBFGS takes the gradients of all parameters")
    assert_rejected(InvalidType, optim.LBFGS(weights()).step, "LBFGS.step needs a closure", "optimizer.step(closure)")
    assert_rejected(
        InvalidValue,
        lambda: optim.LBFGS([{"params": weights()}, {"params": weights()}]),
        "LBFGS doesn't support per-parameter options (parameter groups)",
        "received a second param group. Help: pass all parameters in one list.",
    )
    assert_rejected(InvalidValue, lambda: optim.LBFGS(weights(), line_search_fn="wolfe"), 'None or "strong_wolfe"')
    assert_rejected(InvalidValue, lambda: optim.LBFGS(weights(), max_iter=0), "`max_iter` must be a whole number")
    assert_rejected(InvalidType, lambda: optim.LBFGS(), "LBFGS needs `params`")
