"""The recorder of kernel sources: it records without compiling, and a comparison of sources goes by their text."""

from pathlib import Path

import pytest
import torch

import piste
from piste.engine.native import compiler

from .__main__ import compare
from .sources import recorded, step


def test_recorded_kernels_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("generated source was executed to be compiled")

    monkeypatch.setattr(compiler, "_generated", fail)
    before = compiler._load
    with recorded() as texts:
        step("Lion", {"lr": 0.125, "betas": (0.25, 0.0625)}, torch.float64)
        x = torch.randn(3, dtype=torch.float64, requires_grad=True)
        piste.losses.HuberLoss(delta=0.375)(x, torch.zeros(3, dtype=torch.float64)).backward()
    assert sum("def body(table)" in text for text in texts) == 1
    assert sum("def run(table)" in text for text in texts) == 1
    assert compiler._load is before


def test_sources_are_compared_by_text_and_not_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, files in ((before, {"a": "x = 1\n", "b": "y = 2\n"}), (after, {"c": "x = 1\n", "b": "y = 3\n"})):
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
    assert compare(before, before) == 0
    assert compare(before, after) == 1
    shown = capsys.readouterr().out
    assert "-y = 2\n+y = 3" in shown and "x = 1" not in shown
    assert "2 kernels before, 2 after: 1 changed or gone, 1 changed or new" in shown
