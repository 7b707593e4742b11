"""Trials on a Ray cluster. A worker that is lost costs its trial, which the cluster begins again elsewhere."""

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
from ..training.trial import Result
from .executor import RETRIES, Executor, Job, do, lost, packed

PATIENCE = 10.0
"""Seconds until an address that doesn't answer is given up."""


class Cluster(Executor):
    """Does each job as a task of Ray, on one core with one thread, or on one GPU where the model asks for one.

    `address` is "auto", for the cluster that this machine is part of, or an address as `ray.init` takes it. A session
    that is open already is used, and left open.
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

        self._ray, self._opened = ray, not ray.is_initialized()
        content = packed(plan)
        if self._opened:
            _open(address)
        on_gpu = plan.data.targets.is_cuda
        self.workers = max(int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)), 1)
        self._plan = ray.put(content)
        self._run = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=RETRIES)(_run)
        self._under_way: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self._under_way[self._run.remote(self._plan, sys.path, job)] = job

    def finished(self) -> tuple[Job, Result]:
        (done,), _ = self._ray.wait(list(self._under_way), num_returns=1)
        job = self._under_way.pop(done)
        errors = self._ray.exceptions
        try:
            return job, self._ray.get(done)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except errors.RayError as error:
            raise lost(job, str(error).strip().split("\n")[0]) from error

    def close(self) -> None:
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        if self._opened:
            self._ray.shutdown()


def _open(address: str) -> None:
    import ray

    try:
        _, _, place = address.rpartition("://")
        host, colon, port = place.rpartition(":")
        if colon and port.isdigit():  # Ray itself waits for minutes where nobody answers
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        said = "no Ray cluster runs here"
        if address != "auto":
            said = f"no Ray cluster answers at {address} ({str(error).strip().splitlines()[0].rstrip('.')})"
        raise InvalidValue(
            f"{said}. Start one with `ray start --head`, or run on this machine alone with --jobs (jobs=)."
        ) from error


def _run(content: bytes, path: list[str], job: Job) -> Result:
    sys.path += [folder for folder in path if folder not in sys.path]
    torch.set_num_threads(1)
    return do(_unpacked(content), job)


@functools.lru_cache(maxsize=1)
def _unpacked(content: bytes) -> Plan:
    return pickle.loads(content)
