"""The kernel beside the eager backend: the same training, whatever happens between two steps."""

from __future__ import annotations

import copy
import io
import multiprocessing
import threading

import pytest
import torch
from torch import nn

from piste.engine.cpu import backend
from piste.errors import PisteError
from piste.optim import OPTIMIZERS

from .cases import fullest, kernels, label
from .reference import backward, batch, model, train

pytestmark = pytest.mark.usefixtures("double_scalars")  # a kernel is made for each dtype of the counters
every = pytest.mark.parametrize("name", OPTIMIZERS)
EPS = {torch.float64: 2e-16, torch.float32: 1.2e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def close(ours, theirs, ulps=8.0):
    """Within a few units in the last place of the largest number."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.numel():
            a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a.detach(), b.detach()))
            eps = EPS.get(a.dtype, 0.0) * ulps
            torch.testing.assert_close(a, b, rtol=eps, atol=eps * float(b.double().abs().max()), equal_nan=True)


def states(optimizer):
    return [v for s in optimizer.state_dict()["state"].values() for _, v in sorted(s.items())]


class Both:
    """One training, by the kernel and by the eager backend."""

    def __init__(self, name, net=None, **options):
        self.nets = [copy.deepcopy(net or model()) for _ in range(2)]
        self.optimizers = [
            OPTIMIZERS[name](n.parameters(), **options, fused=fused)
            for n, fused in zip(self.nets, (True, False), strict=True)
        ]

    def __iter__(self):
        return iter(zip(self.nets, self.optimizers, strict=True))

    def train(self, ts):
        for t in ts:
            for net, optimizer in self:
                train(net, optimizer, [t])
            self.agree()

    def agree(self):
        close(self.nets[0].parameters(), self.nets[1].parameters(), ulps=64)
        assert self.optimizers[0].state_dict()["state"].keys() == self.optimizers[1].state_dict()["state"].keys()
        close(states(self.optimizers[0]), states(self.optimizers[1]), ulps=64)


# --- every optimizer, option and dtype, every step, across a save and load ---------------------------------------


@pytest.mark.sample(2, per="name")
@pytest.mark.parametrize(("name", "options", "dtype"), kernels(), ids=label)
def test_kernel_and_eager_backend_agree(name, options, dtype):
    """Each step from the same start, the kernel's; in the middle both go through a file and change engines."""
    make = torch.Generator().manual_seed(2)
    shapes = [(3, 5), (7,), ()]
    start = [torch.randn(s, generator=make, dtype=torch.float64).to(dtype) for s in shapes]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    kernel, eager = (OPTIMIZERS[name](ps, **options, fused=f) for ps, f in ((ours, True), (theirs, False)))
    for t in range(6):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64).to(dtype)
            q.grad = p.grad.clone()
        kernel.step()
        eager.step()
        close(ours, theirs)
        close(states(kernel), states(eager))
        file = io.BytesIO()
        torch.save(kernel.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        saved["param_groups"][0]["fused"] = t == 3
        with torch.no_grad():
            for p, q in zip(ours, theirs, strict=True):
                q.copy_(p)
        eager.load_state_dict(saved)
        if t == 3:
            (ours, kernel), (theirs, eager) = (theirs, eager), (ours, kernel)
            eager.param_groups[0]["fused"] = False


# --- what happens between steps ------------------------------------------------------------------------------------


def replaced_state(net, optimizer):
    for state in optimizer.state.values():
        for key in state:
            state[key] = state[key].clone()


def zeroed_state(net, optimizer):
    for state in optimizer.state.values():
        for value in state.values():
            if value.dim():
                value.zero_()


def cleared_state(net, optimizer):
    optimizer.state.clear()


def one_state_deleted(net, optimizer):
    optimizer.state.pop(net[0].weight, None)


def rewound(net, optimizer):
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(1.0)


def counted_by_a_number(net, optimizer):
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = 5.0


def turned_state(net, optimizer):
    """The same numbers, laid out in another way, as a checkpoint may bring them."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if value.dim() == 2:
                state[key] = value.T.contiguous().T


def reloaded(net, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def moved_parameters(net, optimizer):
    for p in net.parameters():
        p.data = p.data.clone()


def turned_parameters(net, optimizer):
    net[0].weight.data = net[0].weight.data.T.contiguous().T


def dropped_parameter(net, optimizer):
    optimizer.state.pop(optimizer.param_groups[0]["params"].pop(1))


def changed_options(net, optimizer):
    optimizer.param_groups[0].update(lr=0.03, maximize=True)
    if "weight_decay" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["weight_decay"] = 0.1


def changed_numbers(net, optimizer):
    group = optimizer.param_groups[0]
    group["lr"] = torch.tensor(0.02)
    for key, value in {"betas": (0.7, 0.8), "eps": 1e-4, "momentum": 0.5, "alpha": 0.6, "rho": 0.6}.items():
        if group.get(key):
            group[key] = value


def frozen_part(net, optimizer):
    net[0].requires_grad_(False)
    net[0].weight.grad = net[0].bias.grad = None


def another_thread_count(net, optimizer):
    torch.set_num_threads(1)


EVENTS = [
    replaced_state,
    zeroed_state,
    cleared_state,
    one_state_deleted,
    rewound,
    counted_by_a_number,
    turned_state,
    reloaded,
    moved_parameters,
    turned_parameters,
    dropped_parameter,
    changed_options,
    changed_numbers,
    frozen_part,
    another_thread_count,
]


LAID_OUT_ANEW = (turned_state, turned_parameters)  # each rule needs another kernel then: a few will do
HAPPENINGS = [(n, e) for n in OPTIMIZERS for e in EVENTS if e not in LAID_OUT_ANEW or n in ("SGD", "Adam")]


@pytest.mark.sample(4, per="name")
@pytest.mark.parametrize(("name", "event"), HAPPENINGS, ids=label)
def test_a_change_between_steps_has_the_same_effect_on_both_backends(name, event):
    both = Both(name, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {}))
    both.train(range(3))
    threads = torch.get_num_threads()
    try:
        for net, optimizer in both:
            event(net, optimizer)
        both.train(range(3, 6))
    finally:
        torch.set_num_threads(threads)


def test_flags_changed_during_a_run_take_effect():
    both = Both("Adam")
    both.train(range(2))
    for key, value in {"amsgrad": True, "decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}.items():
        for _, optimizer in both:
            optimizer.param_groups[0][key] = value
        both.train(range(2, 4))
    for engine in (None, False, True):
        both.optimizers[0].param_groups[0]["fused"] = engine
        both.train(range(4, 6))


@every
def test_a_copy_steps_independently(name):
    both = Both(name)
    both.train(range(2))
    copied = copy.deepcopy((both.nets, both.optimizers))
    both.train(range(2, 5))
    both.nets, both.optimizers = copied
    both.train(range(5, 8))


GRADIENTS = {
    "lazily negated": lambda g: torch.complex(g, -g).conj().imag,
    "transposed": lambda g: g.T.contiguous().T,
    "expanded": lambda g: g[:1].expand(g.shape),
    "strided": lambda g: torch.stack([g, g], -1)[..., 0],
    "accumulated": lambda g: g.add_(0.0),
    "a view of a larger buffer": lambda g: torch.cat([g.flatten(), g.flatten()])[g.numel() :].view(g.shape),
    "missing": lambda g: None,
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("first", [False, True], ids=["from the second step", "from the first step"])
def test_gradients_that_change_their_kind_are_stepped(kind, first):
    both = Both("Adam")
    both.optimizers[0].param_groups[0]["fused"] = None
    for t in range(6):
        for net, optimizer in both:
            backward(net, t)
            if t % 2 == (0 if first else 1):
                for p in net.parameters():
                    if p.dim() == 2:
                        p.grad = GRADIENTS[kind](p.grad)
            optimizer.step()
        both.agree()


def test_a_lazily_negated_gradient_of_one_element_is_stepped():
    """The only kind that is both lazily negated and contiguous."""
    both = Both("Adam", nn.Linear(1, 1))
    both.optimizers[0].param_groups[0]["fused"] = None
    for t in range(4):
        for net, optimizer in both:
            for p in net.parameters():
                g = torch.full_like(p.detach(), 0.5 + t)
                p.grad = torch.complex(g, -g).conj().imag if t % 2 else g
            optimizer.step()
        both.agree()


def test_complex_gradients_that_are_lazy_conjugates_are_stepped():
    runs = []
    for fused in (None, False):
        p = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128, requires_grad=True)
        optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=fused)
        for t in range(4):
            g = torch.tensor([0.5 - 1j, 2 + 0.3j], dtype=torch.complex128)
            p.grad = torch.conj(g) if t % 2 else g
            optimizer.step()
        runs.append(p)
    close([runs[0]], [runs[1]])


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_a_gradient_that_is_sparse_in_some_steps_is_stepped(name):
    runs = []
    for fused in (None, False):
        torch.manual_seed(0)
        net = nn.Embedding(5, 3)
        optimizer = OPTIMIZERS[name](net.parameters(), lr=0.1, fused=fused)
        for t in range(5):
            optimizer.zero_grad()
            net.sparse = bool(t % 2)
            net(torch.tensor([1, 2, 2])).square().sum().backward()
            assert net.weight.grad.is_sparse is net.sparse
            optimizer.step()
        runs.append(net.weight)
    close([runs[0]], [runs[1]])


def test_a_parameter_that_shrank_in_place_is_not_stepped_past_its_end():
    """p.data = p.data[:2] keeps the address; the state no longer fits, and neither engine may write beyond."""
    for fused in (None, False):
        whole = torch.ones(4)
        p = nn.Parameter(whole)
        optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=fused)
        p.grad = torch.ones(4)
        optimizer.step()
        rest = whole[2:].clone()
        p.data = p.data[:2]
        p.grad = torch.ones(2)
        with pytest.raises((RuntimeError, PisteError)):
            optimizer.step()
        assert torch.equal(whole[2:], rest)


def test_elements_that_share_memory_are_rejected_as_in_torch():
    p = torch.ones(1, 3).expand(2, 3).detach().requires_grad_()
    p.grad = torch.ones(2, 3)
    for optimizer in (torch.optim.SGD([p], lr=0.1), OPTIMIZERS["SGD"]([p], lr=0.1)):
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor refers to a single"):
            optimizer.step()


# --- sizes, threads, processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_element_is_stepped_once_for_any_sizes_and_threads(threads):
    """Around the ends of chunks and blocks, many small ones and a large one, with strides and without."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        make = torch.Generator().manual_seed(1)
        sizes = [1, 2, 3, 63, 64, 65, 4095, 4096, 4097, 16383, 16384, 16385, 49152, 100_003, 0, *[7] * 300]
        start = [torch.randn(n, generator=make) for n in sizes]
        start.append(torch.randn(301, 211, generator=make).T)
        start.append(torch.randn(64, 3, 17, 19, generator=make)[:, :, ::2])
        results = []
        for fused in (True, False):
            params = [p.clone().requires_grad_() for p in start]
            optimizer = OPTIMIZERS["AdamW"](params, lr=0.1, fused=fused)
            for _ in range(2):
                for p in params:
                    p.grad = torch.sin(p.detach() * 3)
                optimizer.step()
            results.append(params)
        close(*results)
    finally:
        torch.set_num_threads(before)


def test_the_thread_count_changes_no_bit():
    make = torch.Generator().manual_seed(1)
    start, g = torch.randn(200_000, generator=make), torch.randn(200_000, generator=make)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            p = start.clone().requires_grad_()
            optimizer = OPTIMIZERS["Adam"]([p], fused=True)
            for _ in range(3):
                p.grad = g.clone()
                optimizer.step()
            results.append(p.detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_optimizers_step_on_several_threads():
    def work(k):
        net = copy.deepcopy(whole)
        optimizer = OPTIMIZERS["Adam"](net.parameters(), fused=True)
        train(net, optimizer, range(k, k + 20))
        results[k] = [p.detach() for p in net.parameters()]

    whole, results = model(), {}
    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert not worker.is_alive()
    for k in range(4):
        alone, results[k] = results[k], None
        work(k)
        assert all(torch.equal(a, b) for a, b in zip(alone, results[k], strict=True))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_forked_after_a_step_can_step():
    """Enough elements for a team of threads, which stays behind in the parent."""
    p = torch.ones(200_000, requires_grad=True)
    p.grad = torch.full_like(p, 0.5)
    optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=True)
    optimizer.step()

    def child(queue):
        torch.set_num_threads(1)  # torch's own operations would wait for the team
        optimizer.step()
        queue.put((p.min().item(), p.max().item()))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(timeout=60)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0
    optimizer.step()
    assert queue.get() == (p.min().item(), p.max().item())


# --- which engine, and why --------------------------------------------------------------------------------------------


class Marked(torch.Tensor):
    """A subclass, whose operations may mean anything."""


def test_the_kernel_steps_by_default():
    net = model()
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, [0])
    text = optimizer.explain()
    assert text.startswith("Adam, group 0: 4 of 4 parameters by the fused CPU kernel"), text


