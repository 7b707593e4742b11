"""Steps of any size on any number of threads, and in a forked process."""

from __future__ import annotations

import copy
import multiprocessing
import threading

import pytest
import torch

from piste.optim import OPTIMIZERS

from .backends import assert_close
from .reference import model, train

pytestmark = pytest.mark.usefixtures("double_scalars")  # a kernel is made for each dtype of the counters


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_element_is_stepped_once_for_any_sizes_and_threads(threads):
    """Sizes around the ends of chunks and blocks, many small tensors and a large one, strided and contiguous."""
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
        assert_close(*results)
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
    """The step has enough elements for the thread pool, whose threads stay in the parent."""
    p = torch.ones(200_000, requires_grad=True)
    p.grad = torch.full_like(p, 0.5)
    optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=True)
    optimizer.step()

    def child(queue):
        torch.set_num_threads(1)  # torch's operations would wait for the thread pool
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
