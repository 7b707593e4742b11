"""What regions alone have: labels as indices, empty regions, regions without target, a power at 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from piste.errors import PisteError

from .domains import Function

X, LABELS = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]]).double(), torch.tensor([[[0, 0], [1, 0]]])
INDICES = torch.tensor([[0, 1]])


def find_region_mismatch(function: Function) -> str | None:
    """Return the first property of regions that a loss lacks, or None."""
    return next(_mismatches(function), None)


def _mismatches(function: Function) -> Iterator[str]:
    dice, focal = function("dice"), function("focal_tversky")
    for check in ("raise", "off"):
        try:
            dice(X, INDICES - 1, check=check)
        except PisteError as refusal:
            if check == "off" or "received -1 at (0, 0)" not in str(refusal):
                yield f"an index of -1 with check={check!r}: {refusal}"
        else:
            if check == "raise":
                yield "an index of -1 is accepted"
    one = dice(X, LABELS, reduction="none", smooth=0.0)
    if one.tolist() != [[1.0, 0.0]]:
        yield f"regions of (no, every) overlap cost {one.tolist()}, expected [[1, 0]]"
    slopes = _gradient(dice, X, LABELS, smooth=0.0)
    if not torch.equal(slopes[0, 0], torch.tensor([0.0, 0.0]).double()):
        yield f"a region without target has the gradient {slopes[0, 0].tolist()}, expected 0"
    apart = torch.tensor([[[0.0, 1.0]]]).double()
    slopes = _gradient(dice, apart, 1 - apart, smooth=0.0)
    if slopes.tolist() != [[[-1.0, 0.0]]]:  # -2 y / (P + Y), with P = Y = 1 and no overlap
        yield f"regions apart have the gradient {slopes.tolist()}, expected [[[-1, 0]]]"
    slopes = _gradient(focal, apart, apart)
    if slopes.tolist() != [[[0.0, 0.0]]]:
        yield f"a region that is right has the gradient {slopes.tolist()}, expected 0"
    skipped = dice(X, LABELS, absent="skip", reduction="none")
    if skipped[0, 0] != 0 or skipped[0, 1] != dice(X, LABELS, reduction="none")[0, 1]:
        yield f"regions without target cost {skipped.tolist()}"
    if dice(X[:, 1:], LABELS[:, 1:], absent="skip") != dice(X[:, 1:], LABELS[:, 1:]):
        yield "a region of one place counts as a region without target"
    wide = torch.linspace(-3, 3, 12).reshape(1, 3, 4)
    narrow, labels = wide.bfloat16(), (wide > 0).float()
    found, expected = dice(narrow, labels, activation="softmax"), dice(narrow.float(), labels, activation="softmax")
    exact = dice(narrow.double(), labels.double(), activation="softmax").item()
    if not torch.equal(found, expected.bfloat16()) or abs(expected.item() - exact) > 1e-6:
        yield f"16-bit logits have the loss {found}, expected {exact} rounded once"
    yield from _wrong_obstacles(dice.loss)  # type: ignore[attr-defined]


def _wrong_obstacles(loss: Any) -> Iterator[str]:
    places, target = "the kernel takes regions of at least 2 places", "regions without target are counted"
    for x, y, options, expected in (
        (X, LABELS, {}, None),
        (X[..., :1], LABELS[..., :1], {}, places),
        (X[..., None].expand(2, 2, 2, 1), LABELS[..., None].expand(2, 2, 2, 1), {}, None),
        (X[..., :1].expand(2, 2, 1), LABELS[..., :1].expand(2, 2, 1), {}, places),
        (X[..., :1].expand(2, 2, 1), LABELS[..., :1].expand(2, 2, 1), {"batch": True}, None),
        (X, LABELS, {"absent": "skip"}, target),
        (X, LABELS, {"activation": "softmax", "absent": "skip"}, target),
    ):
        found = loss.rows((x, y), "raise", smooth=1.0, squared=False, **options).obstacle
        if not (found is expected is None or (found and expected and expected in found)):
            yield f"{tuple(x.shape)} with {options}: {found}, expected {expected}"


def _gradient(loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, y, reduction="sum", **options), leaf)[0]
