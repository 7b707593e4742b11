"""The formulas of every optimizer, and of the base that completes them, judged by the oracles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from piste.optim import OPTIMIZERS
from piste.optim.conventions import CONVENTIONS
from piste.optim.options import Flag, Number, rate, weight_decay
from tests.optim import test_adafactor as adafactor
from tests.optim.assertions import find_fault
from tests.optim.cases import ELEMENTWISE, OPTIONS, fullest
from tests.optim.record_references import trajectory
from tests.optim.rejections import weights
from tests.optim.test_conventions import (
    LEARNING_RATES,
    OF_LIBRARIES,
    ONLY,
    RUNS,
    SMALL_NORMS,
    late_relative_step,
    late_steps,
    path_of,
    step_of_a_large_norm,
    steps_of_small_norms,
    tolerance_of,
    zero_gradient_step,
)
from tests.optim.test_references import RUNS as REFERENCES
from tests.optim.test_schedule_free import FALLING, path_of_falling_rates
from tests.optim.test_soap import gradient_of
from tests.oracle.soap import soap

from .optim_equivalents import EQUIVALENT
from .subject import Subject, stated

ATTRIBUTES = ("update", "per_step", "buffers", "counters")
BASE, PLANS = "piste.optim.optimizer", "piste.optim.step_plans"
CONVENTION, FORMULAS = "piste.optim.conventions", "piste.optim.convention_formulas"
SHARED_FORMULAS = {"piste.optim.schedule_free": ("_PER_STEP", "_moved")}
"""By module: functions and numbers that several formulas share."""
MUON, SPARSE = "piste.optim.muon", "piste.optim.sparse_adam"
NORMUON = "piste.optim.normuon"
SOAP = "piste.optim.soap"
PRODIGY = "piste.optim.prodigy"
PRODIGYS = ("per_step", "buffers", "group_state")
ADAFACTOR = "piste.optim.adafactor"
SHARED = "piste.optim.shared_formulas"
TALL = (
    "x.shape[1] > x.shape[2] -> x.shape[1] >= x.shape[2]",
    "x.shape[1] > x.shape[2] -> x.shape[1] < x.shape[2]",
    "1 -> 0",
    "1 -> 2",
    "2 -> 1",
)
STEP, STATE = "piste.optim.composition", "piste.optim.state"


def subjects() -> list[Subject]:
    """Every rule's file, and the base's own part of the step."""
    files = list(dict.fromkeys(cls.__module__ for cls in ELEMENTWISE.values()))
    found = []
    for file in files:
        names = [name for name, cls in ELEMENTWISE.items() if cls.__module__ == file]
        formulas = stated(file, [f"{name}.{key}" for name in names for key in ATTRIBUTES])
        formulas += SHARED_FORMULAS.get(file, ())
        found.append(Subject(file, formulas, partial(_check, names), equivalent=EQUIVALENT.get(file, {})))
    for module, parts in ((STEP, ("compose", "_rule")), (STATE, ("_start", "_first_value", "_filled_like"))):
        equivalent = EQUIVALENT.get(module, {})
        found.append(
            Subject(module, parts, _check_all, (PLANS, BASE, *files, MUON, ADAFACTOR, PRODIGY, SOAP), equivalent)
        )
    formulas = [rules.update for known in CONVENTIONS.values() for rules in known.values() if rules.update is not None]
    names = tuple(dict.fromkeys([*(formula.__name__ for formula in formulas), "_added_epsilon", "_size"]))
    users = (STEP, PLANS, BASE, *files, ADAFACTOR)
    found.append(Subject(FORMULAS, names, _check_conventions, (CONVENTION, *users), EQUIVALENT[FORMULAS]))
    found.append(Subject(CONVENTION, ("CONVENTIONS",), _check_conventions, users, EQUIVALENT[CONVENTION]))
    equivalent = {f"orthogonalize: {change}": "either product costs more or less, with one result" for change in TALL}
    found.append(Subject(MUON, ("Muon.before", "Muon.matrix", "orthogonalize"), _check_muon, equivalent=equivalent))
    found.append(Subject(NORMUON, ("NorMuon.matrix", "NorMuon.buffers"), _check_normuon))
    parts = ("_rate", "_added", *(f"Prodigy.{part}" for part in ("reduce", "finish", "update", *PRODIGYS)))
    found.append(Subject(PRODIGY, parts, _check_prodigy, equivalent=EQUIVALENT.get(PRODIGY, {})))
    parts = ("_sizes", "_squares", "SOAP.matrix", "SOAP.buffers", "_products", "_multiplied", "_turned", "_turned_back")
    found.append(Subject(SOAP, (*parts, "_eigenbases"), _check_soap, equivalent=EQUIVALENT.get(SOAP, {})))
    found.append(Subject(SHARED, ("DECAYS", "cautious_step"), _check_shared_formulas, (STEP, PLANS, BASE)))
    found.append(Subject(SPARSE, ("SparseAdam.update", "SparseAdam.buffers"), _check_sparse_adam))
    parts = ("Adafactor.update", "Adafactor.per_step", "Adafactor.buffers")
    found.append(Subject(ADAFACTOR, parts, _check_adafactor))
    return found


def _check_all(modules: Mapping[str, ModuleType]) -> str | None:
    """The first fault of any optimizer."""
    fault = _check(list(ELEMENTWISE), modules)
    fault = fault or _check_muon(modules) or _check_adafactor(modules) or _fault_of_a_copied_start(modules[ADAFACTOR])
    fault = fault or _check_prodigy(modules) or _check_soap(modules)
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = modules["piste.optim.schedule_free"].ScheduleFreeSGD([p], state_dtype="bfloat16", fused=False)
    optimizer.step()
    return fault or (None if optimizer.state[p]["z"].dtype == torch.bfloat16 else "z has another dtype")


def _fault_of_a_copied_start(adafactor_module: Any) -> str | None:
    """The shapes and dtypes of a state whose shape is not that of the parameter."""
    p = torch.ones(2, 3, 5, dtype=torch.bfloat16)
    p.grad = torch.ones_like(p)
    optimizer = adafactor_module.Adafactor([p], fused=False)
    optimizer.step()
    found = {key: (tuple(x.shape), x.dtype) for key, x in optimizer.state[p].items() if key != "step"}
    expected = {"row_var": ((2, 3, 1), p.dtype), "col_var": ((2, 1, 5), p.dtype)}
    return None if found == expected else f"the state of Adafactor is {found}"


def _check_adafactor(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of Adafactor from torch.optim.Adafactor, for matrices and vectors."""
    for options in adafactor.OPTIONS:
        ours, theirs = adafactor.params(torch.float64), adafactor.params(torch.float64)
        a, b = modules[ADAFACTOR].Adafactor(ours, fused=False, **options), torch.optim.Adafactor(theirs, **options)
        for seed in range(4):
            adafactor.step(a, seed)
            adafactor.step(b, seed)
            for p, q in zip(ours, theirs, strict=True):
                pairs = [(p, q), *((a.state[p].get(key), value) for key, value in b.state[q].items())]
                if any(x is None or not torch.allclose(x, y, rtol=1e-12, atol=1e-14) for x, y in pairs):
                    return f"Adafactor({options}): {p.tolist()} at step {seed + 1}"
    faults = (
        adafactor.find_fault(partial(modules[ADAFACTOR].Adafactor, fused=False), o) for o in adafactor.MORE_OPTIONS
    )
    return next(filter(None, faults), None)


