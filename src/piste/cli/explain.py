"""`piste explain`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from ..errors import InvalidValue
from .app import Debug, app, in_a_sentence, say
from .arguments import read_numbers, read_options


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def explain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A loss, such as l1 or cross_entropy, or an optimizer, such as adam.")],
    input: Annotated[str | None, typer.Option(help='The input of a loss as JSON, such as "[[1,1],[1,1]]".')] = None,
    target: Annotated[
        str | None, typer.Option(help='The target, or the second operand, as JSON, such as "[[0,1],[2,3]]".')
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(help="Each further operand as JSON, such as the negatives of triplet_margin, in order."),
    ] = None,
    grad: Annotated[
        str | None, typer.Option(help="The gradient for an optimizer as JSON, the same at every step.")
    ] = None,
    param: Annotated[str | None, typer.Option(help="The parameter as JSON; 1 everywhere if not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="The number of steps of an optimizer; 1 if not given.")] = None,
    check: Annotated[
        str | None,
        typer.Option(help="How a loss checks values: raise, nan, or off, which works a refused call through."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show the arithmetic of a loss or of an optimizer's steps; for a refused call, the reason and a line that works.

    Further options are those of the loss or the optimizer: --delta 2, --lr 0.1, --betas 0.9,0.99, --nesterov.
    """
    with in_a_sentence(debug):
        from ..explain import explain as explained

        given = [("--input", input), ("--target", target), *(("--more", text) for text in more or [])]
        operands = [read_numbers(option, text) for option, text in given if text is not None]
        if target is not None and input is None:
            raise InvalidValue(f"--target needs --input. Help: piste explain {name} --input ... --target ...")
        options = read_options(context.args)
        named = {"grad": grad, "param": param}
        options |= {option: read_numbers(f"--{option}", text) for option, text in named.items() if text is not None}
        options |= {option: v for option, v in {"steps": steps, "check": check}.items() if v is not None}
        _check_operands(name, len(operands), options)
        say(explained(name, *operands, **options).text)


def _check_operands(name: str, count: int, options: Collection[str]) -> None:
    """Raise for another number of operands than the loss or optimizer takes, with the flags of the command."""
    from ..explain import operand_names

    names = operand_names(name)
    if names == ("param", "grad"):
        if "grad" not in options and count < len(names):
            raise InvalidValue(f"an optimizer needs a gradient to step by. Help: piste explain {name} --grad 0.5")
    elif count + sum(operand in options for operand in names) != len(names):
        flags = [f"--{flag} ..." for flag, _ in zip(("input", "target", *["more"] * len(names)), names, strict=False)]
        listed = ", ".join(f"`{operand}`" for operand in names)
        received = f"; received {count}" if count else ""
        raise InvalidValue(
            f"a loss needs its operands, here {listed}, as numbers or JSON arrays{received}. Help: piste explain "
            f"{name} {' '.join(flags)}"
        )
