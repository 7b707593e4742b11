"""The code of every page runs, its commands exist, and its translation has the same code."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import piste
from piste.cli import app
from tools.docs import blocks
from tools.docs.blocks import BlockError, commands_of, python_blocks, run_blocks, run_page, setup_of
from tools.docs.elsewhere import loss_elsewhere
from tools.docs.figures import labels_of, with_labels
from tools.docs.notebook import notebook
from tools.docs.speed import draw_steps

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOUND = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
WRITTEN = [path for path in FOUND if not path.startswith(("reference/", "changelog.md"))]  # the others are made
PAGES = [path for path in WRITTEN if not path.endswith(".zh.md")]
TRANSLATED = [path for path in WRITTEN if path.endswith(".zh.md")]


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(read(page))])
def test_the_python_of_a_page_runs_from_top_to_bottom(page):
    text = read(page)
    assert len(run_blocks(python_blocks(text), page, setup_of(text))) == len(python_blocks(text))


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(read(page))])
def test_the_commands_of_a_page_exist_with_their_options(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands_of(read(page)):
        program, *words = shlex.split(line)
        if program == "piste" and words[0] in ("compare", "diff"):  # they need time, or folders
            command = get_command(app).commands[words[0]]
            command.make_context(words[0], words[1:])  # raises for an unknown option and for a value out of range
        elif program == "piste":
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{line}\n{done.output}"
        elif program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), line
        elif program in ("python", "torchrun"):
            module = words[words.index("-m") + 1] if "-m" in words else None
            files = [word for word in words if word.endswith(".py")]
            assert module or files, line
            written = [block.splitlines()[0].removeprefix("# ") for block in python_blocks(read(page))]
            assert all(file in written or (ROOT / file).exists() for file in files), line
            assert module is None or (ROOT / module.split(".")[0]).is_dir(), line
        else:
            assert (program, words[0]) in {("pip", "install"), ("optuna-dashboard", "sqlite:///results/runs.db")}, line


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_code_headings_and_pictures_of_its_page(page):
    english, chinese = read(page.replace(".zh.md", ".md")), read(page)
    assert python_blocks(chinese) == python_blocks(english)
    assert commands_of(chinese) == commands_of(english)
    assert setup_of(chinese) == setup_of(english)
    chinese = re.sub(r"(\]\([^)]+)\.zh\.", r"\1.", chinese)  # pictures and reports with Chinese words
    for pattern in (r"^(#+) ", r"\]\(([^)#]+)", r"^!!! (\w+)"):
        assert sorted(re.findall(pattern, chinese, re.M)) == sorted(re.findall(pattern, english, re.M)), pattern


def test_a_block_that_fails_is_named_with_its_page():
    with pytest.raises(BlockError, match=r"(?s)some\.md: this block fails:\n\nx = 1 / 0\n.*ZeroDivisionError"):
        run_blocks(["x = 1 / 0\n"], "some.md")


def test_a_block_of_an_optional_package_runs_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(blocks, "OPTIONAL", ("no_such_package",))
    skipped, run = run_blocks(["import no_such_package\nprint(1)\n", "print(2)\n"], "some.md")
    assert (skipped.output, run.output) == ("", "2\n")
    with pytest.raises(BlockError, match="no_other_package"):
        run_blocks(["import no_other_package\n"], "some.md")


def test_blocks_share_a_namespace_and_keep_what_they_print_and_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing = (
        "import matplotlib.pyplot as plt\nplt.plot([0, a])\nprint(open('one.py').read() == '# one.py\\nb = 2\\n')\n"
    )
    first, file, second = run_blocks(["print(a)\n", "# one.py\nb = 2\n", drawing], "some.md", "a = 3\n")
    assert (first.output, first.figures) == ("3\n", ())
    assert file.output == ""
    assert second.output == "True\n"
    (svg,) = second.figures
    assert svg.startswith("<svg") and "currentColor" in svg and "#010203" not in svg
    assert not list(tmp_path.iterdir())


def test_piste_prints_in_the_language_of_the_page(monkeypatch):
    page = (
        "# Title\n\n```python\nfrom piste import losses\nimport torch\n"
        "try:\n    losses.MSELoss()(torch.zeros(4, 1), torch.zeros(4))\n"
        "except ValueError as error:\n    print(error)\n```\n"
    )
    monkeypatch.setenv("PISTE_LANG", "fr")
    (english,), (chinese,) = (run_page(page, name) for name in ("guides/some.md", "guides/some.zh.md"))
    assert english.output.startswith(
        "MSELoss: `input` and `target` must have the same shape; received (4, 1) and (4,)."
    )
    assert chinese.output.startswith("MSELoss：`input` 和 `target` 的形状必须相同；收到 (4, 1) 和 (4,)。")
    assert os.environ["PISTE_LANG"] == "fr"


def test_a_notebook_has_the_text_and_the_code_of_its_page():
    page = read("tutorial/losses.md")
    cells = json.loads(notebook(page))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip() for block in python_blocks(page)]
    assert cells[0]["source"][0] == "# Losses, seen\n"
    assert ".ipynb" not in json.dumps(cells)


@pytest.mark.parametrize("page", WRITTEN)
def test_the_links_of_a_page_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)", read(page)):
        file = (DOCS / page).parent / target
        is_made = "/reference/" in file.as_posix() or file.suffix == ".ipynb" or file.name == "changelog.md"
        assert target.startswith("http") or is_made or file.resolve().is_file(), target


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page."""
    found = set()
    for heading in re.findall(r"^##+ (.*)$", read(page), re.MULTILINE):
        own = re.search(r"\{ #([\w-]+) \}", heading)
        words = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()).strip().lower()
        found.add(own[1] if own else re.sub(r"[-\s]+", "-", words))
    return found


