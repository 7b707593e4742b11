"""Trials in separate processes on this machine. A killed process costs its trial alone, which is restarted."""

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
from ..results import Result
from .executor import MAX_RETRIES, Executor, Job, ProgressCallback, describe_loss, pickle_plan, run_job

WORKER_MAIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from piste.compare.execution.processes import worker_main; worker_main()"
)
"""The program of a worker: a new interpreter, because forking a multithreaded process may deadlock, and
multiprocessing would import the caller's `__main__` again."""

READY = "ready"
"""The first message of a worker."""


class ProcessExecutor(Executor):
    """Runs each job in one of `workers` processes, which divide this process's threads among them."""

    def __init__(self, plan: Plan, workers: int, on_evaluate: ProgressCallback | None = None) -> None:
        super().__init__(plan, on_evaluate)
        self.workers, self._plan = workers, pickle_plan(plan)
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._messages: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._failures: Counter[Job] = Counter()

    def prepare(self) -> None:
        starting = {self._start_worker() for _ in range(self.workers)}
        while starting:
            worker, message = self._messages.get()
            if isinstance(message, Exception):
                raise message
            starting.discard(worker)
            if message is None:  # it has ended; `submit` starts another
                self._idle.remove(worker)

    def submit(self, job: Job) -> None:
        if not self._idle:
            self._start_worker()
        self._idle.pop().start(job)

    def _start_worker(self) -> _Worker:
        threads = max(torch.get_num_threads() // self.workers, 1)
        worker = _Worker(self._messages, threads, self._plan)
        self._all.append(worker)
        self._idle.append(worker)
        return worker

    def next_finished(self) -> tuple[Job, Result]:
        while True:
            worker, message = self._messages.get()
            job = worker.job
            if isinstance(message, Result):
                self._idle.append(worker)
                return job, message
            if isinstance(message, Exception):
                raise message
            if message is not None:
                if self.on_evaluate and message != READY:
                    self.on_evaluate(self.plan, *message)
                continue
            self._failures[job] += 1
            if self._failures[job] > MAX_RETRIES:
                return job, job.failed(self.plan, describe_loss(_describe_exit(worker.process.wait())))
            self.submit(job)

    def close(self) -> None:
        for worker in self._all:
            worker.process.kill()
        for worker in self._all:
            worker.process.wait()


class _Worker:
    """A process, and a thread that queues its messages as (worker, message); the message is None when it has ended."""

    job: Job

    def __init__(self, messages: queue.SimpleQueue[tuple[_Worker, Any]], threads: int, plan: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER_MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._messages = messages
        threading.Thread(target=self._receive, args=(self.process.stdout,), daemon=True).start()
        for message in (sys.path, threads, plan):
            self._send(message)

    def start(self, job: Job) -> None:
        self.job = job
        self._send(job)

    def _send(self, message: Any) -> None:
        assert self.process.stdin
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
        except OSError:
            pass  # the process has ended, which `_receive` reports

    def _receive(self, stream: IO[bytes]) -> None:
        while True:
            try:
                message = pickle.load(stream)
            except (EOFError, OSError, pickle.UnpicklingError):  # also a message that was cut off
                message = None
            self._messages.put((self, message))
            if message is None:
                return


def worker_main() -> None:
    """Run jobs in a worker process until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of a model must not mix with the messages
    try:
        torch.set_num_threads(pickle.load(sys.stdin.buffer))
        content = pickle.load(sys.stdin.buffer)
        try:
            plan = pickle.loads(content)
        except Exception as error:
            _send_message(
                output,
                InvalidValue(f"the task can't be unpickled in another process: {type(error).__name__}: {error}."),
            )
            return
        _send_message(output, READY)
        while True:
            job = pickle.load(sys.stdin.buffer)
            try:
                outcome: Any = run_job(plan, job, lambda _, *evaluation: _send_message(output, evaluation))
            except Exception as error:
                outcome = error
            _send_message(output, outcome)
    except (EOFError, BrokenPipeError):
        pass  # the parent has ended


def _send_message(stream: IO[bytes], message: Any) -> None:
    import cloudpickle

    try:
        content = cloudpickle.dumps(message)
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(message).__name__}: {message}"))
    stream.write(content)
    stream.flush()


def _describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
