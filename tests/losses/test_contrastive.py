"""Losses of all pairs: chunks change no value, no matrix is stored, and calls that do not fit are rejected."""

from __future__ import annotations

import math

import pytest
import torch

import piste
from piste.engine import PairReduction, reduce_pairs
from piste.errors import InvalidType
from piste.explain import explain
from piste.torch_internals import record_allocations
from tests.losses.test_rejections import rejects

nn, F = piste.losses, piste.losses.functional
A, B = (torch.randn(5, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
SCALE, BIAS = torch.tensor(1.25, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0, 2, 1])
CALLS = {
    "info_nce": lambda a, b, **s: F.info_nce_loss(a, b, **s),
    "symmetric": lambda a, b, **s: F.info_nce_loss(a, b, symmetric=True, **s),
    "negatives": lambda a, b, **s: F.info_nce_loss(a, a * 2, negatives=b, **s),
    "nt_xent": lambda a, b, **s: F.nt_xent_loss(a, b, **s),
    "supcon": lambda a, b, **s: F.supcon_loss(a + b, torch.arange(len(a), device=a.device) % 3, **s),
    "clip": lambda a, b, **s: F.clip_loss(a, b, SCALE.to(a), **s),
    "siglip": lambda a, b, **s: F.siglip_loss(a, b, SCALE.to(a), BIAS.to(a), **s),
}


def gradients(call, **settings) -> tuple[torch.Tensor, ...]:
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    value = call(a, b, **settings)
    return value, *torch.autograd.grad(value.sum() * 1.5, (a, b))


@pytest.mark.parametrize("name", CALLS)
def test_the_size_of_the_chunks_changes_no_value(name: str) -> None:
    for reduction in ("mean", "none"):
        whole = gradients(CALLS[name], reduction=reduction)
        for size in (1, 2, 3, 100):
            torch.testing.assert_close(gradients(CALLS[name], reduction=reduction, chunk_size=size), whole)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_that_are_differentiated_again_are_the_same(name: str) -> None:
    _, *expected = gradients(CALLS[name], chunk_size=2)
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    loss = 1.5 * CALLS[name](a, b, chunk_size=2)
    slopes = torch.autograd.grad(loss, (a, b), create_graph=True)
    torch.testing.assert_close(slopes, tuple(expected))
    (curvature,) = torch.autograd.grad(slopes[0].sum(), a, retain_graph=True)
    step = 1e-6
    moved = [torch.autograd.grad(1.5 * CALLS[name](a + d, b, chunk_size=2), a)[0].sum() for d in (step, -step)]
    assert curvature.sum().item() == pytest.approx(((moved[0] - moved[1]) / (2 * step)).item(), rel=1e-6, abs=1e-8)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CALLS)
def test_the_matrix_of_pairs_is_never_stored_whole(name: str) -> None:
    n, size = 512, 8
    a, b = (torch.randn(n, 4).requires_grad_() for _ in range(2))
    call = CALLS[name]
    (2 * call(a, b, chunk_size=size)).backward()  # so that what is made once is made
    largest = max(record_allocations(lambda: (2 * call(a, b, chunk_size=size)).backward()))
    assert largest <= 4 * 2 * n * size  # NT-Xent has 2 n columns
    whole = max(record_allocations(lambda: (2 * call(a, b, chunk_size=2 * n)).backward()))
    assert whole >= 4 * n * n


@pytest.mark.parametrize("name", CALLS)
def test_few_rows_make_a_chunk_where_there_are_many_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piste.engine.eager.pairs.LARGEST_CHUNK", 12)
    chunks = [(c.start, c.stop) for c in PairReduction().chunks(5, 6)]
    assert chunks == [(0, 2), (2, 4), (4, 6)]
    assert [c.stop for c in PairReduction().chunks(2, 100)] == [1, 2]
    expected = gradients(CALLS[name], chunk_size=5)
    torch.testing.assert_close(gradients(CALLS[name]), expected)


