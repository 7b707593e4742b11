"""The settings that identify a stored comparison: the difference to another comparison in words, and extensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EXTENSIBLE = ("seeds", "trials", "candidates", "fingerprint", "epochs")
"""Settings that may differ, or whose difference is described apart."""


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the differences of two comparisons; empty if the second one uses or extends the runs of the first."""
    before = {"split": "fixed", **before}  # without an entry before every seed drew its own
    parts = [
        f"{key} was {before.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if key not in _EXTENSIBLE and before.get(key) != now.get(key)
    ]
    if before["seeds"][0] != now["seeds"][0]:
        parts.append(f"the first seed was {before['seeds'][0]}, now {now['seeds'][0]}")
    old, new = (settings["fingerprint"] for settings in (before, now))
    if isinstance(old, str):
        parts.append("its runs were stored by an earlier version of Piste")
    else:
        parts += [f"the {name} changed" for name in new if new[name] != old.get(name)]
    known = {c["name"]: c for c in before["candidates"]}
    parts += [text for c in now["candidates"] if (text := _change(known.get(c["name"], c), c))]
    return "; ".join(dict.fromkeys(parts))  # a loss that changed, once for all of its candidates


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the parts of a candidate that changed."""
    name = now["name"]
    if before["loss"] != now["loss"]:
        return f"the loss of `{name}` was {before['loss']}, now {now['loss']}"
    if before["lr"] != now["lr"]:
        old, new = ("its default" if c["lr"] is None else f"{c['lr']:g}" for c in (before, now))
        return f"the learning rate of `{name}` was {old}, now {new}"
    old_code, new_code = before.get("code", {}), now["code"]
    if old_code.get("optimizer") != new_code["optimizer"]:
        if before["bound"] != now["bound"]:
            return f"`{name}` was made with {before['bound'] or 'no options'}, now with {now['bound'] or 'no options'}"
        return f"the code of the optimizer `{now['optimizer']}`, or a value that it reads, changed"
    if old_code.get("loss") != new_code["loss"]:
        return f"the code of the loss `{now['loss']}`, or a value that it reads, changed"
    if old_code.get("loop") != new_code["loop"]:
        old, new = (c.get("loop", "") or "the plain loop" for c in (before, now))
        if old == new:
            return f"the code of the loop of `{name}`, or a value that it reads, changed"
        return f"the loop of `{name}` was {old}, now {new}"
    return ""


def extended_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a comparison and its extension."""
    by_name = {c["name"]: c for c in (*before["candidates"], *now["candidates"])}
    return {
        **now,
        "seeds": max(before["seeds"], now["seeds"], key=len),
        "trials": max(before["trials"], now["trials"]),
        "candidates": list(by_name.values()),
    }
