"""One run: divergence, memory, time, evaluation at fixed steps in evaluation mode."""

import math

import pytest
import torch
from torch import nn

from piste.compare import compare_task
from piste.compare.data import MAX_EVALUATIONS, MIN_EVALUATIONS, Data
from piste.compare.formats import format_seconds
from piste.compare.training.memory import peak_bytes_during, state_bytes
from tests.compare.small import data, model, task


def rows(**options):
    options = {"seeds": 1, "progress": False, "optimizers": ["SGD", "Adam"], **options}
    found = compare_task(task(**options.pop("task", {})), **options)
    return {row.name: row for row in found.rows}, found


def regression(scale=1.0):
    x = torch.linspace(-1, 1, 48).unsqueeze(1)
    return {
        "model": lambda: nn.Linear(1, 1),
        "train": (x, 3 * scale * x),
        "validation": (x, 3 * scale * x),
        "metric": "rmse",
    }


def test_a_diverging_run_is_a_marked_row_and_the_others_go_on():
    by_name, found = rows(task={**regression(), "loss": "mse", "epochs": 60}, lr={"sgd": 1e4}, seeds=2)
    assert by_name["SGD"].diverged == 2
    assert "at step" in by_name["SGD"].note
    assert math.isnan(by_name["SGD"].metric)
    assert by_name["Adam"].diverged == 0
    assert found.rows[-1].name == "SGD"
    assert "diverged (2 of 2)" in found.table()


def test_a_rising_loss_is_divergence_before_it_overflows():
    _, found = rows(task={**regression(), "loss": "mse", "epochs": 4}, lr={"sgd": 30.0}, optimizers=["SGD"])
    (result,) = found.results
    assert result.diverged
    assert math.isfinite(result.losses[-1])
    assert "the loss rose from" in result.note


def test_a_loss_that_refuses_what_a_diverged_model_puts_out_is_divergence():
    def picky(output, target):
        if not bool(torch.isfinite(output).all()):
            raise RuntimeError("all elements must be finite")
        return (output - target).square().mean()

    _, found = rows(task={**regression(), "loss": picky, "epochs": 400}, lr=1e30, optimizers=["SGD"])
    assert found.results[0].diverged


def test_a_verdict_on_diverged_candidates_alone_says_so():
    _, found = rows(task={**regression(), "loss": "mse", "epochs": 40}, lr=1e6, optimizers=["SGD"])
    assert found.verdict.sentence == "No candidate finished, so there is no verdict."
    assert found.verdict.best is None


def test_evaluations_are_at_fixed_steps_and_the_same_for_all():
    _, found = rows(task={"epochs": 40})
    first, second = found.results
    assert first.steps == second.steps == [round(i * 120 / 16) for i in range(17)]
    assert len(first.losses) == len(first.metrics) == len(first.steps)


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(1, 48, [0, 1]), (2, 48, [0, 2]), (3, 48, [0, 2, 3])])
def test_short_runs_are_evaluated_at_every_possible_step(epochs, batch_size, steps):
    _, found = rows(task={"epochs": epochs, "batch_size": batch_size})
    assert found.results[0].steps == steps


def test_training_uses_training_mode_and_evaluation_does_not():
    modes = set()

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.frozen = nn.Linear(2, 2), nn.Dropout(0.5)
            self.frozen.eval()

        def forward(self, x):
            modes.add((self.training, self.frozen.training, torch.is_grad_enabled()))
            return self.layer(x)

    rows(task={"model": Watched()})
    assert (True, False, True) in modes  # a module in evaluation mode stays so while its model is trained
    assert not any(training and not grad for training, _, grad in modes)
    assert (False, False, False) in modes


def test_memory_is_what_the_state_gradients_and_temporaries_take():
    weights = sum(p.numel() for p in model().parameters()) * 4
    by_name, _ = rows()
    assert by_name["SGD"].state_bytes == 0
    assert 2 * weights <= by_name["Adam"].state_bytes <= 2 * weights + 64
    assert by_name["SGD"].peak_bytes >= weights
    assert by_name["Adam"].peak_bytes >= by_name["SGD"].peak_bytes + 2 * weights


def test_allocations_are_measured():
    def action():
        a = torch.ones(1000)
        b = a + 1
        del a
        return b + 1

    assert 8000 <= peak_bytes_during(action, torch.device("cpu")) <= 9000