@pytest.mark.parametrize("kind", ["log_sum_exp", "softplus"])
@pytest.mark.parametrize("both", [False, True])
def test_reductions_of_rows_and_columns_have_the_gradients_of_torch(kind, both: bool) -> None:
    excluded = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [3, 3]])
    how = PairReduction(kind, both, 2)
    operands = [x.clone().requires_grad_() for x in (A, B[:4], SCALE, BIAS)]
    scores = (operands[2] * operands[0] @ operands[1].T + operands[3]).scatter(1, excluded, -math.inf)
    reduced = scores.logsumexp if kind == "log_sum_exp" else torch.nn.functional.softplus(scores).sum
    expected, found = [reduced(dim) for dim in ((1, 0) if both else (1,))], reduce_pairs(*operands, excluded, how)
    torch.testing.assert_close(list(found), expected)
    upstream = [torch.linspace(-1, 2, len(x), dtype=torch.float64) for x in expected]
    slopes = torch.autograd.grad(expected, operands, upstream)
    torch.testing.assert_close(torch.autograd.grad(found, operands, upstream, retain_graph=True), slopes)
    by_rows = torch.autograd.grad(found, operands[0], upstream, retain_graph=True)
    torch.testing.assert_close(by_rows, slopes[:1])
    again = torch.autograd.grad(found, operands, upstream, create_graph=True)
    torch.testing.assert_close(again, slopes)
    several = [torch.stack([u, 2 * u]) for u in upstream]
    batched = torch.autograd.grad(found, operands, several, is_grads_batched=True)
    torch.testing.assert_close(batched, tuple(torch.stack([s, 2 * s]) for s in slopes))
    function = [lambda *o: reduce_pairs(*o, excluded, how)[-1]] * 2
    assert torch.autograd.gradgradcheck(function[0], operands)


def test_negatives_that_need_no_gradient_get_none() -> None:
    a, queue = A.clone().requires_grad_(), B.clone()
    loss = F.info_nce_loss(a, A, negatives=queue, chunk_size=2)
    loss.backward()
    assert a.grad is not None and queue.grad is None


def test_negatives_are_given_to_a_call_or_to_the_module() -> None:
    expected = F.info_nce_loss(A, B, negatives=A[:2])
    loss = nn.InfoNCELoss()
    assert loss(A, B, A[:2]) == loss(A, B, negatives=A[:2]) == loss(query=A, key=B, negatives=A[:2]) == expected
    assert nn.InfoNCELoss(negatives=A[:2])(A, B) == expected != loss(A, B)
    assert nn.InfoNCELoss(negatives=A[:3], reduction="sum")(A, B, A[:2]).item() == pytest.approx(expected.item() * 5)
    shared = A[:2].expand(5, 2, 4)
    torch.testing.assert_close(F.info_nce_loss(A, B, negatives=shared), expected)


@pytest.mark.parametrize(("name", "operands"), [("info_nce", (A, B)), ("nt_xent", (A, B)), ("supcon", (A, CLASSES))])
def test_a_temperature_may_be_learned(name: str, operands) -> None:
    loss = nn.get_loss(name)(temperature=torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    assert [n for n, _ in loss.named_parameters()] == ["temperature"]
    loss(*operands).backward()
    step = 1e-6
    above, below = (nn.get_loss(name)(temperature=0.5 + d)(*operands) for d in (step, -step))
    assert loss.temperature.grad.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6)
    with torch.no_grad():
        loss.temperature.fill_(0.25)
    assert loss(*operands) == nn.get_loss(name)(temperature=0.25)(*operands)
    buffer = nn.get_loss(name)(temperature=torch.tensor([0.25]))
    assert set(buffer.state_dict()) == {"temperature"} and not list(buffer.parameters())
    torch.testing.assert_close(buffer(*operands), loss(*operands))


def test_scale_and_bias_are_numbers_or_parameters_that_take_gradients() -> None:
    log_scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    loss = nn.SigLIPLoss(chunk_size=2)
    value = loss(A, B, log_scale.exp(), bias)
    assert value.item() == pytest.approx(loss(A, B, math.exp(0.5), -0.5).item())
    assert torch.autograd.gradcheck(lambda s, b: loss(A, B, s.exp(), b), (log_scale, bias))
    assert torch.autograd.gradcheck(lambda s: nn.CLIPLoss(chunk_size=2)(A, B, s.exp()), log_scale)
    assert nn.CLIPLoss()(A, B, 2) == nn.InfoNCELoss(0.5, symmetric=True)(A, B)


def test_nt_xent_is_supcon_of_two_views_of_classes_of_one() -> None:
    views = torch.stack([A, B], 1)
    own = F.supcon_loss(views, torch.arange(5), temperature=0.5)
    torch.testing.assert_close(own, F.nt_xent_loss(A, B))
    each = F.supcon_loss(views, CLASSES, reduction="none")
    assert each.shape == (5, 2)
    flat = F.supcon_loss(views.flatten(0, 1), CLASSES.repeat_interleave(2), reduction="none")
    torch.testing.assert_close(each.flatten(), flat)


def test_anchors_without_positives_cost_nothing_and_are_not_counted() -> None:
    each = F.supcon_loss(A, CLASSES, reduction="none")
    assert each[3] == 0 and (each[[0, 1, 2, 4]] > 0).all()
    assert F.supcon_loss(A, CLASSES).item() == pytest.approx(each.sum().item() / 4)
    assert F.supcon_loss(A, CLASSES, normalizer="count").item() == pytest.approx(each.sum().item() / 5)
    x = A.clone().requires_grad_()
    alone = F.supcon_loss(x, torch.arange(5), empty="zero")
    alone.backward()
    assert alone == 0 and torch.equal(x.grad, torch.zeros_like(x))
    assert F.supcon_loss(A, torch.arange(5)).isnan() and F.supcon_loss(A[:1], CLASSES[:1], reduction="sum") == 0
    rejects(lambda: F.supcon_loss(A, torch.arange(5), empty="raise"), "there is nothing to take the mean of")
    text = str(explain("supcon", A, CLASSES))
    assert "weight 0: 0 * " in text and "(divided by the sum of the weights of the elements)" in text


