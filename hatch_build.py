"""The address of the project, and a README whose links work on a package index.

The address is that of the git remote `origin`. A checkout without one, or with a local one, builds a package without
addresses, whose README has relative links.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_REMOTE = re.compile(r"(?:https?://|ssh://|)(?:[^@/]+@)?(?P<host>[\w.-]+\.\w+)(?::\d+)?[:/](?P<path>.+?)(?:\.git)?/?")
_LINK = re.compile(r"(?P<is_picture>!?)(?P<text>\[[^\]]*\])\((?P<target>[^)\s]+)\)")


class ProjectMetadata(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the metadata of the project."""
        root = Path(self.root)
        address = web_address(remote(root))
        text = (root / "README.md").read_text(encoding="utf-8")
        if address is not None:
            text = with_absolute_links(text, address)
            metadata["urls"] = project_urls(address)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def remote(root: Path) -> str:
    """Return the remote `origin` of the repository whose root this is, or an empty string."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def web_address(remote: str) -> str | None:
    """Return the https address of a remote, without a user name or password; None for a local one."""
    found = _REMOTE.fullmatch(remote)
    return None if found is None else f"https://{found['host']}/{found['path']}"


def project_urls(address: str) -> dict[str, str]:
    """Return the addresses that a package index shows."""
    return {
        "Repository": address,
        "Documentation": f"{address}/blob/HEAD/docs/index.md",
        "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def with_absolute_links(markdown: str, address: str) -> str:
    """Return Markdown whose links to files of the repository are absolute."""

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target or target.startswith("#"):
            return link[0]
        kind = "raw" if link["is_picture"] else "blob"
        return f"{link['is_picture']}{link['text']}({address}/{kind}/HEAD/{target})"

    return _LINK.sub(absolute, markdown)
