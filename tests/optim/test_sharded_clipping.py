"""Clipping and skipping on two processes, each of which holds a shard of parameter and gradient."""

from __future__ import annotations

from tests.torchrun import torchrun

RUN = """
import time
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import piste
from piste.optim.clipping import any_nonfinite

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
start, gradient = torch.randn(6, 3), 5 * torch.randn(6, 3)


def stepped(grad, **options):
    p = torch.nn.Parameter(distribute_tensor(start, mesh, [Shard(0)]))
    p.grad = distribute_tensor(grad, mesh, [Shard(0)])
    optimizer = piste.optim.SGD([p], lr=1.0, **options)
    try:
        optimizer.step()
    except piste.errors.InvalidValue as error:
        return str(error), p.full_tensor()
    return optimizer, p.full_tensor()


optimizer, after = stepped(gradient, max_norm=1.0)
torch.testing.assert_close(optimizer.grad_norm, gradient.norm())
torch.testing.assert_close(start - after, gradient / gradient.norm(), rtol=1e-5, atol=1e-6)

for row in (0, 5):  # in the shard of either rank
    bad = gradient.clone()
    bad[row, 2] = float("nan")
    optimizer, after = stepped(bad, nonfinite="skip", max_norm=1.0)
    assert optimizer.skipped == 1, (dist.get_rank(), row)
    assert torch.equal(after, start)
    message, after = stepped(bad, nonfinite="raise")
    assert "received nan and 0 more among the 18 values of the gradient of parameter 0 in param group 0" in message
    assert torch.equal(after, start)

def found(grads):  # as where all parameters are on GPUs; the one row of the second gradient is in the first shard
    return any_nonfinite([distribute_tensor(g, mesh, [Shard(0)]) for g in grads]).item()


one = torch.full((1, 3), 1e30, dtype=torch.bfloat16)
assert not found([gradient, one])
assert found([bad, one])
assert found([gradient, one / 0])
print("agreed", flush=True)
dist.barrier()
time.sleep(0.2)  # see tests/torchrun.py
dist.destroy_process_group()
"""


def test_ranks_clip_by_the_norm_of_all_shards_and_agree_on_a_bad_step(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN, encoding="utf-8")
    assert torchrun(script).count("agreed") == 2
