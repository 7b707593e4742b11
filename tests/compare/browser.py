"""Where a Chromium is, if there is one."""

from __future__ import annotations

import shutil

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
"""Debian's packages chromium and chromium-driver; a browser without its driver can't be asked anything."""
BROWSERS = [BROWSER] if BROWSER and DRIVER else []
