"""The report is one file that says what it was given, safely and completely."""

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flashjax.evaluate import report as reports
from flashjax.evaluate.bars import TIMES, Bar
from flashjax.evaluate.judge import Figure, Measured
from flashjax.evaluate.report import (
    NBSP,
    Curves,
    FileSize,
    Report,
    Sampler,
    headings,
    panels,
    write_report,
)

HOSTILE = "<script>alert('&')</script>\"'>"
VOID = {"meta", "img", "br", "line"}


class Page(HTMLParser):
    """A page's tags, texts and attributes; unbalanced tags fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def make_measured(whole: float, **fields) -> Measured:
    figures = (
        Figure("whole", whole, "%", error=2.54, decimals=1, heading="Share"),
        Figure("part", 75.0, "%", decimals=1, heading="Share"),
        Figure("distance", 4.5, better="less"),
    )
    return Measured(figures, 400, **fields)


def make_report(text: str = "plain") -> Report:
    pictures = np.random.default_rng(0).integers(0, 255, (2, 2, 4, 6, 3), np.uint8)
    timed = make_measured(90.0, steps=50, passes=100, seconds_per_image=0.5)
    return Report(
        title=text,
        summary=text,
        bars=[Bar(text, 17.0, 18.0, text)],
        captions=[text, "a red one"],
        samplers=[
            Sampler(text, text, text, pictures[0], make_measured(50.0)),
            Sampler("teacher", text, text, pictures[1], timed),
        ],
        reference="teacher",
        notes=[text, text],
        curves=[Curves(text, {text: [{"step": 1, text: 2.0}], "other": [{"step": 1, "a": 1.0}]})],
        files=[FileSize(text, 16_000_000), FileSize("small", 4_000_000)],
        stage_seconds={text: 65.0, "merge": 0.5},
        config=text,
        versions={text: text},
        seed=7,
        hardware=text,
    )


@pytest.fixture
def page(tmp_path) -> Page:
    write_report(tmp_path / "report.html", make_report(HOSTILE))
    return Page((tmp_path / "report.html").read_text("utf-8"))


def test_page_needs_nothing_beside_it(page):
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert not page.all("script") and not page.all("link")
    assert not any(re.search(r"url\(|@import|https?:", text) for text in page.texts)


def test_every_text_is_escaped_and_shown(page):
    shown = [text for text in page.texts if HOSTILE in text]
    assert len(shown) >= 15  # every field that takes a text, and none of them became a tag


def test_pictures_come_back_with_prompt_and_seed(page):
    expected = [image for sampler in make_report().samplers for image in sampler.images]
    found = [Image.open(io.BytesIO(base64.b64decode(i["src"][22:]))) for i in page.all("img")]
    assert len(found) == 4
    for image, pixels in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert found[0].text == {"prompt": HOSTILE, "sampler": f"{HOSTILE}, {HOSTILE}", "seed": "7"}
    assert {(image["width"], image["height"]) for image in page.all("img")} == {("12", "8")}


def test_a_curve_is_of_numbers_however_large():
    """A judge's NaN, or a loss without bounds, ends no job through its page."""
    records = [{"step": n, "judge/x": x} for n, x in enumerate((math.nan, 2.0, math.inf, 3.0))]
    (panel,) = panels({"": records})
    assert panel.steps == (1, 3) and panel.lines[0].last == 3.0
    assert panels({"": records[:1]}) == ()
    (panel,) = panels({"": [{"step": 1, "n/loss": 1e20}]})
    assert panel.ticks and panel.lines[0].last == 1e20


@pytest.mark.parametrize("shape", [(4, 6), (200, 120), (1024, 768), (768, 1024)])
def test_a_column_is_as_wide_as_its_pictures(shape, tmp_path):
    """Large pictures are made smaller for the table, and not blown up again by its style."""
    report = make_report()
    pictures = np.zeros((2, *shape, 3), np.uint8)
    samplers = [dataclasses.replace(one, images=pictures) for one in report.samplers]
    write_report(tmp_path / "report.html", dataclasses.replace(report, samplers=samplers))
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    (style,) = [t["style"] for t in page.all("table") if t.get("class") == "pictures"]
    (width,) = {image["width"] for image in page.all("img")}
    assert style.endswith(f"--side: {width}")


def test_figures_are_in_the_table(page):
    figures = ("50.0", "±2.5", "90.0", "75.0", "4.50", "400", "100", "500.0", f"1.0{TIMES}")
    sizes_and_times = (f"4.00{NBSP}MB", "25.0 %", f"1{NBSP}min 05{NBSP}s", f"0.5{NBSP}s")
    assert {*figures, *sizes_and_times, "not met"} <= {*page.texts}
    assert {"Share, %", "whole", "part", "distance"} <= {*page.texts}


def test_neighbours_under_a_heading_are_counted_and_others_stand_alone():
    found = headings(make_measured(50.0).figures)
    assert [(heading.text, heading.columns) for heading in found] == [("Share, %", 2), ("", 1)]


