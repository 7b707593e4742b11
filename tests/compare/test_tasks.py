"""The built-in tasks: found by being there, each trains, and the line's picture is drawn from the run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import piste
from piste.compare import compare_task, tasks
from piste.compare.plan import make_plan
from piste.compare.tasks import characters, distilled, gan, physics, redundant, spiral
from piste.errors import InvalidValue
from piste.optim import SGD, Adam
from tests.compare.small import task as small

NO_LOSS_FALLS = {"gan"}
"""Where two play against each other, the metric alone tells of progress."""


def test_tasks_are_listed_with_their_purpose():
    assert set(tasks.names()) >= {
        "digits", "digits-cnn", "digits-deep", "digits-rnn", "breast-cancer", "diabetes", "line", "characters",
        "redundant", "physics", "spiral", "gan", "distilled",
    }  # fmt: skip
    assert all(20 < len(tasks.about(name)) <= 120 for name in tasks.names())


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(InvalidValue, match=r"unknown task `digit`\. Did you mean `digits`"):
        tasks.task("digit")


@pytest.mark.parametrize("name", tasks.names())
def test_each_learns_a_little_and_is_the_same_each_time(name):
    before = torch.get_rng_state()
    task = tasks.task(name)
    assert torch.equal(before, torch.get_rng_state())
    assert (task.name, task.about) == (name, tasks.about(name))
    task.epochs = 20 if name in NO_LOSS_FALLS else 2
    optimizer, lr = ("RMSprop", 0.003) if name in NO_LOSS_FALLS else ("Adam", 0.002)
    found = compare_task(task, optimizers=[optimizer], lr=lr, seeds=1, progress=False)
    for result in found.results:
        if name in NO_LOSS_FALLS:
            assert result.metrics[-1] < result.metrics[0] / 2
        else:
            assert result.losses[-1] < result.losses[0]
    again = tasks.task(name)
    for one, other in ((task.train, again.train), (task.validation, again.validation)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _rows(x):
    return {row.tobytes() for row in x.flatten(1).numpy()}


@pytest.mark.parametrize("name", sorted(set(tasks.names()) - {"line", "gan"}))  # the line's x are the same on purpose
def test_nothing_that_is_trained_on_is_validated_on(name):
    task = tasks.task(name)
    assert not _rows(task.train[0]) & _rows(task.validation[0])


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes"])
def test_columns_are_scaled_by_the_training_part_alone(name):
    task = tasks.task(name)
    (x, y), (x_validation, _) = task.train, task.validation
    parts = [x, y] if name == "diabetes" else [x]
    for part in parts:
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(0), 1, atol=1e-5)
    assert x_validation.mean(0).abs().max() > 0.05
    # One map for both parts: back in its own units, it is the table.
    from sklearn.datasets import load_breast_cancer, load_diabetes

    raw = load_diabetes(scaled=False).data if name == "diabetes" else load_breast_cancer().data
    both = torch.cat([x, x_validation]).double().numpy()
    slope = np.ptp(raw, 0) / np.ptp(both, 0)
    back = both * slope + (raw.min(0) - both.min(0) * slope)
    np.testing.assert_allclose(np.sort(back, 0), np.sort(raw, 0), rtol=1e-4, atol=1e-4)


def test_the_next_letter_is_the_target():
    letters, following = characters.windows("hello there. " * 20)
    assert letters.shape == following.shape == (8, 32)
    assert torch.equal(letters[:, 1:], following[:, :-1])
    read = "".join(characters.LETTERS[code] for code in letters.flatten())
    assert ("hello there. " * 20).startswith(read)
    task = tasks.task("characters")
    assert len(task.train[0]) == characters.TRAIN
    assert len(task.validation[0]) == characters.VALIDATION
    even = torch.zeros(3, len(characters.LETTERS), 5)  # every letter alike: log2 of their number
    guess = task.metric.value(even, torch.zeros(3, 5, dtype=torch.long))
    assert guess == pytest.approx(np.log2(len(characters.LETTERS)), rel=1e-6)


def test_the_writer_sees_no_letter_before_its_time():
    torch.manual_seed(0)
    writer, letters = characters.Writer(), torch.randint(len(characters.LETTERS), (2, 32))
    changed = letters.clone()
    changed[:, 20:] = 0
    before, after = writer(letters), writer(changed)
    torch.testing.assert_close(before[..., :20], after[..., :20], rtol=0, atol=1e-6)
    assert not torch.allclose(before[..., 20:], after[..., 20:])


@pytest.mark.parametrize(("gathered", "plain"), [(redundant.FullBatchSGD, SGD), (redundant.FullBatchAdam, Adam)])
def test_two_gathered_batches_are_one_step_on_both(gathered, plain):
    task = tasks.task("redundant")
    (x, y), half = task.train, len(task.train[0]) // 2
    assert torch.equal(x[:half], x[half:])
    assert torch.equal(y[:half], y[half:])
    assert task.batch_size == half
    x, one, other = x.double(), task.new_model(0).double(), task.new_model(0).double()
    slow, quick = gathered(one.parameters(), lr=0.1), plain(other.parameters(), lr=0.1)
    order = torch.randperm(2 * half, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for at in order.split(half):
            slow.zero_grad()
            functional.cross_entropy(one(x[at]), y[at]).backward()
            slow.step()
        quick.zero_grad()
        functional.cross_entropy(other(x), y).backward()
        quick.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_redundant_set_is_learned_in_half_the_examples():
    found = compare_task(tasks.task("redundant"), seeds=2, progress=False)
    result = {row.name: row.metric for row in found.rows}
    assert list(result) and set(result) == {"SGD", "SGD-full-batch", "Adam", "Adam-full-batch"}
    assert result["SGD"] > result["SGD-full-batch"]
    assert result["Adam"] > result["Adam-full-batch"]


def test_the_swing_s_solution_solves_its_equation():
    t = torch.linspace(0, physics.END, 50, dtype=torch.float64, requires_grad=True)
    u = physics.solution(t)
    (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), t)
    torch.testing.assert_close(
        ddu + 2 * physics.DAMPING * du + physics.STIFFNESS * u, torch.zeros_like(t), rtol=0, atol=1e-9
    )
    assert u[0] == 1
    assert abs(du[0]) < 1e-12


def test_the_residual_is_that_of_the_net_with_gradients_and_without():
    torch.manual_seed(0)
    swing, h = physics.Oscillator().double(), 1e-4
    t = torch.linspace(0.1, 4.9, 9, dtype=torch.float64).unsqueeze(1)
    before, u, after = (swing(t + shift)[:, :1] for shift in (-h, 0.0, h))
    du, ddu = (after - before) / (2 * h), (after - 2 * u + before) / h**2
    expected = (ddu + 2 * physics.DAMPING * du + physics.STIFFNESS * u) / physics.STIFFNESS
    torch.testing.assert_close(swing(t)[:, 1:], expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        evaluated = swing(t)
        start = swing(torch.tensor([[0.0], [1e-6]], dtype=torch.float64))[:, 0]
    assert torch.equal(evaluated, swing(t))
    assert not evaluated.requires_grad
    assert start[0] == 1
    assert abs(start[1] - 1) < 1e-10
    assert not tasks.task("physics").train[1].any()  # no value of the solution is trained on


def test_the_spiral_is_the_one_of_the_equation():
    from scipy.integrate import solve_ivp

    task, matrix = tasks.task("spiral"), np.array([[-0.1, 2.0], [-2.0, -0.1]])
    for start, (points, ways) in (((2.0, 0.0), task.train), ((0.0, 1.6), task.validation)):
        times = spiral.STEP * np.arange(len(points) + spiral.STEPS)
        way = solve_ivp(lambda t, u: u**3 @ matrix, (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-9).y.T
        np.testing.assert_allclose(points, way[: len(points)], atol=2e-4)
        np.testing.assert_allclose(ways[7], way[8 : 8 + spiral.STEPS], atol=2e-4)


def test_the_method_is_of_fourth_order():
    u = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    errors = [
        float((spiral.integrate(lambda u: -u, u, steps, 1 / steps)[:, -1] - u * np.exp(-1)).abs().max())
        for steps in (10, 20)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


def _labelled(scores, label):
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


OBJECTIVES = {  # of the discriminator by the scores of real and generated points, and of the generator
    "logistic": (lambda r, f: _labelled(r, 1) + _labelled(f, 0), lambda f: _labelled(f, 1)),
    "least_squares": (lambda r, f: ((r - 1) ** 2 + f**2).mean() / 2, lambda f: ((f - 1) ** 2).mean() / 2),
    "hinge": (lambda r, f: (1 - r).relu().mean() + (1 + f).relu().mean(), lambda f: -f.mean()),
}


@pytest.mark.parametrize("kind", gan.GAMES)
def test_each_player_of_the_game_moves_by_an_objective_of_its_own(kind):
    torch.manual_seed(0)
    game, (x, real) = gan.GAN().double(), gan.points(32, 0)
    x, real = x.double(), real.double()
    gan.GAMES[kind](game(x), real).backward()
    forged = game.generator(x[:, : gan.NOISE])
    points = real.clone().requires_grad_()
    slope = torch.autograd.grad(game.discriminator(points).sum(), points, create_graph=True)[0]
    of_discriminator, of_generator = OBJECTIVES[kind]
    judged = (
        of_discriminator(game.discriminator(real), game.discriminator(forged.detach()))
        + gan.PENALTY * (slope**2).sum() / 32
    )
    forging = of_generator(game.discriminator(forged))
    for objective, player in ((judged, game.discriminator), (forging, game.generator)):
        for p, expected in zip(
            player.parameters(),
            torch.autograd.grad(objective, list(player.parameters()), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(p.grad, expected)


def test_the_energy_distance_is_scipy_s():
    from scipy.stats import energy_distance

    a, b = (torch.randn(n, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (40, 30))
    on_a_line = [torch.cat([t, torch.zeros_like(t)], 1) for t in (a, b + 0.5)]
    expected = energy_distance(a.squeeze(), b.squeeze() + 0.5) ** 2
    assert float(gan.energy_distance(*on_a_line)) == pytest.approx(expected)
    assert float(gan.energy_distance(on_a_line[0], on_a_line[0])) == pytest.approx(0, abs=1e-12)


def test_the_student_is_judged_by_labels_whatever_it_learned_from():
    task = tasks.task("distilled")
    (x, target), classes = task.validation, task.validation[1][:, -1].long()
    assert (target[:, :-1].argmax(1) == classes).float().mean() > 0.95  # the teacher has never seen these
    certain = 9.0 * functional.one_hot(classes, 10)
    assert task.metric.value(certain, target) == 1
    assert task.metric.value(certain.roll(1, 1), target) == 0
    output = torch.randn(len(x), 10, generator=torch.Generator().manual_seed(0))
    t = distilled.TEMPERATURE
    log_p, log_q = functional.log_softmax(output / t, 1), functional.log_softmax(target[:, :-1] / t, 1)
    middle = ((log_p.exp() + log_q.exp()) / 2).log()
    for name, divergence in (
        ("teacher", log_q.exp() * (log_q - log_p)),
        ("reverse", log_p.exp() * (log_p - log_q)),
        ("jsd", (log_q.exp() * (log_q - middle) + log_p.exp() * (log_p - middle)) / 2),
    ):
        torch.testing.assert_close(task.loss[name](output, target), divergence.sum(1).mean() * t**2)
    torch.testing.assert_close(distilled.labels(output, target), functional.cross_entropy(output, classes))


def test_diabetes_compares_losses_by_one_metric():
    task = tasks.task("diabetes")
    task.epochs = 1
    found = compare_task(task, optimizers=["Adam"], seeds=1, progress=False)
    assert {row.loss for row in found.rows} == {"mse", "l1", "smooth_l1", "huber(0.5)"}
    assert found.metric == "mae"
    assert len({row.training_loss for row in found.rows}) == 4


def test_the_line_draws_its_guesses_from_the_run(tmp_path):
    task = tasks.task("line")
    task.epochs = 30
    found = compare_task(task, optimizers=["SGD", "Adam"], lr=0.05, seeds=1, progress=False, out=tmp_path)
    drawn = (tmp_path / "picture.svg").read_text()
    assert "w1 (step 0)" in drawn
    assert "w4 (step" in drawn
    assert "truth: the loss" in drawn
    assert (tmp_path / "picture.png").exists()
    best = next(r for r in found.results if r.candidate == found.rows[0].name)
    w, b = best.path[-1]
    assert w == pytest.approx(0.8, abs=0.15)
    assert b == pytest.approx(0.3, abs=0.15)


def test_the_line_s_picture_with_every_run_diverged(tmp_path):
    task = tasks.task("line")
    task.epochs = 10
    compare_task(task, optimizers=["SGD"], lr=1e5, seeds=1, progress=False, out=tmp_path)
    assert "every run diverged" in (tmp_path / "picture.svg").read_text()


def test_the_page_on_tasks_tells_of_each():
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    assert all(f"`{name}`" in page for name in tasks.names())


def test_a_name_means_a_loss_of_the_task_before_one_of_piste():
    made = small(loss={"l1": "cross_entropy", "Mine": torch.nn.CrossEntropyLoss(label_smoothing=0.1)})
    plan = make_plan(made, optimizers=["SGD"], loss=["l1", "mine", "focal"])
    functions = {candidate.loss: type(candidate.loss_function) for candidate in plan.candidates}
    assert functions == {
        "l1": piste.losses.CrossEntropyLoss, "Mine": torch.nn.CrossEntropyLoss, "focal": piste.losses.FocalLoss
    }  # fmt: skip
    with pytest.raises(InvalidValue) as caught:
        make_plan(made, loss="hubber")
    assert str(caught.value) == (
        "there is no loss named 'hubber'. Did you mean `huber`? The losses of the task are `l1`, `Mine`."
    )


def test_a_loss_of_a_built_in_task_is_chosen_by_its_name():
    plan = make_plan(tasks.task("distilled"), optimizers=["SGD"], loss="teacher", seeds=2)
    assert [candidate.loss for candidate in plan.candidates] == ["teacher"]
    of_seed = plan.part(1).candidate(plan.candidates[0], plan.task)
    assert of_seed.loss_function is plan.part(1).task.loss["teacher"] is not plan.candidates[0].loss_function
