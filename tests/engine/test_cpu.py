"""The CPU kernel of a step: its operations, the distribution of work, and strided tensors."""

from __future__ import annotations

import ast
import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import piste
from piste.engine import layout
from piste.engine.cpu import step_kernel as cpu
from piste.engine.cpu.step_kernel import MIN_CHUNK
from piste.engine.cpu.step_source import Layout, source
from piste.optim.composition import step_spec

from .reference import KERNEL, AgainstTorch, randn, spread, transposed, weights

# --- the source -----------------------------------------------------------------------------------------------


def program_of(optimizer):
    return step_spec(type(optimizer), optimizer.param_groups[0])


def functions(optimizer, kind: str = "float32", dims: int = 0) -> tuple[ast.FunctionDef, ast.FunctionDef]:
    program = program_of(optimizer)
    text, *_ = source(program, Layout((kind,) * (2 + len(program.buffers)), "float32", dims))
    prepare, body = ast.parse(text).body
    return prepare, body


def count(function: ast.FunctionDef, what: str) -> int:
    return ast.unparse(function).count(what)


def loop(body: ast.FunctionDef) -> ast.For:
    """Return the loop over elements."""
    return next(n for n in ast.walk(body) if isinstance(n, ast.For) and n.target.id == "k")


def test_adam_is_one_pass_with_one_division_and_one_root_in_its_formula():
    prepare, body = functions(piste.optim.Adam(weights(3)))
    assert (prepare.name, body.name) == ("prepare", "body")
    lines = [ast.unparse(line) for line in loop(body).body]
    loads = [line for line in lines if re.search(r"= a_\w+\[k\]$", line)]
    stores = [line for line in lines if re.match(r"a_\w+\[k\] =", line)]
    assert [line.split("[")[0].split("_", 2)[2] for line in loads] == ["p", "g", "m", "v"]
    assert [line.split("[")[0] for line in stores] == ["a_p", "a_m", "a_v"]  # the gradient is read alone
    formula = [line for line in lines if line not in loads and line not in stores]
    assert sum(line.count("math.sqrt") for line in formula) == 1
    assert sum(line.count(" / ") for line in formula) == 1
    assert len({line.split(" = ")[1] for line in formula}) == len(formula)  # nothing is computed twice
    assert not any("math.pow" in line or " if " in line for line in lines)
    assert count(prepare, "math.pow") == 2 and count(prepare, "c_t[0] += 1") == 1


def test_a_branch_that_depends_on_no_element_is_evaluated_once():
    prepare, body = functions(piste.optim.SGD(weights(3), momentum=0.9, dampening=0.5))
    assert count(prepare, " if ") == 1
    assert " if " not in ast.unparse(loop(body))


@pytest.mark.parametrize(
    ("kind", "storage", "compute"),
    [
        ("float64", "float64", "float64"),
        ("float32", "float32", "float32"),
        ("bfloat16", "uint16", "float32"),
        ("float16", "uint16", "float32"),
    ],
)
def test_storage_and_arithmetic_of_each_dtype(kind, storage, compute):
    prepare, body = functions(piste.optim.Adam(weights(3), weight_decay=0.1), kind)
    text = ast.unparse(body)
    assert len(re.findall(rf"a_\w = pointer\(.*, {storage}\)", text)) == 4
    converted = 4 if storage == "uint16" else 0
    assert text.count(f"from_{kind}(") == converted
    assert text.count(f"to_{kind}(float32(") == (3 if converted else 0)
    assert not (kind == "float64" and "float32" in text)
    assert compute in ast.unparse(loop(body))
    assert "float64" in ast.unparse(prepare)  # what is the same for all elements is worked out in double precision


def test_a_strided_kernel_reads_each_tensor_by_its_own_strides():
    _, body = functions(piste.optim.SGD(weights(3)), dims=3)
    text = ast.unparse(body)
    for name in ("p", "g"):
        assert f"o_{name} = b_{name} + k * d_{name}" in text
    assert all(f"k{d}" in text for d in range(3)) and "k3" not in text


def test_the_source_of_a_program_is_generated_once():
    program = program_of(piste.optim.SGD(weights(3)))
    layout = Layout(("float32", "float32"), "float32")
    assert source(program, layout) is source(program, Layout(("float32", "float32"), "float32"))
    other = program_of(piste.optim.SGD(weights(5), lr=0.5, weight_decay=0))
    assert other is program


# --- sharing out ----------------------------------------------------------------------------------------------

sizes_ = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.integers(MIN_CHUNK - 2, MIN_CHUNK + 2),
        st.integers(0, 5 * MIN_CHUNK),
        st.integers(0, 1000 * MIN_CHUNK),
    )
)


