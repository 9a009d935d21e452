"""The report in headless Chromium: no console errors, sorting and enlarging work."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH to open the report in"
)

CLICKS = """
const table = document.querySelector("#workload-section table");
const headers = [...table.querySelectorAll("thead th")];
const column = headers.findIndex((header) => header.textContent.startsWith("Busy, plan"));
const rows = () => [...table.tBodies[0].rows];
const values = () => rows().map((row) => Number(row.cells[column].dataset.value));
const seen = {};
headers[column].querySelector("button").click();
seen.ascending = values();
seen.sort = headers[column].getAttribute("aria-sort");
headers[column].querySelector("button").click();
seen.descending = values();
const savings = document.querySelector("#savings table");
savings.querySelectorAll("thead button")[1].click();
seen.groups = [...savings.tBodies].map((body) => body.rows[0].className);
document.querySelector("#timeline .enlarge").click();
const stage = document.querySelector("#viewer .stage");
seen.open = document.getElementById("viewer").open;
seen.fit = stage.querySelector("img").clientWidth / stage.clientWidth;
document.querySelector("[data-zoom='1.5']").click();
seen.zoomed = stage.querySelector("img").clientWidth / stage.clientWidth;
document.querySelector("[data-close]").click();
seen.closed = !document.getElementById("viewer").open;
seen.images = [...document.images].filter((i) => i.src).every((i) => i.complete && i.naturalWidth);
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.seen = JSON.stringify(seen);
"""


def _open(page: Path, profile: Path, width: int) -> tuple[dict[str, Any], list[str]]:
    """What the clicks saw, and the lines of the console."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-background-networking", f"--user-data-dir={profile}",
            f"--window-size={width},900", "--virtual-time-budget=5000",
            "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(seen[1])), console


def _with_script(html: str, script: str, folder: Path) -> Path:
    page = folder / "clicked.html"
    run = f"<script>window.addEventListener('load', () => {{{script}}});</script></body>"
    page.write_text(html.replace("</body>", run))
    return page


@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_works_in_a_browser(report_dir: Path, tmp_path: Path, width: int) -> None:
    html = (report_dir / "report.html").read_text(encoding="utf-8")
    seen, console = _open(_with_script(html, CLICKS, tmp_path), tmp_path / "profile", width)
    assert console == []
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["sort"] == "ascending"
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["groups"] == ["group", "group"]
    assert seen["open"]
    assert seen["fit"] >= 1
    assert seen["zoomed"] == pytest.approx(1.5 * seen["fit"], rel=0.02)
    assert seen["closed"]
    assert seen["images"]
    assert seen["overflow"] <= 0


ALL_TABLES = """
const seen = {bad: [], tables: 0, zoomable: 0};
for (const table of document.querySelectorAll("table.sortable")) {
  seen.tables += 1;
  const count = () => [...table.tBodies].map((body) => body.rows.length).join();
  const before = count();
  table.querySelectorAll("thead button").forEach((button) => { button.click(); button.click(); });
  if (count() !== before) seen.bad.push(table.ariaLabel);
}
for (const button of document.querySelectorAll(".enlarge")) {
  button.click();
  const shown = document.querySelector("#viewer .stage img");
  if (shown.src === button.querySelector("img").src) seen.zoomable += 1;
  document.querySelector("[data-close]").click();
}
const summary = document.getElementById("summary").getBoundingClientRect();
seen.first_screen = summary.top;
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.seen = JSON.stringify(seen);
"""


@pytest.mark.parametrize("width", [1280, 500])
def test_a_report_of_everything_works_too(full_report: Path, tmp_path: Path, width: int) -> None:
    html = full_report.read_text(encoding="utf-8")
    seen, console = _open(_with_script(html, ALL_TABLES, tmp_path), tmp_path / "profile", width)
    assert console == []
    assert seen["bad"] == []
    assert seen["tables"] == html.count('class="sortable"')
    assert seen["zoomable"] == html.count('class="enlarge"') == 18
    assert seen["first_screen"] < 900
    assert seen["overflow"] <= 0


def test_it_prints(full_report: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
            f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}",
            full_report.as_uri(),
        ],
        capture_output=True, timeout=120, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert pdf.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) >= 4
