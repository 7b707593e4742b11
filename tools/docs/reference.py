"""The reference: a page for each optimizer and loss, made from the class that runs, and one for the other functions."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

import torch

import piste
from piste.losses import LOSSES, Loss
from piste.losses.reduction import SETTINGS, reduction_option
from piste.optim import OPTIMIZERS, Optimizer
from piste.optim.options import SHARED
from piste.options import Choice, Option

from .backends import loss_backends, optimizer_backends
from .elsewhere import loss_elsewhere, optimizer_elsewhere
from .figures import placeholder
from .formulas import code_of_stage, loss_variants, optimizer_variants
from .groups import LOSSES_BY_TASK, OPTIMIZERS_BY_KIND
from .pictures import draw_loss, draw_path
from .speed import composed_rows, loss_rows, optimizer_rows

__all__ = ["reference_pages"]

FUNCTIONS = ("explain", "compare", "patch", "check")
COMPARE = ("compare_task", "table", "Task", "Metric", "Predictor")


def reference_pages() -> dict[str, str]:
    """Return the Markdown of every page of the reference, by its path."""
    pages = {"reference/index.md": _index(), "reference/functions.md": _functions()}
    pages |= {f"reference/{name.lower()}.md": _optimizer_page(cls) for name, cls in OPTIMIZERS.items()}
    pages |= {f"reference/{name.lower()}.md": _loss_page(cls) for name, cls in LOSSES.items()}
    return pages


def _index() -> str:
    lines = ["# Reference", "", "Made from the classes that run: formulas, arguments, ranges, defaults and state.", ""]
    for title, groups, table in (
        ("Optimizers", OPTIMIZERS_BY_KIND, OPTIMIZERS),
        ("Losses", LOSSES_BY_TASK, LOSSES),
    ):
        lines += [f"## {title}", ""]
        others = tuple(name for name in table if not any(name in names for names in groups.values()))
        for group, names in {**groups, **({"Others": others} if others else {})}.items():
            lines += [f"### {group}", "", "| | |", "|---|---|"]
            lines += [f"| [{n}]({n.lower()}.md) | {_cell(_sections(table[n])['summary'][0])} |" for n in names]
            lines.append("")
    functions = ", ".join(f"[`{name}`](functions.md#{name})" for name in (*FUNCTIONS, *(n.lower() for n in COMPARE)))
    return "\n".join([*lines, "## Functions", "", functions, ""])


# --- optimizers ---------------------------------------------------------------------------------------------------


def _optimizer_page(cls: type[Optimizer]) -> str:
    text = _sections(cls)
    variants = optimizer_variants(cls) if hasattr(cls, "update") or cls.matrix is not None else {}
    example = cls([torch.zeros(2, 2, requires_grad=True)])
    lines = [f"# {cls.__name__}", "", *_paragraphs(text["summary"]), ""]
    lines += ["## Formula", ""]
    if variants:
        lines += [*_formulas(variants.pop("")), "", _symbols(cls), ""]
    for name, equations in variants.items():
        lines += [f'??? note "{_plain(name)}"', "", *(f"    {line}" for line in _formulas(equations)), ""]
    lines += code_of_stage(cls)
    lines += ["## Arguments", "", *_arguments({**cls.options, **_own_shared(cls)}), ""]
    words = ", ".join(f"`{name}`" for name in SHARED if name not in _own_shared(cls) and name != "convention")
    lines += [f"In addition the keywords of every optimizer of `torch.optim`: {words}.", ""]
    lines += optimizer_elsewhere(cls)
    lines += ["## State of a parameter", "", *_state(cls, example), ""]
    lines += ["## Backend", "", *optimizer_backends(example), ""]
    lines += _speed(optimizer_rows(cls.__name__), "a step alone", "tensors", "the best other")
    lines += ["## Path", ""]
    lines += [f"{_valley(cls)}:", ""]
    lines += [placeholder(draw_path(cls)), ""]
    lines += _example(text)
    return "\n".join(lines) + "\n"


def _valley(cls: type[Optimizer]) -> str:
    text = "Down a valley that is 25 times steeper in one direction than in the other, from the same start"
    if cls.matrix is not None:
        return f"{text}; the two coordinates are a matrix of one row"
    return f"{text}; each point is an iteration" if "max_iter" in cls.options else text


def _own_shared(cls: type[Optimizer]) -> dict[str, Option]:
    """Return the options of every optimizer that torch.optim lacks; `convention` has the libraries of this one."""
    theirs = {*inspect.signature(torch.optim.SGD).parameters, "capturable"}
    options = {name: option for name, option in SHARED.items() if name not in theirs}
    known = options.pop("convention")
    if cls.conventions:
        options["convention"] = Choice("torch", ("torch", *cls.conventions), known.doc)
    return options


def _symbols(cls: type[Optimizer]) -> str:
    kept = [f"${b.letter}$ is `{key}`" for key, b in {**cls.buffers, **cls.counters}.items() if len(b.letter) == 1]
    words = ["$\\theta$ is the parameter", "$g_{t}$ its gradient", "$t$ the step", *kept]
    return f"{', '.join(words)}. The other letters are arguments, and values of the step."


_SIZES = {
    "all": ("always", "that of the parameter"),
    "rows": ("of a matrix", "one number for each row"),
    "columns": ("of a matrix", "one number for each column"),
    "first": ("of a matrix", "one number for each index of the first dimension"),
    "vectors": ("of no matrix", "that of the parameter"),
}
"""Which parameters have a buffer of a shape, and its size."""


def _state(cls: type[Optimizer], example: Optimizer) -> list[str]:
    rows = ["| key | in the formula | exists | starts at | size |", "|---|---|---|---|---|"]
    if cls.counts_steps:
        rows.append("| `step` | $t$ | always | 0 | one number |")
    kept = [(key, b, "always", "one number") for key, b in cls.counters.items()]
    for key, b in cls.buffers.items():
        owner, size = (
            ("always", b.shape.__doc__.removeprefix("Return ").rstrip(".")) if callable(b.shape) else _SIZES[b.shape]
        )
        kept.append((key, b, owner, size))
    for key, b, owner, size in kept:
        exists = " ".join([owner] * (owner != "always" or not b.when) + [f"with `{b.when}`"] * bool(b.when))
        start = f"`{b.start}`" if isinstance(b.start, str) else f"{b.start:g}"
        rows.append(f"| `{key}` | `{b.letter}` | {exists} | {start} | {size} |")
    listed = "".join(rows)
    rows += [
        f"| `{key}` | | after a step, of all parameters together | | |"
        for key in cls.state_keys()
        if f"| `{key}` |" not in listed
    ]
    return rows if len(rows) > 2 else ["None."]


def _speed(rows: list[str], subject: str, first: str, other: str, page: str = "performance") -> list[str]:
    """Return the measurements of an optimizer or a loss, where there are any."""
    if not rows:
        return []
    head = f"On a CPU, of {subject}; a ratio above 1 means that Piste is faster. "
    if any("(reference)" in row for row in rows):
        head += "`reference` is the implementation in pytorch_optimizer. "
    head += f"[All measurements](../{page}.md)."
    table = [f"| {first} | threads | Piste | {other} | ratio |", "|---|---|---|---|---|", *rows]
    return ["## Speed", "", head, "", *table, ""]


# --- losses -------------------------------------------------------------------------------------------------------


def _loss_page(cls: type[Loss]) -> str:
    text, variants = _sections(cls), loss_variants(cls)
    lines = [f"# {cls.__name__}", "", *_paragraphs(text["summary"]), ""]
    if variants:
        lines += ["## Formula", "", *_formulas(variants[""][0]), ""]
        if cls.symbols:
            used = {
                k: v
                for k, v in cls.symbols.items()
                if re.search(rf"(?<![a-z\\]){k}(?![a-z])", " ".join(variants[""][0]))
            }
            lines += [", ".join(f"${k}$ is {v}" for k, v in used.items()) + ".", ""]
        lines += _slopes(variants.pop("")[1])
        for name, (equations, slopes) in variants.items():
            body = [*_formulas(equations), *_slopes(slopes)]
            lines += [f'??? note "{_plain(name)}"', "", *(f"    {line}".rstrip() for line in body), ""]
    else:
        lines += [f"Piste validates the operands; `torch.nn.functional.{cls.functional_name}` computes the loss.", ""]
    lines += ["## Curve", "", placeholder(draw_loss(cls)), ""]
    options = {**cls.options, "reduction": reduction_option(cls.reductions), **SETTINGS}
    lines += ["## Arguments", "", f"`input` and so on: {cls.expects}.", "", *_arguments(options), ""]
    for title in ("Shape", "Raises"):
        lines += [f"## {title}", "", *_items(text.get(title.lower(), [])), ""]
    lines += ["## Differences from PyTorch", "", *_paragraphs(text.get("differs from torch", [])), ""]
    lines += loss_elsewhere(cls)
    lines += ["## Backend", "", *loss_backends(cls), ""]
    subject = "the loss with its backward, checks included"
    lines += _speed(loss_rows(cls.name), subject, "shape", "PyTorch")
    lines += _speed(composed_rows(cls.name), subject, "shape", "torch operations", "losses")
    names = ", ".join(f'`"{name}"`' for name in (cls.name, *cls.aliases))
    lines += ["## Names", "", f"{names} in `piste.compare` and `piste.explain`; "]
    lines[-1] += f"the function is `piste.losses.functional.{cls.functional_name}`."
    return "\n".join([*lines, "", *_example(text)]) + "\n"


def _slopes(equations: list[str]) -> list[str]:
    shown = [line for line in equations if len(line) < 320]
    if len(shown) < len(equations):
        return ["The derivatives are derived from the formula by reverse accumulation.", ""]
    return [*_formulas(shown), ""]


# --- functions ----------------------------------------------------------------------------------------------------


def _functions() -> str:
    lines = ["# Functions", ""]
    package = sys.modules["piste.compare"]  # the function of that name hides it
    found = [(f"piste.{n}", getattr(piste, n)) for n in FUNCTIONS]
    found += [(f"piste.compare.{n}", getattr(package, n)) for n in COMPARE]
    for name, value in found:
        text = _sections(value)
        short = name.rpartition(".")[2]
        lines += [f"## `{short}` {{ #{short.lower()} }}", "", f"``` python\n{name}{inspect.signature(value)}\n```", ""]
        lines += _paragraphs(text["summary"])
        for title in ("Args", "Attributes", "Returns", "Raises"):
            if title.lower() in text:
                lines += ["", f"**{title}**", "", *_items(text[title.lower()])]
        lines += ["", *_example(text, "")]
    return "\n".join(lines) + "\n"


# --- docstrings ---------------------------------------------------------------------------------------------------


def _sections(value: Any) -> dict[str, list[str]]:
    """Return the sections of a docstring in Google's format, and the text in front of them as the summary."""
    found: dict[str, list[str]] = {"summary": []}
    name = "summary"
    for line in inspect.cleandoc(value.__doc__ or "").splitlines():
        head = re.match(r"(Args|Shape|Returns|Raises|Attributes|Example|Differs from torch):(.*)$", line)
        if head:
            name = head[1].lower()
            found[name] = [head[2].strip()] if head[2].strip() else []
        else:
            found[name].append(line)
    return {name: _dedented(lines) for name, lines in found.items()}