WHY = [
    ({"fused": False}, torch.float32, "fused=False asks for it"),
    ({"differentiable": True}, torch.float32, "differentiable=True lets autograd record the step"),
    ({"capturable": True}, torch.float32, "capturable=True keeps the step count on the device"),
    ({}, torch.float8_e4m3fn, "its dtype is torch.float8_e4m3fn"),
]


@pytest.mark.parametrize(("options", "dtype", "why"), WHY, ids=str)
def test_explain_names_the_option_or_dtype_that_excludes_the_kernel(options, dtype, why):
    p = torch.ones(3).to(dtype).requires_grad_()
    p.grad = torch.ones(3).to(dtype)
    assert (
        OPTIMIZERS["Adam"]([p], **options).explain() == f"Adam, group 0: 1 of 1 parameters by the eager backend: {why}"
    )


def test_tensor_subclasses_and_other_devices_are_stepped_eagerly():
    p = torch.ones(3).as_subclass(Marked).requires_grad_()
    p.grad = torch.ones(3)
    optimizer = OPTIMIZERS["SGD"]([p], lr=0.5)
    assert "it is a Marked, a tensor subclass" in optimizer.explain()
    optimizer.step()
    assert p.tolist() == [0.5] * 3
    q = torch.ones(3, device="meta", requires_grad=True)
    q.grad = torch.ones(3, device="meta")
    optimizer = OPTIMIZERS["Adam"]([q])
    assert "it is on meta" in optimizer.explain()
    optimizer.step()


