"""The rules whose step is no formula of one element, judged by torch's, by recorded trajectories and by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.optim import test_adafactor as adafactor
from tests.optim.record_references import trajectory
from tests.optim.test_references import RUNS
from tests.optim.test_soap import gradient_of
from tests.oracle.soap import soap

from ..subject import Check, RecentFirst, Subject
from .elementwise import fault_of_a_recorded_step, in_double
from .equivalents import EQUIVALENT

MUON, NORMUON, SPARSE = "piste.optim.muon", "piste.optim.normuon", "piste.optim.sparse_adam"
SOAP, PRODIGY, ADAFACTOR = "piste.optim.soap", "piste.optim.prodigy", "piste.optim.adafactor"
FORMULAS = {
    MUON: ("Muon.before", "Muon.matrix", "orthogonalize"),
    NORMUON: ("NorMuon.matrix", "NorMuon.buffers"),
    PRODIGY: (
        "_rate",
        "_added",
        *(f"Prodigy.{part}" for part in ("reduce", "finish", "update", "per_step", "buffers", "group_state")),
    ),
    SOAP: (
        "_sizes",
        "_squares",
        "SOAP.matrix",
        "SOAP.buffers",
        "_products",
        "_multiplied",
        "_turned",
        "_turned_back",
        "_eigenbases",
    ),
    SPARSE: ("SparseAdam.update", "SparseAdam.buffers"),
    ADAFACTOR: ("Adafactor.update", "Adafactor.per_step", "Adafactor.buffers"),
}


def subjects() -> list[Subject]:
    """The file of each rule."""
    checks = {
        MUON: checks_of_muon,
        NORMUON: _checks_of_normuon,
        PRODIGY: checks_of_prodigy,
        SOAP: checks_of_soap,
        SPARSE: lambda modules: [partial(_fault_of_sparse_adam, modules[SPARSE].SparseAdam)],
        ADAFACTOR: checks_of_adafactor,
    }
    return [
        Subject(module, formulas, RecentFirst(checks[module]), equivalent=EQUIVALENT.get(module, {}))
        for module, formulas in FORMULAS.items()
    ]


def checks_of_muon(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """Muon is that of torch: without iterations in float64, with them in bfloat16."""
    for options in (
        {"ns_steps": 0},
        {"ns_steps": 0, "nesterov": False, "eps": 2.0},
        {"ns_steps": 0, "adjust_lr_fn": "match_rms_adamw"},
        {"ns_steps": 3},
    ):
        yield partial(_fault_of_muon, modules[MUON].Muon, options)
    yield partial(_fault_of_orthogonal_matrices, modules[MUON].orthogonalize)
    yield partial(_fault_of_split_matrices, modules[MUON].Muon)


def _fault_of_muon(make: Any, options: Mapping[str, Any]) -> str | None:
    numbers = torch.Generator().manual_seed(0)
    shapes = [(6, 2), (3, 4)] if options["ns_steps"] else [(6, 2), (3, 4), (8, 2)]
    ours = [torch.randn(shape, generator=numbers).double() for shape in shapes]
    theirs = [p.clone() for p in ours]
    a = make(ours, lr=0.5, momentum=0.7, fused=False, **options)
    b = torch.optim.Muon(theirs, lr=0.5, momentum=0.7, **options)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=numbers, dtype=p.dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    tolerance = 0.02 if options["ns_steps"] else 1e-12
    is_same = all(torch.allclose(p, q, rtol=0, atol=tolerance) for p, q in zip(ours, theirs, strict=True))
    return None if is_same else f"Muon({options}) differs from PyTorch's"


def _fault_of_orthogonal_matrices(orthogonalize: Any) -> str | None:
    exact = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    found = orthogonalize(exact, (1.875, -1.25, 0.375), 20, 1e-7, "float32")
    is_one = found.dtype == torch.float32 and torch.allclose(found, torch.eye(2), atol=1e-6)
    return None if is_one else f"float32 iterations give {found.tolist()}"


def _fault_of_split_matrices(make: Any) -> str | None:
    p = torch.arange(8.0).reshape(4, 2) + 1
    q = [part.clone() for part in p.split(2)]
    p.grad, grads = p.clone() ** 2, (p**2).split(2)
    make([p], split=2, fused=False).step()
    for part, g in zip(q, grads, strict=True):
        part.grad = g.clone()
    torch.optim.Muon(q).step()
    return None if torch.allclose(p, torch.cat(q), atol=1e-4) else "split matrices are not stepped apart"


def _checks_of_normuon(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """NorMuon is that of steps computed with torch operations, without Newton-Schulz iterations."""
    make = modules[NORMUON].NorMuon
    yield partial(_fault_of_normuon, make)
    yield from (partial(_fault_of_a_gradient_of_size, make, size) for size in (0.0, 1e-20, 1e-10, 1.0))


def _fault_of_normuon(make: Any) -> str | None:
    for scale, lr, split in ((None, 0.5, 1), ("match_rms_adamw", 0.25, 1), ("original", 0.5, 2)):
        numbers = torch.Generator().manual_seed(0)
        p = torch.randn(6, 2, generator=numbers)
        expected = list(p.clone().split(6 // split))
        rows = [torch.zeros(len(part), 1) for part in expected]
        optimizer = make(
            [p], lr=lr, momentum=0.0, beta2=0.75, ns_steps=0, ns_dtype="float32", adjust_lr_fn=scale, split=split,
            fused=False,
        )  # fmt: skip
        for step in range(3):
            p.grad = torch.randn(6, 2, generator=numbers)
            if step == 2:
                p.grad[0] = 0
            for part, v, g in zip(expected, rows, p.grad.split(6 // split), strict=True):
                o = g / g.norm()
                v += 0.25 * (o.square().mean(1, keepdim=True) - v)
                n = o / v.sqrt()
                norm = 0.2 * 12**0.5 if scale == "match_rms_adamw" else (6 / split / 2) ** 0.5
                part -= lr * norm * n / n.norm()
            optimizer.step()
        if not torch.allclose(p, torch.cat(expected), rtol=0, atol=1e-5):
            return f"{scale}, split={split} moved to {p.tolist()}"
        if not torch.allclose(optimizer.state[p]["second_momentum_buffer"], torch.cat(rows), rtol=0, atol=1e-6):
            return "the averages of the rows differ"
    return None


def _fault_of_a_gradient_of_size(make: Any, size: float) -> str | None:
    # with eps=2 the norm of o is that of g over 2; there are more columns than rows
    p = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor([[0.0, 0.0, 0.0, 1e-10], [0.6, 0.0, 0.0, 0.8]], dtype=torch.float64) * size
    make([p], lr=1.0, momentum=0.0, eps=2.0, ns_steps=0, ns_dtype="float32", state_dtype="bfloat16", fused=False).step()
    o = (p.grad.float() / 2).double()
    n = o / ((0.05 * o.square().mean(1, keepdim=True)).sqrt() + 1e-10)
    expected = -o.norm() / (n.norm() + 1e-10) * n
    if not torch.allclose(p, expected, rtol=1e-9, atol=0):
        return f"a gradient of size {size} moves to {p.tolist()}, not {expected.tolist()}"
    return None


def checks_of_prodigy(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """Prodigy is that of recorded trajectories, and its state that computed by hand."""
    make = partial(modules[PRODIGY].Prodigy, fused=False)
    for run in RUNS:
        if run["optimizer"] == "Prodigy":
            yield partial(in_double, fault_of_a_run, make, run, 1e-11, 1e-11)
    yield partial(fault_of_a_recorded_step, partial(make, betas=(0.5, 0.75), d0=0.5))
    yield partial(_fault_of_prodigys_state, make)


def fault_of_a_run(make: Any, run: Mapping[str, Any], rtol: float, atol: float) -> str | None:
    path = torch.tensor(trajectory(make, run["options"]))
    is_same = torch.allclose(path, torch.tensor(run["trajectory"]), rtol=rtol, atol=atol)
    return None if is_same else f"{run['optimizer']}({run['options']}) moved to {path[-1].tolist()}"


def _fault_of_prodigys_state(make: Any) -> str | None:
    p = torch.zeros(2, requires_grad=True)
    optimizer = make([p], d0=0.5, state_dtype="bfloat16")
    for g in (0.0, 1.0, 1.0):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    state, group = optimizer.state[p], optimizer.param_groups[0]
    kinds = {key: str(x.dtype).removeprefix("torch.") for key, x in state.items() if key != "step"}
    if kinds != {"exp_avg": "bfloat16", "exp_avg_sq": "bfloat16", "s": "bfloat16", "p0": "float32"}:
        return f"the state is {kinds}"
    if state["s"].tolist() != pytest.approx([0.5 * (1 + 0.999**0.5)] * 2, rel=2**-8):
        return f"s is {state['s'].tolist()}"
    moved = 0.5 * 0.05 / (0.5 * 0.001**0.5)  # in the first step with a gradient
    expected = {"d": moved / (1 + 0.999**0.5), "d_numerator": moved, "k": 3.0}
    found = {name: float(group[name]) for name in expected}
    return None if found == pytest.approx(expected, rel=1e-6) else f"the numbers of the group are {found}"


def checks_of_soap(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """SOAP is that of recorded trajectories and of its oracle, in every arrangement of a tensor."""
    make = partial(modules[SOAP].SOAP, fused=False)
    for run in RUNS:
        if run["optimizer"] == "SOAP":
            yield partial(in_double, fault_of_a_run, make, run, 0, 1e-5)
    yield partial(in_double, _fault_of_shapes, make)
    yield partial(in_double, _fault_of_an_eigenbasis, make)
    yield partial(_fault_of_averages_of_16_bits, make)


def _fault_of_averages_of_16_bits(make: Any) -> str | None:
    """Averages in bfloat16 that are not those in float32, to three digits."""
    found = []
    for dtype in ("float32", "bfloat16"):
        p = torch.zeros(3, 2)
        optimizer = make([p], state_dtype=dtype, precondition_frequency=3)
        for t in range(5):
            p.grad = gradient_of(t, (3, 2)).float()
            optimizer.step()
        found.append([optimizer.state[p][key].float() for key in ("exp_avg", "exp_avg_sq")])
    is_same = all(torch.allclose(a, b, rtol=0, atol=0.02 * float(a.abs().max())) for a, b in zip(*found, strict=True))
    return None if is_same else f"averages in float32 and in bfloat16 are {found}"


def _fault_of_an_eigenbasis(make: Any) -> str | None:
    """The first difference from the oracle, for matrices next to each other and for vectors that have a basis."""
    for shape, options in (((3, 2), {}), ((4, 4), {}), ((3,), {"precondition_1d": True})):
        start = [gradient_of(40 + i, shape) for i in range(2)]
        ps = [p.clone() for p in start]
        optimizer = make(ps, lr=0.1, betas=(0.5, 0.75), shampoo_beta=0.9, eps=1e-2, precondition_frequency=3, **options)
        gradients = [[gradient_of(10 * t + i, shape) for t in range(8)] for i in range(2)]
        expected = [
            soap(p.reshape(len(p), -1), [g.reshape(len(p), -1) for g in gs], lr=0.1, beta1=0.5, beta2=0.75, beta=0.9,
                 eps=1e-2, decay=0.01, every=3)
            for p, gs in zip(start, gradients, strict=True)
        ]  # fmt: skip
        for t in range(8):
            for p, gs in zip(ps, gradients, strict=True):
                p.grad = gs[t].clone()
            optimizer.step()
            for p, path in zip(ps, expected, strict=True):
                if not torch.allclose(p.reshape(len(p), -1), path[t], rtol=1e-9, atol=1e-9):
                    return f"shape {shape} is at {p.tolist()} after step {t + 1}"
    return None


def _fault_of_shapes(make: Any) -> str | None:
    """The first difference between a tensor and its transposes, or a state of another size."""
    shape, sizes = (3, 2, 4), {3: 9 + 4, 10000: 9 + 4 + 16, 1: 0}
    for limit, size in sizes.items():
        ends = []
        for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
            p, q = (torch.zeros(shape).permute(order).contiguous() for _ in range(2))
            optimizer = make([p, q], max_precond_dim=limit, precondition_frequency=2, eps=1e-2, normalize_grads=True)
            for t in range(5):
                p.grad = gradient_of(t, shape).permute(order).contiguous()
                q.grad = torch.zeros_like(q)
                optimizer.step()
            if q.any():  # NaN too
                return f"gradients of 0 move a tensor to {q.tolist()}"
            ends.append(p.permute([order.index(k) for k in range(3)]))
            if [optimizer.state[p][key].numel() for key in ("exp_avg", "exp_avg_sq", "GG", "Q")] != [
                24,
                24,
                size,
                size,
            ]:
                return f"max_precond_dim={limit} has another state"
        if not all(torch.allclose(ends[0], end, rtol=1e-8, atol=1e-9) for end in ends):
            return f"transposed tensors step elsewhere with max_precond_dim={limit}"
    p = torch.ones(4)
    p.grad = torch.ones(4)
    optimizer = make([p])
    optimizer.step()
    if optimizer.state[p]["GG"].numel():
        return "a vector has an eigenbasis"
    p = torch.ones(2, 3, dtype=torch.bfloat16)
    optimizer = make([p])
    for g in (1.0, 2.0):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    found = {key: str(x.dtype).removeprefix("torch.") for key, x in optimizer.state[p].items() if key != "step"}
    expected = {"exp_avg": "bfloat16", "exp_avg_sq": "bfloat16", "GG": "float32", "Q": "float32"}
    return None if found == expected else f"the state is {found}"


def checks_of_adafactor(modules: Mapping[str, ModuleType]) -> Iterator[Check]:
    """Adafactor is that of torch for matrices and vectors, and computed by hand with the options that torch lacks."""
    make = partial(modules[ADAFACTOR].Adafactor, fused=False)
    yield from (partial(_fault_of_adafactor, make, options) for options in adafactor.OPTIONS)
    yield from (partial(adafactor.find_fault, make, options) for options in adafactor.MORE_OPTIONS)


def _fault_of_adafactor(make: Any, options: dict[str, Any]) -> str | None:
    ours, theirs = adafactor.params(torch.float64), adafactor.params(torch.float64)
    a, b = make(ours, **options), torch.optim.Adafactor(theirs, **options)
    for seed in range(4):
        adafactor.step(a, seed)
        adafactor.step(b, seed)
        for p, q in zip(ours, theirs, strict=True):
            pairs = [(p, q), *((a.state[p].get(key), value) for key, value in b.state[q].items())]
            if any(x is None or not torch.allclose(x, y, rtol=1e-12, atol=1e-14) for x, y in pairs):
                return f"Adafactor({options}): {p.tolist()} at step {seed + 1}"
    return None


def _fault_of_sparse_adam(make: Any) -> str | None:
    """The first difference from torch.optim.SparseAdam."""
    ours = torch.ones(3, 2, dtype=torch.float64)
    theirs = ours.clone()
    options: dict[str, Any] = {"lr": 0.25, "betas": (0.6, 0.75), "eps": 0.125}
    a, b = make([ours], **options), torch.optim.SparseAdam([theirs], **options)
    for row in (0, 1, 0):
        for p in (ours, theirs):
            g = torch.zeros_like(p)
            g[row] = torch.tensor([0.5, -2.0]) * (1 + row)
            p.grad = g.to_sparse(1)
        a.step()
        b.step()
        if not torch.allclose(ours, theirs, rtol=0, atol=1e-13):
            return f"row {row} is {ours[row].tolist()}, PyTorch's {theirs[row].tolist()}"
    return None if a.state[ours].keys() == b.state[theirs].keys() else "the state has other keys than PyTorch's"
