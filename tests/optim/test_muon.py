"""Muon: the values, state and checkpoints of torch.optim.Muon, routing of parameters to AdamW, and fused matrices."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from piste import optim
from piste.errors import InvalidType, InvalidValue, Unsupported
from piste.optim.muon import orthogonalize
from piste.optim.options import eps, rate

from .rejections import assert_rejected

SHAPES = [(4, 6), (6, 4), (4, 6), (5, 5), (4, 6), (16, 8)]
OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.5, "nesterov": False},
    {"lr": 0.1, "weight_decay": 0, "momentum": 0.0, "adjust_lr_fn": "original"},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "eps": 0.5},
    {"lr": 0.02, "ns_coefficients": (2.0, -1.5, 0.5)},
]
BRAIN = 2.0**-8


def pair(dtype=torch.float64, **options):
    """Return Piste's Muon and PyTorch's on equal matrices, and both lists of matrices."""
    make = torch.Generator().manual_seed(1)
    ours = [torch.randn(shape, generator=make, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    known = {key: value for key, value in options.items() if key not in ("fused", "maximize")}
    return optim.Muon(ours, **options), torch.optim.Muon(theirs, **known), ours, theirs


def step(t, *runs):
    """Step optimizers on equal gradients."""
    for optimizer, matrices in runs:
        make = torch.Generator().manual_seed(50 + t)
        for p in matrices:
            p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64).to(p.dtype)
        optimizer.step()


def assert_near(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "defaults")
def test_ten_steps_have_the_values_and_the_state_of_torch(options, fused):
    a, b, ours, theirs = pair(**options, fused=fused)
    for t in range(10):
        step(t, (a, ours), (b, theirs))
    # Values agree to the rounding of float64, but where one of 50 products in bfloat16 is rounded another way.
    assert_near(ours, theirs, 10 * options.get("lr", 1e-3) * BRAIN)
    for p, q in zip(ours, theirs, strict=True):
        assert a.state[p].keys() == b.state[q].keys() == {"momentum_buffer"}
        torch.testing.assert_close(a.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("options", OPTIONS[:4], ids=lambda options: ",".join(options) or "defaults")
def test_without_iterations_the_values_are_those_of_torch_to_float64_rounding(options, fused):
    a, b, ours, theirs = pair(**{**options, "ns_steps": 0}, fused=fused)
    for t in range(10):
        step(t, (a, ours), (b, theirs))
    assert_near(ours, theirs, 1e-13)


def test_arguments_and_defaults_are_those_of_torch_in_order():
    ours, theirs = (list(inspect.signature(cls).parameters.values()) for cls in (optim.Muon, torch.optim.Muon))
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("fused", [None, False])
def test_float32_newton_schulz_is_that_of_float64_arithmetic(fused):
    p = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    start, g = p.detach().double(), torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
    optimizer = optim.Muon([p], lr=0.1, weight_decay=0.5, ns_dtype="float32", fused=fused)
    p.grad = g.clone()
    optimizer.step()
    b = 0.05 * g.double()
    x = 0.95 * b + 0.05 * g.double()
    x = x / x.norm()
    for _ in range(5):
        y = x @ x.T
        x = 3.4445 * x + (-4.775 * y + 2.0315 * y @ y) @ x
    torch.testing.assert_close(p.double(), start * 0.95 - 0.1 * x, rtol=0, atol=2e-6)
    assert torch.equal(p.grad, g)


def test_orthogonal_matrices_have_singular_values_of_one():
    make = torch.Generator().manual_seed(0)
    u = torch.randn(3, 8, 5, generator=make)
    x = orthogonalize(u, (1.875, -1.25, 0.375), 30, 1e-7, "float32")
    torch.testing.assert_close(x.mT @ x, torch.eye(5).expand(3, 5, 5), rtol=0, atol=1e-5)
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    torch.testing.assert_close(x, left @ right, rtol=0, atol=1e-5)


def test_a_matrix_without_gradient_stays_and_joins_later():
    a, b, ours, theirs = pair()
    for t in range(6):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = torch.full_like(p, 1.0 + t), torch.full_like(q, 1.0 + t)
        if t < 3:
            ours[2].grad = theirs[2].grad = None
        a.step()
        b.step()
    assert_near(ours, theirs, 6e-3 * BRAIN)


def test_checkpoints_load_in_both_directions():
    a, b, ours, theirs = pair(lr=0.1)
    step(0, (a, ours), (b, theirs))
    c, d, third, fourth = pair(lr=0.1)
    for p, q, new, other in zip(ours, theirs, third, fourth, strict=True):
        new.data.copy_(q)
        other.data.copy_(p)
    c.load_state_dict(b.state_dict())
    d.load_state_dict(copy.deepcopy(a.state_dict()))  # torch.optim would share the state
    step(1, (a, ours), (b, theirs), (c, third), (d, fourth))
    assert_near(third, theirs, 0.1 * 2 * BRAIN)
    assert_near(fourth, ours, 0.1 * 2 * BRAIN)
    assert c.param_groups[0]["split"] == 1 and c.param_groups[0]["ns_dtype"] == "bfloat16"


class Block(nn.Module):
    """A fused QKV projection, a convolution, a norm, an embedding that is tied to nothing, and an output layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.qkv = nn.Linear(4, 12, bias=False)
        self.norm = nn.LayerNorm(12)
        self.conv = nn.Conv1d(3, 5, 2)
        self.head = nn.Linear(12, 7)