def test_a_small_loss_of_large_scores_is_exact() -> None:
    """The score of the pair is not subtracted from a sum that it dominates."""
    x = torch.eye(3)
    exact = math.log1p(2 * math.exp(-20))
    assert F.info_nce_loss(x, x, temperature=0.05).item() == pytest.approx(exact, rel=1e-5)
    assert F.clip_loss(x, x, 20.0).item() == pytest.approx(exact, rel=1e-5)
    assert F.siglip_loss(x, x, 40.0, -20.0).item() == pytest.approx(3 * math.log1p(math.exp(-20)), rel=1e-5)
    assert F.info_nce_loss(1e4 * x, x, temperature=1.0, normalize=False).item() == 0
    y = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    loss = F.info_nce_loss(y, y, temperature=1.0, normalize=False)  # all scores are equal
    (slope,) = torch.autograd.grad(loss, y)
    assert loss.item() == pytest.approx(math.log(2)) and slope.abs().max() < 1e-15


def test_vectors_of_any_length_have_the_loss_of_their_directions() -> None:
    lengths = torch.linspace(0.5, 3, 5, dtype=torch.float64).unsqueeze(1)
    for name, call in CALLS.items():
        if name != "supcon":
            torch.testing.assert_close(call(A * lengths, B / lengths), call(A, B))
    products = F.info_nce_loss(A, B, temperature=1.0, normalize=False)
    expected = torch.nn.functional.cross_entropy(A @ B.T, torch.arange(5))
    torch.testing.assert_close(products, expected)


@pytest.mark.parametrize("name", CALLS)
def test_a_nan_reaches_all_that_are_compared_with_it(name: str) -> None:
    spoilt = A.clone()
    spoilt[1, 2] = math.nan
    each = CALLS[name](spoilt, B, reduction="none", chunk_size=2).isnan()
    if name == "supcon":  # the anchor that is alone in its class costs nothing
        assert each.tolist() == [True, True, False, True, True]
    elif name in ("symmetric", "nt_xent", "clip"):
        assert each.all()
    else:
        assert each.tolist() == [False, True, False, False, False]
    rejects(lambda: CALLS[name](spoilt, B, check="nan"), 'holds nan at (1, 2), which check="nan" refuses')


def test_a_default_device_changes_no_way_of_computing() -> None:
    with torch.device("cpu"):  # a mode of torch functions
        a, b = torch.randn(256, 4).requires_grad_(), torch.randn(256, 4)
        largest = max(record_allocations(lambda: F.info_nce_loss(a, b, chunk_size=4).backward()))
    assert largest <= 4 * 256 * 4


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "clip"])
def test_a_batch_of_one_pair_is_rejected(name: str) -> None:
    words = "must have at least 2 rows; received (1, 4). Help: the other rows of the batch are the negatives"
    rejects(lambda: CALLS[name](A[:1], B[:1]), words)
    assert CALLS[name](A[:1], B[:1], check="off") == 0
    x = A[:1].clone().requires_grad_()
    CALLS[name](x, B[:1], check="off").backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert CALLS[name](A[:0], B[:0]).isnan() and CALLS[name](A[:0], B[:0], empty="zero") == 0


