"""Messages in the language of the user: Chinese where the environment asks for it, English otherwise.

Sources hold the English text. A catalogue holds a pattern for each message, and its translation. A finished message is
matched with the patterns when it is shown, so that the code that builds a message knows nothing of languages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"
VARIABLES = ("PISTE_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""The environment variables that choose the language; the first one that is set decides."""
FIELD = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
"""A value in a pattern, as in an f-string: `{0}`."""

_is_off = ContextVar("_is_off", default=False)
"""Whether messages stay in English."""
_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"(?:\n|\Z))+)', re.MULTILINE)
_PROSE = re.compile(r"[A-Za-z]{2,}[.,;:]? [A-Za-z]{2,}")
_LABEL = re.compile(r"\b[a-z]{3,}: ")
_SENTENCE_END = re.compile(r"(?<=[.?!;:]) +|(?<=[.?!]\)) +| (?=\()|(?<=[。；？！：]) *(?=.)|(?=, )")
_CHOICE = re.compile(r"(`[^`]*`|\"[^\"]*\"|-?[\d.]+)( or (`[^`]*`|\"[^\"]*\"|-?[\d.]+))+")
_SPAN = re.compile(r"([-+]?[\d.]+(?:e[-+]\d+)?) to ([-+]?[\d.]+(?:e[-+]\d+)?)")
_RANGE = re.compile(r"in ([\[(][^\[\]()]*[\])])")
_DEFINITIONS = re.compile(r"(with )?[\w']+ = \S.*")
"""A list of names and their meanings, such as the one below a formula."""
_DATA = re.compile(r"[\d`\"'<>=]|-?(nan|inf)$")
_STOPS = {".": "。", ";": "；"}
_COMMON = {"and", "or", "of", "at", "in", "to", "by", "is", "from", "with", "for", "has", "row", "line"}
_IDEOGRAPH = "[\u3400-\u9fff]"
_WIDE = "[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"


def language() -> str | None:
    """Return the catalogue that the environment asks for, such as "zh", or None for English."""
    if _is_off.get():
        return None
    chosen = next(filter(None, map(os.environ.get, VARIABLES)), "")
    for name in re.split(r"[:;]", chosen):
        code = re.split(r"[_.@-]", name)[0].lower()
        if code in ("en", "c", "posix"):
            return None
        if code.isalpha() and (LOCALE / code).is_dir():
            return code
    return None


