"""Optimizers that average weights are evaluated with the average, and train on as if there were no evaluation."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import piste
from piste.compare import Loop, compare_task
from tests.compare.small import data, task
from tests.compare.test_loop import STEPS, start, trained

MOMENTUM = 0.8
ScheduleFree = functools.partial(piste.optim.ScheduleFreeSGD, lr=0.5, momentum=MOMENTUM)


def averages(net, steps=STEPS):
    """Train without evaluations, and set the average x of p = (1 - momentum) z + momentum x."""
    optimizer, (x, y) = ScheduleFree(net.parameters()), data()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((p - (1 - MOMENTUM) * optimizer.state[p]["z"]) / MOMENTUM)
    return net


def test_schedule_free_is_evaluated_and_saved_with_its_averaged_weights():
    net, result = trained(Loop(), optimizer=ScheduleFree)
    expected, (x, y) = averages(start()), data()
    for mine, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert result.losses[-1] == pytest.approx(cross_entropy(expected(x), y).item(), rel=1e-4)


def test_batch_normalization_has_the_statistics_of_the_averaged_weights():
    def normalized():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

    net, result = trained(Loop(), optimizer=ScheduleFree, model=normalized())
    expected, (x, y) = averages(normalized()), data()
    hidden = expected[0](x)
    expected[1].running_mean.copy_(hidden.mean(0).detach())
    expected[1].running_var.copy_(hidden.var(0).detach())
    torch.testing.assert_close(net[1].running_var, expected[1].running_var, rtol=1e-3, atol=1e-6)
    assert result.losses[-1] == pytest.approx(cross_entropy(expected.eval()(x), y).item(), rel=1e-3)


def test_a_run_that_is_stopped_early_keeps_the_averaged_weights_of_its_best_evaluation():
    net, result = trained(Loop(patience=100), steps=60, optimizer=ScheduleFree)
    x, y = data(40, 1)
    assert (net(x).argmax(1) == y).double().mean().item() == result.metrics[-1] == max(result.metrics[1:])


class Half(torch.optim.SGD):
    """Evaluates half of the trained weights, with the methods of the package schedulefree."""

    mode = None

    def train(self):
        self._scale(2.0, "train") if self.mode == "eval" else setattr(self, "mode", "train")

    def eval(self):
        self._scale(0.5, "eval")

    @torch.no_grad()
    def _scale(self, factor, mode):
        self.mode = mode
        for p in self.param_groups[0]["params"]:
            p.mul_(factor)

    def step(self, closure=None):
        assert self.mode == "train"
        return super().step(closure)


def test_the_eval_method_of_another_optimizer_puts_its_weights_in_place():
    plain, _ = trained(Loop(), optimizer=functools.partial(torch.optim.SGD, lr=0.5))
    net, result = trained(Loop(), optimizer=functools.partial(Half, lr=0.5))
    for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs / 2)
    x, y = data()
    assert result.losses[-1] == pytest.approx(cross_entropy(net(x), y).item(), rel=1e-5)


def test_an_average_of_the_loop_comes_before_that_of_the_optimizer():
    net, result = trained(Loop(ema=0.5), optimizer=ScheduleFree)
    x, y = data()
    assert result.losses[-1] == pytest.approx(cross_entropy(net(x), y).item(), rel=1e-5)


def test_the_recommended_lines_say_how_to_evaluate():
    found = compare_task(task(), optimizers=["ScheduleFreeSGD", "SGD"], lr={"SGD": 1e-6}, seeds=2, epochs=20)
    assert found.verdict.code.splitlines() == [
        "optimizer = piste.optim.ScheduleFreeSGD(model.parameters(), lr=1)",
        "# with optimizer.averaged(): evaluate and save the model",
    ]
