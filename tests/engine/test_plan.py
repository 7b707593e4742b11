"""What may change between steps is noticed, and what a step must leave alone is left alone."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import piste
from piste.engine.cpu import step_kernel as cpu
from piste.engine.native import compiler, gradients

from .reference import AgainstTorch, randn, spread, transposed, weights


@pytest.fixture(autouse=True, params=["directly", "by questions in Python"])
def stepped(request, monkeypatch):
    """All of this holds whoever looks where the parameters and gradients are."""
    if request.param == "directly":
        assert gradients.native_guard(), "the self-test of the native guard fails on this machine"
    else:
        monkeypatch.setattr(gradients, "native_guard", lambda: None)


# --- what may change between steps ----------------------------------------------------------------------------


def replace_state(optimizer, params):
    key = "exp_avg" if "exp_avg" in optimizer.state[params[0]] else "momentum_buffer"
    optimizer.state[params[0]][key] = torch.full_like(params[0], 0.5)


def state_in_another_layout(optimizer, params):
    for p in params:
        state = optimizer.state[p]
        state["exp_avg"] = spread(state["exp_avg"])


def state_points_elsewhere(optimizer, params):
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data.clone()


def state_in_shared_memory(optimizer, params):
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()


def state_sent_through_a_queue(optimizer, params):
    queue = torch.multiprocessing.SimpleQueue()
    queue.put(optimizer.state_dict())
    queue.get()


def new_state(optimizer, params):
    optimizer.state = defaultdict(dict)


def clear_state(optimizer, params):
    optimizer.state.clear()


def forget_one(optimizer, params):
    del optimizer.state[params[1]]


def restart_the_count(optimizer, params):
    optimizer.state[params[0]]["step"] = torch.tensor(0.0)


def count_in_place(optimizer, params):
    optimizer.state[params[0]]["step"].zero_()


def other_data(optimizer, params):
    for p in params:
        p.data = p.data.clone() * 2


def shared_parameters(optimizer, params):
    for p in params:
        p.share_memory_()


def swapped(optimizer, params):
    torch.utils.swap_tensors(params[0], nn.Parameter(params[0].detach() + 1))


def other_parameter(optimizer, params):
    params[0] = optimizer.param_groups[0]["params"][0] = nn.Parameter(params[0].detach() + 1)


def another_order(optimizer, params):
    optimizer.param_groups[0]["params"].reverse()


def drop_one(optimizer, params):
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][1:]


def add_a_group(optimizer, params):
    params.append(nn.Parameter(torch.arange(4.0, dtype=torch.float64)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.01})


def drop_the_group_again(optimizer, params):
    add_a_group(optimizer, params)
    optimizer.param_groups[:] = optimizer.param_groups[1:]


def other_rate(optimizer, params):
    optimizer.param_groups[0]["lr"] = 0.003


def turn_on_decay(optimizer, params):
    optimizer.param_groups[0]["weight_decay"] = 0.2


def climb(optimizer, params):
    optimizer.param_groups[0]["maximize"] = True


def save_and_load(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def strided_data(optimizer, params):
    for p in params:
        p.data = spread(p.data)


CHANGES = [
    replace_state,
    state_in_another_layout,
    state_points_elsewhere,
    state_in_shared_memory,
    state_sent_through_a_queue,
    new_state,
    clear_state,
    forget_one,
    restart_the_count,
    count_in_place,
    other_data,
    strided_data,
    shared_parameters,
    swapped,
    other_parameter,
    another_order,
    drop_one,
    add_a_group,
    drop_the_group_again,
    other_rate,
    turn_on_decay,
    climb,
    save_and_load,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_steps_is_noticed(change):
    pair = AgainstTorch("Adam", weights(5, 40_000, 3))
    pair.step(2)
    pair.change_both(change)
    pair.step(3)
    assert "eager" not in pair.optimizer.explain()
    a, b = pair.optimizers
    for p, q in zip(pair.ours, pair.theirs, strict=True):
        for key, value in b.state[q].items():
            torch.testing.assert_close(a.state[p][key], value, rtol=1e-11, atol=1e-12)


def test_a_parameter_transposed_in_place_is_noticed():
    pair = AgainstTorch("Adam", [torch.arange(9.0, dtype=torch.float64).reshape(3, 3).requires_grad_()])
    pair.step(2)
    for p in (*pair.ours, *pair.theirs):
        p.grad = None
        p.data = p.data.t()
    pair.step(2)


def test_options_changed_in_place():
    pair = AgainstTorch("Adam", weights(5, 3))
    rates = [torch.tensor(0.1, dtype=torch.float64) for _ in pair.optimizers]
    for optimizer, lr in zip(pair.optimizers, rates, strict=True):
        optimizer.param_groups[0].update(betas=[0.9, 0.99], lr=lr)
    for _ in range(3):
        pair.step(2)
        for optimizer, lr in zip(pair.optimizers, rates, strict=True):
            optimizer.param_groups[0]["betas"][0] -= 0.2
            lr.mul_(0.5)


def test_momentum_turned_on_and_off():
    pair = AgainstTorch("SGD", weights(5, 3), lr=0.1)
    for momentum in (0.0, 0.9, 0.5, 0.0, 0.9):
        for optimizer in pair.optimizers:
            optimizer.param_groups[0]["momentum"] = momentum
        pair.step(2)


def test_an_option_turned_on_gets_the_state_it_lacks():
    (p,) = params = weights(4)
    optimizer = piste.optim.Adam(params, lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step()
    state = optimizer.state[p]
    torch.testing.assert_close(state["max_exp_avg_sq"], state["exp_avg_sq"], rtol=0, atol=0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).all()


def test_gradients_that_appear_disappear_or_change_layout_are_noticed():
    pair = AgainstTorch("Adam", [nn.Parameter(randn(6, 5)), nn.Parameter(randn(3, 4)), nn.Parameter(randn(200, 200))])
    none, lie = (lambda g: None), transposed
    plan = [
        (None, None, None),
        (none, None, None),
        (none, none, None),
        (None, none, none),
        (lie, None, None),
        (lie, lie, lie),
        (None, None, None),
        (spread, lie, none),
        (none, none, none),
        (None, None, None),
        (None, lambda g: g.sum().expand(g.shape), None),
    ]
    for row in plan:
        pair.backward()
        for params in (pair.ours, pair.theirs):
            for p, do in zip(params, row, strict=True):
                p.grad = p.grad if do is None else do(p.grad)
        if row == (none, none, none):
            with pytest.warns(UserWarning, match="changed no parameter"):
                pair.step_both()
        else:
            pair.step_both()


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="torch before 2.10 refuses such gradients")
def test_a_gradient_of_another_dtype_at_any_step():
    """`grad_dtype` lets a gradient have a dtype of its own; torch.optim itself refuses it."""
    p, q = (nn.Parameter(torch.linspace(-1, 1, 70, dtype=torch.float32)) for _ in range(2))
    ours, reference = piste.optim.Adam([p]), piste.optim.Adam([q])
    p.grad_dtype = None
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float16):
        g = torch.linspace(-2, 3, 70).to(dtype)
        p.grad, q.grad = g, g.float()
        ours.step()
        reference.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert p.dtype == torch.float32 and p.grad is g


def test_a_lazily_conjugate_gradient():
    """Autograd leaves one where the loss reads `p.conj()`; torch.optim can't step it."""
    p, q = (nn.Parameter(torch.linspace(-1, 1, 8, dtype=torch.complex128)) for _ in range(2))
    ours, reference = piste.optim.Adam([p]), torch.optim.Adam([q])
    for conjugate in (False, True, True, False):
        p.grad = q.grad = None
        for x in (p, q):
            (x.conj() if conjugate else x).backward(torch.linspace(1j, 2, 8, dtype=torch.complex128))
        assert p.grad.is_conj() == conjugate
        q.grad = q.grad.resolve_conj()
        ours.step()
        reference.step()
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_a_lazily_negative_gradient(shape):
    """Autograd leaves one, of one element, where the loss reads the conjugate of a number made of p."""
    p, q = (nn.Parameter(torch.ones(shape, dtype=torch.float64)) for _ in range(2))
    ours, reference = piste.optim.Adam([p]), torch.optim.Adam([q])
    for negative in (False, True, True, False):
        p.grad = q.grad = None
        for x in (p, q):
            z = torch.complex(torch.zeros_like(x), x)
            (z.conj() if negative else z).backward(torch.full(shape, 1j, dtype=torch.complex128))
        assert p.grad.is_neg() == negative
        ours.step()
        reference.step()
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


