"""Steps on a CUDA device in less usual places: streams, views, 2^31 elements, queued launches, loss scaling."""

from __future__ import annotations

import pytest
import torch

import piste
from piste.errors import Unsupported

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_queued_launches_keep_the_gradients_that_they_were_given():
    results = []
    for fused in (True, False):
        make = torch.Generator("cuda").manual_seed(3)
        weights = [torch.zeros(40_000, device="cuda", requires_grad=True) for _ in range(60)]
        optimizer = piste.optim.SGD(weights, lr=0.5, momentum=0.5, fused=fused)
        for _ in range(100):
            noise = torch.randn(60, 40_000, generator=make, device="cuda")
            for p, g in zip(weights, noise, strict=True):
                p.grad = g.clone()
            optimizer.step()
        results.append(torch.stack([p.detach() for p in weights]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stream", ["default", "other"])
def test_queued_launches_keep_their_tables_while_the_device_is_busy(stream):
    """No launch has begun when the last one is made, and each has gradients at another address."""
    p = torch.zeros(10_000, device="cuda", requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=1.0, fused=True)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    gradients = [torch.full_like(p, float(2**k)) for k in range(20)]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()):
        torch.cuda._sleep(500_000_000)
        for gradient in gradients:
            p.grad = gradient
            optimizer.step()
        busy = torch.cuda.Event()
        busy.record()
        assert not busy.query()
    torch.cuda.synchronize()
    assert bool((p == -(2.0**20 - 1)).all())


def test_plans_that_change_while_launches_are_queued():
    results = []
    for fused in (True, False):
        weights = [torch.zeros(40_000, device="cuda", requires_grad=True) for _ in range(20)]
        optimizer = piste.optim.SGD(weights, lr=0.5, momentum=0.5, fused=fused)
        for k in range(60):
            for i, p in enumerate(weights):
                p.grad = None if (k * 7 + i) % 11 == 0 else torch.full_like(p, float(k - i))
            optimizer.step()
        results.append(torch.stack([p.detach() for p in weights]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


def test_steps_run_on_the_current_stream():
    p = torch.ones(1_000_000, device="cuda", requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=0.5, fused=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        p.grad = torch.full_like(p, 2.0)
        optimizer.step()
        result = p.detach().clone()
    stream.synchronize()
    assert bool((result == 0).all())


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion"])
def test_views_that_are_unaligned_or_in_another_order(name):
    results = []
    for fused in (True, False):
        make = torch.Generator("cuda").manual_seed(1)
        weights = [
            torch.randn(9001, generator=make, device="cuda")[1:].requires_grad_(),
            torch.randn(70, 65, generator=make, device="cuda").t().requires_grad_(),
            torch.randn(2, 3, 8, 9, generator=make, device="cuda")
            .to(memory_format=torch.channels_last)
            .requires_grad_(),
        ]
        optimizer = getattr(piste.optim, name)(weights, lr=0.25, fused=fused)
        for _ in range(2):
            for p in weights:
                noise = torch.randn(p.shape, generator=make, device="cuda")
                p.grad = torch.empty_like(p).copy_(noise)
            optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in weights]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_more_elements_than_31_bits_count():
    p = torch.ones(2**31 + 4099, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    p.grad = torch.full_like(p, 2.0)
    piste.optim.SGD([p], lr=0.25, fused=True).step()
    assert all(bool((part == 0.5).all()) for part in p.detach().split(2**28))


def test_runs_have_the_same_bits():
    def run() -> torch.Tensor:
        make = torch.Generator("cuda").manual_seed(1)
        weights = [torch.randn(n, generator=make, device="cuda").requires_grad_() for n in (5, 4096, 70_001)]
        optimizer = piste.optim.AdamW(weights, lr=0.1, fused=True)
        for _ in range(2):
            for p in weights:
                p.grad = torch.cos(p.detach()) - 0.5
            optimizer.step()
        return torch.cat([p.detach() for p in weights])

    first = run()
    assert all(torch.equal(run(), first) for _ in range(99))


def test_a_grad_scaler_skips_the_step_of_an_infinite_gradient():
    p = torch.ones(10, device="cuda", requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=0.5, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    for factor, expected in ((float("inf"), 1.0), (1.0, 0.5)):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert p.tolist() == [expected] * 10


@pytest.mark.parametrize("capturable", [False, True])
def test_a_grad_scaler_leaves_bad_steps_to_the_kernel_without_waiting(capturable):
    def run(make, clips_itself):
        weights = [torch.linspace(-1, 1, size, device="cuda").requires_grad_() for size in (5, 70_001)]
        optimizer = make(weights)
        scaler = torch.amp.GradScaler("cuda", init_scale=8.0, growth_interval=100)
        for k in range(4):
            optimizer.zero_grad()
            scaler.scale(sum((w * (w + k)).sum() for w in weights)).backward()
            if k == 2:
                weights[0].grad[0] = float("inf")
            if not clips_itself:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
            torch.cuda.set_sync_debug_mode("error" if clips_itself and k else "default")  # the first step makes kernels
            scaler.step(optimizer)
            torch.cuda.set_sync_debug_mode("default")
            scaler.update()
        return weights, [optimizer.state[w]["step"].item() for w in weights]

    ours, counts = run(lambda w: piste.optim.Adam(w, lr=0.1, max_norm=1.0, capturable=capturable), True)
    expected, _ = run(lambda w: torch.optim.Adam(w, lr=0.1), False)
    assert counts == [3, 3]
    for p, q in zip(ours, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-6)


def test_step_counts_of_a_checkpoint_of_the_host_move_to_the_device():
    def made():
        p = torch.ones(10, device="cuda", requires_grad=True)
        p.grad = torch.ones_like(p)
        return p, piste.optim.Adam([p], lr=0.1)

    p, optimizer = made()
    optimizer.step()
    assert optimizer.state[p]["step"].device.type == "cpu"
    q, resumed = made()
    resumed.param_groups[0]["max_norm"] = 100.0
    resumed.load_state_dict(optimizer.state_dict(), hyperparameters="keep")
    q.data.copy_(p.data)
    optimizer.step()
    resumed.step()
    assert resumed.state[q]["step"].device.type == "cuda" and resumed.state[q]["step"].item() == 2
    torch.testing.assert_close(q, p, rtol=2e-6, atol=2e-6)


def test_a_first_step_is_not_captured():
    p = torch.ones(10, device="cuda", requires_grad=True)
    p.grad = torch.ones_like(p)
    for fused in (None, False):
        optimizer = piste.optim.Adam([p], lr=0.5, capturable=True, fused=fused)
        message = "must run once before a CUDA graph captures it"
        with pytest.raises(Unsupported, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
            p.grad.mul_(2)
            optimizer.step()
        optimizer.step()
        assert optimizer.state[p]["step"].item() == 1
    assert p.tolist() == pytest.approx([0.0] * 10, abs=1e-6)


def test_a_captured_step_of_the_eager_backend_needs_counts_on_the_device():
    p = torch.ones(10, device="cuda", requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = piste.optim.SGD([p], lr=0.5, fused=False)
    optimizer.step()
    with pytest.raises(Unsupported, match="pass capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        p.grad.mul_(2)
        optimizer.step()
    assert p.tolist() == [0.5] * 10


def test_bad_steps_are_left_out_while_a_graph_is_replayed():
    p = torch.ones(10, device="cuda", requires_grad=True)
    p.grad = torch.ones(10, device="cuda")
    optimizer = piste.optim.SGD([p], lr=0.5, capturable=True, nonfinite="skip")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for gradient in (float("nan"), 1.0):
        p.grad.fill_(gradient)
        graph.replay()
    assert p.tolist() == [0.0] * 10
    assert optimizer.skipped == 1
