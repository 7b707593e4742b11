"""Trials in processes of their own on this machine. A process that is killed costs its trial, which is begun again."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import IO, Any

import torch

from ...errors import InvalidValue
from ..plan import Plan
from ..training.trial import Result
from .executor import RETRIES, Executor, Job, Look, do, lost, packed

BOOT = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from piste.compare.execution.processes import serve; serve()"
)
"""A fresh interpreter: forking one whose threads have worked may hang, and importing `__main__` would run it again."""


class Processes(Executor):
    """Does each job in one of `workers` processes, which share this one's threads among them."""

    def __init__(self, plan: Plan, workers: int, look: Look | None = None) -> None:
        super().__init__(plan, look)
        self.workers, self._plan = workers, packed(plan)
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._messages: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._lost: Counter[Job] = Counter()

    def submit(self, job: Job) -> None:
        if not self._idle:
            threads = max(torch.get_num_threads() // self.workers, 1)
            self._all.append(_Worker(self._messages, threads, self._plan))
            self._idle.append(self._all[-1])
        self._idle.pop().begin(job)

    def finished(self) -> tuple[Job, Result]:
        while True:
            worker, message = self._messages.get()
            job = worker.job
            if isinstance(message, Result):
                self._idle.append(worker)
                return job, message
            if isinstance(message, Exception):
                raise message
            if message is not None:
                if self.look:
                    self.look(self.plan, *message)
                continue
            self._lost[job] += 1
            if self._lost[job] > RETRIES:
                raise lost(job, _ending(worker.process.wait()))
            self.submit(job)

    def close(self) -> None:
        for worker in self._all:
            worker.process.kill()
        for worker in self._all:
            worker.process.wait()


class _Worker:
    """A process, and a thread that hears what it says: (worker, message), None when it has ended."""

    job: Job

    def __init__(self, messages: queue.SimpleQueue[tuple[_Worker, Any]], threads: int, plan: bytes) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._messages = messages
        threading.Thread(target=self._hear, args=(self.process.stdout,), daemon=True).start()
        for first in (sys.path, threads, plan):
            self._say(first)

    def begin(self, job: Job) -> None:
        self.job = job
        self._say(job)

    def _say(self, it: Any) -> None:
        assert self.process.stdin
        try:
            pickle.dump(it, self.process.stdin)
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, which its silence tells

    def _hear(self, stream: IO[bytes]) -> None:
        while True:
            try:
                message = pickle.load(stream)
            except (EOFError, OSError, pickle.UnpicklingError):  # also one that was cut off in the middle
                message = None
            self._messages.put((self, message))
            if message is None:
                return


def serve() -> None:
    """What a worker's process does: job after job, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints doesn't get among the answers
    try:
        torch.set_num_threads(pickle.load(sys.stdin.buffer))
        content = pickle.load(sys.stdin.buffer)
        try:
            plan = pickle.loads(content)
        except Exception as error:
            _answer(
                answers, InvalidValue(f"the task can't be read in another process: {type(error).__name__}: {error}.")
            )
            return
        while True:
            job = pickle.load(sys.stdin.buffer)
            try:
                outcome: Any = do(plan, job, lambda _, *what: _answer(answers, what))
            except Exception as error:
                outcome = error
            _answer(answers, outcome)
    except (EOFError, BrokenPipeError):
        pass  # nobody is left to ask


def _answer(stream: IO[bytes], it: Any) -> None:
    import cloudpickle

    try:
        content = cloudpickle.dumps(it)
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(it).__name__}: {it}"))
    stream.write(content)
    stream.flush()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
