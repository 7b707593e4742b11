"""Whether a verdict can be trusted: by whole comparisons, searches and all, of what is known to be equal or not."""

import zlib

import pytest
import torch
from scipy import stats
from torch import nn

import piste
from piste.compare import compare_task
from piste.compare.results import LEVEL
from tests.compare.small import task


def drawing(name):
    """AdamW under a name of its own, whose runs start from weights of their own as well."""

    def make(params, lr=1e-3):
        params = list(params)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{torch.initial_seed()}".encode()))
        with torch.no_grad():
            for p in params:
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        return piste.optim.AdamW(params, lr=lr)

    return make


def compare_two_copies(call):
    """A comparison of AdamW with AdamW: whether the searches found different rates, and whether it tells them apart."""
    found = compare_task(
        task(epochs=2),
        optimizers={"one": drawing("one"), "other": drawing("other")},
        trials=3,
        seed=100 * call,
        progress=False,
    )
    assert (
        "Every seed had its own search, so the verdict includes the variation between searches." in found.verdict.limits
    )
    rates = [[r.lr for r in found.results if r.candidate == name] for name in ("one", "other")]
    return rates[0] != rates[1], len(found.verdict.group) < 2


def test_copies_of_adamw_differ_in_at_most_five_percent_of_comparisons(drawn):
    calls = drawn(range(100), 20)
    differing, told = zip(*map(compare_two_copies, calls), strict=True)
    assert sum(differing) > len(calls) - 10  # the searches do find different rates
    # As many as a level of 5 % leads to by chance in all but one of a thousand tests: 5 of 20, 13 of 100.
    assert sum(told) <= stats.binom.ppf(0.999, len(calls), LEVEL)


def scaled(factor, rate):
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    y = x.square().sum(1, keepdim=True)
    names = ["RMSprop", "Adagrad", "Adam", "AdamW", "Adamax", "SGD"]
    return compare_task(
        task(
            model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), train=(x[:64], y[:64]),
            validation=(x[64:], y[64:]), metric="rmse", epochs=10,
            loss={"error": lambda output, target: factor * (output - target).square().mean()},
        ),
        optimizers=names, lr={"SGD": rate}, seeds=3, progress=False,
    )  # fmt: skip


def test_ten_times_the_loss_changes_neither_ranking_nor_smoothness():
    plain, tenfold = scaled(1, 0.02), scaled(10, 0.002)
    assert [row.name for row in plain.rows] == [row.name for row in tenfold.rows]
    assert plain.verdict.group == tenfold.verdict.group
    for a, b in zip(plain.rows, tenfold.rows, strict=True):
        assert b.training_loss == pytest.approx(10 * a.training_loss, rel=1e-3)
        assert b.metric == pytest.approx(a.metric, rel=1e-4)
        assert b.descent_share == pytest.approx(a.descent_share, abs=1e-3)
        assert b.evenness == pytest.approx(a.evenness, abs=1e-3)
        assert b.steps_to_target == a.steps_to_target
