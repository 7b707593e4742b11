"""`python -m bench compare`: the cost of a comparison over the bare training loops that it runs.

It is compared with two loops written by hand: one that trains and evaluates at the end, and one that also evaluates
wherever the comparison does. The rest is the comparison's own, in two parts. The fixed part, which does not grow with
the number or the length of the runs, is the same comparison again in a folder that holds every run: the plan, the
database, the verdict and the report. The remaining part is that of the runs: the loop, the memory and times that are
measured, the path of the weights, and the storing of each result. Times are CPU seconds of the process, which other
processes on the machine hardly change; a wall time column shows the wait for the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from piste.compare import Task, compare_task, tasks
from piste.compare.plan import Plan, make_plan
from piste.compare.training.threads import SINGLE_THREAD_MAX_PARAMETERS, one_thread

from .timing import Step, listed, machine, shown


def photographs() -> Task:
    """Return a task of 50,000 made-up examples of 28 x 28 numbers in ten classes, and 10,000 for validation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 784, generator=generator)
    y = (x @ torch.randn(784, 10, generator=generator)).argmax(1)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

    return Task(model, (x[:50_000], y[:50_000]), (x[50_000:], y[50_000:]), name="photographs", epochs=3)


def rehearse(plan: Plan, evaluates: bool) -> None:
    """Run the loops: every candidate with every seed, evaluated as in the comparison, or at the end alone."""
    evaluations = set(plan.data.evaluation_steps(plan.steps)) if evaluates else {plan.steps}
    for seed in plan.seeds:
        for candidate in plan.candidates:
            model, loss = plan.task.new_model(seed), candidate.new_loss()
            optimizer = candidate.new_optimizer(model.parameters())
            for step, (x, y) in enumerate(_batches(plan, seed), 1):
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
                if step in evaluations:
                    _evaluate(plan, model, loss, last=step == plan.steps)


def _batches(plan: Plan, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    x, y = plan.task.train
    size, generator = plan.task.batch_size, torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(size)[: max(len(x) // size, 1)]:
            yield x[rows], y[rows]
            done += 1
            if done == plan.steps:
                return


@torch.no_grad()
def _evaluate(plan: Plan, model: nn.Module, loss: object, last: bool) -> None:
    model.eval()
    for x, y in plan.data.training_sample:
        loss(model(x), y).item()  # type: ignore[operator]
    held_out = plan.data.validation if last else plan.data.quick_validation
    outputs = torch.cat([model(x) for x, _ in held_out])
    targets = torch.cat([y for _, y in held_out])
    plan.metric.scores(outputs, targets).mean().item()
    model.train()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=listed, default=["digits", "digits-cnn", "digits-rnn", "photographs"])
    parser.add_argument("--optimizers", type=listed, default=["SGD", "RMSprop", "Adam"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each run; the task's epochs if not given")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(f"{machine()}\n")
    print(
        "| task | runs | training | and evaluations | compare | over training | over both | fixed | of it report "
        "| runs over both | each run | wall |"
    )
    print(f"|---|{'---:|' * 11}")
    for name in options.tasks:
        task = photographs() if name == "photographs" else tasks.task(name)
        print(_row(task, options), flush=True)


def _in_turns(contenders: Mapping[str, Step], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the CPU and wall seconds of calls, taken in turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds):
        names = list(contenders)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began, used = time.perf_counter(), time.process_time()
            contenders[name]()
            seconds[name].append((time.process_time() - used, time.perf_counter() - began))
    return seconds


def _row(task: Task, options: argparse.Namespace) -> str:
    chosen = {"optimizers": options.optimizers, "seeds": options.seeds, "steps": options.steps}
    plan = make_plan(task, **chosen)
    found = compare_task(task, **{**chosen, "steps": 20}, progress=False)  # compiles the kernels

    def compare() -> None:
        with tempfile.TemporaryDirectory() as folder:
            compare_task(task, **chosen, out=folder, progress=False)

    def report() -> None:
        with tempfile.TemporaryDirectory() as folder:
            found.save(folder)

    with tempfile.TemporaryDirectory() as finished:

        def again() -> None:
            compare_task(task, **chosen, out=finished, progress=False)

        again()  # makes the runs, and imports the packages of the figures
        contenders = {
            "bare": lambda: rehearse(plan, evaluates=False),
            "evaluating": lambda: rehearse(plan, evaluates=True),
            "compare": compare,
            "fixed": again,
            "report": report,
        }
        with one_thread(plan.n_parameters < SINGLE_THREAD_MAX_PARAMETERS):
            measured = _in_turns(contenders, options.rounds)
    took = {name: statistics.median(used for used, _ in times) for name, times in measured.items()}
    wall = statistics.median(seconds for _, seconds in measured["compare"])
    bare, both, whole, fixed = (took[name] for name in ("bare", "evaluating", "compare", "fixed"))
    own = whole - fixed - both
    cells = [
        task.name, plan.runs, *map(shown, (bare, both, whole)), f"{whole / bare - 1:.1%}", f"{whole / both - 1:.1%}",
        shown(fixed), shown(took["report"]), f"{own / both:.1%}", shown(own / plan.runs), shown(wall),
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"