class Wrapped(Tensor):
    """A gradient that holds another tensor and has no memory of its own, as DTensor."""

    @staticmethod
    def __new__(cls, x):
        made = Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)
        made.x = x
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        bare = lambda y: y.x if isinstance(y, Wrapped) else y  # noqa: E731
        return function(*torch.utils._pytree.tree_map(bare, args), **(kwargs or {}))


def test_a_gradient_that_becomes_a_subclass():
    p, q = (nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
    ours, reference = piste.optim.Adam([p]), piste.optim.Adam([q])
    for wrap in (Tensor.clone, Wrapped, Wrapped, Tensor.clone):
        g = torch.linspace(-2, 3, 8)
        p.grad, q.grad = wrap(g), g
        ours.step()
        reference.step()
        torch.testing.assert_close(p, q)


SIZE = "must match the size of tensor|doesn't match the broadcast shape|The expanded size"


def test_a_state_of_another_shape_is_refused_as_by_torch():
    for wrong in (torch.zeros(3), torch.zeros(0), torch.zeros(2, 8, 2)):
        pair = AgainstTorch("Adam", weights(8, dtype=torch.float32))
        pair.backward()
        for optimizer in pair.optimizers:
            optimizer.step()
        for optimizer, params in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
            optimizer.state[params[0]]["exp_avg"] = wrong.clone()
            before = params[0].detach().clone()
            with pytest.raises(RuntimeError, match=SIZE):
                optimizer.step()
            assert torch.equal(params[0], before)


def test_a_parameter_cut_short_in_place_is_refused_as_by_torch():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    for optimizer, (p,) in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
        p.data = p.data[:2]
        p.grad = None
        p.grad = torch.ones(2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=SIZE):
            optimizer.step()


def test_a_state_whose_elements_overlap_is_refused_as_by_torch():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    for optimizer, (p,) in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
        optimizer.state[p]["exp_avg"] = torch.zeros(1, dtype=torch.float64).expand(8)
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            optimizer.step()


def test_a_count_without_an_element_is_refused():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    pair.optimizer.state[pair.ours[0]]["step"] = torch.tensor([])
    with pytest.raises(RuntimeError):
        pair.optimizer.step()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_stepped_optimizer_is_copied_with_its_parameters(again):
    pair = AgainstTorch("Adam", weights(5, 40_000))
    pair.step(2)
    params, optimizer = again((pair.ours, pair.optimizer))
    before = [p.detach().clone() for p in pair.ours]
    old, pair.ours, pair.optimizers[0] = pair.ours, params, optimizer
    pair.step(2)
    assert all(map(torch.equal, old, before))  # the copy steps its own
    assert "eager" not in optimizer.explain()


def test_options_that_change_every_step_compile_nothing():
    pair = AgainstTorch("AdamW", weights(5, 7))
    pair.step()
    kernels = set(compiler._loaded)
    for t in range(1, 12):
        for optimizer in pair.optimizers:
            (group,) = optimizer.param_groups
            group.update(lr=1e-3 / t, betas=(0.9 - t / 100, 0.99 + t / 2000), eps=1e-8 * t, weight_decay=0.01 * t)
        pair.step()
    pair.change_both(lambda o, _: o.param_groups[0].update(lr=torch.tensor(0.01, dtype=torch.float64)))
    pair.step()
    assert set(compiler._loaded) == kernels


def test_zero_decay_and_other_numbers_at_their_ends():
    pair = AgainstTorch("Adam", weights(5))
    for numbers in ({"lr": 0.0}, {"betas": (0.0, 0.0)}, {"eps": 0.0}, {"weight_decay": 0.1}, {"weight_decay": 0}):
        for optimizer in pair.optimizers:
            optimizer.param_groups[0].update(numbers)
        pair.step(2)


# --- what a step leaves alone ---------------------------------------------------------------------------------


def test_autograd_notices_the_step():
    (w,) = params = weights(4)
    optimizer = piste.optim.SGD(params, lr=0.1)
    loss = (w * w.exp()).sum()
    w.grad = torch.ones_like(w)
    version = w._version
    optimizer.step()
    assert w._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_operation_of_torch_runs_in_a_step():
    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    for name in ("Adam", "SGD", "NAdam", "Rprop"):
        pair = AgainstTorch(name, weights(5, 40_000))
        pair.step()
        pair.backward()
        called: list[str] = []
        with Log():
            pair.optimizer.step()
        assert called == []


def highest_memory(reset: bool = False) -> int:
    """The most memory this process has held, in bytes, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_a_step_needs_no_memory_of_its_own():
    n = 4_000_000
    p = nn.Parameter(torch.zeros(n))
    p.grad = torch.ones(n)
    optimizer = piste.optim.Adam([p])
    optimizer.step()
    before = highest_memory(reset=True)
    optimizer.step()
    assert highest_memory() - before < n  # bytes: a quarter of one tensor


def test_gradients_are_freed_after_the_step():
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    held = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert [ref() for ref in held] == [None, None]


def test_a_thousand_steps_with_new_gradients_keep_no_memory_and_plan_once(monkeypatch):
    made = []
    real = cpu.StepKernel.__init__

    def counted(self, *args):
        made.append(weakref.ref(self))
        real(self, *args)

    monkeypatch.setattr(cpu.StepKernel, "__init__", counted)
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)

    def steps(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()

    steps(20)
    before = highest_memory(reset=True)
    steps(1000)
    assert highest_memory() - before < 20_000_000  # the gradients of all steps are 240 MB
    assert len(made) == 1
    for t in range(50):  # parameters that take turns: each turn has its plan, made once
        params[t % 2].grad = None
        optimizer.step()
        params[t % 2].grad = torch.zeros_like(params[t % 2])
    gc.collect()
    assert len(made) == 3
    for _ in range(50):  # memory that moves every time: the plan of where it was goes
        params[0].data = params[0].data.clone()
        optimizer.step()
    gc.collect()
    assert len(made) >= 50
    assert sum(ref() is not None for ref in made) <= 4


def test_an_optimizer_and_its_parameters_are_freed():
    params = weights(5, 30_000)
    optimizer = piste.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = [weakref.ref(optimizer), *map(weakref.ref, params)]
    del optimizer, params, p
    gc.collect()
    assert [ref() for ref in held] == [None] * 3


def test_counters_have_torchs_default_dtype():
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            for name, keys in {
                "Adam": ["step"],
                "NAdam": ["step", "mu_product"],
                "ASGD": ["step", "eta", "mu"],
            }.items():
                pair = AgainstTorch(name, weights(5))
                pair.step(2)
                for key in keys:
                    assert pair.optimizer.state[pair.ours[0]][key].dtype == dtype, (name, key)
                    assert pair.optimizer.state[pair.ours[0]][key].shape == ()
                assert "eager" not in pair.optimizer.explain()
        finally:
            torch.set_default_dtype(torch.float32)


def test_a_checkpoint_of_another_default_dtype_goes_on():
    pair = AgainstTorch("Adam", weights(5, 7))
    pair.step(2)
    pair.change_both(lambda o, _: [s.update(step=s["step"].double()) for s in o.state.values()])
    pair.step(2)
    assert pair.optimizer.state[pair.ours[0]]["step"].dtype == torch.float64


# --- odd but legitimate ways to step --------------------------------------------------------------------------


def test_steps_in_the_backward_pass():
    """An optimizer for every parameter, stepped by autograd as soon as its gradient is there."""

    def train(module) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        for p in net.parameters():
            optimizer = module.Adam([p], lr=0.1)

            def stepped(p, optimizer=optimizer):
                optimizer.step()
                optimizer.zero_grad()

            p.register_post_accumulate_grad_hook(stepped)
        for t in range(4):
            net(torch.full((2, 4), t - 1.5, dtype=torch.float64)).square().sum().backward()
        return [p.detach() for p in net.parameters()]

    for a, b in zip(train(piste.optim), train(torch.optim), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_gradient_that_lies_in_the_parameter_itself():
    pair = AgainstTorch("SGD", weights(5, 70_000), lr=0.1, momentum=0.9)
    for _ in range(3):
        for p in (*pair.ours, *pair.theirs):
            p.grad = p.detach()
        pair.step_both()


def test_parameters_that_share_a_gradient():
    pair = AgainstTorch("Adam", weights(6, 6, 6), lr=0.1)
    for t in range(3):
        for params in (pair.ours, pair.theirs):
            shared = torch.linspace(-1, t + 1, 6, dtype=torch.float64)
            for p in params:
                p.grad = shared
        pair.step_both()


def test_a_learning_rate_that_requires_grad_steps_as_in_torch():
    pair = AgainstTorch("SGD", weights(5), lr=torch.tensor(0.1, dtype=torch.float64, requires_grad=True))
    pair.step(2)
    pair.change_both(lambda optimizer, _: optimizer.param_groups[0]["lr"].data.mul_(0.5))
    pair.step(2)


def test_two_optimizers_of_the_same_parameters():
    pair = AgainstTorch("SGD", weights(5, 7), lr=0.1, momentum=0.9)
    more = piste.optim.Adam(pair.ours), torch.optim.Adam(pair.theirs)
    for _ in range(3):
        pair.step()
        for optimizer in more:
            optimizer.step()
        pair.assert_same()


def test_parameters_that_are_views_of_one_tensor():
    flat = [randn(40) for _ in range(2)]
    views = [[nn.Parameter(x[:15].view(3, 5)), nn.Parameter(x[15:40:2])] for x in flat]
    pair = AgainstTorch("Adam", views[0])
    pair.step(3)
    assert torch.equal(flat[0][:15].view(3, 5), pair.ours[0])
    assert torch.equal(flat[0][16:40:2], flat[1][16:40:2])  # what lies between is not touched