def trained(net, optimizer, steps=3):
    for t in range(steps):
        make = torch.Generator().manual_seed(t)
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=make, dtype=p.dtype)
        optimizer.step()
    return dict(net.named_parameters())


def test_a_model_is_routed_and_the_table_names_every_parameter():
    torch.manual_seed(0)
    groups = optim.matrix_groups(Block(), split={"qkv": 3}, adamw={"lr": 0.01})
    assert str(groups) == "\n".join(
        [
            "group  stepped as  shape      parameter     because",
            "0      1 matrix    (5, 3, 2)  conv.weight   hidden matrix",
            "1      3 matrices  (12, 4)    qkv.weight    hidden matrix",
            "2      AdamW       (7, 4)     embed.weight  embedding",
            "2      AdamW       (12,)      norm.weight   vector",
            "2      AdamW       (12,)      norm.bias     vector",
            "2      AdamW       (5,)       conv.bias     vector",
            "2      AdamW       (7, 12)    head.weight   output layer",
            "2      AdamW       (7,)       head.bias     vector",
        ]
    )


@pytest.mark.parametrize("fused", [None, False])
def test_routed_parameters_move_as_by_adamw_and_by_muon_of_each_part(fused):
    torch.manual_seed(0)
    net = Block().double()
    other = copy.deepcopy(net)
    groups = optim.matrix_groups(net, split={"qkv": 3}, adamw={"lr": 0.01, "betas": (0.8, 0.9)})
    found = trained(net, optim.Muon(groups, lr=0.1, fused=fused))
    start = dict(other.named_parameters())
    parts = [part.clone().requires_grad_() for part in start["qkv.weight"].detach().split(4)]
    conv = start["conv.weight"].detach().flatten(1).clone().requires_grad_()
    vectors = [p for name, p in start.items() if name not in ("qkv.weight", "conv.weight")]
    muon = torch.optim.Muon([*parts, conv], lr=0.1)
    adamw = torch.optim.AdamW(vectors, lr=0.01, betas=(0.8, 0.9))
    for t in range(3):
        make = torch.Generator().manual_seed(t)
        for p in other.parameters():
            p.grad = torch.randn(p.shape, generator=make, dtype=p.dtype)
        for part, g in zip(parts, start["qkv.weight"].grad.split(4), strict=True):
            part.grad = g
        conv.grad = start["conv.weight"].grad.flatten(1)
        muon.step()
        adamw.step()
    for name, p in start.items():
        expected = {"qkv.weight": torch.cat(parts), "conv.weight": conv.view(5, 3, 2)}.get(name, p)
        is_matrix = name in ("qkv.weight", "conv.weight")
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=0.3 * BRAIN if is_matrix else 1e-13)
    whole = trained(copy.deepcopy(net), optim.Muon(optim.matrix_groups(net), lr=0.1))
    assert not torch.equal(whole["qkv.weight"], found["qkv.weight"])


