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


@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_works_in_a_browser(report_dir: Path, tmp_path: Path, width: int) -> None:
    page = report_dir / "report.html"
    clicked = tmp_path / "clicked.html"
    script = f"<script>window.addEventListener('load', () => {{{CLICKS}}});</script></body>"
    clicked.write_text(page.read_text(encoding="utf-8").replace("</body>", script))
    seen, console = _open(clicked, tmp_path / "profile", width)
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
