"""A call of a loss in numbers: the value of every step of its formula, for each element or row at once, in float64."""

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

__all__ = ["Worked"]


class Worked:
    """The graph of the formula that a call runs, and what each of its nodes is worth.

    A unit is what has one loss: an element, or a row of classes. Units are numbered in the order of memory.
    """

    def __init__(self, call: PreparedCall) -> None:
        self.call = call
        names = call.formula.__code__.co_varnames[: len(call.operands)]
        self.letters = {n: v for n, v in zip(names, call.operands, strict=True) if v is not None}
        self.reading = read(call.formula, *(n if n in self.letters else None for n in names), **call.options)
        self.loss: Expr = self.reading.results[0]
        first = self.letters[names[0]]
        self.is_row = call.derivatives is None
        self.shape = tuple(first.shape[:-1] if self.is_row else first.shape)
        self.count = first[..., 0].numel() if self.is_row else first.numel()
        self.noun = "row" if self.is_row else "element"
        inputs = {n: v.double() if v.is_floating_point() else v for n, v in self.letters.items()}
        measure = partial(distance, call.options.get("distance_function"))
        self._evaluate = Evaluator(inputs, {"distance": measure})
        self.values = self.flat(self.loss)
        self.keep = None if call.keep is None else call.keep.reshape(-1)
        if self.keep is not None:
            self.values = torch.where(self.keep, self.values, 0)
        self.weight = None if call.weight is None else call.weight.expand(self.shape).reshape(-1).double()
        self.weighted = self.values if self.weight is None else self.values * self.weight

    def of(self, node: Any) -> Any:
        """The value of a node, for all units."""
        return self._evaluate(node)

    def flat(self, node: Any) -> Tensor:
        """The value of a node that is one number for each unit."""
        value = self.of(node)
        value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        return value.expand(self.shape).reshape(-1)

    def at(self, node: Any, i: int) -> Any:
        """The value of a node at one unit: a number, or a list where it is a row."""
        value = self.of(node)
        if not isinstance(value, Tensor) or value.dim() == 0:
            return float(value)
        if self._is_shared(node):
            return value.tolist()
        if self.is_row_valued(node):
            return value.reshape(-1, value.shape[-1])[i].tolist()
        return self.flat(node)[i].item()

    def is_row_valued(self, node: Any) -> bool:
        """Whether a node is a number for each class of a row."""
        value = self.of(node)
        return self.is_row and isinstance(value, Tensor) and value.dim() == len(self.shape) + 1

    def _is_shared(self, node: Any) -> bool:
        """Whether all rows have it in common, like the weights of the classes."""
        if not isinstance(node, Expr):
            return True
        return node.args[0] == "w" if node.op == "input" else all(map(self._is_shared, node.args))

    def nodes(self) -> list[Expr]:
        """Every operation of the formula, operands first."""
        return [node for node in topological_order(self.loss) if node.op != "input"]

    def leaves(self) -> list[Expr]:
        """The nodes that are plain numbers to a reader: letters, entries picked from rows, the count of classes."""
        found: dict[int, Expr] = {}
        for node in self.nodes():
            found |= {id(a): a for a in node.args if isinstance(a, Expr) and a.op == "input"}
            if node.op in ("pick", "size"):
                found[id(node)] = node
        return list(found.values())

    def clamps(self) -> list[tuple[Expr, float]]:
        """What is bounded below, and by what: logarithms, so that they stay finite; max(z, 0) clamps nothing."""
        return [
            (node.args[0], float(node.args[1]))
            for node in self.nodes()
            if node.op == "maximum" and not isinstance(node.args[1], Expr) and node.args[1] != 0
        ]

    def choices(self) -> list[tuple[Expr, Tensor, Tensor]]:
        """Every choice that the formula makes: where its condition holds, of the units (or entries) that come to it."""
        reached = {id(self.loss): torch.ones(self.count, dtype=torch.bool) if self.keep is None else self.keep}
        found = []
        for node in reversed(self.nodes()):
            here = reached[id(node)]
            ways = [here] * len(node.args)
            if node.op == "where":
                condition = self._mask(self.of(node.args[0]), node.args[0])
                if self.is_row_valued(node.args[0]) and here.dim() == 1:
                    here = here[:, None].expand(condition.shape)
                found.append((node, here & condition, here))
                ways = [here, here & condition, here & ~condition]
            for operand, way in zip(node.args, ways, strict=True):
                if isinstance(operand, Expr) and operand.op != "input":
                    reached[id(operand)] = self._either(operand, reached.get(id(operand)), way)
        return found[::-1]

    def _mask(self, value: Tensor, node: Expr) -> Tensor:
        """A condition, one for each unit, or for each entry of each."""
        return value.reshape(self.count, -1) if self.is_row_valued(node) else self.flat(node)

    def _either(self, node: Expr, before: Tensor | None, way: Tensor) -> Tensor:
        """Where a node is come to, one way or another; a row is, where one of its entries is."""
        if way.dim() == 2 and not self.is_row_valued(node):
            way = way.any(-1)
        if before is None:
            return way
        if before.dim() < way.dim():
            before = before[:, None]
        return before | (way[:, None] if way.dim() < before.dim() else way)

    def parts(self) -> Tensor | None:
        """What each class of each row contributes, where the loss of a row is a sum over its classes."""
        node, factor = self.loss, 1.0
        while node.op in ("neg", "/"):
            factor = -factor if node.op == "neg" else factor / self.of(node.args[1])
            node = node.args[0]
        return factor * self.of(node.args[0]) if node.op == "total" else None

    def largest(self, number: int) -> list[int]:
        """The units that contribute most, NaN before all."""
        size = self.weighted.abs().clamp_max(torch.finfo(torch.float64).max).nan_to_num(torch.inf)
        return size.topk(min(number, self.count)).indices.tolist()
