"""A page as a Jupyter notebook: its text and its blocks of Python as cells."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["notebook"]

_BLOCK = re.compile(r"^```python\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """Return the JSON of a notebook with the text and the Python of a page.

    The link to the notebook itself is left out.
    """
    page = re.sub(r"^\[[^\]]*\]\([^)]*\.ipynb\)[.。]\n\n", "", page, flags=re.MULTILINE)
    cells: list[dict[str, Any]] = []
    for position, text in enumerate(_BLOCK.split(page)):
        text = text.strip()
        if not text:
            continue
        cell: dict[str, Any] = {"id": f"cell-{position}", "metadata": {}, "source": text.splitlines(keepends=True)}
        if position % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
