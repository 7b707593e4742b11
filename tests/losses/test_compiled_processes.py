"""Losses under torch.compile that need a process of their own: shards, the default compiler, and the import."""

from __future__ import annotations

import pytest

from tests.engine.process import python

SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.tensor import DeviceMesh, Replicate, Shard, distribute_tensor
from piste import losses
from tests.losses.test_compiled import Compiled, X, Y
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = DeviceMesh("cpu", [0])
for loss, y in ((losses.CrossEntropyLoss(), Y), (losses.MSELoss(), X.flip(0))):
    plain = X.clone().requires_grad_()
    loss(plain, y).backward()
    for place in (Shard(0), Shard(1), Replicate()):
        fits = place if y.dim() > 1 or place == Shard(0) else Replicate()
        target = distribute_tensor(y, mesh, [fits])
        torch._dynamo.reset()
        compiled = Compiled(lambda a, b: loss(a, b))
        for function in (loss, compiled):
            x = distribute_tensor(X, mesh, [place]).requires_grad_()
            value = function(x, target).full_tensor()
            value.backward()
            torch.testing.assert_close(value, loss(X, y))
            torch.testing.assert_close(x.grad.full_tensor(), plain.grad)
        assert compiled.operators == []
        said = loss.explain_backend(x, target)
        assert "by the eager backend" in said and "tensor subclass with operations of its own" in said
dist.destroy_process_group()
print("equal")
"""


def test_sharded_tensors_are_computed_eagerly_and_traced() -> None:
    assert python(SHARDED).splitlines()[-1] == "equal"  # gloo of torch 2.9 prints a line of its own first


INDUCTOR = """
import torch
from piste import losses
loss = losses.CrossEntropyLoss()
layer = torch.nn.Conv2d(3, 5, 1)
images, classes = torch.randn(2, 3, 6, 4), torch.randint(5, (2, 6, 4))
images = images.to(memory_format=torch.{memory_format})
seen = []
for function in (lambda x, y: loss(layer(x), y), torch.compile(lambda x, y: loss(layer(x), y), fullgraph=True)):
    layer.zero_grad()
    value = function(images, classes)
    value.backward()
    seen.append([value.detach(), layer.weight.grad.clone(), layer.bias.grad.clone()])
torch.testing.assert_close(seen[1], seen[0])
print("equal")
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
def test_images_in_either_memory_format_train_by_the_default_compiler(memory_format: str) -> None:
    assert python(INDUCTOR.format(memory_format=memory_format)) == "equal"


LAZY = "import sys, piste, piste.losses; print('torch._dynamo' in sys.modules)"


def test_the_import_of_piste_leaves_the_compiler_of_pytorch_alone() -> None:
    assert python(LAZY) == "False"
