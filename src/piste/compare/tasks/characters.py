"""The next character of English text, by a small transformer, where plain SGD is known to fall far behind Adam."""

from __future__ import annotations

import functools
import re

import torch
from torch import nn
from torch.nn import functional

from ..metrics import POSITIVE, Metric
from ..task import Task
from ._tables import Pair, with_splits

LETTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,:;()'-"
LENGTH, WIDTH, HEADS = 32, 48, 4
TRAIN, VALIDATION = 4096, 256  # windows


def text() -> list[str]:
    """Python's help pages, sorted by title; characters outside `LETTERS` become spaces.

    Runs of the same punctuation mark or space are collapsed. The text differs slightly between versions of Python.
    """
    from pydoc_data.topics import topics

    pages = (re.sub(f"[^{re.escape(LETTERS)}]", " ", topics[title].lower()) for title in sorted(topics))
    return [re.sub(r"([^a-z0-9])\1+", r"\1", page) for page in pages]


@functools.cache
def windows_by_page() -> tuple[Pair, torch.Tensor]:
    """Return the windows of all pages, none of which covers two pages, and the number of the page of each."""
    parts = [windows(page) for page in text() if len(page) > LENGTH]
    page = torch.cat([torch.full((len(x),), i) for i, (x, _) in enumerate(parts)])
    return (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), page


def windows(words: str) -> Pair:
    """Return non-overlapping windows of `LENGTH` characters, and the next character for each position."""
    codes = torch.tensor([LETTERS.index(letter) for letter in words])
    count = (len(codes) - 1) // LENGTH
    return tuple(codes[at : at + count * LENGTH].reshape(count, LENGTH) for at in (0, 1))  # type: ignore[return-value]


class Block(nn.Module):
    """A transformer block: causal self-attention and a perceptron, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.together = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attention(self.before(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.together(attended.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.after(x))


class Writer(nn.Module):
    """Characters (N, L) in, logits of the next character (N, characters, L) out."""

    def __init__(self) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS)))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        places = torch.arange(letters.shape[1], device=letters.device)
        return self.blocks(self.letter(letters) + self.place(places)).transpose(1, 2)


def bits(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy in bits per character, averaged over each window."""
    return functional.cross_entropy(output, target, reduction="none").mean(1) / torch.log(torch.tensor(2.0))


def of_seed(seed: int) -> Task:
    """Return the task with a fifth of the pages for validation, drawn by the seed, so that no text is in both parts."""
    (x, y), page = windows_by_page()
    generator = torch.Generator().manual_seed(seed)
    pages = int(page[-1]) + 1
    held_out = torch.isin(page, torch.randperm(pages, generator=generator)[: pages // 5])
    train, validation = (
        rows[torch.randperm(len(rows), generator=generator)]
        for rows in ((~held_out).nonzero().flatten(), held_out.nonzero().flatten())
    )
    train, validation = train[:TRAIN], validation[:VALIDATION]
    return Task(
        Writer,
        (x[train], y[train]),
        (x[validation], y[validation]),
        examples=validation,
        loss="cross_entropy",
        metric=Metric("bits per letter", bits, "min", bounds=POSITIVE),
        epochs=4,
        batch_size=32,
    )


def make() -> Task:
    return with_splits(of_seed)
