"""Train a model that FSDP spreads over the processes; stop, and go on from the checkpoint.

    torchrun --standalone --nproc-per-node 2 docs/examples/train_sharded.py checkpoint

A second start goes on where the first one stopped, also with another number of processes.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from piste import losses, optim

STEPS = 100


def main(folder: str) -> None:
    """Train up to the next hundredth step."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")

    torch.manual_seed(0)  # the same weights in every process, before they are spread
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).to(kind)
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)

    optimizer = optim.AdamW(model.parameters(), lr=0.01, max_norm=1.0, nonfinite="skip")
    criterion = losses.CrossEntropyLoss()

    of_model, of_optimizer = get_state_dict(model, optimizer)
    state = {"model": of_model, "optimizer": of_optimizer, "step": 0}
    if os.path.exists(os.path.join(folder, ".metadata")):
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    first = int(state["step"])

    for step in range(first, first + STEPS):
        make = torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank())  # a share of the batch
        x = torch.randn(32, 8, generator=make).to(kind)
        classes = x[:, :3].argmax(-1)
        optimizer.zero_grad()
        loss = criterion(model(x), classes)
        loss.backward()
        optimizer.step()

    of_model, of_optimizer = get_state_dict(model, optimizer)
    state = {"model": of_model, "optimizer": of_optimizer, "step": first + STEPS}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, overwrite=True))
    dist.all_reduce(loss.detach_(), op=dist.ReduceOp.SUM)
    if dist.get_rank() == 0:
        print(optimizer.explain_backend())
        mean = loss.item() / dist.get_world_size()
        print(
            f"step {first + STEPS}: loss {mean:.3f}, norm {optimizer.grad_norm.item():.2f}, {optimizer.skipped} skipped"
        )
    if dist.get_backend() == "gloo":
        time.sleep(
            0.2
        )  # its threads release the tensors of the last sum; if Python ends before, PyTorch aborts (#190489)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
