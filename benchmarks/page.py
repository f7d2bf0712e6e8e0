"""How soon the report of 2,000 cells can be used: python benchmarks/page.py

Writes synthetic results (25 labels x 4 sizes x 10 seeds x 2 tasks, 200 items each), makes their page, and opens it in
Chromium: until its scripts have run, and until a click on a header has sorted the first table. Medians of five visits.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
VISITS = 5


def main() -> None:
    from playwright.sync_api import sync_playwright
    from results_factory import big

    from harness.report import load, write_report

    with tempfile.TemporaryDirectory() as folder:
        store = big(Path(folder) / "results")
        began = time.perf_counter()
        report = load(store, "demo")
        loaded = time.perf_counter()
        page = write_report(report, Path(folder) / "out").html
        written = time.perf_counter() - loaded
        print(f"load {loaded - began:.1f} s, write {written:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        ready, sorted_ = [], []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(VISITS):
                tab = browser.new_page(viewport={"width": 1280, "height": 900})
                began = time.perf_counter()
                tab.goto(page.as_uri(), wait_until="commit")
                tab.wait_for_selector("html[data-ready]", state="attached")
                ready.append(time.perf_counter() - began)
                tab.locator(".board thead button").first.click()
                tab.wait_for_selector(".board th[aria-sort='ascending']")
                sorted_.append(time.perf_counter() - began)
                tab.close()
            browser.close()
    print(f"ready {statistics.median(ready):.2f} s, sorted by a click {statistics.median(sorted_):.2f} s after opening")


if __name__ == "__main__":
    main()
