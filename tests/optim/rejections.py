"""Parameters, and an assertion on the error of a call."""

from __future__ import annotations

import pytest
import torch


def weights(count=1):
    return [torch.ones(2, requires_grad=True) for _ in range(count)]


def assert_rejected(kind, call, *words):
    """Assert that a call raises an error of this type with these words, on one line of whole sentences."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert "\n" not in text and text[-1] in ".?)", text
    return text