def test_a_batch_of_one_pair_has_negatives_or_a_positive_elsewhere() -> None:
    assert F.siglip_loss(A[:1], A[:1], 1.0, 0.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert F.info_nce_loss(A[:1], B[:1], negatives=A[1:]) > 0


def test_vectors_that_do_not_fit_are_rejected() -> None:
    rejects(lambda: F.info_nce_loss(A, B[:3]), "`query` and `key` must have the same shape; received (5, 4) and (3, 4)")
    rejects(lambda: F.nt_xent_loss(A[0], B[0]), "`input1` must be (N, D)", "received (4,)", "input1.unsqueeze(0)")
    rejects(lambda: F.clip_loss(A[None], B[None], 1.0), "received (1, 5, 4). Help: image.flatten(1).")
    rejects(lambda: F.clip_loss(A.long(), B.long(), 1.0), "`image` must hold floating-point", kind=InvalidType)
    rejects(lambda: F.info_nce_loss(A, B.to("meta")), "must be on one device; received cpu and meta")
    rejects(lambda: F.info_nce_loss(A, [1.0]), "`key` must be a torch.Tensor; received list", kind=InvalidType)


def test_negatives_that_do_not_fit_are_rejected() -> None:
    def call(negatives, **options):
        return F.info_nce_loss(A, B, negatives=negatives, **options)

    words = "`negatives` must be (M, 4), the same for all queries, or (5, M, 4), some for each; received "
    for negatives in (A[:, :3], A[0], A[None], A[None, None]):
        rejects(lambda negatives=negatives: call(negatives), words + str(tuple(negatives.shape)))
    rejects(lambda: call(A.long()), "hold floating-point vectors; received torch.int64", kind=InvalidType)
    rejects(lambda: call(A.to("meta")), "`query` and `negatives` must be on one device")
    rejects(lambda: call(A[:0]), "`negatives` must have at least 1 vector; received none.")
    rejects(lambda: call(A, symmetric=True), "`symmetric` takes the negatives from the batch", "leave one of them out")
    rejects(lambda: call([1.0]), "`negatives` must be a torch.Tensor or None; received list", kind=InvalidType)
    rejects(lambda: call(A * math.nan, check="nan"), "`negatives` holds nan at (0, 0)")
    assert call(A[:0], check="off") == 0


def test_classes_that_do_not_fit_are_rejected() -> None:
    rejects(lambda: F.supcon_loss(A, CLASSES[:4]), "with `target` (N); received (5, 4) and (4,)", "one class for each")
    rejects(lambda: F.supcon_loss(A[0], CLASSES[0]), "received (4,) and ()")
    rejects(lambda: F.supcon_loss(A, CLASSES.double()), "of an integer dtype", "target.long()", kind=InvalidType)
    rejects(lambda: F.supcon_loss(A, CLASSES.to("meta")), "`input` and `target` must be on one device")
    rejects(lambda: F.supcon_loss(A.long(), CLASSES), "`input` must hold floating-point", kind=InvalidType)
    rejects(lambda: F.supcon_loss(A, None), "`target` must be a torch.Tensor", kind=InvalidType)
    rejects(lambda: F.supcon_loss(A * math.nan, CLASSES, check="nan"), "`input` holds nan at (0, 0)")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_and_scales_are_above_zero(value: float) -> None:
    range = "must be in (0, inf), or a torch.Tensor of one number; received"
    for given in (value, torch.tensor(value, dtype=torch.float64)):
        rejects(lambda given=given: F.info_nce_loss(A, B, temperature=given), f"`temperature` {range} temperature=")
        rejects(lambda given=given: F.nt_xent_loss(A, B, temperature=given), f"`temperature` {range}")
        rejects(lambda given=given: F.supcon_loss(A, CLASSES, temperature=given), f"`temperature` {range}")
        for call in (lambda s: F.clip_loss(A, B, s), lambda s: F.siglip_loss(A, B, s, 0.0)):
            rejects(lambda given=given, call=call: call(given), f"`logit_scale` {range}", "pass the exponential of its")
        if not math.isfinite(value):
            rejects(lambda given=given: F.siglip_loss(A, B, 1.0, given), "`logit_bias` must be in (-inf, inf)")
    F.clip_loss(A, B, torch.tensor(value, dtype=torch.float64), check="off")


def test_other_options_name_their_range() -> None:
    rejects(lambda: F.info_nce_loss(A, B, chunk_size=0), "`chunk_size` must be a whole number, at least 1, or None")
    rejects(lambda: F.info_nce_loss(A, B, chunk_size=2.0), "received 2.0", kind=InvalidType)
    rejects(lambda: F.clip_loss(A, B, 1.0, normalize=1), "`normalize` must be True or False", kind=InvalidType)
    rejects(lambda: F.clip_loss(A, B, torch.ones(2)), "must be a floating-point tensor of one number", "shape (2,)")
    rejects(lambda: F.clip_loss(A, B, torch.tensor(2)), "received torch.int64 of shape ()")
    rejects(lambda: nn.InfoNCELoss(temperature=None), "`temperature` must be a number in (0, inf)", kind=InvalidType)
    rejects(lambda: nn.CLIPLoss()(A, B), "missing a required argument: 'logit_scale'", kind=InvalidType)
    rejects(lambda: nn.InfoNCELoss()(A, negatives=B), "missing a required argument: 'key'", kind=InvalidType)


def test_pairs_are_explained_by_their_scores() -> None:
    text = str(explain("info_nce", [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], temperature=1.0))
    assert "with p = the score of query and key" in text and "element 0:  z = 0 - 1 = -1;  " in text
    assert "Result\n  0.313262" in text and "  d loss / d query\n" in text  # log(1 + e^-1)
    said = nn.InfoNCELoss().explain_backend(A, B)
    assert (
        said.partition(". Under")[0]
        == "InfoNCELoss: by the eager backend: all pairs are scored by torch operations, in chunks"
    )
