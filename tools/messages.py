"""The catalogue of messages: `python -m tools.messages` brings it up to date with the sources.

A message is a string of the sources that a user reads. `{0}` stands for the first value of an f-string. The command
adds new messages to each piste.po without a translation, and drops those that no longer exist. A string that is the
same in both languages, such as code, has itself as its translation.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from piste.translation import FIELD, read_catalogue

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "piste"
CATALOGUES = sorted((SOURCE / "locale").glob("*/LC_MESSAGES/piste.po"))

ERRORS = {"InvalidValue", "InvalidType", "Unsupported", "PisteError", "MissingPackage", "FormulaError", "Declined"}
"""Calls of these names make an error."""
ABOUT_BACKENDS = re.compile(r"_?(why_\w+|describe\w*|choose_backend|decline|explain|missing|warn\w*)")
"""Functions and calls of these names give a warning, the name of a backend, or the reason against one."""
SHOWN = {"translate", "translated"}
"""Calls of these names take a message."""
ERRORS_ALONE = ("engine/", "formula/")
"""Folders whose other strings are the text of kernels."""
NOT_SHOWN = (
    *("compare/tasks/", "compare/training/smoothness.py"),
    *("optim/options.py", "losses/function_form.py", "losses/operators.py", "translation.py"),
)
"""Files whose other strings are the code of built-in tasks, the meaning of options in docstrings, and schemas."""
PAGES = ("compare/report/page.html",)
"""Pages whose text in double braces is shown."""
TABLES = ("compare/report/tables.py", "compare/analysis/verdict.py")
"""Files whose single words are messages too."""
WORDS = (
    *("training", "validation", "optimizer", "loss", "metric", "two", "three", "median", "diverged", "failed"),
    *("search", "default"),
    *("Formula", "Elements", "Rows", "Samples", "Counts", "Result", "Gradient", "Refused"),
    *("element", "elements", "row", "rows", "quadratic", "linear", "far", "the parameter", "its gradient", "the step"),
    *("embedding", "vector"),
)
"""Words that sentences are made of, and headings, other than those of the files of TABLES."""
DOCUMENTED = {"rate", "decay", "Number", "Limit", "Integer", "Numbers", "Flag", "Choice", "TensorOption", "Function"}
"""Calls of these names take the meaning of an option, which is shown in docstrings only."""

_WORD = re.compile(r"(?<![\w.])[A-Za-z][a-z]+(?![\w(=])")
_PROSE = re.compile(f"(?=.*[ {{}}]).*{_WORD.pattern}")
_SIGNATURE = re.compile(r"(?=.*\breduction\b)[\w*]+(, [\w*]+)*")
_CODE = re.compile(r'\w+ = |def |return |import |#|<|@|\[\w+\W?=|text:|\{"|\w+(\[.*\])? \| |.*\(\?P|\S*\(\S*\)$|\S+$')


def template(node: ast.AST) -> str | None:
    """Return a string, an f-string, or a sum of strings, with values numbered in order; None for other nodes."""
    parts = _parts(node)
    if parts is None:
        return None
    count = iter(range(len(parts)))
    return "".join(f"{{{next(count)}}}" if part is None else part for part in parts)


def _parts(node: ast.AST) -> list[str | None] | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_parts(node.left), _parts(node.right)]
        if sides != [None, None]:
            return [part for side in sides for part in (side if side is not None else [None])]
    return None


def is_message(text: str, words: bool = False) -> bool:
    """Return whether a string is prose, not a name, code or a signature; with `words`, single words are messages."""
    is_code = _SIGNATURE.fullmatch(text) or _CODE.match(text)
    return bool((_WORD if words else _PROSE).search(text)) and (words or not is_code)


def _strings(node: ast.AST, call: str = "") -> Iterator[tuple[str, str]]:
    """Yield each string below a node, with the call or the function that shows it, if any."""
    if isinstance(node, ast.FunctionDef) and ABOUT_BACKENDS.fullmatch(node.name):
        call = node.name
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in DOCUMENTED:  # but not the help of their refusals
            for shown in (*node.args[3:], *(k.value for k in node.keywords if k.arg in ("help", "help_for"))):
                yield from _strings(shown, call)
            return
        call = name if name in ERRORS | SHOWN or ABOUT_BACKENDS.fullmatch(name) else call
    text = template(node)
    if text is not None:
        yield text, call
        for part in ast.walk(node):  # strings inside the values
            if isinstance(part, ast.FormattedValue):
                yield from _strings(part.value, call)
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):  # a docstring
            yield from _strings(child, call)


def _counted(tree: ast.AST) -> Iterator[str]:
    """Yield the messages of each call `plural(count, noun)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "plural":
            noun = template(node.args[1])
            if noun is not None:
                yield from (f"{{0}} {noun}", f"{{0}} {noun}s")


def _makes_command(decorator: ast.AST) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "attr", None) in ("command", "callback")


def _help_of_commands(tree: ast.AST) -> Iterator[str]:
    """Yield each paragraph of the docstrings that are the help of a command."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef)
            and any(map(_makes_command, node.decorator_list))
            and (text := ast.get_docstring(node))
        ):
            yield from (" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _numbered(line: str) -> str:
    """Return a line of a message without spaces around it, and with its values numbered from 0."""
    parts = FIELD.split(line.strip())
    parts[1::2] = [f"{{{i}}}" for i in range(len(parts) // 2)]
    return "".join(parts)


def collect() -> dict[str, str]:
    """Return every message with the first file that contains it."""
    found = dict.fromkeys(WORDS, "several")
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_shown = not name.startswith((*ERRORS_ALONE, *NOT_SHOWN))
        for text, call in _strings(tree):
            for line in map(_numbered, text.split("\n")):
                if is_message(line, name in TABLES or call in SHOWN) and (call or is_shown):
                    found.setdefault(line, name)
        found |= {text: name for text in _counted(tree) if text not in found}
        if name.startswith("cli/"):
            found |= {text: name for text in _help_of_commands(tree)}
        if name.startswith("compare/tasks/") and not path.name.startswith("_"):  # the description of a task
            found[(ast.get_docstring(tree) or "").split("\n")[0]] = name
    for name in PAGES:
        page = (SOURCE / name).read_text(encoding="utf-8")
        found |= {text: name for text in re.findall(r"\{\{(.*?)\}\}", page) if text not in found}
    return found


def written(messages: dict[str, str], translations: dict[str, str], code: str) -> str:
    """Return the text of a catalogue."""
    header = f"Language: {code}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
    entries = [f'msgid ""\nmsgstr {_quoted(header)}\n']
    for message, file in messages.items():
        entries.append(f"#: {file}\nmsgid {_quoted(message)}\nmsgstr {_quoted(translations.get(message, ''))}\n")
    return "\n".join(entries)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def main() -> None:
    """Bring every catalogue up to date, and print the messages without a translation."""
    messages = collect()
    for path in CATALOGUES:
        translations = read_catalogue(path)
        path.write_text(written(messages, translations, path.parts[-3]), encoding="utf-8")
        for message in messages:
            if not translations.get(message):
                print(f"{messages[message]}: {message}")


if __name__ == "__main__":
    main()
