"""Losses of classes that are spread over processes, for test_loss_parallel.py: `torchrun parallel_run.py`."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel

from piste.errors import Unsupported
from piste.losses import functional

X = torch.linspace(-2, 2, 24).cos().mul(3).reshape(6, 4)
K = torch.tensor([1, 0, 3, -100, 2, 1])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0])


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    calls = {
        "cross_entropy": lambda x, k, w: functional.cross_entropy(x, k),
        "weights": lambda x, k, w: functional.cross_entropy(x, k, weight=w, label_smoothing=0.1),
        "sum": lambda x, k, w: functional.cross_entropy(x, k, reduction="sum"),
        "focal": lambda x, k, w: functional.focal_loss(x, k),
    }
    lines = []
    for place, of_target in ((Shard(1), Replicate()), (Shard(0), Shard(0)), (Replicate(), Replicate())):
        k = distribute_tensor(K, mesh, [of_target])
        weight = distribute_tensor(WEIGHT, mesh, [Replicate()])
        for context in (loss_parallel, nullcontext):
            for name, call in calls.items():
                whole = X.clone().requires_grad_()
                wanted = call(whole, K, WEIGHT)
                wanted.backward()
                x = distribute_tensor(X, mesh, [place]).requires_grad_()
                with context():
                    loss = call(x, k, weight)
                    loss.backward()
                close = torch.allclose(loss.full_tensor(), wanted, atol=1e-6)
                close = close and torch.allclose(x.grad.full_tensor(), whole.grad, atol=1e-6)
                lines.append(f"{name} {place} {context.__name__}: {close}")
    x = distribute_tensor(X, mesh, [Shard(1)]).requires_grad_()
    with loss_parallel():
        try:
            functional.nll_loss(x.log_softmax(1), distribute_tensor(K, mesh, [Replicate()]))
        except Unsupported as error:
            lines.append(str(error))
    if dist.get_rank() == 0:
        print("\n".join(lines), flush=True)
    dist.barrier()
    time.sleep(0.2)  # see tests/torchrun.py
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
