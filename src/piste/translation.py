"""Messages in the language of the user: Chinese where the environment asks for it, English otherwise.

Sources hold the English text. A catalogue holds a pattern for each message, and its translation. A finished message is
matched with the patterns when it is shown, so that the code that builds a message knows nothing of languages.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache, lru_cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"
VARIABLES = ("PISTE_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""The environment variables that choose the language; the first one that is set decides."""
FIELD = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
"""A value in a pattern, as in an f-string: `{0}`."""

_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"(?:\n|\Z))+)', re.MULTILINE)
_PROSE = re.compile(r"[a-z]{2,} [a-z]{2,}")
_SENTENCE_END = re.compile(r"(?<=[.?!;:]) +|(?<=[。；？！：]) *(?=.)")
_CHOICE = re.compile(r"(`[^`]*`|\"[^\"]*\"|[\d.]+)( or (`[^`]*`|\"[^\"]*\"|[\d.]+))+")
_WIDE = "[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"


def language() -> str | None:
    """Return the catalogue that the environment asks for, such as "zh", or None for English."""
    chosen = next(filter(None, map(os.environ.get, VARIABLES)), "")
    for name in re.split(r"[:;]", chosen):
        code = re.split(r"[_.@-]", name)[0].lower()
        if code in ("en", "c", "posix"):
            return None
        if code.isalpha() and (LOCALE / code).is_dir():
            return code
    return None


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
    return "\n".join(catalogue.line(line) for line in text.split("\n"))


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
        weight: The number of letters outside of the values; patterns with more are preferred.
        pieces: The text around the values.
    """

    def __init__(self, message: str, translated: str) -> None:
        parts = FIELD.split(message)
        self.pieces, self.names = parts[::2], parts[1::2]
        self.translated = FIELD.split(translated)
        self.weight = sum(map(str.isalpha, "".join(self.pieces)))

    def match(self, text: str) -> list[str] | None:
        """Return the values, each as short as possible; None if the text is another message."""
        first, *middle, last = self.pieces if len(self.pieces) > 1 else (*self.pieces, "")
        if not text.startswith(first) or not text.endswith(last):
            return None
        if not self.names:
            return [] if text == first else None
        values, at, end = [], len(first), len(text) - len(last)
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(piece)
        if at > end:
            return None
        values.append(text[at:end])
        is_weak = self.weight < 6
        return None if is_weak and any(map(_PROSE.search, values)) else values


class _Catalogue:
    """Translates lines: whole messages, their values where these are messages themselves, and several in a row."""

    def __init__(self, translations: dict[str, str]) -> None:
        translations = {m.strip(): t.strip() for m, t in translations.items() if t and t != m}
        self.exact = {m: t for m, t in translations.items() if not FIELD.search(m)}
        self.patterns = [_Pattern(m, t) for m, t in translations.items() if FIELD.search(m)]
        self.patterns.sort(key=lambda pattern: -pattern.weight)
        self.line = lru_cache(maxsize=4096)(self._line)
        self._message = lru_cache(maxsize=4096)(self._find_message)

    def _line(self, text: str) -> str:
        """Return the translation with the least English left."""
        core = text.strip()
        if not core:
            return text
        if core.startswith("| ") and core.endswith(" |"):  # a row of a table
            return " | ".join(map(self.line, text.split(" | ")))
        found = [self._message(core)]
        ends = list(_SENTENCE_END.finditer(core))
        for end in ends:
            head = self._message(core[: end.start()])
            if head is not None:
                found.append(_join(head, self.line(core[end.end() :])))
        if ends and not any(found):
            found = [_join(core[: ends[0].start()], self.line(core[ends[0].end() :]))]
        best = min(filter(None, found), key=lambda t: len(_PROSE.findall(t)), default=core)
        if best == core:
            return text
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        if len(before) == 1 and re.match(_WIDE, best):  # a space before a Chinese sentence
            before = ""
        return before + best + ("" if re.search(f"{_WIDE}$", best) else after)

    def _find_message(self, text: str) -> str | None:
        """Return the translation of a text that is one message, or None."""
        if text in self.exact:
            return self.exact[text]
        if _CHOICE.fullmatch(text):
            return re.sub(r"(?<=[`\"\d]) or (?=[`\"\d])", " 或 ", text)
        found = []
        for pattern in self.patterns:
            values = pattern.match(text)
            if values is not None:
                found.append(self._fill(pattern, values))
                if len(found) == 6:
                    break
        return min(found, key=lambda t: len(_PROSE.findall(t)), default=None)

    def _fill(self, pattern: _Pattern, values: list[str]) -> str:
        shown = {}
        for piece, name, value in zip(pattern.pieces, pattern.names, values, strict=False):
            is_quoted = piece.endswith(("`", '"', "'"))
            shown[name] = value if is_quoted else self.line(value)
        parts = [shown[part] if i % 2 else part for i, part in enumerate(pattern.translated)]
        return "".join(parts)


def _join(head: str, rest: str) -> str:
    return head + ("" if re.search(f"{_WIDE}$", head) else " ") + rest
