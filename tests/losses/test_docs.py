"""The docs page of losses is true: its examples run, and its tables name every loss and setting."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import piste
from piste.losses.reduction import SETTINGS
from piste.losses.registry import LOSSES

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict = {}
    before = dict(LOSSES)
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(block, scope)
        shown = capsys.readouterr().out
        assert "tensor(0.6250)" in shown and "quadratic, d < beta: 1 of 4" in shown
    finally:
        LOSSES.clear()
        LOSSES.update(before)


def test_the_page_names_every_loss_and_setting() -> None:
    text = PAGE.read_text()
    for name in piste.losses.__all__:
        if name.endswith("Loss") and name != "Loss":
            assert name.removesuffix("Loss") in text, name
    for setting in SETTINGS:
        assert f"`{setting}=" in text, setting


@pytest.mark.parametrize("name", [name for name in piste.losses.__all__ if name.endswith("Loss") and name != "Loss"])
def test_every_loss_documents_its_contract(name: str) -> None:
    text = getattr(piste.losses, name).__doc__
    sections = ["Args:", "Raises:", "Differs from torch:", "Example:"]
    assert [s for s in sections if f"\n{s}" in inspect.cleandoc(text)] == sections
    assert len(text.partition("\n")[0]) <= 117
