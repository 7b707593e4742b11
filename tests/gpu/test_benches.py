"""The rows of `python -m bench gpu` and `gpu-losses` run on a CPU, where nothing is timed."""

from __future__ import annotations

import re

import pytest
import torch

from bench import gpu, gpu_counts, gpu_losses
from piste import optim


@pytest.fixture(autouse=True)
def without_device(monkeypatch):
    """Run every contender once, and give each the same time."""

    def once(steps, rounds):
        for step in steps.values():
            step()
        return dict.fromkeys(steps, (2.0, 1.0))

    for module in (gpu, gpu_losses):
        monkeypatch.setattr(module, "DEVICE", "cpu")
        monkeypatch.setattr(module, "alternate", once)
    monkeypatch.setattr(gpu_losses, "peak", lambda step, x: 1.0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        *((kind, own) for kind in (*gpu.KINDS, *gpu.FURTHER) for own in ({}, gpu.CLIPPED)),
        *((kind, {"state_dtype": "int8"}) for kind in gpu.KINDS),
    ],
)
def test_the_row_of_an_optimizer_names_all_contenders(kind, own):
    params = gpu.parameters([(8, 4), (4,)])
    before = [p.detach().clone() for p in params]
    text = gpu.row("6 small", kind, params, 1.0, 1, own)
    ours = {"Lion", "LAMB", "LARS", "StableAdamW", "Prodigy"}
    expected = [] if kind in ours else ["loop", "foreach"] + ["fused"] * (kind in ("AdamW", "SGD", "Adagrad"))
    assert re.findall(r"(\w+) 2.000 / 1.000", text) == expected
    assert text.count("1.00x") == (2 if expected else 0)
    assert any(not torch.equal(p, q) for p, q in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        *((kind, own) for kind in gpu.STREAMS for own in ({}, gpu.CLIPPED)),
        *((kind, {"state_dtype": "int8"}) for kind in gpu.STREAMS if kind != "Adafactor"),
    ],
)
def test_the_floor_of_a_step_is_that_of_the_bytes_of_its_kernels(kind, own):
    options = {"momentum": 0.9} if kind in ("SGD", "LARS") else {}
    with gpu_counts.counting(on_device="max_norm" in own) as device:
        optimizer = getattr(optim, kind)(gpu.parameters([(8, 8)]), **options, **own)
        optimizer.step()
        device.launches.clear()
        optimizer.step()
    passes = [source for source, _ in device.launches if source.entry.startswith(("reduce", "step"))]
    assert 4 * gpu.streams(kind, own) == sum(map(gpu_counts.bytes_of, passes))


@pytest.mark.parametrize("kind", gpu.MATRICES)
def test_optimizers_of_matrices_have_a_row(kind):
    text = gpu.row("48 matrices", kind, gpu.parameters(gpu.hidden(1, 8)), 1.0, 1, {})
    assert ("loop 2.000 / 1.000" in text) == (kind == "Muon")
    assert len(gpu.MODELS["48 matrices"]) == 48


def test_the_compiled_step_has_ratios_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step: step)
    text = gpu.row("6 small", "AdamW", gpu.parameters([(4,)]), 1.0, 1, {}, is_compiled=True)
    assert re.search(r"compile 2.000 / 1.000 \( 1.00x,  1.00x\), first 0\.\d s$", text)


def test_a_compiled_step_that_fails_takes_no_row_away(monkeypatch):
    def fails():
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda step: fails)
    text = gpu.row("6 small", "AdamW", gpu.parameters([(4,)]), 1.0, 1, {}, is_compiled=True)
    assert text.endswith("fused 2.000 / 1.000  compile RuntimeError: no compiler")


@pytest.mark.parametrize("case", ["cross entropy 256 x 10 float32", "mse_loss 1,000"])
def test_the_row_of_a_loss_names_all_contenders(case, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss: loss)
    text = gpu_losses.measure(gpu_losses.cases()[case], 1.0, 1, True)
    others = ["torch", "compile", "in place"] if "entropy" in case else ["torch", "compile"]
    assert re.findall(r"  ([a-z ]+) 0.000 \(1.00x\)", text) == others
    assert re.search(r"peak 1.00 \(torch 1.00(, in place 1.00)?\)", text)
