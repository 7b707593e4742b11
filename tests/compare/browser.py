"""The paths of Chromium and its driver, if they are installed."""

from __future__ import annotations

import shutil

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
"""Debian's packages chromium and chromium-driver; a browser without its driver is not used."""
BROWSERS = [BROWSER] if BROWSER and DRIVER else []