def _dedented(lines: list[str]) -> list[str]:
    return inspect.cleandoc("\n" + "\n".join(lines)).splitlines() if lines else []


def _paragraphs(lines: Iterable[str]) -> list[str]:
    """Return text as Markdown: links become links, and names of code stay as they are."""
    text = re.sub(r"(?<![<(])(https?://[^\s,)]+[^\s,).;])", r"<\1>", "\n".join(lines))
    parts = re.split(r"(`[^`]*`|<http[^>]*>)", text)  # code and links stay as they are
    return ["".join(part if i % 2 else re.sub(r"([*_])", r"\\\1", part) for i, part in enumerate(parts))]


def _items(lines: list[str]) -> list[str]:
    """Return `name: description` lines, with their continuation, as a list."""
    text = "\n".join(lines)
    entries = re.split(r"\n(?=\S)", text) if text else []
    return [re.sub(r"^([\w, `]+?):\s", r"- **\1**: ", " ".join(entry.split())) for entry in entries]


def _example(text: dict[str, list[str]], heading: str = "## Example") -> list[str]:
    if not text.get("example"):
        return []
    return [
        *([heading, ""] if heading else []),
        "``` pycon",
        *(line.replace("<BLANKLINE>", "") for line in text["example"]),
        "```",
        "",
    ]


def _arguments(options: dict[str, Option]) -> list[str]:
    rows = ["| argument | default | range | meaning |", "|---|---|---|---|"]
    return rows + [f"| `{n}` | `{o.default!r}` | {_cell(o.range)} | {_cell(o.doc)} |" for n, o in options.items()]


def _cell(text: str) -> str:
    return re.sub(r"([|*_<])", r"\\\1", text) if "`" not in text else text.replace("|", r"\|")


def _plain(text: str) -> str:
    return text.replace('"', "'")


def _formulas(equations: Iterable[str]) -> list[str]:
    return [line for equation in equations for line in ("$$", equation, "$$", "")]
