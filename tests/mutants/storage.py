"""How parameters and state are stored: rounding, precision and 8 bits.

The tests of these options judge the mutants; the values of each precision are written here again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch

import piste
from piste.optim import OPTIMIZERS, composition, state
from tests.formula import test_rounding as rounding
from tests.formula.test_rounding import neighbour, noise
from tests.optim import test_eight_bits as eight_bits
from tests.optim import test_prodigy as prodigy

from .subject import Subject, run_tests

ROUNDING, OPERATIONS, CODES = "piste.formula.rounding", "piste.formula.operations", "piste.engine.eight_bits"
PRECISION = "piste.optim.precision"
LR, SEED = 2.0**-9, 3

_EVEN = "the fourth power is that of the magnitude"
_IS_TRACED = "torch.compiler.is_compiling() {0} x.dtype == torch.float32"
EQUIVALENT_ROUNDING = {
    "to_neighbour: steps * _FLOAT16_STEP -> -(steps * _FLOAT16_STEP)": "its sign is that of x",
    f"to_nearest: {_IS_TRACED.format('and')} -> {_IS_TRACED.format('or')}": "both ways give the same numbers",
}
EQUIVALENT_CODES = {
    "encode: x -> places (number 3)": "there is a place for each number",
    "encode: x -> places (number 4)": "the places are on the device of the numbers",
    "encode: below + 1 -> -(below + 1)": _EVEN,
    "_fourth: code * (1 / 127) -> -(code * (1 / 127))": _EVEN,
    "_fourth: 1 / 127 -> -(1 / 127)": _EVEN,
}
"""Changes that change nothing, and why."""


def subjects() -> list[Subject]:
    """The modules of storage, each with the tests that judge it."""
    of_rounding = ("to_nearest", "to_neighbour", "noise", "_mixed", "on_float")
    of_codes = ("blocks_of", "decode", "encode", "_fourth")
    of_precision = (
        "is_narrow", "with_storage", "_sums_of", "_wide", "_composed", "_with_random_numbers", "_counted", "tensors_of",
        "first_tensor", "first_count", "state_dtype",
    )  # fmt: skip
    return [
        Subject(ROUNDING, of_rounding, _check_rounding, (OPERATIONS,), EQUIVALENT_ROUNDING),
        Subject(CODES, of_codes, _check_codes, equivalent=EQUIVALENT_CODES),
        Subject(PRECISION, of_precision, _check_precision),
    ]


def _check_rounding(modules: Mapping[str, ModuleType]) -> str | None:
    with patch.object(rounding, "apply", modules[OPERATIONS].apply):
        slow = (
            "test_noise_is_uniform_and_differs_by_key_step_and_position",
            "test_compiled_code_rounds_to_the_nearest_number",
        )
        run_tests(rounding, *slow)
    return None


def _check_codes(modules: Mapping[str, ModuleType]) -> str | None:
    with (
        patch.object(eight_bits, "encode", modules[CODES].encode),
        patch.object(eight_bits, "decode", modules[CODES].decode),
    ):
        eight_bits.test_a_code_is_one_of_the_two_that_enclose_the_number()
        for scale in (1.0, 8.0, 2.0**-10):
            eight_bits.test_the_noise_chooses_the_code_by_the_distance(scale)
        eight_bits.test_the_number_of_a_code_keeps_its_code()
        eight_bits.test_the_mean_of_many_roundings_is_the_number()
        for value in (float("inf"), float("nan")):
            eight_bits.test_a_block_with_a_number_that_is_not_finite_shows_it(value)
    sizes = {0: 0, 1: 1, 255: 1, 256: 1, 257: 2, 512: 2}
    found = {size: modules[CODES].blocks_of(size) for size in sizes}
    return None if found == sizes else f"the numbers of blocks are {found}"


@contextmanager
def _stored_by(module: Any) -> Iterator[None]:
    """Have optimizers store as a module states, in steps of their own."""
    kept = {cls: cls._specs for cls in OPTIMIZERS.values()}
    for cls in kept:
        cls._specs = {}
    try:
        with patch.object(composition, "with_storage", module.with_storage), patch.object(state, "precision", module):
            yield
    finally:
        for cls, specs in kept.items():
            cls._specs = specs


def _key(index: int) -> int:
    return (SEED * 0x9E3779B1 + index * 0x85EBCA77) % 2**32 // 2**8


def _expected(mode: str, kind: str, dtype: torch.dtype, p: torch.Tensor, g: torch.Tensor, kept: dict[str, Any]) -> None:
    """Step p by SGD, number by number, in float32 with what the mode keeps."""
    for i in range(p.numel()):
        old, slope = p[i].float(), g[i].float()
        if mode == "kahan":
            wide = old + kept["compensation"][i].float() - LR * slope
            p[i] = wide.to(dtype)
            kept["compensation"][i] = (wide - p[i].float()).to(dtype)
        elif mode == "master":
            start = kept["master"][i] if kept["master"][i].to(dtype) == p[i] else old
            kept["master"][i] = start - LR * slope
            p[i] = kept["master"][i].to(dtype)
        else:
            r = noise(kept["key"], kept["step"], i)
            r = r if kind == "bfloat16" else r // 8 * 8
            p[i] = neighbour((old - LR * slope).item(), r, kind)


def _check_precision(modules: Mapping[str, ModuleType]) -> str | None:
    module = modules[PRECISION]
    with _stored_by(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mode in ("kahan", "master", "stochastic"):
            for kind, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
                fault = _fault_of_a_mode(mode, kind, dtype)
                if fault is not None:
                    return fault
        for mode in ("kahan", "master"):  # of sums over all parameters
            prodigy.test_16_bit_weights_with_their_rest_move_like_float32_ones(mode, False)
        prodigy.test_sums_read_weights_that_are_rounded_at_random_as_they_are(False)
        return _fault_of_state(module)


def _fault_of_a_mode(mode: str, kind: str, dtype: torch.dtype) -> str | None:
    ours = [torch.linspace(0.5 + i, 1.5 + i, 40).to(dtype) for i in range(2)]
    theirs = [p.clone() for p in ours]
    wide = torch.linspace(0.5, 1.5, 40)
    made = piste.optim.SGD([*ours, wide], lr=LR, precision=mode, rounding_seed=SEED, fused=False)
    kept: list[dict[str, Any]] = [
        {"compensation": torch.zeros(40, dtype=dtype), "master": p.float().clone(), "key": _key(i)}
        for i, p in enumerate(ours)
    ]
    for t in (1, 2, 3):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = torch.cos(torch.arange(40.0) * t + i).to(dtype)
            kept[i]["step"] = t
            _expected(mode, kind, dtype, q, p.grad, kept[i])
        wide.grad = torch.full((40,), 0.125)
        made.step()
        if not all(map(torch.equal, ours, theirs)):
            return f'precision="{mode}" of {kind} moved to {ours[0].tolist()} at step {t}'
        ours[0][3] = theirs[0][3] = 2.0  # set between steps
    if not torch.equal(wide, torch.linspace(0.5, 1.5, 40) - 3 * LR * 0.125) or made.state[wide].keys():
        return "the precision of 16-bit parameters changes one of float32"
    names = {"kahan": {"compensation"}, "master": {"master"}, "stochastic": {"rounding_key", "rounding_step"}}[mode]
    found = {key: x for key, x in made.state[ours[1]].items() if key != "step"}
    if found.keys() != names or not all(torch.equal(found[key], kept[1][key]) for key in names & kept[1].keys()):
        return f'the state of precision="{mode}" is {found}'
    return None


def _fault_of_state(module: Any) -> str | None:
    """The dtypes of state, and state in 8 bits in each precision."""
    wide, narrow = torch.ones(300), torch.ones(300, dtype=torch.bfloat16)
    dtypes = {
        ("plain", None): (torch.float32, torch.bfloat16), ("master", None): (torch.float32, torch.float32),
        ("kahan", "float32"): (torch.float32, torch.float32), ("plain", "bfloat16"): (torch.bfloat16, torch.bfloat16),
        ("kahan", None): (torch.float32, torch.bfloat16),
    }  # fmt: skip
    for (mode, word), expected in dtypes.items():
        group = {"precision": mode, "state_dtype": word}
        found = tuple(module.state_dtype(p, group) for p in (wide, narrow))
        if found != expected:
            return f"the dtypes of state are {found} with {group}"
        if [module.is_narrow(p, group) for p in (wide, narrow)] != [False, mode != "plain"]:
            return f"narrow parameters are others with {group}"
    for mode, names in {"kahan": ("compensation",), "master": ("master",), "stochastic": ()}.items():
        spec = composition.step_spec(piste.optim.Lion, {**piste.optim.Lion([wide]).param_groups[0], "precision": mode})
        found = [each.buffers for each in spec.by_dtype.values()]
        if found != [("m", *names)] * 2:
            return f'the buffers of precision="{mode}" are {found}'
    ends = []
    for mode in ("plain", "kahan", "master", "stochastic"):
        ps = [torch.linspace(-1, 1, 300).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
        made = piste.optim.Adam(ps, lr=0.01, precision=mode, state_dtype="int8", rounding_seed=SEED, fused=False)
        for t in range(3):
            for p in ps:
                p.grad = torch.cos(torch.arange(300.0) + t).to(p.dtype)
            made.step()
        ends.append(ps)
        for index, p in enumerate(ps):
            kept = made.state[p]
            if (kept["rounding_key"].item(), kept["rounding_step"].item()) != (_key(index), 3):
                return f"the random numbers are seeded by {kept['rounding_key']} and {kept['rounding_step']}"
        torch.testing.assert_close(ps[1].float(), ps[0], rtol=0.02, atol=0.02)
        torch.testing.assert_close(ps[0], ends[0][0], rtol=0, atol=0)
    p = [torch.linspace(-1, 1, 300).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    made = piste.optim.NAdam(p, lr=0.01, precision="stochastic", fused=False)  # with a counter of its own
    for t in range(3):
        for each in p:
            each.grad = torch.cos(torch.arange(300.0) + t).to(each.dtype)
        made.step()
    torch.testing.assert_close(p[1].float(), p[0], rtol=0.02, atol=0.02)
    p = [torch.ones(2, dtype=torch.bfloat16) for _ in range(2)]  # Adagrad has state before the first step, as in torch
    made = piste.optim.Adagrad([{"params": [each]} for each in p], precision="stochastic", rounding_seed=SEED)
    if [made.state[each]["rounding_key"].item() for each in p] != [_key(0), _key(1)]:
        return "the keys of two groups are others"
    p = torch.ones(300, 2, dtype=torch.bfloat16), torch.ones(300, dtype=torch.bfloat16)
    made = piste.optim.Adafactor(p, lr=1e-3, precision="kahan", fused=False)
    for _ in range(50):
        for each in p:
            each.grad = torch.ones_like(each)
        made.step()
    moved = [1 - (each.float() + made.state[each]["compensation"].float()).mean().item() for each in p]
    return None if moved == pytest.approx([0.0488, 0.0488], rel=0.02) else f"Adafactor moved by {moved}"
