"""Hooks of MkDocs: run the code of each page, show what it prints and draws, and write formulas as MathML."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

import latex2mathml.converter

from tools.docs.blocks import Block, python_blocks, run_blocks, setup_of
from tools.docs.figures import placeholder, with_figures
from tools.docs.reference import reference_pages


def on_pre_build(config: Any) -> None:
    """Write the pages of the reference to `docs/reference`, which is made by each build and not committed."""
    for path, text in _reference().items():
        file = Path(config["docs_dir"], path)
        file.parent.mkdir(exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:  # an unchanged page starts no new build
            file.write_text(text, encoding="utf-8")


@cache
def _reference() -> dict[str, str]:
    return reference_pages()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the output of each block of Python below it."""
    code = tuple(python_blocks(markdown))
    if not code:
        return markdown
    blocks = iter(_run(code, re.sub(r"\.zh\.md$", ".md", page.file.src_uri), setup_of(markdown)))
    return re.sub(
        r"^```python\n.*?^```[ ]*$", lambda m: _shown(m[0], next(blocks)), markdown, flags=re.MULTILINE | re.DOTALL
    )


@cache
def _run(code: tuple[str, ...], name: str, setup: str) -> list[Block]:
    """Run the blocks of a page, once for all its languages."""
    return run_blocks(code, name, setup)


def _shown(fence: str, block: Block) -> str:
    parts = [fence]
    if title := re.match(r"# Picture: (.*)\n", block.code):
        indented = "\n".join(f"    {line}".rstrip() for line in fence.replace(title[0], "", 1).splitlines())
        parts = [f'??? note "{title[1]}"\n\n{indented}']
    if block.output.strip():
        parts.append(f"``` {{ .text .output }}\n{block.output.rstrip()}\n```")
    parts += [placeholder(svg) for svg in block.figures]
    return "\n\n".join(parts)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Convert formulas from LaTeX to MathML, which browsers draw without scripts and fonts."""
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: _mathml(m[1], "inline"), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda m: f'<div class="formula">{_mathml(m[1], "block")}</div>',
        content,
        flags=re.DOTALL,
    )


def _mathml(latex: str, display: str) -> str:
    return latex2mathml.converter.convert(html.unescape(latex).strip(), display=display)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Put the figures in place."""
    return with_figures(output)