def test_a_checkpoint_of_routed_groups_resumes_the_run():
    torch.manual_seed(0)
    net = Block().double()
    make = lambda model: optim.Muon(optim.matrix_groups(model, split={"qkv": 3}), lr=0.1)  # noqa: E731
    optimizer = make(net)
    trained(net, optimizer)
    assert {frozenset(s) for s in optimizer.state.values()} == {
        frozenset({"momentum_buffer"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }
    resumed = copy.deepcopy(net)
    loaded = make(resumed)
    loaded.load_state_dict(optimizer.state_dict())
    for a, b in zip(trained(net, optimizer).values(), trained(resumed, loaded).values(), strict=True):
        assert torch.equal(a, b)


def test_tied_and_frozen_parameters_are_routed_once_and_not_at_all():
    net = Block()
    net.head.weight = nn.Parameter(torch.zeros(7, 4))
    net.embed.weight = net.head.weight
    net.conv.weight.requires_grad_(False)
    groups = optim.matrix_groups(net)
    names = [name for group in groups for name, _ in group["params"]]
    assert sorted(names) == ["conv.bias", "embed.weight", "head.bias", "norm.bias", "norm.weight", "qkv.weight"]
    assert groups.reasons["embed.weight"] == "embedding"


def test_adamw_steps_the_parameters_of_a_loss_but_shared_ones_once():
    net, loss = Block(), nn.Module()
    loss.centers, loss.tied = nn.Parameter(torch.zeros(7, 4)), net.conv.weight
    groups = optim.matrix_groups(net, loss=loss)
    assert str(groups).endswith("1      AdamW       (7, 4)     loss.centers  parameter of the loss")
    assert groups[1]["params"][-1][1] is loss.centers
    assert sum(p is net.conv.weight for group in groups for _, p in group["params"]) == 1
    assert str(optim.matrix_groups(net, loss=nn.CrossEntropyLoss())) == str(optim.matrix_groups(net))


def test_a_loss_that_is_no_module_is_refused():
    with pytest.raises(InvalidType) as caught:
        optim.matrix_groups(Block(), loss=torch.sum)
    assert str(caught.value) == "`loss` must be None or a torch.nn.Module; received builtin_function_or_method."


def test_clipping_and_skipping_are_those_of_every_optimizer():
    a, b, ours, theirs = pair(lr=0.1)
    a.param_groups[0]["max_norm"] = 0.5
    a.param_groups[0]["nonfinite"] = "skip"
    make = torch.Generator().manual_seed(2)
    for p, q in zip(ours, theirs, strict=True):
        p.grad = torch.randn(p.shape, generator=make, dtype=p.dtype)
        q.grad = p.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    a.step()
    b.step()
    torch.testing.assert_close(a.grad_norm, norm, rtol=1e-12, atol=0)
    assert_near([a.state[p]["momentum_buffer"] for p in ours], [b.state[q]["momentum_buffer"] for q in theirs], 1e-14)
    before = [p.detach().clone() for p in ours]
    ours[0].grad[0, 0] = float("nan")
    a.step()
    assert a.skipped == 1 and all(map(torch.equal, before, ours))


def test_maximize_ascends():
    a, _, ours, _ = pair()
    b, _, others, _ = pair(maximize=True)
    step(0, (a, ours))
    for p in others:
        p.grad = None
    for p, q in zip(ours, others, strict=True):
        q.grad = -p.grad
    b.step()
    assert_near(ours, others, 0)


def test_a_compiled_step_has_the_values_of_an_eager_one():
    a, _, ours, _ = pair(torch.float32, lr=0.1)
    b, _, others, _ = pair(torch.float32, lr=0.1)
    for p, q in zip(ours, others, strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    a.step()
    torch.compile(b.step, backend="eager")()
    assert_near(ours, others, 0.1 * 2 * BRAIN)


def test_explain_names_the_matrix_stage():
    assert optim.Muon([torch.zeros(2, 2, requires_grad=True)], fused=False).explain() == (
        "Muon, group 0: 1 of 1 parameters by the eager backend: fused=False asks for it; the matrix stage by torch "
        "operations"
    )


def test_what_is_no_matrix_is_refused():
    weight, bias = torch.zeros(4, 2, requires_grad=True), torch.zeros(3, requires_grad=True)
    assert_rejected(
        InvalidValue,
        lambda: optim.Muon([weight, bias]),
        "Muon only supports 2D parameters",
        "received parameter 1 of param group 0 with shape (3,) and dtype torch.float32. Help: "
        "Muon(piste.optim.matrix_groups(model)) has other parameters stepped by AdamW.",
    )
    assert_rejected(
        InvalidValue, lambda: optim.Muon([torch.zeros(2, 2, dtype=torch.complex64, requires_grad=True)]), "complex64"
    )
    assert_rejected(
        InvalidValue,
        lambda: optim.Muon([weight], split=3),
        "`split` must divide the rows of a parameter; received split=3 for parameter 0 of param group 0 with shape "
        "(4, 2). Help: put parameters of fused matrices in a group of their own.",
    )
    assert_rejected(
        InvalidValue,
        lambda: optim.Muon([weight], differentiable=True),
        "`differentiable` must be False for Muon, because its matrix stage works in place; received "
        "differentiable=True.",
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ns_steps": 100}, "`ns_steps` must be a whole number from 0 to 99; received 100."),
        ({"adjust_lr_fn": "moonshot"}, '`adjust_lr_fn` must be None or "original" or "match_rms_adamw"; received '),
        ({"ns_coefficients": (1, 2)}, "`ns_coefficients` must be three numbers in (-inf, inf)"),
        ({"ns_dtype": "float16"}, '`ns_dtype` must be one of "bfloat16", "float32"; received \'float16\'.'),
        ({"split": 0}, "`split` must be a whole number, at least 1; received 0."),
        ({"momentum": 1.0}, "`momentum` must be in [0, 1); received momentum=1.0."),
        ({"adamw": 1}, "`adamw` must be True or False; received adamw=1."),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    assert_rejected(
        (InvalidValue, InvalidType), lambda: optim.Muon([torch.zeros(2, 2, requires_grad=True)], **options), sentence
    )


def test_wrong_arguments_of_matrix_groups_are_refused():
    assert_rejected(InvalidType, lambda: optim.matrix_groups(3), "`model` must be a torch.nn.Module; received int.")
    assert_rejected(
        InvalidValue,
        lambda: optim.matrix_groups(nn.Linear(2, 2)),
        "`model` must have trainable hidden matrices; received Linear with none.",
        "hidden=lambda name, p: p.dim() >= 2",
    )
    assert_rejected(
        InvalidValue,
        lambda: optim.matrix_groups(Block(), split={"kv": 2, "q_proj": 2}),
        "`split` must name hidden matrices by a part of their names; received 'q_proj', which is in none of",
    )


def test_a_sparse_gradient_is_refused():
    p = torch.zeros(3, 2, requires_grad=True)
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(Unsupported, match="Muon does not support sparse gradients"):
        optim.Muon([p]).step()


def test_a_cautious_step_of_a_sharded_matrix_is_refused():
    class Spread(nn.Parameter):
        """A parameter with an attribute of a DTensor."""

        to_local = None

    refused = (
        "cautious=True counts elements of the step of a whole matrix, and Muon steps the parts of a sharded one; "
        "received parameter 0 of param group 0, a DTensor. Help: set cautious=False."
    )
    p = Spread(torch.zeros(2, 2))
    assert_rejected(Unsupported, lambda: optim.Muon([p], cautious=True), refused)
    optim.Muon([p])


@pytest.mark.parametrize("name", ["Muon", "NorMuon"])
def test_a_module_in_place_of_groups_is_answered_with_the_call_that_makes_them(name):
    with pytest.raises(InvalidType) as error:
        getattr(optim, name)(nn.Linear(2, 2))
    assert str(error.value) == (
        f"{name} takes parameters, not a module; received Linear. Write {name}(piste.optim.matrix_groups(model), ...)."
    )


class Polar(optim.Optimizer):
    """A custom rule of matrices: the orthogonal part of the gradient."""

    options = {"lr": rate(0.1), "eps": eps(1.0)}
    buffers = {"average": "m"}

    def before(g, m):
        m = 0.5 * m + 0.5 * g
        return m, m

    def matrix(u):
        left, _, right = torch.linalg.svd(u, full_matrices=False)
        return left @ right


def test_adamw_steps_what_is_no_matrix_of_a_custom_rule_too():
    model, other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other.load_state_dict(model.state_dict())
    start = model[0].weight.detach().clone()
    optimizer = Polar(optim.matrix_groups(model, adamw={"lr": 0.01}))
    matrix, *others = [p for group in optimizer.param_groups for p in group["params"]]
    theirs = dict(zip(model.parameters(), other.parameters(), strict=True))
    adamw = torch.optim.AdamW([theirs[p] for p in others], lr=0.01)
    for _ in range(2):
        for p, q in theirs.items():
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(others, [theirs[p] for p in others])
    assert matrix is model[0].weight and not torch.equal(matrix, start)
    assert optimizer.state[matrix].keys() == {"step", "average"}
    again = Polar(optim.matrix_groups(other))
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[1]["lr"] == 0.01 and again.param_groups[1]["eps"] == 1e-8
    torch.testing.assert_close(again.state[other[0].weight], optimizer.state[matrix])


def test_a_custom_rule_without_split_refuses_it():
    assert_rejected(
        InvalidValue,
        lambda: Polar(optim.matrix_groups(nn.Linear(3, 6), hidden=lambda name, p: p.dim() == 2, split={"weight": 3})),
        "Polar has no option `split` for fused matrices; received split=3 in param group 0. Help: leave it out of "
        "matrix_groups(), or declare the option and read it in `matrix`.",
    )