@pytest.mark.parametrize("ending", [".md", ".zh.md"])
@pytest.mark.parametrize("page", [*PAGES, "reference/a-loss.md"])  # the reference is made, for both languages
def test_the_links_of_a_page_lead_to_headings(page, ending):
    file = (DOCS / page).with_suffix(ending)
    is_made = page.startswith("reference/")
    text = "\n".join(loss_elsewhere(piste.losses.L1Loss)) if is_made else read(page.replace(".md", ending))
    found = re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text)
    assert found or not is_made
    for target, anchor in found:
        linked = (file.parent / target).resolve().with_suffix(ending) if target else file
        if linked.is_relative_to(DOCS) and linked.is_file():  # pages that are made have their own tests
            assert anchor in anchors(linked.relative_to(DOCS).as_posix()), f"{linked.name}#{anchor}"


@pytest.mark.parametrize("page", ["../README.md", "../README.zh-CN.md", *WRITTEN])
def test_every_dotted_name_of_a_page_exists(page):
    quoted = "\n".join(re.findall(r"`[^`\n]+`", read(page)))
    for name in re.findall(r"(?<![\w/-])piste(?:\.[A-Za-z_]\w*)+", quoted):
        parent, _, last = name.rpartition(".")
        try:
            found = hasattr(importlib.import_module(parent), last)
        except ImportError:  # an attribute of a class
            module, _, kind = parent.rpartition(".")
            found = hasattr(getattr(importlib.import_module(module), kind), last)
        assert found, name


@pytest.mark.parametrize("page", [page for page in TRANSLATED if labels_of(read(page))])
def test_every_label_of_a_translation_is_a_text_of_a_figure(page):
    english = read(page.replace(".zh.md", ".md"))
    figures = [svg for block in run_blocks(python_blocks(english), page, setup_of(english)) for svg in block.figures]
    figures += [draw_steps()] if "<!-- figure: steps -->" in english else []
    shown = {html.unescape(text) for svg in figures for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}
    assert set(labels_of(read(page))) <= shown


def test_texts_of_a_figure_are_translated_as_a_whole():
    svg = '<text x="1">loss</text><text>loss of</text><text>a &lt; b</text><path id="loss"/>'
    labels = labels_of("# Title\n\n<!-- labels\nloss = 损失\na < b = 甲 < 乙\n-->\n")
    assert (
        with_labels(svg, labels)
        == '<text x="1">损失</text><text>loss of</text><text>甲 &lt; 乙</text><path id="loss"/>'
    )
    named = with_labels('<svg role="img" aria-label="a &lt; b; loss of; loss"></svg>', labels)
    assert named == '<svg role="img" aria-label="甲 &lt; 乙; loss of; 损失"></svg>'


def test_a_figure_is_labeled_with_its_titles():
    drawing = (
        "import matplotlib.pyplot as plt\n_, (a, b) = plt.subplots(1, 2)\na.set_title('x < y')\nb.set_title('slope')\n"
    )
    (block,) = run_blocks([drawing], "some.md")
    assert block.figures[0].startswith('<svg role="img" aria-label="x &lt; y; slope"')