@contextlib.contextmanager
def in_english() -> Iterator[None]:
    """Keep messages in English in this context."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


def translate(text: str) -> str:
    """Return a message in the language of the user; values, names and text of other origin stay as they are.

    Args:
        text: One or several lines of English.

    Example:
        >>> import os
        >>> from piste.translation import translate
        >>> os.environ["PISTE_LANG"] = "zh"
        >>> translate("`lr` must be in [0, inf); received lr=-1.0.")
        '`lr` 必须在 [0, inf) 之内；收到 lr=-1.0。'
        >>> os.environ["PISTE_LANG"] = "en"
        >>> translate("`lr` must be in [0, inf); received lr=-1.0.")
        '`lr` must be in [0, inf); received lr=-1.0.'
    """
    code = language()
    if code is None:
        return text
    catalogue = _catalogue(code)
    return "\n".join(map(catalogue.translate, text.split("\n")))


def read_catalogue(path: Path) -> dict[str, str]:
    """Return the translations of a file in the format of gettext (.po) by their messages, without its header."""
    found = {}
    for entry in _ENTRY.finditer(path.read_text(encoding="utf-8")):
        message, translated = ("".join(map(json.loads, part.split("\n")[:-1] or [part])) for part in entry.groups())
        found[message] = translated
    found.pop("", None)
    return found


@cache
def _catalogue(code: str) -> _Catalogue:
    return _Catalogue(read_catalogue(LOCALE / code / "LC_MESSAGES" / "piste.po"))


class _Pattern:
    """A message with values in it.

    Attributes:
        pieces: The text around the values.
        weight: The number of letters in it; patterns with more are preferred.
        is_weak: Whether it consists of words that any text may contain.
        key: The longest piece, in lower case.
        names: The names of the values, in order.
        translated: The translation: text and names of values in turn.
    """

    def __init__(self, message: str, translated: str) -> None:
        parts = FIELD.split(message)
        self.pieces, self.names = parts[::2], parts[1::2]
        self.weight = sum(map(str.isalpha, "".join(self.pieces)))
        self.is_weak = set(re.findall("[A-Za-z]+", "".join(self.pieces))) <= _COMMON
        self.key = max(self.pieces, key=len).lower()
        self.translated = FIELD.split(translated)

    def match(self, text: str) -> list[str] | None:
        """Return the values, each as short as possible; None if the text is another message."""
        first, *middle, last = self.pieces
        if not text.startswith(first) or not text.endswith(last):
            return None
        values, at, end = [], len(first), len(text) - len(last)
        for i, piece in enumerate(middle):
            found = text.find(piece, at, end) if piece else self._end_of_value(text, at, end, middle[i + 1 :])
            while found >= 0 and piece[-1:] == "." and text[found + len(piece) :][:1].isdigit():  # 2.0
                found = text.find(piece, found + 1, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(piece)
        if at > end:
            return None
        values.append(text[at:end])
        dropped = (v for n, v in zip(self.names, values, strict=True) if n not in self.translated[1::2])
        return None if any(map(re.compile("[^a-z]").search, dropped)) else values

    @staticmethod
    def _end_of_value(text: str, at: int, end: int, later: list[str]) -> int:
        """Return the end of a value that another one follows: that of a number, or of all text up to the next piece."""
        number = re.compile(r"\d+").match(text, at, end)
        if number:
            return number.end()
        piece = next(filter(None, later), "")
        return text.find(piece, at, end) if piece else end


class _Catalogue:
    """The translations of messages without values, and the patterns of the others."""

    def __init__(self, translations: dict[str, str]) -> None:
        translations = {message: text for message, text in translations.items() if text and text != message}
        self.exact = {m: t for m, t in translations.items() if not FIELD.search(m)}
        patterns = [_Pattern(m, t) for m, t in translations.items() if FIELD.search(m)]
        self.patterns = sorted(patterns, key=lambda pattern: -pattern.weight)

    def translate(self, line: str) -> str:
        """Return the translation of a line of text."""
        if line.startswith("| ") and line.endswith(" |"):  # a row of a table
            return f"| {' | '.join(map(self.translate, line[2:-2].split(' | ')))} |"
        folded = line.lower()
        return _Line(self.exact, [pattern for pattern in self.patterns if pattern.key in folded]).translate(line)


class _Line:
    """Translates a line and its parts: whole messages, values that are messages themselves, and several in a row.

    Args:
        exact: The translations of messages without values.
        patterns: The patterns whose text is in the line.
    """

    def __init__(self, exact: dict[str, str], patterns: list[_Pattern]) -> None:
        self.exact, self.patterns = exact, patterns
        self.translate = cache(self._translate)
        self.find_message = cache(self._find_message)

    def _translate(self, text: str) -> str:
        """Return the translation with the least English left."""
        core = text.strip()
        if not core:
            return text
        found = [self.find_message(core)]
        is_open = found[0] is None or (found[0].endswith((".", ";")) and not found[0].endswith(".."))
        if is_open and core[-1] in _STOPS and (message := self.find_message(core[:-1])):
            found.insert(0, message + _STOPS[core[-1]])
        for end in _SENTENCE_END.finditer(core):
            head, tail = core[: end.start()], core[end.end() :]
            count = bool(self.find_message(head)) + bool(self.find_message(tail.strip())) if head and tail else 0
            if count:
                found.insert(0 if count == 2 else len(found), _join(self.translate(head), self.translate(tail)))
        best = min((t for t in found if t), key=_english_left, default=core)
        if best == core:
            return text
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        if len(before) == 1 and re.match(_WIDE, best):  # a space before a Chinese sentence
            before = ""
        return before + best + ("" if re.search(f"{_WIDE}$", best) else after)

    def _find_message(self, text: str) -> str | None:
        """Return the translation of a text that is one message, or None."""
        if not text or text in self.exact:
            return self.exact.get(text)
        if _CHOICE.fullmatch(text):
            return re.sub(r"(?<=[`\"\d]) or (?=[`\"\d-])", " 或 ", text)
        if span := _SPAN.fullmatch(text):
            return f"{span[1]} 到 {span[2]}"
        if _RANGE.fullmatch(text):
            return f"{text[3:]} 之内的值"
        if _is_enclosed(text) and (inner := self.translate(text[1:-1])) != text[1:-1]:
            return f"（{inner}）"
        if text[0] == "(" and ")" not in text and text[1:] in self.exact:  # closed after another value
            return f"({self.exact[text[1:]]}"
        if _DEFINITIONS.fullmatch(text):
            return self._define(text)
        found = []
        for pattern in self.patterns:
            values = pattern.match(text)
            if values is not None and (not pattern.is_weak or all(map(self._is_plain, values))):
                found.append(self._fill(pattern, values))
        if not found and text[0].islower():  # a sentence that ends another one
            return self.find_message(text[0].upper() + text[1:])
        return min(found, key=lambda t: len(_PROSE.findall(t)), default=None)

    def _define(self, text: str) -> str | None:
        """Return a list of names with their meanings translated, or None if no meaning is a message."""
        parts = re.split(r"((?:^with |, |^)[\w']+ = )", text)
        shown = [part if i % 2 else self.translate(part) for i, part in enumerate(parts)]
        if shown[1].startswith("with "):
            shown[1] = f"其中 {shown[1][5:]}"
        return "".join(shown) if shown != parts else None

    def _is_plain(self, value: str) -> bool:
        """Return whether a value is a number, a quotation or a message, so that a pattern of few letters may hold."""
        return value in self.exact or bool(_DATA.search(value) and not _PROSE.search(value) and "  " not in value)

    def _fill(self, pattern: _Pattern, values: list[str]) -> str:
        """Return the translation of a pattern with the values in it; quoted values stay as they are."""
        shown = {
            name: value if piece.endswith(("`", '"', "'")) else self.translate(value)
            for piece, name, value in zip(pattern.pieces, pattern.names, values, strict=False)
        }
        text = ""
        for i, part in enumerate(pattern.translated):
            text = _join(text, shown[part] if i % 2 else part, "")
        return text


def _english_left(text: str) -> tuple[int, int]:
    """Return the number of pairs of English words in a translation, and that of words in front of a list."""
    return len(_PROSE.findall(text)), len(_LABEL.findall(text))


def _is_enclosed(text: str) -> bool:
    """Return whether a parenthesis opens at the beginning of a text and closes at its end."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return i > 0 and i == len(text) - 1
    return False


def _join(left: str, right: str, between: str = " ") -> str:
    """Return two parts of a text as one, with a space between Chinese and Latin letters and none within Chinese."""
    if re.search(f"{_WIDE}$", left):
        if re.match(f" {_WIDE}", right):
            return left + right[1:]
        needs_space = re.search(f"{_IDEOGRAPH}$", left) and re.match(r"[\w`\"'(\[-]", right, re.ASCII)
        return f"{left}{' ' if needs_space else ''}{right}"
    if right.startswith(","):
        return left + right
    if re.search(f"{_WIDE} $", left) and re.match(_WIDE, right):
        return left[:-1] + right
    if re.match("[\u3000-\u303f\uff00-\uffef]", right):  # punctuation
        return left.rstrip(" ") + right
    needs_space = re.search(r"[\w`\"')\]]$", left, re.ASCII) and re.match(_IDEOGRAPH, right)
    return f"{left}{' ' if needs_space else between if right else ''}{right}"
