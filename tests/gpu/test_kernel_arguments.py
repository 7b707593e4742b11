"""What Triton's compiler asks of a launch: the arguments of the source, two addresses behind them, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu import driver
from piste.engine.gpu.loss_divisor import divisor_source
from piste.engine.gpu.loss_factor import factor_source
from piste.engine.gpu.native_launch import NULLS
from piste.losses import functional

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from piste.engine.gpu.compiler import compiled

from .interpreter import InterpretedDevice, interpreting
from .test_compiled_kernels import SM_90
from .test_driver import Library

TYPES = {"i64": ".u64", "fp64": ".f64", "fp32": ".f32"}
RULES: dict[str, dict[str, Any]] = {
    "AdamW": {"state_dtype": "int8"},
    "SGD": {"max_norm": 1.0},
    "LAMB": {},
    "Adafactor": {},
    "Prodigy": {},
}


def made_by_steps(name: str, on_device: bool) -> list[Any]:
    """Return the sources of the kernels of two steps."""
    p = torch.ones(40, 30, requires_grad=True)
    p.grad = torch.ones_like(p)
    return sources_of(lambda: getattr(piste.optim, name)([p], **RULES[name]).step(), on_device)


def made_by_losses() -> list[Any]:
    x, k = torch.zeros(8, 5, requires_grad=True), torch.arange(8) % 5
    y, lists = torch.zeros(8, 5), torch.tensor([[0, 1, -1, -1, -1]] * 8)
    found = [divisor_source("weights", "float32"), factor_source("bfloat16")]
    for loss, target in (("cross_entropy", k), ("mse_loss", y), ("multilabel_margin_loss", lists)):
        found += sources_of(lambda loss=loss, target=target: getattr(functional, loss)(x, target).backward(), False)
    return found


def sources_of(run: Any, on_device: bool) -> list[Any]:
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, interpreting(on_device):
        patch.setattr(InterpretedDevice, "launcher", lambda device, source: found.append(source) or (lambda *_: None))
        run()
    assert found
    return found


def check(sources: list[Any], monkeypatch: Any) -> None:
    library = Library([])
    monkeypatch.setattr(driver, "_driver", lambda: library)
    for source in dict.fromkeys(sources):
        kernel, kinds = compiled(source, SM_90), [kind for _, kind in source.signature]
        (entry,) = re.findall(r"\.entry \w+\((.*?)\)", kernel.asm["ptx"], re.DOTALL)
        expected = [".u64" if kind.startswith("*") else TYPES[kind] for kind in kinds]
        assert re.findall(r"\.param (\.\w+)", entry) == [*expected, ".u64", ".u64"] and NULLS >= 2
        assert re.findall(r"\.(?:maxntid|reqntid) (\d+)", kernel.asm["ptx"]) == [str(32 * source.warps)]
        assert driver.driver_launch(kernel, kinds, 0) is not None, "Triton's launcher needs a C compiler"


@pytest.mark.parametrize("on_device", [False, True], ids=["arguments", "rows"])
@pytest.mark.parametrize("name", RULES)
def test_kernels_of_steps_ask_for_no_more(name, on_device, monkeypatch):
    check(made_by_steps(name, on_device), monkeypatch)


def test_kernels_of_losses_ask_for_no_more(monkeypatch):
    check(made_by_losses(), monkeypatch)
