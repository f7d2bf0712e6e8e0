"""The README's picture, from a report: python docs/picture.py reports/peft-vs-full/index.html docs/report.png

Needs playwright (`make setup` installs it) and Chromium. `make picture SUITE=…` runs the suite first where it has to.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

WIDTH, HEIGHT = 1280, 1560


def picture(page: Path, goal: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no Chromium: `apt-get install chromium`, or set CHROMIUM to one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        tab.wait_for_timeout(500)
        tab.screenshot(path=str(goal))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
