"""Rounding to 16-bit floats against exact fractions, and its random numbers against plain integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from piste.formula import rounding
from piste.formula.operations import apply

BITS = {"bfloat16": (7, -126), "float16": (10, -14)}  # stored bits of the significand, exponent of the smallest normal
VALUES = [
    0.0, 1.0, -1.0, 1.00390625, 1.01171875, -3.14159, 65504.0, 1e-5, -1e-5, 5.5e-8, 3e-8, 2.0**-14, 6.1e-5, 1e30, 1e-30,
    0.1, 1 / 3, 255.7, 2.0**-24, 1.5 * 2.0**-24, math.inf, -math.inf,
]  # fmt: skip


def grid(x: float, kind: str) -> tuple[Fraction, int]:
    """Return the distance of the numbers around x, and how many of these distances lie between 0 and x."""
    significand, smallest = BITS[kind]
    exponent = max(math.frexp(x)[1] - 1, smallest)
    step = Fraction(2) ** (exponent - significand)
    return step, math.floor(abs(Fraction(x)) / step)


def nearest(x: float, kind: str) -> float:
    step, below = grid(x, kind)
    rest = abs(Fraction(x)) / step - below
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1)
    result = float((below + up) * step)
    return math.copysign(math.inf if kind == "float16" and result > 65504 else result, x)


def neighbour(x: float, r: int, kind: str) -> float:
    step, below = grid(x, kind)
    rest = abs(Fraction(x)) / step - below
    return math.copysign(float((below + (rest + Fraction(r, 1 << 16) >= 1)) * step), x)


def mixed(x: int) -> int:
    x %= 1 << 32
    x = (x ^ x >> 16) * 2246822507 % (1 << 32)
    x = (x ^ x >> 13) * 3266489909 % (1 << 32)
    return x ^ x >> 16


def noise(key: int, step: int, position: int) -> int:
    first = mixed(mixed(key + 2654435769) ^ step)
    return mixed(mixed(position ^ first) + mixed(first + 2654435769)) >> 16


ROUNDINGS: dict[str, Callable[..., Any]] = {
    "bfloat16": lambda x: nearest(x, "bfloat16"),
    "float16": lambda x: nearest(x, "float16"),
    "bfloat16_at_random": lambda x, r: neighbour(x, r, "bfloat16"),
    "float16_at_random": lambda x, r: neighbour(x, r, "float16"),
    "noise": noise,
}


def in_float32(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def random_floats(count: int) -> torch.Tensor:
    """Return float32 numbers with random bits, and the middles between the numbers of both kinds."""
    bits = torch.randint(-(1 << 31), (1 << 31) - 1, (count,), generator=torch.Generator().manual_seed(0))
    middles = [bits & -(1 << lost) | 1 << (lost - 1) for lost in (13, 16)]
    return torch.cat([bits, *middles]).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("kind", BITS)
def test_the_nearest_number_is_that_of_exact_arithmetic(kind):
    x = in_float32(VALUES)
    expected = [v if math.isinf(v) else ROUNDINGS[kind](v) for v in x.tolist()]
    assert apply(kind, x).tolist() == expected
    assert [apply(kind, v) for v in x.tolist()] == expected
    assert math.isnan(apply(kind, math.nan))


@pytest.mark.parametrize("kind", BITS)
def test_compiled_code_rounds_to_the_nearest_number(kind):
    """It leaves out a conversion to 16 bits and back."""
    x = torch.cat([in_float32([*VALUES, -0.0, 65519.0, 65520.0, -65520.0, 3.4e38, math.nan]), random_floats(1 << 16)])
    found = torch.compile(lambda x: apply(kind, x), fullgraph=True)(x)
    expected = x.to(getattr(torch, kind)).float()
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(found.isnan(), x.isnan())
    assert torch.equal(found.signbit() & ~x.isnan(), expected.signbit() & ~x.isnan())


@pytest.mark.parametrize("kind", BITS)
def test_a_traced_rounding_has_no_conversion_to_16_bits(kind):
    torch._dynamo.reset()
    graphs = []
    x = random_floats(1 << 10)
    compiled = torch.compile(lambda x: apply(kind, x), backend=lambda graph, _: graphs.append(graph) or graph)
    assert torch.equal(compiled(x).nan_to_num(7.0), x.to(getattr(torch, kind)).float().nan_to_num(7.0))
    assert not any(getattr(torch, kind) in node.args for graph in graphs for node in graph.graph.nodes)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("r", [0, 1, 20000, 32768, 65535])
def test_a_random_number_chooses_between_the_neighbours(kind, r):
    # Of r, float16 takes 13 bits where its numbers are normal.
    kept = r if kind == "bfloat16" else r // 8 * 8
    for v in in_float32([x for x in VALUES if not math.isinf(x) and (kind == "bfloat16" or abs(x) < 65504)]).tolist():
        found = apply(f"{kind}_at_random", in_float32([v]), in_float32([float(r)])).item()
        assert found in {neighbour(v, r, kind), neighbour(v, kept, kind)}, v
        assert apply(f"{kind}_at_random", v, float(r)) == found


@pytest.mark.parametrize("kind", BITS)
def test_infinity_and_nan_are_not_rounded_at_random(kind):
    rounded = apply(f"{kind}_at_random", in_float32([math.inf, -math.inf, math.nan]), in_float32([65535.0] * 3))
    assert rounded[:2].tolist() == [math.inf, -math.inf] and math.isnan(rounded[2])


@pytest.mark.parametrize("kind", BITS)
def test_every_nan_stays_one(kind):
    payloads = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    for r in (0.0, 65535.0):
        assert apply(f"{kind}_at_random", payloads, torch.full((4,), r)).isnan().all()


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("x", [1.001, -0.3, 3e-6])
def test_the_mean_of_rounding_at_random_is_the_number(kind, x):
    x = in_float32([x]).item()
    bits = torch.arange(65536, dtype=torch.float32)
    rounded = apply(f"{kind}_at_random", torch.full_like(bits, x), bits).double()
    assert len(rounded.unique()) == 2
    step = float(grid(x, kind)[0])
    assert abs(rounded.mean().item() - x) < step * 2**-12


def test_noise_is_the_hash_in_plain_integers():
    positions = [0, 1, 2, 77, 2**31 + 5]
    for key, step in ((0, 0), (1, 0), (0, 1), (2**24 - 1, 200), (12345, 2**24 - 1)):
        found = apply("noise", float(key), float(step), torch.tensor(positions))
        assert found.tolist() == [noise(key, step, n) for n in positions]


def test_noise_is_uniform_and_differs_by_key_step_and_position():
    places = torch.arange(1 << 16)
    streams = [apply("noise", float(k), float(s), places) for k, s in ((0, 1), (0, 2), (1, 1))]
    for stream in streams:
        counts = torch.histc(stream, bins=64, min=0, max=65536)
        assert ((counts - 1024) ** 2 / 1024).sum() < 120  # chi-squared of 63 degrees of freedom
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert torch.corrcoef(torch.stack([streams[a], streams[b]]))[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([streams[0][1:], streams[0][:-1]]))[0, 1].abs() < 0.02


def test_compiled_code_stores_the_words_of_the_hash_and_writes_no_expression_of_thousands_of_operations():
    """A compiler writes the expression of a number wherever it is used, and stores those that it takes a part of."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    given = torch.tensor(3), torch.tensor(5), torch.arange(100)
    compiled = torch.compile(rounding.noise, backend=keep, fullgraph=True)
    assert torch.equal(compiled(*given), rounding.noise(*given))
    sizes: dict[torch.fx.Node, int] = {}
    for node in graphs[0].graph.nodes:
        is_stored = node.op == "call_method" and node.target == "as_strided"
        parts = 0 if is_stored else sum(sizes[x] for x in node.args if isinstance(x, torch.fx.Node))
        sizes[node] = 1 + parts
    assert max(sizes.values()) < 200
