"""The sums of Prodigy: those of the kernels and of the eager backend, of any layout, with any number of threads."""

from __future__ import annotations

import pytest
import torch

from piste import optim

from .prodigy_cases import EARLY, gradient_of, names


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_adds_all_layouts_and_dtypes_as_the_eager_backend_does(dtype):
    """Strided and contiguous parameters of two dtypes are added by several kernels, and in part by no kernel."""
    many = []
    for fused in (None, False):
        ps = [gradient_of(i, (6, 50)).to(dtype) for i in range(3)]
        ps = [ps[0].requires_grad_(), ps[1].t().requires_grad_(), ps[2][:, ::2].requires_grad_()]
        ps += [gradient_of(7, (40,)).float().requires_grad_(), torch.zeros(0, requires_grad=True)]
        optimizer = optim.Prodigy(ps, **EARLY, fused=fused, precision="master")
        for t in range(5):
            for p in ps:
                p.grad = gradient_of(t, tuple(p.shape)).to(p.dtype)
            optimizer.step()
        many.append([*(p.detach() for p in ps), *names(optimizer.param_groups[0]).values()])
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(many[0], many[1], rtol=tolerance, atol=tolerance)


def test_the_estimate_does_not_depend_on_the_number_of_threads():
    found, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            p = gradient_of(0, (300_000,)).float().requires_grad_()
            optimizer = optim.Prodigy([p], **EARLY)
            for t in range(3):
                p.grad = gradient_of(t, p.shape).float()
                optimizer.step()
            found.append((names(optimizer.param_groups[0]), p.detach()))
        finally:
            torch.set_num_threads(threads)
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_gradients_are_only_read_and_missing_ones_make_another_sum():
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = optim.Prodigy(params, **EARLY)
    other = optim.Prodigy(copies := [torch.ones(3, requires_grad=True) for _ in range(2)], **EARLY, fused=False)
    for t in range(6):
        for p, q in zip(params, copies, strict=True):
            p.grad = gradient_of(t, (3,)).float() if t != 3 or p is params[0] else None
            q.grad = None if p.grad is None else p.grad.clone()
        optimizer.step()
        other.step()
        for p, q in zip(params, copies, strict=True):
            assert p.grad is None or torch.equal(p.grad, gradient_of(t, (3,)).float())
            torch.testing.assert_close(p, q)
