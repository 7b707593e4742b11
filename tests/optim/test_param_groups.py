"""Param groups made from a model, and the comparison of an optimizer with a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from piste.errors import InvalidType, InvalidValue
from piste.optim import SGD, AdamW, param_groups


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(1))
        self.out = nn.Linear(4, 5)
        self.out.weight = self.embedding.weight


def names(groups):
    return [[name for name, _ in group["params"]] for group in groups]


@pytest.mark.parametrize(
    ("no_decay", "expected"),
    [
        ("bias+norm", [["scale", "embedding.weight"], ["norm.weight", "norm.bias", "out.bias"]]),
        ("bias", [["scale", "embedding.weight", "norm.weight"], ["norm.bias", "out.bias"]]),
        ("norm", [["scale", "embedding.weight", "out.bias"], ["norm.weight", "norm.bias"]]),
        ("1d", [["embedding.weight"], ["scale", "norm.weight", "norm.bias", "out.bias"]]),
        ("", [["scale", "embedding.weight", "norm.weight", "norm.bias", "out.bias"]]),
        (
            lambda name, p: "embedding" in name,
            [["scale", "norm.weight", "norm.bias", "out.bias"], ["embedding.weight"]],
        ),
    ],
)
def test_parameters_are_split_by_words_or_a_function(no_decay, expected):
    groups = param_groups(Tied(), weight_decay=0.1, no_decay=no_decay)
    assert names(groups) == expected
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0][: len(expected)]


def test_frozen_parameters_are_left_out():
    model = Tied()
    model.norm.requires_grad_(False)
    assert names(param_groups(model, 0.1)) == [["scale", "embedding.weight"], ["out.bias"]]


@pytest.mark.parametrize("cls", [AdamW, torch.optim.AdamW])
def test_optimizers_keep_the_names_of_the_groups(cls):
    optimizer = cls(param_groups(Tied(), 0.1))
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["scale", "embedding.weight"],
        ["norm.weight", "norm.bias", "out.bias"],
    ]


def test_groups_print_as_a_table():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    assert str(param_groups(model, 1e-4)).splitlines() == [
        "group  weight_decay  tensors  elements  parameters",
        "0      0.0001        6        24        0.weight, 1.weight, 2.weight, 3.weight, and 2 more",
        "1      0             6        12        0.bias, 1.bias, 2.bias, 3.bias, and 2 more",
    ]


def test_wrong_arguments_are_rejected():
    with pytest.raises(InvalidValue, match=r"received no_decay='biases'\. Help: no_decay=.bias\+norm."):
        param_groups(Tied(), 0.1, "biases")
    with pytest.raises(InvalidType, match=r"`model` must be a torch\.nn\.Module; received generator"):
        param_groups(Tied().parameters(), 0.1)
    with pytest.raises(InvalidValue, match="must have trainable parameters; received Tanh with none"):
        param_groups(nn.Tanh(), 0.1)


def test_check_lists_what_an_optimizer_does_not_hold():
    model = Tied()
    other = nn.Linear(2, 2)
    model.norm.bias.requires_grad_(False)
    optimizer = SGD([model.embedding.weight, model.norm.bias, other.weight])
    assert optimizer.check(model).splitlines() == [
        "SGD holds 1 of 4 trainable parameters.",
        "trainable, not held: scale, norm.weight, out.bias",
        "held, frozen: norm.bias",
        "tied, stepped once: embedding.weight = out.weight",
        "held, not in the model: 1 parameter",
    ]
    assert SGD(other.parameters()).check(other) == "SGD holds 2 of 2 trainable parameters."
    with pytest.raises(InvalidType, match=r"`model` must be a torch\.nn\.Module; received list"):
        optimizer.check([model])
