"""Fonts for text in every script, in figures that are drawn as pixels."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import Any

from ...translation import translate

FONT = "DejaVu Sans"
"""Matplotlib's own font, always installed."""
PLACEHOLDER = "Last Resort"
"""The family, shipped with matplotlib, that draws a box for every character."""
NOTE = "Characters that no installed font has are written as \\uXXXX."


_WIDE = "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
_TOKEN = re.compile(f"{_WIDE}[\u3001-\u3002\uff01-\uff1f]*|[^\\s\u2e80-\uffef]+|\\s+")


def translated(text: str) -> str:
    """Return a text of a figure in the user's language, or in English where no installed font has its characters."""
    shown = translate(text)
    return shown if all(map(_is_drawn, set(re.findall(_WIDE, shown)))) else text


@cache
def _is_drawn(character: str) -> bool:
    return not fallback_fonts(character)[1]


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines; a wide character, such as a Chinese one, has the width of two letters."""
    if not re.search(_WIDE, text):
        return textwrap.wrap(text, width)
    lines = [""]
    for token in _TOKEN.findall(text):
        longer = lines[-1] + token
        if lines[-1] and len(longer) + len(re.findall(_WIDE, longer)) > width:
            lines.append("")
        lines[-1] += token if lines[-1] else token.lstrip()
    return [line.rstrip() for line in lines if line.strip()]


def show_as_text(figure: Any) -> None:
    """Show every text as it is, in installed fonts: names may hold dollar signs, which are no formulas."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math(False)
    _use_installed_fonts(texts)


def use_installed_fonts(figure: Any) -> set[str]:
    """Let every text of a figure fall back to installed fonts; returns the characters that none of them has."""
    from matplotlib.text import Text

    return _use_installed_fonts(figure.findobj(Text))


def _use_installed_fonts(texts: Iterable[Any]) -> set[str]:
    foreign = [text for text in texts if not text.get_text().isascii()]
    families, missing = fallback_fonts({c for text in foreign for c in text.get_text() if c.isprintable()})
    for text in foreign:
        text.set_fontfamily([*families, "sans-serif"])  # an SVG may be read where none of them is installed
    return missing


def write_as_code_points(figure: Any, missing: set[str], width: int) -> None:
    """Replace the characters in every text of a figure by their code points, with a note on the figure.

    Args:
        figure: The figure; it needs a new layout afterwards.
        missing: The characters.
        width: The number of letters in a line of a title.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        lines = "".join(f"\\u{ord(c):04x}" if c in missing else c for c in text.get_text()).split("\n")
        text.set_text("\n".join(part for line in lines for part in textwrap.wrap(line, width) or [""]))
    figure.supxlabel(translated(NOTE), x=0.995, ha="right", fontsize=7)


def fallback_fonts(characters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the most of `characters`, FONT first, and the characters none of them has."""
    from matplotlib import font_manager

    families, missing = [FONT], set(characters)
    missing -= _glyphs(font_manager.findfont(FONT))
    if missing:
        missing = _extend(families, missing)
    if missing and _add_new_fonts():
        missing = _extend(families, missing)
    return families, missing


def _extend(families: list[str], missing: set[str]) -> set[str]:
    """Append the families that have some of the missing characters; returns those that are still missing."""
    from matplotlib import font_manager

    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        if not missing:
            break
        if entry.name in families or entry.style != "normal" or entry.name.startswith(PLACEHOLDER):
            continue
        found = missing & _glyphs(entry.fname)
        if found:
            families.append(entry.name)
            missing = missing - found
    return missing


def _add_new_fonts() -> int:
    """Add the fonts that were installed after matplotlib stored its list of fonts; returns their number."""
    from matplotlib import font_manager

    manager, added = font_manager.fontManager, 0
    for path in sorted(set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}):
        try:
            manager.addfont(path)
            added += 1
        except (OSError, RuntimeError, ValueError):  # a format that matplotlib does not read
            pass
    return added


def _glyphs(path: str) -> set[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return set(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # a broken font file
        return set()
