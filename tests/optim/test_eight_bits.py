"""State in 8 bits: its codes in plain Python, both backends, training, checkpoints, and what is refused."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import piste
from piste.engine.eight_bits import decode, encode
from piste.engine.layout import positions
from piste.errors import InvalidValue, Unsupported
from piste.optim import OPTIMIZERS

from ..formula.test_rounding import noise
from .cases import fullest

OTHERS = {"Adafactor", "LBFGS", "Muon", "NorMuon", "Prodigy", "ScheduleFreeSGD", "SOAP", "SparseAdam"}
WITH_STATE = [name for name, cls in OPTIMIZERS.items() if cls.buffers and name not in OTHERS]


def number(code, scale):
    return scale * math.copysign((abs(code) / 127) ** 4, code)


def neighbours(x, scale):
    """The two codes whose numbers enclose x."""
    below = next(c for c in range(126, -1, -1) if number(c, scale) <= abs(x) * (1 + 1e-6))
    return {math.copysign(max(c, 1), x) for c in (below, below + 1)} if x else {0}


def test_a_code_is_one_of_the_two_that_enclose_the_number():
    make = torch.Generator().manual_seed(0)
    x = torch.randn(600, generator=make) * torch.logspace(-6, 1, 600)
    x[:3] = torch.tensor([0.0, 1e-20, -1e-20])
    places = torch.arange(600)
    codes, scales = encode(x, places, 5.0, 1.0)
    assert codes.dtype == torch.int8 and scales.shape == (3,)
    for block in range(3):
        part = slice(256 * block, 256 * (block + 1))
        assert scales[block] == x[part].abs().max()
        for value, code, shown in zip(x[part].tolist(), codes[part], decode(codes, scales, places)[part], strict=True):
            assert code.item() in neighbours(value, scales[block].item()), value
            assert shown.item() == pytest.approx(number(code.item(), scales[block].item()), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 8.0, 2.0**-10])
def test_the_noise_chooses_the_code_by_the_distance(scale):
    x = torch.full((256,), 0.5 * scale)
    x[0] = scale
    codes, _ = encode(x, torch.arange(256), 7.0, 3.0)
    low, high = number(106, 1.0), number(107, 1.0)
    for place in range(1, 256):
        assert codes[place] == 106 + (0.5 - low > noise(7, 3, place) / 65536 * (high - low))


def test_the_number_of_a_code_keeps_its_code():
    places = torch.arange(4096)
    x = decode(torch.full((4096,), 64, dtype=torch.int8), torch.ones(16), places)
    x[::256] = 1.0
    steps = [step for step in range(40) if any(noise(7, step, place) == 0 for place in range(4096))]
    assert steps  # where the noise is 0, a number that is not above its code stays as well
    for step in steps:
        codes, _ = encode(x, places, 7.0, float(step))
        assert codes[::256].eq(127).all() and codes.view(16, 256)[:, 1:].eq(64).all()


def test_the_mean_of_many_roundings_is_the_number():
    x = torch.tensor([1.0, *[0.3] * 255, *[1e-3] * 255, 1.0])
    places = torch.arange(512)
    means = torch.stack([decode(*encode(x, places, 1.0, float(step)), places) for step in range(400)]).mean(0)
    torch.testing.assert_close(means[1:256].mean(), x[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(means[256:511].mean(), x[256], rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_block_with_a_number_that_is_not_finite_shows_it(value):
    x = torch.ones(300)
    x[5] = value
    places = torch.arange(300)
    codes, scales = encode(x, places, 1.0, 1.0)
    shown = decode(codes, scales, places)
    assert codes[:256].eq(0).all() and shown[:256].isnan().all() and shown[256:].eq(1).all()


@pytest.mark.sample(1, per="name", of=4)
@pytest.mark.parametrize("name", WITH_STATE)
def test_the_kernel_and_the_eager_backend_keep_the_same_codes(name):
    runs = []
    for fused in (True, False):
        make = torch.Generator().manual_seed(1)
        ps = [torch.randn(s, generator=make).requires_grad_() for s in ((300, 7), (5,), (), (0,))]
        options = {**fullest(name), "state_dtype": "int8", "rounding_seed": 2}
        optimizer = OPTIMIZERS[name](ps, **options, fused=fused)
        for _ in range(2):
            for p in ps:
                p.grad = torch.randn(p.shape, generator=make)
            optimizer.step()
        runs.append([(p, optimizer.state[p]) for p in ps])
        assert f"by the {'fused CPU kernel' if fused else 'eager backend'}" in optimizer.explain()
    for (p, kept), (q, other) in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        assert kept.keys() == other.keys()
        codes = [key for key, value in kept.items() if value.dtype == torch.int8]
        assert {key.removesuffix("_scale") for key in kept if key.endswith("_scale")} == set(codes)
        for key in codes:
            # A last bit may change a code to the next, and a step of the rule follows it.
            distance = (kept[key].int() - other[key].int()).abs()
            assert (distance > 1).float().mean() < 0.01 if p.numel() else True, key
            torch.testing.assert_close(kept[key + "_scale"], other[key + "_scale"], rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_muon_keeps_the_momentum_of_matrices_in_8_bits(fused):
    ps = [torch.linspace(-1, 1, 1200).reshape(40, 30).requires_grad_() for _ in range(2)]
    optimizer = piste.optim.Muon(ps, lr=1.0, momentum=0.5, nesterov=False, ns_steps=0, state_dtype="int8", fused=fused)
    momentum = torch.zeros(40, 30)
    for t in range(3):
        before = ps[0].detach().clone()
        for p in ps:
            p.grad = torch.cos(torch.arange(1200.0) + t).reshape(40, 30)
        momentum = 0.5 * momentum + 0.5 * ps[0].grad
        optimizer.step()
        # ns_steps=0: the step is the momentum over its norm, in bfloat16; the kept momentum was rounded to 8 bits.
        expected = before * (1 - 0.1) - (40 / 30) ** 0.5 * momentum / momentum.norm()
        torch.testing.assert_close(ps[0].detach(), expected, rtol=0.02, atol=1e-3)
        state = optimizer.state[ps[0]]
        assert state["momentum_buffer"].dtype == torch.int8
        momentum = decode(state["momentum_buffer"], state["momentum_buffer_scale"], positions([ps[0]]))
    assert ("CPU kernel" in optimizer.explain()) is fused
    assert optimizer.state[ps[1]]["momentum_buffer"].dtype == torch.int8


def test_weights_in_the_state_stay_as_they_are():
    p = torch.ones(300, requires_grad=True)
    optimizer = piste.optim.ScheduleFreeAdamW([p], lr=0.1, state_dtype="int8")
    p.grad = torch.ones(300)
    optimizer.step()
    assert {key: x.dtype for key, x in optimizer.state[p].items() if x.numel() == 300} == {
        "z": torch.float32,
        "exp_avg_sq": torch.int8,
    }


def test_codes_do_not_depend_on_the_number_of_threads():
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            p = torch.ones(400_001).requires_grad_()
            optimizer = piste.optim.Adam([p], state_dtype="int8", fused=True)
            p.grad = torch.randn(400_001, generator=torch.Generator().manual_seed(4))
            optimizer.step()
            found.append((p.detach(), optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq_scale"]))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_a_transposed_parameter_has_a_kernel_and_one_with_gaps_has_none():
    kinds = {
        "fused CPU kernel": lambda: torch.ones(6, 300).T,
        "its state has 8 bits": lambda: torch.ones(6, 300)[:, ::2],
    }
    for words, make in kinds.items():
        runs = []
        for fused in (None, False):
            p = make().detach().requires_grad_()
            optimizer = piste.optim.Adam([p], lr=0.1, state_dtype="int8", fused=fused)
            for t in (1, 2):
                p.grad = torch.linspace(-t, 1, p.numel()).view(p.shape[::-1]).T
                optimizer.step()
            runs.append((p.detach().clone(), optimizer))
        assert words in runs[0][1].explain()
        torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(make, loss, seed, **options):
    torch.manual_seed(seed)
    net = make()
    optimizer = piste.optim.AdamW(net.parameters(), lr=1e-2, **options)
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(net)
        value.backward()
        optimizer.step()
    with torch.no_grad():
        torch.manual_seed(1000)
        return torch.stack([loss(net) for _ in range(5)]).mean().item()


class Transformer(nn.Module):
    """Says for each place the symbol of the place before it."""

    def __init__(self):
        super().__init__()
        self.embedding, self.places = nn.Embedding(8, 16), nn.Parameter(0.1 * torch.randn(10, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        return self.head(self.layer(self.embedding(x) + self.places))


def of_transformer(net):
    x = torch.randint(8, (16, 10))
    return cross_entropy(net(x).flatten(0, 1), x.roll(1, 1).flatten())


def of_digits(net):
    images, labels = digits()
    chosen = torch.randint(len(images), (64,))
    return cross_entropy(net(images[chosen]), labels[chosen])


@cache
def digits():
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


@pytest.mark.parametrize(
    ("make", "loss", "reached"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), of_digits, 0.4),
        (Transformer, of_transformer, 1.9),
    ],
    ids=["digits", "transformer"],
)
def test_training_reaches_the_same_loss_within_the_noise_of_seeds(make, loss, reached, one_thread):
    wide, narrow = (
        torch.tensor([train(make, loss, seed, state_dtype=word) for seed in range(3)]) for word in (None, "int8")
    )
    assert wide.mean() < reached  # a guess has log(10), or log(8)
    assert (wide.mean() - narrow.mean()).abs() < max(wide.std().item(), 0.02)


@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_run_goes_on_bit_for_bit(fused, tmp_path):
    runs = []
    p = torch.linspace(-1, 1, 700).bfloat16().requires_grad_()
    options = {"state_dtype": "int8", "precision": "stochastic", "fused": fused}
    optimizer = piste.optim.NAdam([p], lr=1e-2, **options)
    for t in range(2):
        p.grad = torch.sin(torch.arange(700) + t).bfloat16()
        optimizer.step()
    q = p.detach().clone().requires_grad_()
    again = piste.optim.NAdam([q], **options)
    piste.optim.save(optimizer, tmp_path / "file")
    piste.optim.load(again, tmp_path / "file")
    for x, each in ((p, optimizer), (q, again)):
        for t in range(3):
            x.grad = torch.cos(torch.arange(700) + t).bfloat16()
            each.step()
        runs.append(each.state[x] | {"p": x.detach()})
    assert runs[0].keys() == runs[1].keys() >= {"exp_avg", "exp_avg_scale"}
    assert all(torch.equal(value, runs[1][key]) and value.dtype == runs[1][key].dtype for key, value in runs[0].items())


def test_a_checkpoint_without_scales_is_rejected():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = piste.optim.Lion([p], state_dtype="int8")
    optimizer.step()
    saved = optimizer.state_dict()
    del saved["state"][0]["exp_avg_scale"]
    with pytest.raises(InvalidValue, match=r"`exp_avg_scale` of shape \(1,\); received None\. Help: save"):
        optimizer.load_state_dict(saved)


def test_the_dtype_of_state_may_change_during_a_run():
    p = torch.ones(300, requires_grad=True)
    optimizer = piste.optim.SGD([p], lr=1.0, momentum=0.5, state_dtype="int8")
    p.grad = torch.full((300,), 0.125)
    optimizer.step()
    optimizer.param_groups[0]["state_dtype"] = None
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32
    assert "momentum_buffer_scale" not in optimizer.state[p]
    torch.testing.assert_close(p.detach(), torch.full((300,), 1 - 0.125 - 0.1875))


def test_float_state_of_a_checkpoint_stays():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    theirs = torch.optim.Adam([p])
    theirs.step()
    ours = piste.optim.Adam([p], state_dtype="int8")
    ours.load_state_dict(theirs.state_dict())
    ours.step()
    assert ours.state[p]["exp_avg"].dtype == torch.float32


def test_initial_values_are_kept():
    p = torch.ones(300, requires_grad=True)
    optimizer = piste.optim.Adagrad([p], lr=1.0, initial_accumulator_value=9.0, state_dtype="int8", eps=0.0)
    p.grad = torch.full((300,), 4.0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((300,), 1 - 4 / 5))


def test_what_is_refused():
    p = torch.ones(3, requires_grad=True)
    with pytest.raises(InvalidValue, match=r"differentiable=True can't be combined with state_dtype=\"int8\""):
        piste.optim.Adam([p], state_dtype="int8", differentiable=True)
    for name, kind in (
        ("Adafactor", "a number for each row and column"),
        ("ScheduleFreeSGD", "the weights before averaging"),
    ):
        words = rf'`state_dtype` of {name} must be None, "float32" or "bfloat16", because its state is {kind}; rec'
        with pytest.raises(InvalidValue, match=words):
            getattr(piste.optim, name)([p], state_dtype="int8")
    net = nn.Embedding(5, 3, sparse=True)
    optimizer = piste.optim.Adagrad(net.parameters(), state_dtype="int8")
    net(torch.tensor([1])).sum().backward()
    with pytest.raises(Unsupported, match=r'state_dtype="int8" is not compatible with sparse gradients, .*Help'):
        optimizer.step()
    with pytest.raises(InvalidValue, match=r'worked through in float64; received state_dtype="int8"'):
        piste.explain("adam", grad=0.5, lr=0.1, state_dtype="int8")
