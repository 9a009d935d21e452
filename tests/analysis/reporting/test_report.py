"""The HTML report: whole, in order, self-contained, and with the numbers of its inputs."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.console.formatting import percent, quantity
from analysis.reporting.write_report import write_report
from analysis.results.run_dir import Run
from analysis.results.savings import cluster_savings
from d2ft_sched.errors import InputError

PICTURES = {
    "predicted_measured",
    "accuracy",
    "schedule",
    "timeline",
    "timeline_block",
    "workload",
}
VOID = {"meta", "link", "img", "br"}


class _Page(HTMLParser):
    """Tags in order, with what stands in table cells; refuses tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


@pytest.fixture
def html(report_dir: Path) -> str:
    return (report_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def page(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_sections_stand_in_the_order_of_the_questions(page: _Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    order = ["question", "summary", "savings"] + [
        f"{name}-section" for name in ("accuracy", "schedule", "timeline", "workload", "provenance")
    ]
    assert [i for i in ids if i in order] == order
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(html: str, page: _Page) -> None:
    assert "http:" not in html
    assert "https:" not in html
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            if attributes.get(name):
                assert attributes[name].startswith("data:"), tag
    assert "default-src 'none'" in html


def test_every_picture_is_embedded_described_and_on_disk(page: _Page, report_dir: Path) -> None:
    images = [a for tag, a in page.tags if tag == "img" and "src" in a]
    assert len(images) == len(PICTURES)
    for image in images:
        assert image["src"].startswith("data:image/")
        assert len(image["alt"]) > 40
    assert {p.stem for p in (report_dir / "pictures").iterdir()} == PICTURES
    for picture in (report_dir / "pictures").iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_tables_hold_the_numbers_of_the_files(run: Run, page: _Page) -> None:
    cells = set(page.cells)
    for name, step in run.measurement.steps.items():
        if name in ("dense", "plan"):
            assert quantity(step.step_s, "s") in cells
            assert quantity(step.flops, "FLOP") in cells
            assert quantity(step.peak_memory_bytes, "B") in cells
    for prediction in (run.prediction.cluster, run.prediction.this_device):
        for name in ("dense", "plan"):
            assert quantity(prediction[name].step_s, "s") in cells
            assert quantity(prediction[name].peak_memory_bytes, "B") in cells
    for device in run.prediction.cluster["plan"].devices:
        assert quantity(device.busy_s, "s") in cells
    for training in run.measurement.training.values():
        assert percent(training.test_accuracy) in cells
    assert set(run.prediction.ways.values()) <= cells
    for key, value in run.provenance.items():
        assert {key, str(value)} <= cells
    text = "".join(page.text)
    assert percent(cluster_savings(run.prediction.cluster)["step_s"].predicted) in text
    assert quantity(run.prediction.cluster["dense"].exchange_bytes, "B") in text


def test_predictions_and_the_measured_device_are_named_as_such(page: _Page) -> None:
    text = re.sub(r"\s+", " ", "".join(page.text))
    assert "measured: CPU <of two threads> & no GPU" in text
    assert "predicted only" in text
    assert "The cluster was simulated, not run" in text
    assert "with one seed" in text


def test_headers_have_a_scope_and_rows_a_header(page: _Page) -> None:
    headers = [a for tag, a in page.tags if tag == "th"]
    assert headers
    assert all(a.get("scope") in ("col", "row", "rowgroup") for a in headers)


def test_the_same_run_gives_the_same_report(run_dir: Path, html: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == html


def test_a_damaged_run_leaves_no_report_behind(run_dir: Path) -> None:
    (run_dir / "measurement.json").unlink()
    before = sorted(p.name for p in run_dir.iterdir())
    with pytest.raises(InputError, match=r"measurement\.json: is missing"):
        write_report(run_dir)
    assert sorted(p.name for p in run_dir.iterdir()) == before
