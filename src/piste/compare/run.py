"""The function `compare_task`, which prepares, runs, summarizes and reports a comparison."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ..errors import PisteError, english
from ..options import Number
from .analysis.summary import summarize
from .budget import TUNED_BUDGET, estimate, parse_duration
from .comparison import Comparison, UnsavedReport
from .execution.interrupts import Interrupts
from .execution.scheduler import run_plan
from .execution.select import select_executor
from .execution.store import open_store
from .plan import make_plan
from .report.files import make_output_folder
from .report.progress import make_display
from .report.trackers import with_trackers
from .requirements import require
from .task import Task
from .training.random_state import RandomState
from .training.threads import SINGLE_THREAD_MAX_PARAMETERS, one_thread


def compare_task(
    task: Task,
    *,
    optimizers: Any = None,
    loss: Any = None,
    loop: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    seeds: int | None = None,
    lr: Any = None,
    trials: int | None = None,
    search: Any = None,
    budget: Any = None,
    tuned: bool = False,
    out: Any = None,
    fresh: bool = False,
    storage: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    track: Any = None,
    practical: float | None = None,
    split: Any = None,
    progress: bool | None = None,
) -> Comparison:
    """Compare optimizers and losses on a `Task`.

    Args:
        task: The task.
        optimizers: The optimizers, in place of those of the task.
        loss: The losses, in place of those of the task, whose names are known here too.
        loop: The training loops, in place of those of the task.
        epochs: The number of passes over the training data, in place of that of the task.
        steps: The number of steps, in place of the epochs.
        seed: The first seed.
        seeds: The number of seeds.
        lr: The learning rates.
        trials: The number of trials of each search.
        search: Values of further options to search.
        budget: The time for all runs.
        tuned: Search learning rates within a default budget.
        out: The folder of the results.
        fresh: Discard existing runs in the folder.
        storage: The database of the runs.
        jobs: The number of processes.
        ray: The address of a Ray cluster.
        track: The trackers.
        practical: The largest difference without practical meaning.
        split: "seeds" if every seed draws its own split into training and validation data, or "fixed" for one split.
            None splits by seeds where Piste makes the split (tables and built-in tasks), or a task has `resplit`.
        progress: Show the progress; None shows it on a terminal.

    Returns:
        The comparison.

    Raises:
        InvalidValue, InvalidType: An argument is invalid; nothing has run.
        UnsavedReport: The runs are finished, but the report could not be written.

    Example:
        >>> from piste.compare import compare_task
        >>> from piste.compare.tasks import task
        >>> comparison = compare_task(task("line"), optimizers=["SGD", "Adam"], seeds=2, steps=20)
        >>> sorted(row.name for row in comparison.rows)
        ['Adam', 'SGD']
    """
    require("`piste.compare`")
    began = time.perf_counter()
    by_default = tuned and budget is None and trials is None
    if by_default:
        budget = TUNED_BUDGET
    if practical is not None:
        Number(0.0).check("practical", practical)
    folder = None if out is None else make_output_folder(out)
    listener = with_trackers(make_display(progress), track, folder)
    with Interrupts() as interrupts, contextlib.ExitStack() as held:
        with RandomState(seed if isinstance(seed, int) and 0 <= seed < 2**32 else 0):
            plan = make_plan(
                task, optimizers=optimizers, loss=loss, lr=lr, seed=seed, seeds=seeds, trials=trials, epochs=epochs,
                steps=steps, budget=None if budget is None else parse_duration(budget), search=search,
                loop=loop, split=split,
            )  # fmt: skip
            plan.tuned, plan.extends = tuned, by_default
            store = held.enter_context(open_store(folder, storage, task.name, fresh))
            plan.adopt(store.settings)
            with (
                one_thread(plan.n_parameters < SINGLE_THREAD_MAX_PARAMETERS),
                select_executor(plan, jobs, ray, listener.on_evaluate) as executor,
            ):
                if plan.undecided:
                    executor.prepare()
                if plan.undecided or listener.is_visible:
                    estimate(plan, executor.workers, began)
                plan.check_splits()
                store.bind(plan)
                runs, interrupted, left_out = run_plan(plan, store, listener, executor, interrupts, began)
            comparison = Comparison.of(summarize(plan, runs, interrupted, left_out, practical))
        try:
            files = [] if folder is None else comparison.save(folder)
        except PisteError as error:
            raise UnsavedReport(english(error), comparison) from error
        listener.on_report(comparison, files)
    return comparison
