"""The recorded measurements of the options that every optimizer shares, as tables; `tools.docs.speed` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench import options as options_bench
from bench.options import PRECISIONS, best_of_torch

__all__ = ["options_in_full", "options_tables"]

_WORDS = {
    "": {
        "clipping": "Two threads. The time of PyTorch's clipping and best step over that of Piste's step, and in "
        "parentheses Piste's step with the option over its step without:",
        "precision": "Two threads, bfloat16 parameters. The times of the precisions and of PyTorch's best step over "
        'that of `precision="plain"`:',
        "storage": "AdamW, each time with the bytes of state per parameter, and the time of the other library over "
        "Piste's; {libraries}:",
    },
    ".zh": {
        "clipping": "两个线程。PyTorch 的裁剪加上它最快的一步所用的时间除以 Piste 一步的时间；"
        "括号中是带这个选项的一步与不带选项的一步的时间之比：",
        "precision": '两个线程，bfloat16 参数。各种精度以及 PyTorch 最快一步的时间除以 `precision="plain"` 的时间：',
        "storage": "AdamW，每个时间后面是每个参数的状态字节数，以及另一个库的时间除以 Piste 的时间；{libraries}：",
    },
}


def options_tables(record: dict[str, Any], language: str = "") -> str:
    """Return the Markdown of the summaries: clipping, precision and storage.

    Args:
        record: What `python -m bench options --json` writes.
        language: "" or ".zh".
    """
    words = _WORDS[language]
    libraries = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    parts = [
        (words["clipping"], _clipping(record["clipping"])),
        (words["precision"], _precision(record["precision"])),
        (words["storage"].format(libraries=libraries), options_bench.storage_table(record["storage"])),
    ]
    return "\n\n".join("\n".join((text, "", *table)) for text, table in parts)


def _clipping(rows: list[dict[str, Any]]) -> Iterator[str]:
    rows = [row for row in rows if row["threads"] == 2]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    yield f"| | | {' | '.join(workloads)} |"
    yield "|---|---|" + "---|" * len(workloads)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        seconds = row["seconds"]
        ratio = best_of_torch(seconds) / seconds["piste"]
        cost = seconds["piste"] / seconds["without"]
        cells.setdefault((row["optimizer"], row["option"]), {})[row["workload"]] = f"{ratio:.3g} ({cost:.2f})"
    for (name, option), found in cells.items():
        shown = option if option == "both" else f"`{option}`"
        yield f"| {name} | {shown} | {' | '.join(found.get(workload, '') for workload in workloads)} |"


def _precision(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| | | {' | '.join(PRECISIONS[1:])} | torch |"
    yield "|---|---|" + "---|" * len(PRECISIONS)
    for row in rows:
        if row["threads"] == 2:
            times = [*(row["seconds"][precision] for precision in PRECISIONS[1:]), best_of_torch(row["seconds"])]
            cells = " | ".join(f"{time / row['seconds']['plain']:.3g}" for time in times)
            yield f"| {row['workload']} | {row['optimizer']} | {cells} |"


def options_in_full(record: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return every measured row of clipping and precision, as tables with their titles."""
    return [(name, list(options_bench.TABLES[name][1](record[name]))) for name in ("clipping", "precision")]