@settings(max_examples=80, deadline=None)
@given(sizes_, st.integers(1, 64))
def test_the_items_cover_every_element_once_and_evenly(sizes, threads):
    items, ends = cpu._shared_out(sizes, threads)
    triples = list(zip(items[::3], items[1::3], items[2::3], strict=True))
    for tensor, size in enumerate(sizes):
        parts = sorted((start, stop) for i, start, stop in triples if i == tensor)
        assert [0, *(stop for _, stop in parts)] == [*(start for start, _ in parts), size]
    assert ends[0] == 0 and ends[-1] == len(triples)
    assert all(a < b for a, b in itertools.pairwise(ends))
    work = [sum(stop - start for _, start, stop in triples[a:b]) for a, b in itertools.pairwise(ends)]
    most = 2 * max(MIN_CHUNK, min(sum(sizes) / threads / 32, 1 << 18))
    assert all(w <= most for w in work)


SIZES = [
    0,
    1,
    2,
    7,
    MIN_CHUNK - 1,
    MIN_CHUNK,
    MIN_CHUNK + 1,
    2 * MIN_CHUNK - 1,
    2 * MIN_CHUNK,
    2 * MIN_CHUNK + 1,
    3 * MIN_CHUNK + 5,
]


@pytest.mark.parametrize("threads", [1, 2])
def test_sizes_around_the_block_size_are_stepped(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sizes in ([n] for n in SIZES):
            AgainstTorch("Adam", weights(*sizes)).step(2)
        pair = AgainstTorch("Adam", weights(*SIZES))
        pair.step(3)
        assert f"{len(SIZES)} of {len(SIZES)} parameters {KERNEL}" in pair.optimizer.explain()
    finally:
        torch.set_num_threads(before)


def test_many_tiny_tensors_are_stepped():
    AgainstTorch("RMSprop", weights(*(n % 8 for n in range(600)))).step(3)


# --- where tensors lie ----------------------------------------------------------------------------------------


def strided(whole: Tensor, view) -> nn.Parameter:
    p = nn.Parameter(view(whole))
    assert p.data_ptr() == view(whole).data_ptr()
    return p


LAYOUTS = {
    "zero-dimensional": lambda: nn.Parameter(randn()),
    "one element": lambda: nn.Parameter(randn(1, 1, 1)),
    "empty": lambda: nn.Parameter(randn(0, 3)),
    "empty in the middle": lambda: nn.Parameter(randn(4, 0, 3)),
    "contiguous": lambda: nn.Parameter(randn(5, 7)),
    "transposed": lambda: strided(randn(5, 7), lambda x: x.T),
    "channels last": lambda: nn.Parameter(randn(2, 3, 4, 5).to(memory_format=torch.channels_last)),
    "channels last in 3d": lambda: nn.Parameter(randn(2, 3, 2, 4, 5).to(memory_format=torch.channels_last_3d)),
    "permuted": lambda: strided(randn(2, 3, 4, 5, 6), lambda x: x.permute(3, 0, 4, 1, 2)),
    "every other row": lambda: strided(randn(8, 7), lambda x: x[::2]),
    "every third column": lambda: strided(randn(5, 9), lambda x: x[:, ::3]),
    "one column": lambda: strided(randn(5, 9), lambda x: x[:, 4]),
    "a block": lambda: strided(randn(6, 7, 8), lambda x: x[1:4, 2:6, 3:4]),
    "a block, permuted": lambda: strided(randn(6, 7, 8), lambda x: x[1:4, 2:6, ::2].permute(2, 0, 1)),
    "a diagonal": lambda: strided(randn(6, 6), lambda x: x.diagonal()),
    "a long slice": lambda: strided(randn(300, 150), lambda x: x[:, 1:]),
    "a long transposed slice": lambda: strided(randn(300, 150), lambda x: x[:, ::2].T),
    "complex": lambda: nn.Parameter(randn(4, 3, dtype=torch.complex128)),
    "complex, transposed": lambda: strided(randn(4, 3, dtype=torch.complex128), lambda x: x.T),
    "complex, sliced": lambda: strided(randn(4, 6, dtype=torch.complex128), lambda x: x[:, 1::2]),
    "complex, zero-dimensional": lambda: nn.Parameter(randn(dtype=torch.complex128)),
    "complex seen as real": lambda: strided(
        randn(4, 3, dtype=torch.complex128), lambda x: torch.view_as_real(x)[..., 1]
    ),
}


GRADIENTS = {
    "as it comes": lambda g: g,
    "contiguous": lambda g: g.contiguous(),
    "transposed": transposed,
    "spread out": spread,
    "one number for all": lambda g: (g.sum() if g.numel() else torch.ones((), dtype=g.dtype)).expand(g.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_of_parameter_and_gradient_are_stepped(layout):
    for lay in GRADIENTS.values():
        pair = AgainstTorch("Adam", [LAYOUTS[layout]()], weight_decay=0.1)
        outside = around(pair.ours[0])
        for _ in range(2):
            pair.backward()
            for p in (*pair.ours, *pair.theirs):
                p.grad = lay(p.grad)
            kept = pair.ours[0].grad.clone(), pair.ours[0].grad.stride()
            pair.step_both()
            assert torch.equal(pair.ours[0].grad, kept[0]) and pair.ours[0].grad.stride() == kept[1]
        assert torch.equal(around(pair.ours[0]), outside)


def around(p: Tensor) -> Tensor:
    """Return the storage of a parameter, other than its elements."""
    real = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    whole = real.as_strided((real.untyped_storage().nbytes() // real.itemsize,), (1,), 0)
    mine = torch.zeros_like(whole, dtype=torch.bool)
    mine.as_strided(real.size(), real.stride(), real.storage_offset()).fill_(True)
    return whole[~mine].clone()


def test_the_kernel_supports_strided_layouts():
    for name, make in LAYOUTS.items():
        p = make()
        p.grad = torch.ones_like(p)
        assert KERNEL in piste.optim.Adam([p]).explain(), name
        p.grad = spread(p.grad)
        assert KERNEL in piste.optim.Adam([p]).explain(), name


def test_layouts_and_dtypes_mix_in_one_group():
    params = [make() for make in LAYOUTS.values()]
    params += weights(5, 20_000, dtype=torch.float32) + weights(3, dtype=torch.float64)
    pair = AgainstTorch("SGD", params, momentum=0.9)
    pair.backward()
    for p in (*pair.ours[::2], *pair.theirs[::2]):
        p.grad = transposed(p.grad)
    for optimizer in pair.optimizers:
        optimizer.step()
    for a, b in zip(pair.ours, pair.theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert f"{len(params)} of {len(params)} parameters {KERNEL}" in pair.optimizer.explain()


def test_overlapping_elements_are_detected():
    for module in (piste.optim, torch.optim):
        p = nn.Parameter(torch.arange(4.0).expand(3, 4))
        p.grad = torch.ones(3, 4)
        optimizer = module.SGD([p], lr=0.1)
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            optimizer.step()
    p = nn.Parameter(torch.arange(12.0).as_strided((3, 4), (2, 1)))
    p.grad = torch.ones(3, 4)
    assert "overlap in memory" in piste.optim.SGD([p]).explain()


views = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(views)
def test_dense_and_overlapping_agree_with_a_list_of_all_addresses(dims):
    shape, stride = [size for size, _ in dims], [step for _, step in dims]
    places = [sum(i * s for i, s in zip(at, stride, strict=True)) for at in itertools.product(*map(range, shape))]
    x = torch.zeros(200).as_strided(shape, stride)
    if sorted(places) != list(range(len(places))):
        assert not layout.dense(x.shape, layout.strides(x))
    if x.is_contiguous() and places:
        assert layout.dense(x.shape, layout.strides(x))
    if len(set(places)) < len(places):
        assert layout.overlapping(x)
    if x.is_contiguous():
        assert not layout.overlapping(x)


# --- sixteen bits ---------------------------------------------------------------------------------------------


def every(dtype: torch.dtype) -> Tensor:
    """Return all 65536 values of a 16-bit dtype, with zeros, subnormals, infinities and NaN."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_are_read_and_rounded_as_torch_does(dtype):
    """p - g of any two values is computed in float32 and rounded once: the same bits, and NaN as in torch."""
    mixed = torch.randperm(2**16, generator=torch.Generator().manual_seed(0))
    for g in (torch.zeros(2**16, dtype=dtype), every(dtype)[mixed], every(dtype), every(dtype).roll(1) / 2):
        p = nn.Parameter(every(dtype).clone())
        p.grad = g
        wanted = (every(dtype).float() - g.float()).to(dtype)
        optimizer = piste.optim.SGD([p], lr=1.0)
        optimizer.step()
        assert KERNEL in optimizer.explain()
        nan = wanted.isnan()
        other = p.detach().view(torch.int16) != wanted.view(torch.int16)
        assert int((p.isnan() != nan).sum()) == 0
        assert int((other & ~nan).sum()) == 0
