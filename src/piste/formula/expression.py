"""The graph that a formula becomes when it is traced."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

from ..errors import PisteError
from . import operations, reductions, words
from .operations import OPERATIONS

__all__ = [
    "Expr",
    "FormulaError",
    "NamedConstant",
    "is_condition",
    "is_number",
    "topological_order",
    "trace",
]


class FormulaError(PisteError, TypeError):
    """A formula contains an operation that no kernel supports; the message names it."""


class NamedConstant(float):
    """An option in a formula: a number that keeps its name in expressions.

    A branch on its value is fixed when the formula is traced.
    """

    name: str

    def __new__(cls, name: str, value: float) -> NamedConstant:
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __index__(self) -> int:
        """Return a whole number as such, for `range`: a loop of a formula is fixed when the formula is traced."""
        if not self.is_integer():
            raise TypeError(f"`{self.name}` is no whole number")
        return int(self)

    def __repr__(self) -> str:
        return self.name


def is_number(value: Any) -> bool:
    """Return whether an option enters a formula as a number; True and False are choices."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_condition(value: Any) -> bool:
    """Return whether a value is true or false."""
    return isinstance(value, Expr) and value.op in OPERATIONS and OPERATIONS[value.op].kind == "condition"


_nodes: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()
"""Every node that is in use, by its operation and the identities of its arguments, which live as long as the node."""
_lock = threading.Lock()


def _as_argument(value: Any) -> Any:
    """Convert a number to a float, because kernels and tensors compute in floating point."""
    return value if isinstance(value, (Expr, NamedConstant)) else float(value)


def _identity(argument: Any) -> Any:
    """Return a key that is equal for the same argument; 0.0 and -0.0 differ, and NaN equals itself."""
    if isinstance(argument, Expr):
        return id(argument)
    if isinstance(argument, NamedConstant):
        return argument.name, argument.hex()
    return argument if isinstance(argument, str) else argument.hex()


def _text(value: Any, depth: int) -> str:
    """Spell an expression out, down to some depth: a graph may be exponentially large as a tree."""
    if not isinstance(value, Expr):
        is_whole = not isinstance(value, NamedConstant) and value.is_integer()
        return str(int(value)) if is_whole else repr(value)
    if value.op == "input":
        return str(value.args[0])
    return f"{value.op}({', '.join(_text(x, depth - 1) for x in value.args) if depth else '...'})"


def _simplify(op: str, args: tuple[Any, ...]) -> Expr | None:
    """Return the argument that an operation gives back, or None.

    Only identities that hold bit by bit count, for NaN, infinity and both zeros: x + 0 is not one, since -0 + 0 is 0,
    nor is any with a `NamedConstant`, whose value may change. A condition times 1 is a number and no condition.
    """
    match op, args:
        case ("*", (Expr() as x, other)) | ("*", (other, Expr() as x)) if _is_number(other, 1.0):
            return None if is_condition(x) else x
        case ("/" | "**", (Expr() as x, other)) if _is_number(other, 1.0):
            return None if is_condition(x) else x
        case ("-", (Expr() as x, other)) if _is_number(other, 0.0):
            return None if is_condition(x) else x
        case ("+", (Expr() as x, other)) | ("+", (other, Expr() as x)) if _is_number(other, -0.0):
            return None if is_condition(x) else x
        case ("where", (_, Expr() as a, b)) if a is b:
            return a
        case (("neg" | "invert"), (Expr(op=inner, args=(Expr() as x,)),)) if inner == op:
            return x
    return None


def _is_number(value: Any, number: float) -> bool:
    """Return whether a value is this float, the sign of zero included."""
    return type(value) is float and value.hex() == number.hex()


