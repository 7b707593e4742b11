"""Common mistakes are rejected with the way out, and tools that look for torch's losses find Piste's."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn.modules.loss import _Loss, _WeightedLoss

import piste
from piste.errors import InvalidType, Unsupported
from piste.losses import value_checks
from tests.losses.test_refusals import refused

nn, F = piste.losses, piste.losses.functional
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
K = torch.tensor([0, 1, 2, 0])
CALLS = {
    "cross_entropy": lambda w, **s: F.cross_entropy(X, K, weight=w, **s),
    "nll": lambda w, **s: F.nll_loss(X.log_softmax(1), K, weight=w, **s),
    "multi_margin": lambda w, **s: F.multi_margin_loss(X, K, weight=w, **s),
    "multilabel_soft_margin": lambda w, **s: F.multilabel_soft_margin_loss(X, (X > 0).float(), weight=w, **s),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_class_weights_are_finite_and_not_negative(name: str, value: float) -> None:
    weight = torch.tensor([1.0, value, 1.0])
    words = f"`weight` must hold class weights in [0, inf); received {value} at (1,). Help:"
    for _ in range(2):
        refused(lambda: CALLS[name](weight), words)
    refused(lambda: nn.get_loss(name)(weight=weight), words)
    CALLS[name](weight, check="off")
    nn.get_loss(name)(weight=weight, check="off")


def test_class_weights_changed_in_place_are_checked_again() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    for _ in range(3):
        loss(X, K)
    loss.weight[1] = -1
    refused(lambda: loss(X, K), "received -1.0 at (1,)")
    loss.weight.fill_(2.0)
    assert loss(X, K) == F.cross_entropy(X, K)


def test_a_checked_weight_is_freed() -> None:
    gc.collect()
    weight = torch.ones(3)
    F.cross_entropy(X, K, weight=weight)
    key = id(weight)
    assert key in value_checks._valid_weights
    del weight
    assert key not in value_checks._valid_weights


def test_kl_div_takes_distributions_along_any_dimension() -> None:
    x, scores = torch.randn(2, 3, 4).log_softmax(1), torch.randn(2, 3, 4)
    masked = scores.softmax(1)
    masked[1] = 0
    for y in (scores.softmax(0), scores.softmax(1), scores.softmax(2), masked, torch.full((2, 3, 4), 1 / 12)):
        torch.testing.assert_close(F.kl_div(x, y), torch.nn.functional.kl_div(x, y))
    F.kl_div(torch.tensor(-1.0), torch.tensor(0.3))  # a single element is no row
    F.kl_div(x[:0], scores[:0])


def test_kl_div_rejects_rows_that_are_no_distribution_on_every_call() -> None:
    x, good, bad = X.log_softmax(1), X.softmax(1), torch.full((4, 3), 0.2)
    loss = nn.KLDivLoss(reduction="batchmean")
    for _ in range(2):
        assert loss(x, good).abs() < 1e-6
        refused(lambda: loss(x, bad), "each row must sum to 1", "row 0 sums to 0.6. Help: torch.softmax")
    torch.testing.assert_close(F.kl_div(x, bad, check="off"), torch.nn.functional.kl_div(x, bad))


def test_targets_in_another_encoding_are_recognised() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    for _ in range(3):
        words = "received 0 and 1 alone, which look like a 0/1 label for each class. Help: MultiLabelSoftMarginLoss"
        refused(lambda: F.multilabel_margin_loss(X[:2], labels), words)
        F.multilabel_margin_loss(X[:2], torch.tensor([[0, -1, 0], [0, 1, 2]]))
    F.multilabel_margin_loss(X[:2], labels, check="off")
    F.multilabel_margin_loss(X[:2, :2], torch.tensor([[0, 1], [1, 0]]))  # both classes of two
    refused(lambda: F.cross_entropy(K, X), "look exchanged: the first argument holds the logits", kind=InvalidType)
    images = torch.zeros(2, 3, 4, 4).log_softmax(1)
    refused(lambda: nn.NLLLoss2d()(images, torch.zeros(2, 1, 4, 4).long()), "Help: target.squeeze(1).")


def test_an_input_without_classes_is_rejected() -> None:
    for check in ("raise", "off"):
        refused(lambda check=check: F.cross_entropy(torch.zeros(4, 0), K, check=check), "received (4, 0), that is no")
        refused(lambda check=check: F.multi_margin_loss(torch.zeros(4, 0), K, check=check), "at least 2 classes")


@pytest.mark.parametrize("name", [n for n in nn.LOSSES if hasattr(torch.nn, n)])
def test_losses_are_instances_of_torchs_bases(name: str) -> None:
    ours, theirs = getattr(nn, name)(), getattr(torch.nn, name)()
    assert isinstance(ours, _Loss)
    assert isinstance(ours, _WeightedLoss) == isinstance(theirs, _WeightedLoss)


class Model(torch.nn.Module):
    def __init__(self, criterion) -> None:
        super().__init__()
        self.layer, self.criterion = torch.nn.Linear(3, 3), criterion

    def forward(self, x, y):
        return self.criterion(self.layer(x), y)


CRITERIA = [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1), nn.CrossEntropyLoss()]
CRITERIA += [F.cross_entropy]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_symbolic_trace_records_the_loss(criterion) -> None:
    model = Model(criterion)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(X, K), model(X, K))
    refused(lambda: traced(X, K + 5), "`target` must hold class indices")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("criterion", CRITERIA)
def test_jit_trace_records_the_formula(criterion) -> None:
    model = Model(criterion)
    model(X, K)  # a kernel served before
    traced = torch.jit.trace(model, (X, K))
    torch.testing.assert_close(traced(X * 2, 2 - K), model(X * 2, 2 - K))
    ours, theirs = (torch.autograd.grad(m(X, K), model.layer.weight) for m in (traced, model))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_script_names_the_tools_that_work() -> None:
    with pytest.raises(Unsupported, match=r"torch.jit.script can't compile MSELoss.*torch.compile, torch.export"):
        torch.jit.script(Model(nn.MSELoss()))
