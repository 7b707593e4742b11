"""Seed torch before every test."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded_run() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
