"""Trials on a Ray cluster. A lost worker costs its trial alone, which the cluster restarts elsewhere."""

from __future__ import annotations

import functools
import importlib.util
import logging
import pickle
import socket
import sys
from typing import Any

import torch

from ...errors import InvalidType, InvalidValue, Unsupported
from ..plan import Plan
from ..results import Result
from .executor import MAX_RETRIES, Executor, Job, describe_loss, pickle_plan, run_job

CONNECT_TIMEOUT = 10.0
"""Seconds after which an address that does not answer is rejected."""


class RayExecutor(Executor):
    """Runs each job as a Ray task on one core with one thread, or on one GPU if the model is on a GPU.

    `address` is "auto", for the cluster that this machine is part of, or an address as `ray.init` takes it. An open Ray
    session is used, and stays open.
    """

    def __init__(self, plan: Plan, address: str) -> None:
        super().__init__(plan)
        if not isinstance(address, str) or not address:
            raise InvalidType(
                f"`ray` must be auto or the address of a Ray cluster, such as ray://host:10001; received {address!r}."
            )
        if importlib.util.find_spec("ray") is None:
            raise Unsupported("runs on a Ray cluster need a package: pip install 'piste[ray]'.")
        import ray

        self._ray, self._owns_session = ray, not ray.is_initialized()
        content = pickle_plan(plan)
        if self._owns_session:
            _connect(address)
        on_gpu = plan.data.device.type == "cuda"
        self.workers = max(int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)), 1)
        self._plan = ray.put(content)
        self._run = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=MAX_RETRIES)(_run_remote)
        self._running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self._running[self._run.remote(self._plan, sys.path, job)] = job

    def next_finished(self) -> tuple[Job, Result]:
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            return job, self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except errors.RayError as error:
            return job, job.failed(self.plan, describe_loss(str(error).strip().split("\n")[0]))

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._owns_session:
            self._ray.shutdown()


def _connect(address: str) -> None:
    import ray

    try:
        _, _, location = address.rpartition("://")
        host, colon, port = location.rpartition(":")
        if colon and port.isdigit():  # Ray itself waits for minutes for an address that does not answer
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        problem = "no Ray cluster runs here"
        if address != "auto":
            problem = f"no Ray cluster answers at {address} ({str(error).strip().splitlines()[0].rstrip('.')})"
        raise InvalidValue(
            f"{problem}. Help: start one with `ray start --head`, or run on this machine alone with --jobs (jobs=)."
        ) from error


def _run_remote(content: bytes, path: list[str], job: Job) -> Result:
    sys.path += [folder for folder in path if folder not in sys.path]
    torch.set_num_threads(1)
    return run_job(_unpickle_plan(content), job)


@functools.lru_cache(maxsize=1)
def _unpickle_plan(content: bytes) -> Plan:
    return pickle.loads(content)