def test_each_backend_steps_some_of_the_parameters():
    p, q = torch.ones(3, requires_grad=True), torch.ones(3).as_subclass(Marked).requires_grad_()
    optimizer = OPTIMIZERS["SGD"]([p, q], lr=0.5)
    for _ in range(2):
        p.grad = torch.ones(3)
        q.grad = torch.ones(3)
        optimizer.step()
    assert p.tolist() == q.tolist() == [0.0] * 3
    assert "1 of 2 parameters by the fused CPU kernel" in optimizer.explain()
    assert "1 of 2 parameters by the eager backend" in optimizer.explain()


def test_fused_true_rejects_a_parameter_that_the_kernel_cannot_step():
    p = torch.ones(3).as_subclass(Marked).requires_grad_()
    p.grad = torch.ones(3)
    optimizer = OPTIMIZERS["Adam"]([p], fused=True)
    with pytest.raises(PisteError) as caught:
        optimizer.step()
    text = str(caught.value)
    assert "fused=True asks for the kernel, which can't step parameter 0 of shape (3,): it is a Marked" in text
    assert "With fused=None Piste chooses a backend that can." in text
    assert p.tolist() == [1.0] * 3


def test_without_numba_training_continues_on_the_eager_backend(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name, *rest: None)
    net, other = model(), model()
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, range(2))
    assert "by the eager backend: Numba is not installed" in optimizer.explain()
    train(other, OPTIMIZERS["Adam"](other.parameters(), fused=False), range(2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_of_a_network_match_the_eager_backend(name):
    both = Both(name, **fullest(name))
    for t in range(20):
        for net, optimizer in both:
            net.zero_grad()
            ((net(batch(t)[0]) - batch(t)[1]) ** 2).mean().backward()
            optimizer.step()
    close(both.nets[0].parameters(), both.nets[1].parameters(), ulps=1e4)
