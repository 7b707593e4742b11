"""Which optimizer, which loss, which learning rate, for my model: train it with each, fairly, and see.

`compare` is the whole of it; `Task` is what a task file returns.
"""

from __future__ import annotations

import sys
import time
import types
from typing import TYPE_CHECKING, Any

from .csv.task import table
from .metrics import Metric
from .task import Task

if TYPE_CHECKING:
    from .comparison import Comparison

__all__ = ["Metric", "Task", "compare", "compare_task", "table"]


def compare(
    model: Any,
    data: Any,
    *,
    loss: Any = None,
    optimizers: Any = None,
    metric: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    seeds: int | None = None,
    lr: Any = None,
    target: float | None = None,
    trials: int | None = None,
    search: Any = None,
    budget: Any = None,
    out: Any = None,
    fresh: bool = False,
    storage: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    track: Any = None,
    progress: bool | None = None,
) -> Comparison:
    """Train copies of a model with several optimizers and losses, from the same weights on the same batches.

    Parameters
    ----------
    model: an nn.Module, or a function that makes one. With a function every seed starts from weights of its own;
        with a module every seed starts from its weights. The module is copied, and never changed.
    data: (train, validation), each a pair of tensors (X, y), a Dataset, a DataLoader, or a function that makes one
        of these. None of it is changed, nor is the global random state.
    loss: a name ("cross_entropy"), a module, a function (output, target) -> scalar, or a list or dict of these.
        None takes cross entropy for class indices and MSE for numbers.
    optimizers: names, classes, or a dict of name -> class or function of the parameters. None takes
        the usual seven (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Adamax), "all" every one of Piste's.
    metric: "accuracy", "rmse", "mae", "r2", a `Metric`, or (function, "max" or "min"); None guesses from the targets.
        Candidates are ranked by it alone, never by the value of their loss.
    epochs, steps: the length of a run, by one of the two: passes over the training data (10), or steps.
    batch_size: examples in a batch; the rest that fills none is left out of an epoch. A DataLoader keeps its own.
    seed, seeds: the first seed, and how many there are (5).
    lr: one number for all, or a dict by name of the optimizer; None leaves each at its default.
    target: the value of the metric that counts as learned; None takes 90 % of the way from the start to the best.
    trials: how many learning rates are tried for each candidate before it is judged, anew for every seed and with
        seeds that judge nobody: its default first, then Optuna's choice within three decades to either side. 1,
        which it is if nothing is said, searches nothing.
    search: other options that the tries choose among, such as {"momentum": [0, 0.9]}, with every optimizer that takes
        them; its default is always among the values, and comes first.
    budget: a time, such as "3m", or a number of seconds. Those of seeds, trials and length that aren't given are chosen
        to fit into it, alike for everyone, from a few steps that are measured first.
    out: a folder for curves, tables and numbers; None writes nothing. Each finished run is written there at once:
        the same call again goes on where it stopped, and another comparison is refused.
    fresh: forget the runs that `out` holds.
    storage: the address of a database for finished runs, such as postgresql://user@host/database; None keeps them in an
        SQLite file in `out`. The name of `out` (or of the model) tells comparisons apart there.
    jobs: how many runs are made at a time, each in a process of its own; 1 makes them here.
    ray: "auto" or the address of a Ray cluster that makes the runs.
    track: "mlflow", "tensorboard" or both: each finished run, with settings and curves, and the report go there too.
    progress: True prints, False keeps silent; None shows a live display if the output is a terminal.

    Returns a `Comparison`, which prints as a table with a verdict. Raises `InvalidValue` or `InvalidType` before any
    training if something can't be meant. A run that diverges is a row, not an error. docs/compare.md has the measures.

    >>> import piste, torch
    >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
    >>> found = piste.compare(
    ...     torch.nn.Linear(1, 1), ((x, 3 * x), (x, 3 * x)), optimizers=["SGD", "Adam"], lr=0.1, epochs=5, seeds=2
    ... )
    >>> sorted(row.name for row in found.rows)
    ['Adam', 'SGD']
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        from ..errors import InvalidType

        raise InvalidType(
            f"`data` must be (train, validation), each a pair of tensors (X, y), a Dataset or a DataLoader; "
            f"received {type(data).__name__}{f' of {len(data)}' if isinstance(data, (tuple, list)) else ''}."
        )
    name = type(model).__name__ if hasattr(model, "parameters") else getattr(model, "__name__", "model")
    train, validation = data
    task = Task(
        model,
        train,
        validation,
        loss=loss,
        metric=metric,
        batch_size=batch_size,
        target=target,
        name=name,
    )
    return compare_task(
        task,
        optimizers=optimizers,
        epochs=epochs,
        steps=steps,
        seed=seed,
        seeds=seeds,
        lr=lr,
        trials=trials,
        search=search,
        budget=budget,
        out=out,
        fresh=fresh,
        storage=storage,
        jobs=jobs,
        ray=ray,
        track=track,
        progress=progress,
    )


def compare_task(
    task: Task,
    *,
    optimizers: Any = None,
    losses: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    seeds: int | None = None,
    lr: Any = None,
    trials: int | None = None,
    search: Any = None,
    budget: Any = None,
    out: Any = None,
    fresh: bool = False,
    storage: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    track: Any = None,
    progress: bool | None = None,
) -> Comparison:
    """`compare` for a `Task`; `losses` and `epochs` stand in for the task's own."""
    from .budget import as_seconds, estimate
    from .execution.executor import choose
    from .execution.interrupts import Interrupts
    from .execution.scheduler import carry_out
    from .execution.store import open_store
    from .plan import prepare
    from .report.files import writable
    from .report.progress import display
    from .report.trackers import tracked
    from .requirements import require
    from .training.random_state import Randomness
    from .training.threads import SMALL, one_thread

    require("`piste.compare`")
    began = time.perf_counter()
    folder = None if out is None else writable(out)
    shown = tracked(display(progress), track, folder)
    with Interrupts() as interrupts:
        with Randomness(seed if isinstance(seed, int) and 0 <= seed < 2**32 else 0):
            plan = prepare(
                task, optimizers=optimizers, losses=losses, lr=lr, seed=seed, seeds=seeds, trials=trials, epochs=epochs,
                steps=steps, budget=None if budget is None else as_seconds(budget), search=search,
            )  # fmt: skip
            store = open_store(folder, storage, task.name, fresh)
            plan.take(store.settings)
            with one_thread(plan.weights < SMALL), choose(plan, jobs, ray, shown.look) as executor:
                if plan.open or shown.tells:
                    estimate(plan, executor.workers)
                store.hold(plan.settings())
                comparison = carry_out(plan, store, shown, executor, interrupts, began)
        files = [] if folder is None else comparison.save(folder)
        shown.report(comparison, files)
    return comparison


class _Callable(types.ModuleType):
    """`piste.compare` names this package and the function in it; whichever an import left there, it can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