def _check_shared_formulas(modules: Mapping[str, ModuleType]) -> str | None:
    """The first step of a rule without state that is not the one computed by hand."""

    class Plain(modules[BASE].Optimizer):  # type: ignore[name-defined, misc]
        options = {"lr": rate(0.5), "weight_decay": weight_decay(0.0), "shift": Number(1.0, low=-1.0)}

        def update(g: Any, *, shift: Any) -> Any:
            return g - shift

    for options, expected in (
        ({"decoupled_decay": "lr"}, [1 - 0.1 - 1.0, 2 - 0.2 + 0.25]),
        ({"decoupled_decay": "independent", "lr_max": 2.0}, [1 - 0.05 - 1.0, 2 - 0.1 + 0.25]),
        ({"decoupled_decay": "lr_squared", "lr_max": 2.0}, [1 - 0.025 - 1.0, 2 - 0.05 + 0.25]),
    ):
        p = torch.tensor([1.0, 2.0], requires_grad=True)
        p.grad = torch.tensor([3.0, 0.5])
        Plain([p], weight_decay=0.2, fused=False, **options).step()
        if not torch.allclose(p.detach(), torch.tensor(expected), rtol=0, atol=1e-6):
            return f"{options} moved to {p.tolist()}"
    p = torch.tensor([1.0, 2.0, 1.0, 1.0], requires_grad=True)
    p.grad = torch.tensor([3.0, 0.5, 4.0, 0.0])  # steps 2, -0.5, 3 and -1: two agree, times 4 / 3
    Plain([p], cautious=True, fused=False).step()
    expected = [1 - 4 / 3, 2.0, 1 - 2.0, 1.0]
    if p.tolist() != pytest.approx(expected, abs=1e-6):
        return f"a cautious step moved to {p.tolist()}"
    p = torch.tensor([1.0, 2.0, 1.0], requires_grad=True)
    p.grad = torch.tensor([-3.0, 0.25, 0.0])  # steps -2, 1.25 and 1: two agree, times 3 / 3
    Plain([p], shift=-1.0, cautious=True, fused=False).step()
    return None if p.tolist() == pytest.approx([2.0, 1.375, 1.0], abs=1e-6) else f"an odd one moved to {p.tolist()}"


