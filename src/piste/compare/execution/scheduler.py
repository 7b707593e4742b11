"""A plan is carried out: for every seed and candidate a chain of trials, each known from the store or sent to run."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field

from ..budget import REPORT, span
from ..candidates import Candidate
from ..comparison import Comparison, summarise
from ..plan import Plan
from ..report.progress import Progress
from ..training.trial import Result
from .executor import Executor, Job
from .interrupts import Interrupts
from .search import search
from .store import Store


@dataclass
class Findings:
    """What was run: the judged trials, those at the default setting beside them, and the tries of the searches."""

    results: list[Result] = field(default_factory=list)
    defaults: list[Result] = field(default_factory=list)
    tries: list[Result] = field(default_factory=list)

    def __add__(self, more: Findings) -> Findings:
        return Findings(self.results + more.results, self.defaults + more.defaults, self.tries + more.tries)


Chain = Generator[Job, Result, None]
"""Yields one job after another, and is sent the result of each. Chains know nothing of each other."""


def chain(plan: Plan, plain: Candidate, number: int, found: Findings) -> Chain:
    """Everything that one candidate does with one seed: search, if the plan does, and be judged."""
    candidate, seed = plain, plan.seeds[number]
    if plan.searches:
        candidate = yield from search(plan, plain, number, found.tries)
    result = yield Job("judged", plain.name, number, seed, candidate.lr, candidate.options)
    found.results.append(result)
    if plan.searches and (candidate.lr, candidate.options) != (plain.lr, plain.options):
        result = yield Job("default", plain.name, number, seed, plain.lr)
    if plan.searches:
        found.defaults.append(result)


class _Desk:
    """Keeps chains going: what the store knows goes on at once, the rest is sent to the executor."""

    def __init__(
        self, plan: Plan, store: Store, progress: Progress, executor: Executor, interrupts: Interrupts
    ) -> None:
        self.plan, self.store, self.progress, self.executor = plan, store, progress, executor
        self.interrupts = interrupts
        self.under_way: dict[Job, Chain] = {}
        self.count = 0

    def begin(self, chain: Chain) -> None:
        """Begin a chain as soon as there is room for it."""
        while len(self.under_way) >= self.executor.workers:
            self.wait()
        with self.interrupts.held():
            self._go_on(chain, next(chain, None))

    def wait(self) -> None:
        """Wait for one job, keep its result, and send its chain on."""
        job, result = self.executor.finished()
        with self.interrupts.held():
            self.store.put(job.number, result)
            self._go_on(self.under_way.pop(job), job, result)

    def _go_on(self, chain: Chain, job: Job | None, result: Result | None = None) -> None:
        while job is not None:
            result = result or self.store.get(job.role, job.candidate, job.number)
            if result is None:
                self.under_way[job] = chain
                self.executor.submit(job)
                return
            self.count += 1
            self.progress.done(self.plan, result)
            try:
                job, result = chain.send(result), None
            except StopIteration:
                return


def carry_out(
    plan: Plan,
    store: Store,
    progress: Progress,
    executor: Executor,
    interrupts: Interrupts,
    began: float | None = None,
) -> Comparison:
    """Carry out every chain, seed by seed, as many at a time as the executor can; an interruption keeps what is done.

    The result is the same whatever the executor is: chains are independent, and each is put where it belongs. A plan
    with a budget, counted from `began`, leaves out seeds for which no time is left.
    """
    found: dict[tuple[int, str], Findings] = {}
    desk = _Desk(plan, store, progress, executor, interrupts)
    interrupted = left_out = ""
    progress.begin(plan, len(store))
    started = time.perf_counter()
    try:
        for number in range(len(plan.seeds)):  # seed by seed, so that an interruption leaves whole rounds
            if number and plan.budget is not None:
                now = time.perf_counter()
                if now + (now - started) / number > (began or started) + plan.budget - REPORT:
                    left_out = _left_out(plan, number)
                    break
            for plain in plan.candidates:
                mine = found[number, plain.name] = Findings()
                desk.begin(chain(plan, plain, number, mine))
        while desk.under_way:
            desk.wait()
    except KeyboardInterrupt:
        if not desk.count:
            raise
        interrupted = f"Interrupted after {desk.count} of {plan.runs} runs; what was done is kept."
    finally:
        interrupts.hold()
        progress.end()
    return summarise(plan, sum(found.values(), Findings()), interrupted, left_out)


def _left_out(plan: Plan, number: int) -> str:
    assert plan.budget is not None
    return (
        f"The budget of {span(plan.budget)} was used up after {number} of {len(plan.seeds)} seeds; "
        f"the same call with the same output folder goes on with the others."
    )
