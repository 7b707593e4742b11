"""Where the default device is a GPU, the tables of the host lie in the memory of the host, and machine code is in use.

The default device "meta" stands for it: tensors there have no memory. Graphs of torch.compile(mode="reduce-overhead")
set a default device of their own while they warm up.
"""

from __future__ import annotations

from array import array

import torch

import piste
from piste.engine.gpu.device import Cuda, PinnedTable
from piste.engine.native.native_guard import native_guard

from .recording import recording


def test_tables_of_the_host_are_on_the_host(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *_, **__: x)  # of the device
    with torch.device("meta"):
        table = PinnedTable(2, pin=False)
        table.write(array("q", [3, 4]))
        uploaded = [Cuda(0).upload(array("q", words)) for words in ([], [5])]
    assert table.address and [x.tolist() for x in uploaded] == [[0], [5]]


def test_machine_code_asks_libtorch():
    with torch.device("meta"):
        assert native_guard.__wrapped__() is not None


def test_steps_are_those_of_the_kernel():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with recording() as backend, torch.device("meta"):
        optimizer = piste.optim.AdamW([p])
        for _ in range(2):
            optimizer.step()
        assert "fused GPU kernel" in optimizer.explain_backend()
    assert [entry for entry, *_ in backend.device.launches] == ["step", "step"]
    assert backend.device.gradients() == [p.grad.data_ptr()]