def _check_sparse_adam(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of SparseAdam from torch.optim.SparseAdam."""
    ours = torch.ones(3, 2, dtype=torch.float64)
    theirs = ours.clone()
    options: dict[str, Any] = {"lr": 0.25, "betas": (0.6, 0.75), "eps": 0.125}
    a, b = modules[SPARSE].SparseAdam([ours], **options), torch.optim.SparseAdam([theirs], **options)
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


def _check_muon(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of Muon from torch.optim.Muon; without iterations in float64, with them in bfloat16."""
    for options in (
        {"ns_steps": 0},
        {"ns_steps": 0, "nesterov": False, "eps": 2.0},
        {"ns_steps": 0, "adjust_lr_fn": "match_rms_adamw"},
        {"ns_steps": 3},
    ):
        make = torch.Generator().manual_seed(0)
        ours = [torch.randn(6, 2, generator=make, dtype=torch.float64), torch.randn(3, 4, generator=make).double()]
        theirs = [p.clone() for p in ours]
        a = modules[MUON].Muon(ours, lr=0.5, momentum=0.7, fused=False, **options)
        b = torch.optim.Muon(theirs, lr=0.5, momentum=0.7, **options)
        for _ in range(3):
            for p, q in zip(ours, theirs, strict=True):
                p.grad = torch.randn(p.shape, generator=make, dtype=p.dtype)
                q.grad = p.grad.clone()
            a.step()
            b.step()
        tolerance = 0.02 if options["ns_steps"] else 1e-12
        if not all(torch.allclose(p, q, rtol=0, atol=tolerance) for p, q in zip(ours, theirs, strict=True)):
            return f"Muon({options}) differs from PyTorch's"
    exact = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    found = modules[MUON].orthogonalize(exact, (1.875, -1.25, 0.375), 20, 1e-7, "float32")
    if found.dtype != torch.float32 or not torch.allclose(found, torch.eye(2), atol=1e-6):
        return f"float32 iterations give {found.tolist()}"
    p = torch.arange(8.0).reshape(4, 2) + 1
    q = [part.clone() for part in p.split(2)]
    p.grad, grads = p.clone() ** 2, (p**2).split(2)
    modules[MUON].Muon([p], split=2, fused=False).step()
    for part, g in zip(q, grads, strict=True):
        part.grad = g.clone()
    torch.optim.Muon(q).step()
    return None if torch.allclose(p, torch.cat(q), atol=1e-4) else "split matrices are not stepped apart"


def _check_normuon(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of NorMuon from steps computed with torch operations, without Newton-Schulz iterations."""
    for scale, lr, split in ((None, 0.5, 1), ("match_rms_adamw", 0.25, 1), ("original", 0.5, 2)):
        make = torch.Generator().manual_seed(0)
        p = torch.randn(6, 2, generator=make)
        expected = list(p.clone().split(6 // split))
        rows = [torch.zeros(len(part), 1) for part in expected]
        optimizer = modules[NORMUON].NorMuon(
            [p], lr=lr, momentum=0.0, beta2=0.75, ns_steps=0, ns_dtype="float32", adjust_lr_fn=scale, split=split,
            fused=False,
        )  # fmt: skip
        for step in range(3):
            p.grad = torch.randn(6, 2, generator=make)
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
    for size in (
        0.0,
        1e-20,
        1e-10,
        1.0,
    ):  # with eps=2 the norm of o is that of g over 2; there are more columns than rows
        p = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
        p.grad = torch.tensor([[0.0, 0.0, 0.0, 1e-10], [0.6, 0.0, 0.0, 0.8]], dtype=torch.float64) * size
        modules[NORMUON].NorMuon(
            [p], lr=1.0, momentum=0.0, eps=2.0, ns_steps=0, ns_dtype="float32", state_dtype="bfloat16", fused=False
        ).step()
        o = (p.grad.float() / 2).double()
        n = o / ((0.05 * o.square().mean(1, keepdim=True)).sqrt() + 1e-10)
        expected = -o.norm() / (n.norm() + 1e-10) * n
        if not torch.allclose(p, expected, rtol=1e-9, atol=0):
            return f"a gradient of size {size} moves to {p.tolist()}, not {expected.tolist()}"
    return None


def _check_prodigy(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of Prodigy from recorded trajectories, or from the sums of a state computed by hand."""
    torch.set_default_dtype(torch.float64)
    try:
        for run in REFERENCES:
            if run["optimizer"] == "Prodigy":
                path = torch.tensor(trajectory(partial(modules[PRODIGY].Prodigy, fused=False), run["options"]))
                if not torch.allclose(path, torch.tensor(run["trajectory"]), rtol=1e-11, atol=1e-11):
                    return f"Prodigy({run['options']}) moved to {path[-1].tolist()}"
    finally:
        torch.set_default_dtype(torch.float32)
    if not _differentiable(partial(modules[PRODIGY].Prodigy, betas=(0.5, 0.75), d0=0.5)):
        return "a gradient through the step is not finite"
    p = torch.zeros(2, requires_grad=True)
    optimizer = modules[PRODIGY].Prodigy([p], d0=0.5, fused=False, state_dtype="bfloat16")
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


def _check_soap(modules: Mapping[str, ModuleType]) -> str | None:
    """The first difference of SOAP from recorded trajectories, its oracle, or steps of another arrangement."""
    torch.set_default_dtype(torch.float64)
    try:
        for run in REFERENCES:
            if run["optimizer"] == "SOAP":
                path = torch.tensor(trajectory(partial(modules[SOAP].SOAP, fused=False), run["options"]))
                if not torch.allclose(path, torch.tensor(run["trajectory"]), rtol=0, atol=1e-5):
                    return f"SOAP({run['options']}) moved to {path[-1].tolist()}"
        return _fault_of_shapes(modules[SOAP].SOAP) or _fault_of_an_eigenbasis(modules[SOAP].SOAP)
    finally:
        torch.set_default_dtype(torch.float32)


def _fault_of_an_eigenbasis(make: Any) -> str | None:
    """The first difference from the oracle, for matrices next to each other and for vectors that have a basis."""
    for shape, options in (((3, 2), {}), ((4, 4), {}), ((3,), {"precondition_1d": True})):
        start = [gradient_of(40 + i, shape) for i in range(2)]
        ps = [p.clone() for p in start]
        optimizer = make(
            ps, lr=0.1, betas=(0.5, 0.75), shampoo_beta=0.9, eps=1e-2, precondition_frequency=3, fused=False, **options
        )
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
            optimizer = make(
                [p, q], max_precond_dim=limit, precondition_frequency=2, eps=1e-2, normalize_grads=True, fused=False
            )
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
    optimizer = make([p], fused=False)
    optimizer.step()
    if optimizer.state[p]["GG"].numel():
        return "a vector has an eigenbasis"
    p = torch.ones(2, 3, dtype=torch.bfloat16)
    optimizer = make([p], fused=False)
    for g in (1.0, 2.0):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    found = {key: str(x.dtype).removeprefix("torch.") for key, x in optimizer.state[p].items() if key != "step"}
    expected = {"exp_avg": "bfloat16", "exp_avg_sq": "bfloat16", "GG": "float32", "Q": "float32"}
    return None if found == expected else f"the state is {found}"


def _check_conventions(modules: Mapping[str, ModuleType]) -> str | None:
    """The first recorded trajectory of another framework that is missed, or a default that no trajectory shows."""
    known = (*ELEMENTWISE.items(), ("Adafactor", OPTIMIZERS["Adafactor"]))
    optimizers = {name: getattr(modules[cls.__module__], name) for name, cls in known}
    for framework, run in RUNS:
        expected = torch.tensor(run["path"], dtype=torch.float64)
        path = path_of(framework, run, False, optimizers)
        tolerance = tolerance_of(framework, run)
        if not torch.allclose(path, expected, rtol=tolerance, atol=tolerance):
            return f"{framework}, {run['name']}({run['options']}) moved to {path[-1].tolist()}"
    for name, convention, given, expected in OF_LIBRARIES:
        if not optimizers[name](weights(), **given, convention=convention).param_groups[0].items() >= expected.items():
            return f"{name}({given}) of {convention} has other options"
    for name, convention, only in ONLY:
        optimizers[name](weights(), lr=0.1, **only, convention=convention)
    for name, default in LEARNING_RATES.items():
        found = optimizers[name](weights(), convention="keras").param_groups[0]["lr"]
        if found != default:
            return f"the learning rate of Keras' {name} is {found}"
    for name, options, steps in SMALL_NORMS:
        if steps_of_small_norms(optimizers[name], **options) != pytest.approx(steps, rel=1e-5):
            return f"{name}({options}) has another ratio of small norms"
    if step_of_a_large_norm(optimizers["LAMB"]) != pytest.approx(-10, rel=1e-5):
        return "the LAMB of pytorch_optimizer takes another step of large weights"
    if late_relative_step(optimizers["Adafactor"]) != pytest.approx(1 - 1 / 200, rel=1e-6):
        return "the relative step of transformers' Adafactor does not fall"
    if late_steps(optimizers["Rprop"]) != [1.0, 0.5, 0.5]:
        return "optax's Rprop takes other steps with a gradient of 0"
    return None if zero_gradient_step(optimizers["Adagrad"]) == 2.0 else "a gradient of 0 moves optax's Adagrad"


def _check(names: list[str], modules: Mapping[str, ModuleType]) -> str | None:
    """The first fault of these optimizers over all options, in float64, and of a step that autograd records."""
    torch.set_default_dtype(torch.float64)
    try:
        for name in names:
            make = getattr(modules[OPTIMIZERS[name].__module__], name)
            for options in OPTIONS[name]:
                fault = find_fault(partial(make, fused=False), name, options, torch.float64)
                if fault is not None:
                    return f"{name}({options}): {fault}"
            fault = find_fault(partial(make, fused=True), name, fullest(name), torch.float64)
            if fault is not None:
                return f"{name}, the kernel: {fault}"
            if not _differentiable(make):
                return f"{name}: a gradient through the step is not finite"
        if "ScheduleFreeSGD" in names:
            found = path_of_falling_rates(modules[OPTIMIZERS["ScheduleFreeSGD"].__module__].ScheduleFreeSGD)
            if found != pytest.approx(FALLING):
                return f"falling rates lead to {found}"
            if not _has_the_gradient_of_its_start(modules[OPTIMIZERS["ScheduleFreeSGD"].__module__].ScheduleFreeSGD):
                return "the iterates lose the gradient of the first parameter"
        if BASE not in modules:
            return None
        sgd = modules[OPTIMIZERS["SGD"].__module__].SGD
        base = modules[BASE].Optimizer
        fault = (
            _fault_of_an_own_rule(base)
            or _fault_of_a_matrix_rule(base)
            or _fault_of_clipping(sgd)
            or _fault_of_a_convention(sgd)
        )
        return fault or (_fault_of_a_complex_start(modules[STATE]) if STATE in modules else None)
    finally:
        torch.set_default_dtype(torch.float32)


def _differentiable(make: Callable[..., Any]) -> bool:
    start = torch.tensor([0.5, -2.0], requires_grad=True)
    p = start.clone()
    optimizer = make([p], differentiable=True)
    for _ in range(5):
        p.grad = start * 3
        optimizer.step()
    return bool(torch.autograd.grad(p.sum(), start)[0].isfinite().all())


def _has_the_gradient_of_its_start(make: Callable[..., Any]) -> bool:
    """Whether the state that starts as the parameter has its gradient, by finite differences."""

    def stepped(start: torch.Tensor) -> torch.Tensor:
        p = start.clone()
        optimizer = make([p], lr=0.5, differentiable=True)
        for _ in range(3):
            p.grad = start * start
            optimizer.step()
        return p

    return torch.autograd.gradcheck(stepped, torch.tensor([0.5, -2.0], requires_grad=True), raise_exception=False)


def _fault_of_an_own_rule(base: Any) -> str | None:
    """A rule without buffers may return its step alone."""

    class Plain(base):
        options = {"lr": rate(0.5)}

        def update(g: Any) -> Any:
            return g * g

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    p.grad = torch.tensor([3.0, 4.0])
    Plain([p], fused=False).step()
    return None if p.tolist() == [-3.5, -6.0] else f"a rule without buffers moved to {p.tolist()}"


def _fault_of_a_matrix_rule(base: Any) -> str | None:
    """Both formulas of a rule of matrices read the parameter, numbers and flags."""

    class Whole(base):
        options = {"lr": rate(0.5), "weight_decay": weight_decay(0.0), "scale": Number(1.0), "squared": Flag(False)}
        buffers = {"sum": "s"}

        def before(p: Any, g: Any, s: Any, *, scale: Any, squared: bool) -> Any:
            s = s + g
            return scale * p * (s * s if squared else s), s

        def matrix(u: Any) -> Any:
            return 2 * u

        def after(p: Any, u: Any, *, scale: Any, squared: bool) -> Any:
            return scale * p * u if squared else u

    for fused in (False, True):
        p = torch.tensor([[1.0, 2.0]], requires_grad=True)
        p.grad = torch.tensor([[3.0, 5.0]])
        Whole([p], weight_decay=0.5, scale=0.25, squared=True, maximize=True, fused=fused).step()
        # s = -g + 0.5 p = (-2.5, -4); u = 2 * 0.25 p s^2 = (3.125, 16); d = 0.25 p u = (0.78125, 8)
        if p.tolist() != [[1 - 0.390625, 2 - 4.0]]:
            return f"a rule of matrices moved to {p.tolist()}"
    return None


def _fault_of_clipping(make: Any) -> str | None:
    """Gradients are scaled to the norm, and then limited in both directions."""
    root = 41**0.5
    for options, expected in (
        ({"max_value": 3.5}, [3.0, -3.5, 3.5]),
        ({"max_norm": 1.0}, [3 / root, -4 / root, 4 / root]),
        ({"max_norm": 1.0, "max_value": 0.5}, [3 / root, -0.5, 0.5]),
    ):
        p = torch.zeros(3, requires_grad=True)
        p.grad = torch.tensor([3.0, -4.0, 4.0])
        make([p], lr=1.0, fused=False, **options).step()
        if not torch.allclose(p.detach(), -torch.tensor(expected), rtol=1e-5):
            return f"{options} moved to {p.tolist()}"
    return None


def _fault_of_a_convention(make: Any) -> str | None:
    """The step of Keras' SGD contains the learning rate."""
    p = torch.tensor([1.0], requires_grad=True)
    p.grad = torch.tensor([2.0])
    make([p], learning_rate=0.25, convention="keras", fused=False).step()
    return None if p.item() == 0.5 else f"the SGD of Keras moved to {p.item()}"


def _fault_of_a_complex_start(state: Any) -> str | None:
    """A buffer of a complex parameter starts alike in both parts, as torch's."""
    p = torch.zeros(2, dtype=torch.complex128, requires_grad=True)
    made = state._filled_like(p.detach(), 0.5, p.dtype)
    torchs = torch.optim.Adagrad([p], initial_accumulator_value=0.5).state[p]["sum"]
    return None if torch.equal(made, torchs) else f"a complex buffer starts at {made.tolist()}"
