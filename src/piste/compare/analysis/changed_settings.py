"""The command, settings and versions that differ between two comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HASHED = ("one hash", "another hash")
"""The values of settings that are known by a hash."""


def differing_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the command, settings and versions that differ."""
    pairs = [("command", old.get("command"), new.get("command"))]
    for group in ("settings", "validation", "versions"):
        a, b = old.get(group, {}), new.get(group, {})
        pairs += [(key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b])]
    return [part for key, a, b in pairs if a != b for part in _changed(key, a, b)]


def _changed(key: str, old: Any, new: Any) -> list[tuple[str, str, str]]:
    """Describe a setting that differs: hashes of code and data are named, not shown."""
    if key == "fingerprint" and isinstance(old, dict) and isinstance(new, dict):
        return [(f"code or values of the {part}", *HASHED) for part in old if old[part] != new.get(part)]
    if key in ("examples", "targets"):
        return [(f"validation {key}", *((str(old), str(new)) if key == "examples" else HASHED))]
    if key != "candidates" or not old or not new:
        return [(key, _text(old), _text(new))]
    names = [", ".join(_candidate(c) for c in candidates) for candidates in (old, new)]
    if names[0] != names[1]:
        return [(key, names[0], names[1])]
    after = {c["name"]: c for c in new}
    changed = ", ".join(c["name"] for c in old if c != after[c["name"]])
    return [(f"code or options of the candidates {changed}", *HASHED)]


def _candidate(candidate: Mapping[str, Any]) -> str:
    return candidate["name"] + ("" if candidate["lr"] is None else f" (lr {candidate['lr']:g})")


def _text(value: Any) -> str:
    if value in (None, ""):
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
