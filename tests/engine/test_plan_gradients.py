"""Gradients of every kind are stepped: missing, strided, of another dtype, lazy, wrapped, shared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import piste

from .reference import AgainstTorch, randn, spread, transposed, weights

pytestmark = pytest.mark.usefixtures("fast_path_on_and_off")


def test_gradients_that_appear_disappear_or_change_layout_are_stepped():
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
def test_a_gradient_of_another_dtype_is_stepped():
    """`grad_dtype` allows a gradient of another dtype; torch.optim rejects it."""
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


def test_a_lazily_conjugate_gradient_is_stepped():
    """Autograd makes one for a loss of `p.conj()`; torch.optim can't step it."""
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
def test_a_lazily_negative_gradient_is_stepped(shape):
    """Autograd makes one with a single element for a loss of the conjugate of a function of p."""
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
    """A gradient that wraps another tensor and has no memory of its own, like DTensor."""

    @staticmethod
    def __new__(cls, x):
        made = Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)
        made.x = x
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        bare = lambda y: y.x if isinstance(y, Wrapped) else y  # noqa: E731
        return function(*torch.utils._pytree.tree_map(bare, args), **(kwargs or {}))


def test_a_gradient_that_becomes_a_subclass_is_stepped():
    p, q = (nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
    ours, reference = piste.optim.Adam([p]), piste.optim.Adam([q])
    for wrap in (Tensor.clone, Wrapped, Wrapped, Tensor.clone):
        g = torch.linspace(-2, 3, 8)
        p.grad, q.grad = wrap(g), g
        ours.step()
        reference.step()
        torch.testing.assert_close(p, q)


def test_autograd_hooks_step_during_the_backward_pass():
    """Every parameter has an optimizer, which a hook of autograd steps."""

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


def test_a_gradient_in_the_memory_of_its_parameter_is_stepped():
    pair = AgainstTorch("SGD", weights(5, 70_000), lr=0.1, momentum=0.9)
    for _ in range(3):
        for p in (*pair.ours, *pair.theirs):
            p.grad = p.detach()
        pair.step_both()


def test_parameters_that_share_a_gradient_are_stepped():
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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1, "decoupled_decay": "lr_squared"}, {"fused": False}], ids=str
)
def test_options_that_require_grad_step_without_a_warning(options, dtype):
    repeats = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch warns once in a process
    try:
        lr, beta = (torch.tensor(x, requires_grad=True) for x in (0.1, 0.9))
        p = nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = piste.optim.Adam([p], lr=lr, betas=(beta, 0.99), **options)
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
    finally:
        torch.set_warn_always(repeats)


def test_two_optimizers_step_the_same_parameters():
    pair = AgainstTorch("SGD", weights(5, 7), lr=0.1, momentum=0.9)
    more = piste.optim.Adam(pair.ours), torch.optim.Adam(pair.theirs)
    for _ in range(3):
        pair.step()
        for optimizer in more:
            optimizer.step()
        pair.assert_same()


def test_parameters_that_are_views_of_one_tensor_are_stepped():
    flat = [randn(40) for _ in range(2)]
    views = [[nn.Parameter(x[:15].view(3, 5)), nn.Parameter(x[15:40:2])] for x in flat]
    pair = AgainstTorch("Adam", views[0])
    pair.step(3)
    assert torch.equal(flat[0][:15].view(3, 5), pair.ours[0])
    assert torch.equal(flat[0][16:40:2], flat[1][16:40:2])  # the elements between the views are unchanged
