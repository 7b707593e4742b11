"""The values of every node of a loss formula, for all elements or rows of a call, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..formula.evaluate import Evaluator
from ..formula.expression import Expr, topological_order
from ..formula.printing import read
from ..losses.call import PreparedCall
from ..losses.embeddings import distance

__all__ = ["Evaluation"]


class Evaluation:
    """The graph of the formula of a call, with the values of its nodes.

    A unit is an element or a row of classes, whichever has one loss. Units are numbered in the order of memory.

    Args:
        call: The prepared call.

    Attributes:
        operands: The operands that are not None, by their names in the formula.
        traced: The traced formula, with its named intermediate values.
        loss: The node of the loss.
        is_row: Whether a unit is a row.
        shape: The shape of the units.
        count: The number of units.
        noun: "row" or "element".
        values: The loss of each unit (count,), 0 for ignored ones.
        keep: Whether each unit counts (count,), or None.
        weight: The weight of each unit (count,), or None.
        weighted: `values` times `weight`.
    """

    def __init__(self, call: PreparedCall) -> None:
        self.call = call
        names = call.formula.__code__.co_varnames[: len(call.operands)]
        self.operands = {n: v for n, v in zip(names, call.operands, strict=True) if v is not None}
        self.traced = read(call.formula, *(n if n in self.operands else None for n in names), **call.options)
        self.loss: Expr = self.traced.results[0]
        first = self.operands[names[0]]
        self.is_row = call.derivatives is None
        self.shape = tuple(first.shape[:-1] if self.is_row else first.shape)
        self.count = first[..., 0].numel() if self.is_row else first.numel()
        self.noun = "row" if self.is_row else "element"
        inputs = {n: v.double() if v.is_floating_point() else v for n, v in self.operands.items()}
        measure = partial(distance, call.options.get("distance_function"))
        self._evaluate = Evaluator(inputs, {"distance": measure})
        self.values = self.values_of(self.loss)
        self.keep = None if call.keep is None else call.keep.reshape(-1)
        if self.keep is not None:
            self.values = torch.where(self.keep, self.values, 0)
        self.weight = None if call.weight is None else call.weight.expand(self.shape).reshape(-1).double()
        self.weighted = self.values if self.weight is None else self.values * self.weight

    def value(self, node: Any) -> Any:
        """Return the value of a node for all units."""
        return self._evaluate(node)

    def values_of(self, node: Any) -> Tensor:
        """Return the values (count,) of a node that has one number per unit."""
        value = self.value(node)
        value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        return value.expand(self.shape).reshape(-1)

    def value_at(self, node: Any, i: int) -> Any:
        """Return the value of a node at unit `i`: a number, or a list for a row."""
        value = self.value(node)
        if not isinstance(value, Tensor) or value.dim() == 0:
            return float(value)
        if self._is_shared(node):
            return value.tolist()
        if self.is_row_valued(node):
            return value.reshape(-1, value.shape[-1])[i].tolist()
        return self.values_of(node)[i].item()

    def is_row_valued(self, node: Any) -> bool:
        """Return whether a node is a number for each class of a row."""
        value = self.value(node)
        return self.is_row and isinstance(value, Tensor) and value.dim() == len(self.shape) + 1

    def _is_shared(self, node: Any) -> bool:
        """Return whether all rows have it in common, like the weights of the classes."""
        if not isinstance(node, Expr):
            return True
        return node.args[0] == "w" if node.op == "input" else all(map(self._is_shared, node.args))

    def operations(self) -> list[Expr]:
        """Return the operations of the formula, operands first."""
        return [node for node in topological_order(self.loss) if node.op != "input"]

    def leaves(self) -> list[Expr]:
        """Return the nodes that are written as numbers: operands, entries picked from rows, the number of classes."""
        leaves: dict[int, Expr] = {}
        for node in self.operations():
            leaves |= {id(a): a for a in node.args if isinstance(a, Expr) and a.op == "input"}
            if node.op in ("pick", "size"):
                leaves[id(node)] = node
        return list(leaves.values())

    def clamps(self) -> list[tuple[Expr, float]]:
        """Return the nodes that the formula clamps from below, with their bounds; max(z, 0) is no clamp."""
        return [
            (node.args[0], float(node.args[1]))
            for node in self.operations()
            if node.op == "maximum" and not isinstance(node.args[1], Expr) and node.args[1] != 0
        ]

    def conditions(self) -> list[tuple[Expr, Tensor, Tensor]]:
        """Return each `where` of the formula, the units (or entries) whose condition holds, and those that reach it."""
        reached = {id(self.loss): torch.ones(self.count, dtype=torch.bool) if self.keep is None else self.keep}
        conditions = []
        for node in reversed(self.operations()):
            here = reached[id(node)]
            paths = [here] * len(node.args)
            if node.op == "where":
                condition = self._mask(self.value(node.args[0]), node.args[0])
                if self.is_row_valued(node.args[0]) and here.dim() == 1:
                    here = here[:, None].expand(condition.shape)
                conditions.append((node, here & condition, here))
                paths = [here, here & condition, here & ~condition]
            for operand, path in zip(node.args, paths, strict=True):
                if isinstance(operand, Expr) and operand.op != "input":
                    reached[id(operand)] = self._add_reached(operand, reached.get(id(operand)), path)
        return conditions[::-1]

    def _mask(self, value: Tensor, node: Expr) -> Tensor:
        """Return a condition for each unit, or for each entry of each unit."""
        return value.reshape(self.count, -1) if self.is_row_valued(node) else self.values_of(node)

    def _add_reached(self, node: Expr, before: Tensor | None, path: Tensor) -> Tensor:
        """Add the units that reach a node in another way; a row is reached if one of its entries is."""
        if path.dim() == 2 and not self.is_row_valued(node):
            path = path.any(-1)
        if before is None:
            return path
        if before.dim() < path.dim():
            before = before[:, None]
        return before | (path[:, None] if path.dim() < before.dim() else path)

    def class_contributions(self) -> Tensor | None:
        """Return the contribution of each class of each row, or None if the loss of a row is no sum over classes."""
        node, factor = self.loss, 1.0
        while node.op in ("neg", "/"):
            factor = -factor if node.op == "neg" else factor / self.value(node.args[1])
            node = node.args[0]
        return factor * self.value(node.args[0]) if node.op == "total" else None

    def largest(self, number: int) -> list[int]:
        """Return the units with the largest contributions, NaN first."""
        size = self.weighted.abs().clamp_max(torch.finfo(torch.float64).max).nan_to_num(torch.inf)
        return size.topk(min(number, self.count)).indices.tolist()
