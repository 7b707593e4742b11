"""Hooks of MkDocs: run the code of each page, show what it prints and draws, and write formulas as MathML."""

from __future__ import annotations

import html
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import latex2mathml.converter

from tools.docs.blocks import Block, python_blocks, run_page
from tools.docs.figures import labels_of, placeholder, with_figures, with_labels
from tools.docs.gallery import add_plotly
from tools.docs.notebook import notebook
from tools.docs.reference import reference_pages
from tools.docs.speed import draw_steps
from tools.docs.tables import TABLES

_PICTURE = "# Picture: the code of this picture\n"
_COLUMNS = re.compile(r"^\S.*\S {2,}\S.*\S {2,}\S", re.MULTILINE)
"""A line of a table: columns with spaces between them."""


def on_pre_build(config: Any) -> None:
    """Write the reference, the changes and the notebooks into the folder of the pages; they are not committed."""
    os.environ["PISTE_LANG"] = "en"  # of the reference; a translated page sets its own
    docs = Path(config["docs_dir"])
    _write(docs / "changelog.md", (docs.parent / "CHANGELOG.md").read_text(encoding="utf-8"))
    for path, text in _reference().items():
        _write(docs / path, text)
    for page in docs.glob("tutorial/*.md"):
        _write(page.with_suffix(".ipynb"), notebook(page.read_text(encoding="utf-8")))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:  # an unchanged file starts no new build
        file.write_text(text, encoding="utf-8")


@cache
def _reference() -> dict[str, str]:
    return reference_pages()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the output of each block of Python below it, in the language of the page."""
    is_chinese = page.file.src_uri.endswith(".zh.md")
    if is_chinese:  # a line break in the source is no space between Chinese characters
        markdown = re.sub(r"(?<=[\u3000-\uffef])\n(?=[\u3000-\uffef])", "", markdown)
    markdown = re.sub(r"^<!-- table: (\w+) -->$", lambda m: TABLES[m[1]](), markdown, flags=re.MULTILINE)
    labels = labels_of(markdown)
    if "<!-- figure: steps -->" in markdown:
        markdown = markdown.replace("<!-- figure: steps -->", placeholder(with_labels(draw_steps(), labels)))
    blocks = iter(_run(markdown, page.file.src_uri) if python_blocks(markdown) else ())
    return re.sub(
        r"^```python\n.*?^```[ ]*$",
        lambda m: _shown(m[0], next(blocks), is_chinese, labels),
        markdown,
        flags=re.MULTILINE | re.DOTALL,
    )


@cache
def _run(markdown: str, name: str) -> list[Block]:
    """Run the blocks of a page, once even where the page is shown in several languages, as those of the reference."""
    return run_page(markdown, name)


def _shown(fence: str, block: Block, is_chinese: bool, labels: dict[str, str]) -> str:
    parts = [fence]
    if block.code.startswith(_PICTURE):
        indented = "\n".join(f"    {line}".rstrip() for line in fence.replace(_PICTURE, "", 1).splitlines())
        parts = [f'??? note "{"这张图的代码" if is_chinese else "The code of this picture"}"\n\n{indented}']
    if block.output.strip():
        columns = " .columns" if len(_COLUMNS.findall(block.output)) > 2 else ""
        parts.append(f"``` {{ .text .output{columns} }}\n{block.output.rstrip()}\n```")
    parts += [placeholder(with_labels(svg, labels)) for svg in block.figures]
    return "\n\n".join(parts)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Convert formulas from LaTeX to MathML, which browsers draw without scripts and fonts; mark cells of words."""
    content = re.sub(r"<td([^>]*)>(.*?)</td>", _cell, content, flags=re.DOTALL)
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: _mathml(m[1], "inline"), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda m: f'<div class="formula">{_mathml(m[1], "block")}</div>',
        content,
        flags=re.DOTALL,
    )


def _cell(match: re.Match[str]) -> str:
    """Mark a cell of several Chinese characters, for which the style sheet keeps room."""
    is_words = len(re.findall("[\u3400-\u9fff]", match[2])) > 4
    return f'<td class="words"{match[1]}>{match[2]}</td>' if is_words else match[0]


def _mathml(latex: str, display: str) -> str:
    return latex2mathml.converter.convert(html.unescape(latex).strip(), display=display)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Put the figures in place."""
    return with_figures(output)


def on_post_build(config: Any) -> None:
    """Complete the reports of the gallery."""
    for report in Path(config["site_dir"]).glob("**/assets/gallery/*.html"):
        report.write_text(add_plotly(report.read_text(encoding="utf-8")), encoding="utf-8")
