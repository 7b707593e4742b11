"""Every small change of a formula, one at a time: constants, signs, terms, operators, comparisons, choices, names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

TERMS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
ORDERS = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPPOSITES = {"maximum": "minimum", "minimum": "maximum", "any": "all", "all": "any"}
PLAIN = {"sqrt", "exp", "expm1", "log", "log1p", "sigmoid", "sign", "abs", "log_softmax", "total", "mean", "each"}
"""Words of one operand, which a slip may leave out."""
WORDS = PLAIN | {"maximum", "minimum", "where", "pick", "norm", "hinges"}
METHODS = {"abs", "cumsum", "clamp_min"}
"""What a slip may leave out of what is done to a tensor."""


@dataclass(frozen=True)
class Mutant:
    """One change: the formula it is in, the line, what stood there and what stands there now."""

    formula: str
    line: int
    before: str
    after: str
    nth: int  # among equal changes of this formula

    def __str__(self) -> str:
        again = f" (number {self.nth})" if self.nth > 1 else ""
        return f"{self.formula}: {self.before} -> {self.after}{again}"


def mutants(formula: str, root: ast.AST) -> Iterator[Mutant]:
    """Change the tree under `root` in every small way, one after the other.

    The tree holds the change while the generator rests at it, and is whole again afterwards.
    """
    seen: dict[tuple[str, str], int] = {}
    for parent, field, index, node, neighbours in list(_places(root, {})):
        before = ast.unparse(node)
        for alternative in _alternatives(node, neighbours):
            after = ast.unparse(alternative)
            if after == before:
                continue
            nth = seen[before, after] = seen.get((before, after), 0) + 1
            ast.fix_missing_locations(ast.copy_location(alternative, node))
            _put(parent, field, index, alternative)
            yield Mutant(formula, getattr(node, "lineno", 0), before, after, nth)
            _put(parent, field, index, node)


Place = tuple[ast.AST, str, int | None, ast.expr, dict[str, str]]
ELSE = {"annotation", "returns", "decorator_list", "targets", "target", "func", "keys", "args"}


def _places(parent: ast.AST, neighbours: dict[str, str]) -> Iterator[Place]:
    """Every expression below that computes something, the place it hangs at, and its function's arguments."""
    is_said = isinstance(parent, ast.Raise | ast.JoinedStr)
    if is_said or (isinstance(parent, ast.keyword) and parent.arg == "strict"):
        return  # what is said of a wrong rule, and checks against one
    if isinstance(parent, ast.FunctionDef | ast.Lambda):
        neighbours = _neighbours(parent.args)
    for field, value in ast.iter_fields(parent):
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and field == "func":
            yield parent.func, "value", None, parent.func.value, neighbours  # what a method is called on
            yield from _places(parent.func.value, neighbours)
        if field in ELSE and not (field == "args" and isinstance(parent, ast.Call)):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.expr):
                yield parent, field, index, child, neighbours
            if isinstance(child, ast.AST):
                yield from _places(child, neighbours)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _neighbours(arguments: ast.arguments) -> dict[str, str]:
    """Each argument's neighbour of its own kind: the name that a slip would put in its place."""
    after: dict[str, str] = {}
    for kind in (arguments.args, arguments.kwonlyargs):
        letters = [a.arg for a in kind if a.arg not in ("self", "cls")]
        if len(letters) > 1:
            after.update(zip(letters, letters[1:] + letters[:1], strict=True))
    return after


def _alternatives(node: ast.expr, neighbours: dict[str, str]) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield from map(ast.Constant, {0: (1,), 1: (0, 2), 2: (1, 3)}.get(value, (value * 2, 0)))
        case ast.Name(id=name, ctx=ast.Load()) if name in neighbours:
            yield ast.Name(neighbours[name], ast.Load())
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in TERMS:
            yield ast.BinOp(left, TERMS[type(op)](), right)
            yield left
            if not isinstance(op, ast.Pow):
                yield right
            if isinstance(op, ast.Sub | ast.Div | ast.Pow):
                yield ast.BinOp(right, op, left)
        case ast.Compare(left=left, ops=ops, comparators=rights):
            for i, op in enumerate(ops):
                for other in ORDERS[type(op)]:
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], rights)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
            yield body
            yield orelse
        case ast.Call(func=(ast.Name(id="where") | ast.Attribute(attr="where")) as word, args=[condition, a, b]):
            yield ast.Call(word, [condition, b, a], [])
            yield a
            yield b
        case ast.Call(func=ast.Name(id=word), args=args) if word in OPPOSITES:
            yield ast.Call(ast.Name(OPPOSITES[word], ast.Load()), args, [])
            yield from args
        case ast.Call(func=ast.Name(id=word), args=[x]) if word in PLAIN:
            yield x
        case ast.Call(func=ast.Attribute(value=x, attr=method)) if method in METHODS:
            yield x
    if isinstance(node, ast.BinOp | ast.Call) and _is_arithmetic(node):
        yield ast.UnaryOp(ast.USub(), node)


def _is_arithmetic(node: ast.expr) -> bool:
    """Whether the node is a term of a formula, so that turning its sign means something."""
    if isinstance(node, ast.BinOp):
        return not isinstance(node.op, ast.BitAnd | ast.BitOr)
    return isinstance(node.func, ast.Name) and node.func.id in WORDS
