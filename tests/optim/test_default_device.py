"""The default device is that of new tensors of the user: it changes neither a step nor where its state is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .test_default_dtype import RULES, SHARED, same, trained


@pytest.mark.filterwarnings("ignore:.*rounded:UserWarning")
@pytest.mark.filterwarnings("error:.*falls back")
@pytest.mark.sample(2, per="name")
@pytest.mark.parametrize("shared", SHARED, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("name", RULES)
def test_the_default_device_changes_no_step(name: str, shared: dict[str, Any]) -> None:
    dtype = torch.bfloat16 if "precision" in shared else torch.float32
    try:
        expected = trained(name, dtype, **shared)
    except ValueError as refusal:
        with torch.device("meta"), pytest.raises(type(refusal)):
            trained(name, dtype, **shared)
        return
    with torch.device("meta"):  # without memory: a tensor there has no values
        assert same(trained(name, dtype, **shared), expected)
