"""The parameters that a loss depends on, read from the graph of autograd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


def find_stray_parameter(loss: torch.Tensor, known: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """Return a parameter that `loss` depends on and that is not `known`, or None.

    A loss that reads the caller's model from its closure depends on such a parameter. Tensors that a model makes
    itself, for derivatives by its input, are no parameters.
    """
    trained = {id(p) for p in known}
    return next(
        (leaf for leaf in _leaves(loss) if isinstance(leaf, torch.nn.Parameter) and id(leaf) not in trained), None
    )


def _leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.Tensor):
            yield leaf
        waiting += [following for following, _ in node.next_functions]
