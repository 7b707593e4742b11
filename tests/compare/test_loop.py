"""The options of a loop: each run is compared with the same loop written out in torch."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import piste
from piste.compare import Loop, compare_task
from piste.compare.plan import make_plan
from piste.compare.training.trial import run_trial
from piste.errors import InvalidType, InvalidValue
from tests.compare.small import data, model, task

SGD = functools.partial(torch.optim.SGD, lr=0.5)
WHOLE = {"batch_size": 48}
STEPS = 12


def start():
    torch.manual_seed(3)
    return model()


def trained(loop, steps=STEPS, optimizer=SGD, **options):
    """The model that a run trains with `loop`, and the result of the run."""
    plan = make_plan(
        task(**{"model": start(), "loss": cross_entropy, **WHOLE, **options}), optimizers={"one": optimizer},
        steps=steps, loop=loop,
    )  # fmt: skip
    kept = []
    result = run_trial(
        plan.task, plan.data, plan.metric, plan.candidates[0], seed=0, steps=steps, on_end=kept.append
    )  # fmt: skip
    assert result.status == "done", result.note
    return kept[0], result


def bare(
    after_backward=lambda net: None, after_step=lambda net: None, schedule=lambda optimizer: None, steps=STEPS,
    parameters=nn.Module.parameters,
):  # fmt: skip
    """The loop in torch, on all examples at once."""
    net, (x, y) = start(), data()
    optimizer = SGD(parameters(net))
    scheduler = schedule(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        after_backward(net)
        optimizer.step()
        after_step(net)
        if scheduler:
            scheduler.step()
    return net


def assert_same_weights(one, other):
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


SCHEDULES = {
    "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS),
    "linear": functools.partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=STEPS),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_named_schedule_is_that_of_torch(name):
    assert_same_weights(trained(Loop(schedule=name))[0], bare(schedule=SCHEDULES[name]))


def test_a_schedule_of_torch_is_taken_as_it_is():
    def one_cycle(optimizer, updates=STEPS):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=updates)

    assert_same_weights(trained(Loop(schedule=one_cycle))[0], bare(schedule=one_cycle))


@pytest.mark.parametrize(("warmup", "updates"), [(4, 4), (0.25, 3)])
def test_the_rate_rises_in_the_warmup_and_falls_after_it(warmup, updates):
    optimizer = SGD(start().parameters())
    scheduler = Loop(schedule="linear", warmup=warmup).new_scheduler(optimizer, STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rising = [0.5 * (i + 1) / updates for i in range(updates)]
    falling = [0.5 * (1 - i / (STEPS - updates)) for i in range(STEPS - updates)]
    assert rates == pytest.approx(rising + falling)


def test_gradients_are_clipped_by_norm():
    def clip(net):
        nn.utils.clip_grad_norm_(net.parameters(), 0.05)

    net = trained(Loop(clip_norm=0.05))[0]
    assert_same_weights(net, bare(after_backward=clip))
    assert any(not torch.allclose(a, b) for a, b in zip(net.parameters(), bare().parameters(), strict=True))


def test_gradients_are_clipped_by_value():
    def clip(net):
        for p in net.parameters():
            p.grad.clamp_(-0.01, 0.01)

    assert_same_weights(trained(Loop(clip_value=0.01))[0], bare(after_backward=clip))


def test_accumulated_batches_are_one_batch():
    """Three batches of 16 are all 48 examples: a third of the updates, each on the whole."""
    net, result = trained(Loop(accumulate=3), steps=3 * STEPS, batch_size=16)
    assert_same_weights(net, bare(steps=STEPS))
    assert result.state_bytes == 0 and result.steps[-1] == 3 * STEPS


def test_the_batches_left_over_by_an_accumulation_make_an_update():
    net, _ = trained(Loop(accumulate=3), steps=3 * STEPS + 1, batch_size=16)
    assert not all(torch.equal(a, b) for a, b in zip(net.parameters(), bare(steps=STEPS).parameters(), strict=True))


def test_averaged_weights_are_evaluated():
    averages = []

    def follow(net):
        now = [p.detach().clone() for p in net.parameters()]
        averages.append([0.8 * a + 0.2 * b for a, b in zip(averages[-1], now, strict=True)] if averages else now)

    bare(after_step=follow)
    net, result = trained(Loop(ema=0.8))
    for mine, theirs in zip(net.parameters(), averages[-1], strict=True):
        torch.testing.assert_close(mine.detach(), theirs, rtol=1e-4, atol=1e-6)
    x, y = data()
    assert result.losses[-1] == pytest.approx(cross_entropy(net(x), y).item(), rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_forward_passes_have_the_precision_of_autocast(precision):
    net, (x, y) = start(), data()
    optimizer, scaler = SGD(net.parameters()), torch.amp.GradScaler("cpu", enabled=precision == "float16")
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", getattr(torch, precision)):
            loss = cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    found = trained(Loop(autocast=precision))[0]
    for mine, theirs in zip(found.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02)
    types = []
    watched = start()
    watched.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    trained(Loop(autocast=precision), model=watched, loss="cross_entropy")
    assert getattr(torch, precision) in types


def test_a_run_ends_without_improvement_and_has_the_result_of_its_best_evaluation():
    rising = functools.partial(torch.optim.SGD, lr=0.5, maximize=True)  # gets worse with every step
    net, result = trained(Loop(patience=3), steps=60, optimizer=rising)
    assert result.metrics[-1] == max(result.metrics[1:])  # the start is no result of training
    assert result.note.startswith("stopped at step ")
    stopped, best = (int(word) for word in result.note.replace(",", "").split() if word.isdigit())
    assert result.metrics[result.steps.index(best)] == result.metrics[-1]
    assert result.steps.index(stopped) - result.steps.index(best) == 3
    assert result.steps[-1] == 60
    x, y = data(40, 1)
    assert (net(x).argmax(1) == y).double().mean().item() == pytest.approx(result.metrics[-1])


def test_a_run_that_is_not_cut_has_the_weights_of_its_best_evaluation_as_well():
    _, result = trained(Loop(patience=100))
    assert result.note == f"with the weights of step {result.steps[result.metrics.index(max(result.metrics[1:]), 1)]}"


def test_param_groups_come_from_a_function_of_the_model():
    def groups(net):
        return [{"params": net[0].parameters(), "lr": 0.05}, {"params": net[2].parameters()}]

    assert_same_weights(trained(Loop(param_groups=groups))[0], bare(parameters=groups))


def test_frozen_parts_stay_as_they_are():
    net, _ = trained(Loop(freeze=["0"]))
    assert torch.equal(net[0].weight, start()[0].weight)
    assert not torch.equal(net[2].weight, start()[2].weight)
    assert_same_weights(net, bare(parameters=lambda net: net[2].parameters()))


def test_loops_are_candidates_and_a_plain_one_changes_nothing():
    loops = {"plain": Loop(), "cosine": Loop(schedule="cosine")}
    options = {"optimizers": ["SGD", "Adam"], "seeds": 2, "lr": 0.1, "progress": False}
    found = compare_task(task(), loop=loops, **options)
    assert {row.name for row in found.rows} == {"SGD · plain", "Adam · plain", "SGD · cosine", "Adam · cosine"}
    plain = compare_task(task(), **options)
    assert [r.losses for r in plain.results] == [r.losses for r in found.results if r.candidate.endswith("plain")]
    assert [r.losses for r in plain.results] != [r.losses for r in found.results if r.candidate.endswith("cosine")]


def test_a_changed_loop_is_another_comparison(tmp_path):
    options = {"optimizers": ["SGD", "Adam"], "seeds": 2, "progress": False, "out": tmp_path}
    compare_task(task(), loop=Loop(clip_norm=1.0), **options)
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(), loop=Loop(clip_norm=2.0), **options)
    assert "the loop of `SGD` was clip_norm=1.0, now clip_norm=2.0; the loop of `Adam` was" in str(caught.value)
    with pytest.raises(InvalidValue) as caught:
        compare_task(task(), **options)
    assert "the loop of `SGD` was clip_norm=1.0, now the plain loop" in str(caught.value)


def test_the_recommended_lines_contain_the_loop():
    loop = Loop(schedule="cosine", warmup=2, ema=0.9)
    found = compare_task(task(loop=loop), optimizers=["SGD", "Adam"], lr=0.1, seeds=3, epochs=20, progress=False)
    assert found.verdict.code.split("\n") == [
        "loop = Loop(schedule='cosine', warmup=2, ema=0.9)  # from piste.compare import Loop",
        "optimizer = piste.optim.Adam(model.parameters(), lr=0.1)",
        "scheduler = loop.new_scheduler(optimizer, updates)  # the number of all updates",
    ]
    exec(found.verdict.code, {"Loop": Loop, "updates": 10, "piste": piste, "model": start()})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"schedule": "cosin"}, InvalidValue, "`schedule` must be one of constant, linear, cosine, or a function"),
        ({"schedule": lambda o, n: None, "warmup": 3}, InvalidValue, "`warmup` is for a named schedule"),
        ({"warmup": -1}, InvalidValue, "`warmup` must be in [0, inf); received warmup=-1"),
        ({"clip_norm": 0}, InvalidValue, "`clip_norm` must be in (0, inf); received clip_norm=0"),
        ({"clip_value": math.nan}, InvalidValue, "`clip_value` must be in (0, inf); received clip_value=nan"),
        ({"accumulate": 0}, InvalidValue, "`accumulate` must be a whole number, at least 1; received 0"),
        ({"autocast": "float8"}, InvalidValue, "`autocast` must be bfloat16 or float16; received 'float8'"),
        ({"ema": 1.0}, InvalidValue, "`ema` must be in (0, 1); received ema=1.0"),
        ({"patience": 0}, InvalidValue, "`patience` must be a whole number, at least 1; received 0"),
        ({"param_groups": [1]}, InvalidType, "`param_groups` must be a function of the model; received [1]"),
        ({"freeze": "0"}, InvalidType, "`freeze` must be a list of names; received '0'"),
    ],
)
def test_an_option_out_of_range_is_rejected(options, error, words):
    with pytest.raises(error) as caught:
        Loop(**options)
    assert str(caught.value).startswith(words)


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


@pytest.mark.parametrize(
    ("loop", "optimizer", "error", "words"),
    [
        ("cosine", SGD, InvalidType, '`loop` must be a Loop, or a dict such as {"plain": Loop(), "cosine": Loop('),
        (Loop(freeze=["first"]), SGD, InvalidValue, "`freeze` names `first`, which is no part of the model."),
        (Loop(freeze=["0", "2"]), SGD, InvalidValue, "`freeze` leaves no parameter to train; received 0, 2."),
        (Loop(param_groups=lambda net: 1 / 0), SGD, InvalidValue, "`param_groups` of `one` failed on the model: div"),
        (Loop(schedule=lambda o, n: 1 / 0), SGD, InvalidValue, "the schedule of `one` failed: division by zero"),
        (Loop(schedule=lambda o, n: 3), SGD, InvalidType, "the schedule of `one` must make a scheduler of torch.optim"),
        (
            Loop(schedule=lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o)),
            SGD,
            InvalidValue,
            "the schedule of `one` makes a ReduceLROnPlateau, whose step() needs `metrics`; a schedule depends on the "
            "number of updates alone. Help: give one of constant, linear, cosine, or a function that makes",
        ),
        (Loop(accumulate=2), functools.partial(NeedsClosure, lr=0.1), InvalidValue, "one computes the loss several"),
    ],
)
def test_a_loop_that_cannot_run_is_rejected_before_training(loop, optimizer, error, words):
    with pytest.raises(error) as caught:
        compare_task(task(), optimizers={"one": optimizer}, loop=loop, progress=False)
    assert str(caught.value).startswith(words)


def test_an_optimizer_with_a_closure_is_clipped_and_scheduled():
    closure = functools.partial(NeedsClosure, lr=0.5)
    mine, _ = trained(Loop(clip_norm=0.05, schedule="cosine"), optimizer=closure)
    plain, _ = trained(Loop(clip_norm=0.05, schedule="cosine"))
    assert_same_weights(mine, plain)


def test_the_given_model_stays_unchanged():
    net = start()
    before = copy.deepcopy(net.state_dict())
    compare_task(task(model=net, loop=Loop(freeze=["0"], ema=0.5)), optimizers=["SGD"], seeds=1, progress=False)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in net.parameters())
