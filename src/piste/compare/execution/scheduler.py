"""Running a plan: for every seed and candidate a chain of trials, each read from the store or sent to the executor."""

from __future__ import annotations

import time
from collections.abc import Generator

from ...errors import InvalidValue
from ...wording import plural
from ..budget import MIN_SEEDS, REPORT_SECONDS, format_duration
from ..candidates import Candidate
from ..listener import Listener
from ..plan import Plan
from ..results import Result, Runs
from .executor import Executor, Job
from .interrupts import Interrupts
from .search import search
from .store import Store

Chain = Generator[Job, Result, None]
"""Yields one job after another, and is sent the result of each. Chains are independent of each other."""


def trial_chain(plan: Plan, candidate: Candidate, number: int, runs: Runs) -> Chain:
    """All trials of one candidate with one seed: the search, if the plan has one, and the final runs."""
    tuned, seed = candidate, plan.seeds[number]
    if plan.searches:
        tuned = yield from search(plan, candidate, number, runs.tries)
    result = yield Job("judged", candidate.name, number, seed, tuned.lr, tuned.options)
    runs.results.append(result)
    if plan.searches and (tuned.lr, tuned.options) != (candidate.lr, candidate.options):
        result = yield Job("default", candidate.name, number, seed, candidate.lr)
    if plan.searches:
        runs.defaults.append(result)


class _Scheduler:
    """Advances chains: results in the store are used at once, and other jobs are sent to the executor."""

    def __init__(
        self, plan: Plan, store: Store, listener: Listener, executor: Executor, interrupts: Interrupts
    ) -> None:
        self.plan, self.store, self.listener, self.executor = plan, store, listener, executor
        self.interrupts = interrupts
        self.running: dict[Job, Chain] = {}
        self.count, self.done = 0, 0.0  # of runs, and of whole runs
        self.failed: dict[str, str] | None = {}  # what failed, by candidate, while no run has finished or was stored

    def start(self, chain: Chain) -> None:
        """Start a chain as soon as a worker is free."""
        while len(self.running) >= self.executor.workers:
            self.wait()
        with self.interrupts.deferred():
            self._advance(chain, next(chain, None))

    def wait(self) -> None:
        """Wait for one job, store its result, and advance its chain."""
        job, result = self.executor.next_finished()
        self.raise_if_all_fail(job, result)
        with self.interrupts.deferred():
            if not result.failed:  # a failed run is done again by the next call
                self.store.put(job, result)
            self._advance(self.running.pop(job), job, result)

    def raise_if_all_fail(self, job: Job, result: Result) -> None:
        """Raise if every candidate's first run failed, so that the fault is the task's.

        Raises:
            InvalidValue: With the reason of the first candidate of the plan.
        """
        if not result.failed or self.failed is None:
            return
        self.failed.setdefault(job.candidate, f"{job}: {result.note}")
        if len(self.failed) == len(self.plan.candidates):
            first = self.failed[self.plan.candidates[0].name]
            raise InvalidValue(f"{'every candidate failed. ' * (len(self.failed) > 1)}{first}")

    def _advance(self, chain: Chain, job: Job | None, result: Result | None = None) -> None:
        while job is not None:
            result = result or self.store.get(job)
            if result is None:
                self.running[job] = chain
                self.executor.submit(job)
                return
            if not result.failed:
                self.failed = None
            self.count += 1
            self.done += self.plan.share_of_run(result)
            self.listener.on_run_end(self.plan, result)
            try:
                job, result = chain.send(result), None
            except StopIteration:
                return


def run_plan(
    plan: Plan,
    store: Store,
    listener: Listener,
    executor: Executor,
    interrupts: Interrupts,
    began: float | None = None,
) -> tuple[Runs, str, str]:
    """Run every chain, seed by seed, as many at a time as the executor has workers.

    The results don't depend on the executor. With a budget, counted from `began`, seeds that would not finish in time
    are skipped. An interruption keeps the finished runs.

    Returns:
        The runs, and two sentences that say why runs are missing, after an interruption or for lack of time; else
        empty.
    """
    runs: dict[tuple[int, str], Runs] = {}
    scheduler = _Scheduler(plan, store, listener, executor, interrupts)
    interrupted = left_out = ""
    listener.on_start(plan, store.count(plan))
    started = time.perf_counter()
    try:
        for number in range(len(plan.seeds)):  # seed by seed, so that an interruption leaves complete rounds
            if number >= (MIN_SEEDS if plan.extends else 1) and plan.budget is not None:
                now = time.perf_counter()
                if now + (now - started) / number > (began or started) + plan.budget - REPORT_SECONDS:
                    left_out = (
                        f"The budget of {format_duration(plan.budget)} was used up after {number} of "
                        f"{plural(len(plan.seeds), 'seed')}. Repeat the call with the same output folder to run the "
                        "others."
                    )
                    break
            for candidate in plan.candidates:
                runs[number, candidate.name] = Runs()
                scheduler.start(trial_chain(plan, candidate, number, runs[number, candidate.name]))
        while scheduler.running:
            scheduler.wait()
    except KeyboardInterrupt:
        if not scheduler.count:
            raise
        interrupted = f"Interrupted after {scheduler.done:,.0f} of {plural(plan.runs, 'run')}; finished runs are kept."
    finally:
        interrupts.defer()
        listener.on_end()
    return sum(runs.values(), Runs()), interrupted, left_out
