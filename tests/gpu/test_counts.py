"""The launches and bytes of steps and losses that `python -m bench gpu-counts` counts without a device."""

from __future__ import annotations

import re

import pytest
import torch

from bench import gpu_counts

LAUNCHES = {
    "SGD": (1, 20),  # parameter, gradient and momentum are read; parameter and momentum are written
    "AdamW": (1, 28),
    "LAMB": (3, 40),  # the pass of the norms stores both averages, and the last one needs no gradient
    "LARS": (3, 28),
    "StableAdamW": (3, 36),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_steps_have_these_launches_and_bytes(name):
    line = gpu_counts.step_row("6 small", name, torch.float32, 3000.0, 2, {})
    launches, each = LAUNCHES[name]
    assert f"launches {launches}  bytes  {each}  floor" in line
    assert re.search(r"host +[\d.]+ us of  50.1 ", line)


def test_bytes_are_those_of_the_dtype():
    assert "bytes  14 " in gpu_counts.step_row("6 small", "AdamW", torch.bfloat16, 3000.0, 2, {})


def test_clipping_reads_the_gradients_once_more():
    own = {"max_norm": 1.0, "nonfinite": "skip"}
    assert "launches 4  bytes  32 " in gpu_counts.step_row("6 small", "AdamW", torch.float32, 3000.0, 2, own)


def test_state_in_8_bits_is_read_and_written_by_the_byte():
    own = {"state_dtype": "int8"}
    assert "launches 1  bytes  16 " in gpu_counts.step_row("6 small", "AdamW", torch.float32, 3000.0, 2, own)


def test_losses_have_these_launches_and_reads():
    assert "launches 2 (loss, loss)  reads 1" in gpu_counts.loss_row("MSELoss", 256, 10, 2)
    row = "launches 2 (loss, loss)  reads "
    assert f"{row}1" in gpu_counts.loss_row("CrossEntropyLoss", 256, 10, 2)
    assert f"{row}2" in gpu_counts.loss_row("CrossEntropyLoss", 2, 32000, 2)  # online: a sum, then the gradient


def test_the_command_prints_a_row_for_each(capsys):
    options = ["--models", "6 small", "--optimizers", "Lion", "--losses", "HuberLoss", "--rounds", "2"]
    gpu_counts.main(options)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("6 small        Lion        launches 1  bytes  20 ")
    assert second.startswith("HuberLoss         256 x    10  launches 2 (loss, loss)")


def test_a_rule_that_refuses_an_option_has_a_row_too(capsys):
    options = ["--models", "6 small", "--optimizers", "Adafactor", "Lion", "--losses", "--rounds", "2", "--eight-bits"]
    gpu_counts.main(options)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("6 small        Adafactor   `state_dtype` of Adafactor must be ")
    assert second.startswith("6 small        Lion        launches 1  bytes  14 ")
