"""Where parameters lie and when they are stepped: parts of processes, their blocks of 8 bits, and backward steps.

One process stands for the third of four that do not communicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import piste
from piste.optim import group_checks, optimizer, step_plans
from tests.optim import test_backward_steps as backward

from .subject import Subject, run_tests

BLOCKS, SHARDS, BACKWARD = "piste.optim.eight_bit_state", "piste.optim.shards", "piste.optim.backward_steps"

_SPREAD = "codes and scales are spread alike"
_DIVIDES = "a remainder is 0 or is not, whatever its sign"
EQUIVALENT_BLOCKS = {
    "decode_codes: codes -> scales": _SPREAD,
    "lies_in_blocks: p.shape[0] % parts -> -(p.shape[0] % parts)": _DIVIDES,
    "lies_in_blocks: p.numel() % (BLOCK * parts) -> -(p.numel() % (BLOCK * parts))": _DIVIDES,
    "lies_in_blocks: BLOCK * parts -> -(BLOCK * parts)": _DIVIDES,
}
EQUIVALENT_SHARDS = {
    "_spread_like: x if x.placements == p.placements else x.redistribute(placements=p.placements) -> "
    "x.redistribute(placements=p.placements)": "a tensor with these placements is returned as it is",
    "part_state: p if is_sharded(p) else None -> p": "a tensor that is not spread is its own whole",
    "existing_part: p -> group (number 10)": "which backend steps a part does not depend on its whole",
}
"""Changes that change nothing, and why."""


def subjects() -> list[Subject]:
    """The modules of parts and backward steps, each with the tests that judge it."""
    of_blocks = ("lies_in_blocks", "first_codes", "decode_codes")
    of_shards = ("takes_parts", "local_parts", "part_state", "existing_part", "address", "_spread_like", "_part")
    return [
        Subject(BLOCKS, of_blocks, _check_blocks, equivalent=EQUIVALENT_BLOCKS),
        Subject(SHARDS, of_shards, _check_shards, equivalent=EQUIVALENT_SHARDS),
        Subject(BACKWARD, ("stepping_in_backward", "_check"), _check_backward),
    ]


@contextmanager
def _third_of_four() -> Iterator[None]:
    """Be the third of four processes that do not communicate."""
    dist.init_process_group("fake", rank=2, world_size=4, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _spread(x: torch.Tensor, *placements: Any, mesh: tuple[int, ...] = (4,)) -> Any:
    return distribute_tensor(x, init_device_mesh("cpu", mesh), placements, src_data_rank=None)


def _check_blocks(modules: Mapping[str, ModuleType]) -> str | None:
    module = modules[BLOCKS]
    plain = torch.ones(5, 100)
    with _third_of_four():
        cases: list[tuple[Any, bool]] = [
            (_spread(torch.ones(8, 128), Shard(0)), True), (_spread(torch.ones(8, 64), Shard(0)), False),
            (_spread(torch.ones(10, 512), Shard(0)), False), (_spread(torch.ones(8, 128), Shard(1)), False),
            (_spread(torch.ones(5, 7), Replicate()), True), (_spread(torch.ones(6, 256), Shard(0)), False),
            (_spread(torch.ones(4, 128), Replicate(), Shard(0), mesh=(2, 2)), True),
            (_spread(torch.ones(2, 128), Replicate(), Shard(0), mesh=(2, 2)), False),
            (_spread(torch.ones(4, 128), Shard(0), Replicate(), mesh=(2, 2)), True),
            (_spread(torch.ones(64, 256), Shard(0), Shard(0), mesh=(2, 2)), False),
        ]  # fmt: skip
        for p, expected in cases:
            if module.lies_in_blocks(p) != expected:
                return f"{tuple(p.shape)} on {p.placements}: {not expected}"
        for start, code in ((0.0, 0), (0.5, 127), (-0.5, -127)):
            for p in (plain, cases[0][0]):
                codes, scales = module.first_codes(p, start)
                count = {500: 2, 1024: 4}[p.numel()]
                if not (codes.dtype == torch.int8 and scales.dtype == torch.float32 and scales.shape == (count,)):
                    return f"the first codes are {codes.dtype}, and the scales {scales.dtype} of {scales.shape}"
                own = [x.to_local() if isinstance(x, DTensor) else x for x in (codes, scales)]
                if not (own[0].eq(code).all() and own[1].eq(abs(start)).all()):
                    return f"{start} has the codes {own}"
                shown = module.decode_codes(codes, scales)
                if (
                    shown.shape != p.shape
                    or shown.stride() != p.stride()
                    or isinstance(shown, DTensor) != (p is not plain)
                ):
                    return f"the numbers have the shape {shown.shape} and the strides {shown.stride()}"
                shown = shown.to_local() if isinstance(shown, DTensor) else shown
                if shown.shape != own[0].shape or not shown.eq(start).all():
                    return f"{start} is shown as {shown}"
    return None


def _check_shards(modules: Mapping[str, ModuleType]) -> str | None:
    module = modules[SHARDS]
    with ExitStack() as stack:
        stack.enter_context(_third_of_four())
        for name in ("address", "local_parts", "part_state", "takes_parts"):
            stack.enter_context(patch.object(step_plans, name, getattr(module, name)))
        stack.enter_context(patch.object(optimizer, "existing_part", module.existing_part))
        stack.enter_context(patch.object(group_checks, "takes_parts", module.takes_parts))
        for options in ({}, {"state_dtype": "int8"}):
            fault = _fault_of_parts(options)
            if fault is not None:
                return fault
        sharded = _spread(torch.ones(8, 256), Shard(0))
        with pytest.raises(piste.errors.Unsupported, match="LAMB steps sharded"):
            piste.optim.LAMB([sharded], state_dtype="int8")
        if "by the eager backend" not in piste.optim.LAMB([sharded]).explain():
            return "LAMB steps parts of parameters"
        return _fault_of_places(module)


def _fault_of_places(module: Any) -> str | None:
    """Gradients and state that are not spread as usual, and the rules of groups."""
    sharded, replica, sparse = _spread(torch.ones(8), Shard(0)), _spread(torch.ones(3), Replicate()), torch.ones(3, 2)
    made = piste.optim.SGD([sharded, replica, sparse], lr=1.0)
    sharded.grad, replica.grad = _spread(torch.ones(8), Shard(0)), torch.full((3,), 0.5)
    sparse.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2))
    made.step()
    if not (sharded.to_local().eq(0).all() and replica.to_local().eq(0.5).all() and sparse.sum() == 4):
        return "a group with parts, replicas and sparse gradients moved otherwise"
    made = piste.optim.Muon([{"params": [torch.ones(2, 2)]}, {"params": [sharded], "adamw": True}], lr=0.5)
    made.step()
    torch.testing.assert_close(sharded.to_local(), torch.full((2,), -0.5))
    if "group 1: 1 of 1 parameters by the fused CPU" not in made.explain():
        return "AdamW of Muon steps no parts"
    matrix = _spread(torch.ones(8, 4), Shard(0))
    if "1 of 1 parameters by the fused CPU kernel" not in piste.optim.Muon([matrix]).explain():
        return "the formulas of Muon step no parts"
    with pytest.raises(piste.errors.Unsupported, match="cautious=True counts elements"):
        piste.optim.Muon([matrix], cautious=True)
    wide = _spread(torch.ones(8, 256), Shard(0))
    wide.grad = torch.zeros_like(wide)
    made = piste.optim.SGD([wide], lr=1.0, momentum=0.5, state_dtype="int8")
    made.step()
    wide.grad = DTensor.from_local(torch.ones(2, 512)[:, ::2], wide.device_mesh, [Shard(0)])
    if "other strides than its gradient" not in made.explain():
        return "the backend of a part is not that of its gradient"
    made = piste.optim.SGD([sharded], lr=1.0, momentum=0.5)
    made.step()
    with torch.no_grad():
        part = made.state[sharded]["momentum_buffer"].to_local()
        before, part.data = part.detach(), torch.full((2,), 8.0)  # a step of other state writes to memory that exists
    made.step()
    torch.testing.assert_close(sharded.to_local(), torch.full((2,), -0.5 - 1 - 5), msg="moved state takes no effect")
    del before
    waits = DTensor.from_local(AsyncCollectiveTensor(torch.ones(2)), sharded.device_mesh, [Shard(0)])
    return None if type(module._part(waits)) is torch.Tensor else "a part is not waited for"


def _fault_of_parts(options: Mapping[str, Any]) -> str | None:
    """A part is stepped as a parameter that consists of it; next to a whole one."""
    start, slope = torch.linspace(-1, 1, 2048).reshape(8, 256), torch.cos(torch.arange(2048.0)).reshape(8, 256)
    sharded, whole = _spread(start, Shard(0)), torch.ones(3)
    alone, other = start[4:6].clone(), torch.ones(3)
    a = piste.optim.Adam([sharded, whole, _spread(torch.ones(4, 256), Shard(0))], lr=0.1, **options)
    b = piste.optim.Adam([alone, other], lr=0.1, **options)
    for t, place in enumerate((Shard(0), Replicate(), Shard(0))):
        sharded.grad, alone.grad = _spread(slope * t, place), slope[4:6] * t
        whole.grad, other.grad = torch.full((3,), float(t)), torch.full((3,), float(t))
        given = sharded.grad
        a.step()
        b.step()
        if not (torch.equal(sharded.to_local(), alone) and torch.equal(whole, other)):
            return f"the part moved to {sharded.to_local()}, and alone to {alone}"
        if sharded.grad is not given or sharded.to_local().grad is not None:
            return "the gradient of the sharded parameter has changed"
        lines = a.explain()
        if "3 of 3 parameters by the fused CPU kernel" not in lines or "eager" in lines:
            return f"the backends are {lines}"
    for key, x in b.state[alone].items():
        kept = a.state[sharded][key]
        if isinstance(kept, DTensor) != bool(x.dim()):
            return f"`{key}` is a {type(kept)}"
        if not torch.equal(kept.to_local() if isinstance(kept, DTensor) else kept, x):
            return f"`{key}` is {kept}"
    a.state[sharded]["exp_avg"] = torch.zeros_like(a.state[sharded]["exp_avg"])
    b.state[alone]["exp_avg"] = torch.zeros_like(b.state[alone]["exp_avg"])
    a.step()
    b.step()
    return None if torch.equal(sharded.to_local(), alone) else "state that was replaced takes no effect"


def _check_backward(modules: Mapping[str, ModuleType]) -> str | None:
    with patch.object(optimizer, "stepping_in_backward", modules[BACKWARD].stepping_in_backward):
        run_tests(backward)
        with _third_of_four():
            made = piste.optim.SGD([_spread(torch.ones(4), Shard(0))], lr=0.1)
            made.add_param_group({"params": [torch.ones(4), _spread(torch.ones(4), Shard(0))]})
            for groups in (made.param_groups[:1], made.param_groups[1:]):
                made.param_groups = groups
                with pytest.raises(piste.errors.Unsupported, match="FSDP moves"), made.step_in_backward():
                    pass
    return None