def test_the_peaks_of_all_gpus_are_measured(monkeypatch):
    """A model on the second GPU; the allocators of both are fakes."""
    held, peaks = [100, 700], [500, 900]

    def allocate(gpu: int, count: int) -> None:
        held[gpu] += count
        peaks[gpu] = max(peaks[gpu], held[gpu])

    def action() -> None:
        allocate(1, 4000)
        allocate(1, -3000)
        torch.ones(1000)  # on the host

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda gpu: peaks.__setitem__(gpu, held[gpu]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", held.__getitem__)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    assert peak_bytes_during(action, torch.device("cuda", 1)) == 4000


def test_state_bytes_counts_every_tensor_once():
    weight = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    assert state_bytes(optimizer) == 40


def test_time_and_steps_to_a_target_are_reported():
    by_name, found = rows(task={"epochs": 10, "target": 0.8}, lr=0.1)
    assert 0 < by_name["Adam"].step_seconds < 1
    assert found.target == 0.8
    adam = next(r for r in found.results if r.candidate == "Adam")
    expected = next(step for step, value in zip(adam.steps, adam.metrics, strict=True) if value >= 0.8)
    assert by_name["Adam"].steps_to_target == expected
    assert by_name["Adam"].seconds_to_target == expected * adam.step_seconds
    assert f"| {expected} ({format_seconds(expected * adam.step_seconds)}) |" in found.table()


def test_without_a_target_ninety_percent_of_the_way_counts():
    _, found = rows(task={"epochs": 10}, lr=0.1)
    start = sum(r.metrics[0] for r in found.results) / 2
    best = max(r.metrics[-1] for r in found.results)
    assert found.target == pytest.approx(start + 0.9 * (best - start))


def test_the_path_is_kept_for_two_weights():
    _, found = rows(task={**regression(), "loss": "mse"})
    assert len(found.results[0].path) == len(found.results[0].steps)
    assert len(found.results[0].path[0]) == 2
    _, found = rows()
    assert found.results[0].path == []


def test_scaling_a_loss_and_its_rate_together_changes_nothing_but_its_value():
    def scaled(output, target):
        return 8 * nn.functional.cross_entropy(output, target)

    plain, _ = rows(lr=0.5, optimizers=["SGD"])
    tenfold, _ = rows(lr=0.0625, optimizers=["SGD"], task={"loss": scaled})
    a, b = plain["SGD"], tenfold["SGD"]
    assert b.training_loss == pytest.approx(8 * a.training_loss, rel=1e-5)
    assert (b.metric, b.steps_to_target) == (a.metric, a.steps_to_target)
    assert b.descent_share == pytest.approx(a.descent_share, rel=1e-4)
    assert b.evenness == pytest.approx(a.evenness, rel=1e-4)


def test_gradients_left_on_the_model_don_t_enter_the_first_step():
    net = model()
    net(data()[0]).sum().backward()
    _, found = rows(task={"model": net}, optimizers=["SGD"])
    for p in net.parameters():
        p.grad = None
    _, clean = rows(task={"model": net}, optimizers=["SGD"])
    assert found.results[0].losses == clean.results[0].losses


def test_a_large_validation_set_is_glanced_at_and_read_whole_at_the_end():
    x, y = data(5000, 1)
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            if not self.training:
                seen.append(x.clone())
            return self.layer(x)

    found = compare_task(
        task(model=Watching, validation=(x, y)), optimizers=["SGD"], lr=0.5, seeds=1, progress=False
    )  # fmt: skip
    run = found.results[0]
    assert len(run.scores) == 5000
    assert run.metrics[-1] == pytest.approx(sum(run.scores) / 5000)
    glances = [sum(map(len, part)) for part in split_by(seen[2:], lambda x: torch.equal(x, seen[2]))]
    assert glances == [512] * (len(run.steps) - 1) + [5000]  # seen[2] is the fixed part of the training data
    rows = {tuple(row) for row in x.tolist()}
    assert all(tuple(row) in rows for row in seen[3].tolist())
    assert torch.equal(seen[3], seen[5])


def looks_of(steps, *, batch_size=10, held_out=200):
    """The number of evaluations after the start, with 100 training examples."""
    x, y = data(100)
    return (
        len(Data((x, y), data(held_out), batch_size, torch.device("cpu")).evaluation_steps(steps)) - 1
    )  # besides the start


def test_evaluations_take_four_hundredths_of_the_work_of_training_between_16_and_48_of_them():
    # a look reads 300 examples; a step is worth 30 of them, so n steps pay for 0.04 * 30 * n / 300 = n / 250 looks
    assert looks_of(250 * 20) == looks_of(250 * 21 - 1) == 20
    assert looks_of(250 * 40, batch_size=5) == 20
    assert looks_of(250 * 40) == 40
    assert looks_of(250 * 40, held_out=500) == 20
    assert looks_of(1000) == MIN_EVALUATIONS == 16
    assert looks_of(10**6) == MAX_EVALUATIONS == 48
    assert looks_of(3) == 3


def test_evaluations_of_a_loader_go_by_its_batches():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(100)), batch_size=10)
    assert len(Data(loader, data(200), 64, torch.device("cpu")).evaluation_steps(250 * 20)) == 21


def split_by(parts, divides):
    """The runs of parts between those that divide."""
    found = []
    for part in parts:
        if divides(part):
            found.append([])
        else:
            found[-1].append(part)
    return found