class Expr:
    """A node of a formula's graph: an operation on its arguments, or a named input (`op` is "input").

    An argument is another node, or a number: a float, or a `NamedConstant`. A node is immutable, and equal expressions
    are the same object, so `is` compares them, and a dictionary takes them as keys. (`==` builds a node.) An operation
    that gives an argument back bit by bit, such as x * 1, is that argument.

    Args:
        op: The name of the operation in `piste.formula.operations`, or "input".
        *args: The operands; of an input, its name.

    Example:
        >>> x = Expr("input", "x")
        >>> x * x + 1
        +(*(x, x), 1)
        >>> (x * x + 1).args[0] is x * x
        True
    """

    __slots__ = ("__weakref__", "args", "op")
    __array_priority__ = 1000  # numpy scalars leave the operation to us
    __hash__ = object.__hash__

    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, *args: Any) -> Expr:
        arguments = args if op == "input" else tuple(map(_as_argument, args))
        simple = _simplify(op, arguments)
        if simple is not None:
            return simple
        key = op, *map(_identity, arguments)
        with _lock:
            known = _nodes.get(key)
            if known is None:
                known = object.__new__(cls)
                object.__setattr__(known, "op", op)
                object.__setattr__(known, "args", arguments)
                _nodes[key] = known
        return known

    __words__: Any = None  # set below: every function of the language builds the node of its name

    @property
    def operands(self) -> tuple[Expr, ...]:
        """The arguments that are nodes."""
        return tuple([x for x in self.args if isinstance(x, Expr)])

    def __repr__(self) -> str:
        return _text(self, 12)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("an expression can't be changed")

    def __bool__(self) -> bool:
        raise FormulaError(
            "a formula was asked to decide with `if`, `and`, `or` or `max` on a value; write where(condition, a, b)"
        )

    def __float__(self) -> float:
        raise FormulaError("a function of `math` (or float()) was called on a value; use the words of piste.formula")

    __int__ = __index__ = __float__

    def __getitem__(self, *index: Any) -> Any:
        raise FormulaError("a formula works on one element: a value can't be indexed, unpacked or looped over")

    __iter__ = __len__ = __getitem__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise FormulaError(f"`.{name}` was called on a value, which has no methods; use the words of piste.formula")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise FormulaError("a function of numpy was called on a value; use the words of piste.formula")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", str(function))
        raise FormulaError(f"`torch.{name}` was called on a value; use the words of piste.formula")


def _binary(op: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """Return the methods of a binary operator, with the operands in order and reflected."""

    def method(self: Any, other: Any) -> Any:
        return Expr(op, self, other) if isinstance(other, (Expr, int, float)) else NotImplemented

    def reflected(self: Any, other: Any) -> Any:
        return Expr(op, other, self) if isinstance(other, (Expr, int, float)) else NotImplemented

    return method, reflected


def _define_operators() -> None:
    for name, op in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
        for cls in (Expr, NamedConstant):
            method, reflected = _binary(op)
            setattr(cls, f"__{name}__", method)
            setattr(cls, f"__r{name}__", reflected)
    compared = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
    for name, op in (compared | {"and": "&", "or": "|"}).items():
        setattr(Expr, f"__{name}__", _binary(op)[0])
    for name in ("neg", "abs", "invert"):
        setattr(Expr, f"__{name}__", lambda self, op=name: Expr(op, self))


_define_operators()


def topological_order(*roots: Any, stop: Callable[[Expr], bool] | None = None) -> list[Expr]:
    """Return every node below some results once, operands before the nodes that use them.

    Args:
        roots: Nodes; numbers among them are skipped.
        stop: Returns True for a node that is left out, together with the nodes that only it leads to.

    Returns:
        The nodes in the order of a depth-first walk, left operand first.
    """
    order: dict[Expr, None] = {}
    opened: set[Expr] = set()
    stack = [root for root in reversed(roots) if isinstance(root, Expr)]
    while stack:
        node = stack[-1]
        if node in opened:
            order.setdefault(stack.pop())
        elif stop is not None and stop(node):
            stack.pop()
        else:
            opened.add(node)
            stack += [x for x in reversed(node.operands) if x not in opened]
    return list(order)


class _ExprWords:
    def __getattr__(self, word: str) -> Callable[..., Expr]:
        return lambda *args: Expr(word, *args)


Expr.__words__ = _ExprWords()


_OWN_FILES = (__file__, operations.__file__, reductions.__file__, words.__file__)


def trace(formula: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a formula on symbols.

    Args:
        formula: The formula.
        *args: Its arguments, `Expr`s or values.
        **kwargs: Its keyword arguments.

    Returns:
        The results of the formula: an expression, or a tuple of expressions.

    Raises:
        FormulaError: The formula contains an operation that can't be traced; the message names it and its line.

    Example:
        >>> from piste.formula import Expr, sqrt, trace
        >>> trace(lambda x: sqrt(x) + 1, Expr("input", "x"))
        +(sqrt(x), 1)
    """
    try:
        return formula(*args, **kwargs)
    except Exception as error:
        where_ = next(
            (f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename not in _OWN_FILES),
            None,
        )
        line = f" at `{where_.line}` (line {where_.lineno})" if where_ and where_.line else ""
        name = getattr(formula, "__qualname__", repr(formula))
        raise FormulaError(f"no kernel can be made of `{name}`: {error}{line}") from error