def test_pictures_that_nobody_judges_are_shown_and_timed_and_the_page_says_so(tmp_path):
    report = make_report()
    rows = [
        dataclasses.replace(row, measured=dataclasses.replace(row.measured, figures=()))
        for row in report.samplers
    ]
    unjudged = dataclasses.replace(report, samplers=rows, notes=[], bars=[])
    write_report(tmp_path / "report.html", unjudged)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert any("No judge was asked" in text for text in page.texts)
    assert "500.0" in page.texts and len(page.all("img")) == 4
    assert not any("bars" in text for text in page.texts if "{" not in text)


def test_a_panel_draws_each_run_between_its_ticks():
    runs = {
        "a": [{"hparams": {"x": 1}}, {"step": 0, "n/loss": 1.0}, {"step": 10, "n/loss": 3.0}],
        "b": [{"step": 10, "n/loss": 2.0, "m/loss": 5.0, "time/step_seconds": 1.0, "note": "-"}],
    }
    first, second = panels(runs)
    assert (first.name, second.name) == ("n/loss", "m/loss")
    assert [(line.run, line.last) for line in first.lines] == [(1, 3.0), (2, 2.0)]
    assert [(line.run, line.last) for line in second.lines] == [(2, 5.0)]
    heights = {tick.label: tick.y for tick in first.ticks}
    assert heights["1"] > heights["2"] > heights["3"]
    left, right = reports.LEFT, reports.WIDTH - reports.RIGHT
    assert first.lines[0].path == f"M{left:.1f},{heights['1']:.1f}L{right:.1f},{heights['3']:.1f}"
    assert first.lines[1].path == f"M{right:.1f},{heights['2']:.1f}"
    assert first.steps == (0, 10)


def test_an_axis_is_logarithmic_where_decades_are_spanned():
    values = [0.001, 0.1, 10.0]
    (panel,) = panels({"": [{"step": i, "a/b": value} for i, value in enumerate(values)]})
    heights = [float(point.split(",")[1]) for point in panel.lines[0].path[1:].split("L")]
    assert math.isclose(heights[0] - heights[1], heights[1] - heights[2], abs_tol=0.11)
    assert {"0.1", "10"} <= {tick.label for tick in panel.ticks}


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.9, 3.1, [1.0, 1.5, 2.0, 2.5, 3.0]),
        (-130.0, 260.0, [-100.0, 0.0, 100.0, 200.0]),
        (1e-4, 2.4e-4, [1e-4, 1.5e-4, 2e-4]),
    ],
)
def test_ticks_are_round_numbers_within_the_values(low, high, numbers):
    np.testing.assert_allclose(reports.round_numbers(low, high), numbers)


def test_pictures_that_do_not_match_the_captions_are_refused():
    with pytest.raises(ValueError, match="2 pictures for 1 captions"):
        dataclasses.replace(make_report(), captions=["one"])
    with pytest.raises(ValueError, match="no sampler is called 'nobody'"):
        dataclasses.replace(make_report(), reference="nobody")


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, make_report())
    before = path.read_bytes()
    broken = dataclasses.replace(make_report(), notes=None)
    with pytest.raises(TypeError, match="iterable"):
        write_report(path, broken)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def cells_of(path) -> list[list[str]]:
    """The rows of the table of figures, headings among them, as texts of their cells."""
    table = re.search(r'<table class="figures">.*?</table>', path.read_text("utf-8"), re.S)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table[0], re.S)
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in found]


def test_a_figure_that_some_samplers_lack_stands_under_its_own_name_all_the_same(tmp_path):
    """Real pictures have no diversity of one prompt: what follows must not move to the left."""
    report = make_report()
    sharp, spread = Figure("sharpness", 26.8, decimals=1), Figure("diversity", 22.0, decimals=1)
    rows = [
        dataclasses.replace(row, measured=dataclasses.replace(row.measured, figures=figures))
        for row, figures in zip(report.samplers, ((sharp,), (sharp, spread)), strict=True)
    ]
    write_report(tmp_path / "r.html", dataclasses.replace(report, samplers=rows))
    found = {row[0]: row[1:] for row in cells_of(tmp_path / "r.html") if len(row) > 4}
    assert found[""][:3] == ["sharpness", "diversity", "samples"]
    assert found["plainplain"][:3] == ["26.8", "\N{EN DASH}", "400"]
    assert found["teacherplain"][:3] == ["26.8", "22.0", "400"]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [(-0.0263, 1.9, "0.0"), (99.4, 40.0, "99"), (87.04, 1.5, "87.0"), (0.51, 0.02, "0.510")],
)
def test_a_bar_has_the_digits_that_its_error_leaves_it(value, error, shown, tmp_path):
    bar = Bar("it", value, 1.0, "points", error=error)
    write_report(tmp_path / "r.html", dataclasses.replace(make_report(), bars=[bar]))
    assert f"<strong>{shown}<small>" in (tmp_path / "r.html").read_text("utf-8")
