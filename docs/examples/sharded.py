"""Compare optimizers on a model spread over processes: torchrun --standalone --nproc-per-node 2 sharded.py results

Every process makes the same comparison at the same time. The model's weights are sharded (FSDP), each process computes
its share of a batch, and all of them see the outputs of the whole batch: so losses and metrics are the same everywhere,
and so is every decision that follows from them.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import piste


class Whole(torch.autograd.Function):
    """The shares of all processes, one after another; backward, the gradient of the process's share."""

    @staticmethod
    def forward(ctx, share: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(share) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, share.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        # FSDP takes the mean over the processes of what each adds to the gradient; what is wanted is the sum.
        return dist.get_world_size() * gradient.chunk(dist.get_world_size())[dist.get_rank()]


class Spread(nn.Module):
    """A model whose layers are sharded, and whose batches are shared out."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        for layer in layers:
            if any(True for _ in layer.parameters()):
                fully_shard(layer)
        self.layers = fully_shard(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rank, share = dist.get_rank(), -(-len(x) // dist.get_world_size())
        # Where the batch can't be shared out evenly, its last example fills up the last shares, and is cut off again.
        rows = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(x) - 1)
        return Whole.apply(self.layers(x[rows]))[: len(x)]


def model() -> nn.Module:
    return Spread(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)))


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return x, (x.reshape(-1, 4, 4).square().sum(2)).argmax(1)


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" where each process has a GPU
    rank, results = dist.get_rank(), Path(sys.argv[1])
    mine = results / f"rank{rank}"
    mine.mkdir(parents=True, exist_ok=True)
    if rank and (results / "rank0" / "runs.db").exists():
        shutil.copy(results / "rank0" / "runs.db", mine)  # after an interruption all go on from the same runs
    dist.barrier()
    found = piste.compare(
        model, (data(1024, 0), data(512, 1)), optimizers=["SGD", "Adam"], lr={"SGD": 0.1, "Adam": 0.01}, seeds=3,
        epochs=5, out=mine, progress=False,  # to show how long it takes, a process would measure steps on its own
    )  # fmt: skip
    if rank == 0:
        print(found)
    if dist.get_backend() == "gloo":
        time.sleep(
            0.2
        )  # its threads release the tensors of the last sum; if Python ends before, PyTorch aborts (#190489)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
