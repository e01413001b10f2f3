"""The page of a job at work: whole, self-contained, up to date, and safe."""

import re

import numpy as np
import pytest

from flashjax.evaluate import live
from flashjax.evaluate.live import LivePage, account, thinned
from flashjax.evaluate.report import LEFT

HOSTILE = "<script>alert('&')</script>\"'>"

SCALARS = {
    "student/loss": 0.5,
    "time/step_seconds": 2.0,
    "goodput/compile_seconds": 65.0,
    "speed/mfu": 0.42,
    "memory/host_bytes": 2.5 * 2**30,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "live.html"


def test_it_has_figures_curves_and_samples_and_needs_nothing_beside_it(path):
    page = LivePage(path, "guide", 100, [{"hparams": {}}, {"step": 5, "student/loss": 0.7}])
    page.write_images(8, {"student": np.zeros((4, 8, 3), np.uint8)})
    page.write_scalars(10, SCALARS)
    found = path.read_text("utf-8")
    assert all(f">{text}<" in found for text in ("42 %", "2.50 GiB", "2 s", "student/loss"))
    assert "Step 10 of 100, 3\xa0min" in found and found.count("<path") == 1
    (source,) = re.findall(r'src="([^"]*)"', found)
    assert source.startswith("data:image/png;base64,") and "student, step 8" in found
    assert 'http-equiv="refresh"' in found and f'x1="{LEFT}"' in found
    assert not re.search(r"<script|<link|url\(|@import|https?:", found)


@pytest.mark.parametrize("judged_at", [10, 15])
def test_a_judgement_leaves_speed_and_time_on_the_page(path, judged_at):
    """A judge writes a record of its own, at the last step, too."""
    page = LivePage(path, "guide", 20)
    page.write_scalars(10, SCALARS)
    page.write_scalars(judged_at, {"judge/whole": 84.0})
    page.flush()
    found = path.read_text("utf-8")
    assert all(f">{text}<" in found for text in ("42 %", "2.50 GiB", "2 s", "judge/whole"))
    left = 2 * (20 - judged_at)
    assert f"Step {judged_at} of 20, {left}" in found and "compile" in found


def test_every_text_is_escaped(path):
    page = LivePage(path, HOSTILE, 100)
    page.write_images(1, {HOSTILE: np.zeros((2, 2, 3), np.uint8)})
    page.write_scalars(2, {HOSTILE: 1.0})
    found = path.read_text("utf-8")
    assert "<script" not in found and found.count("&lt;script&gt;") >= 5


def test_it_is_written_at_intervals_and_at_the_end(path):
    page = LivePage(path, "guide", 100)
    page.write_scalars(10, SCALARS)
    before = path.read_text()
    page.write_scalars(20, SCALARS)
    assert path.read_text() == before  # not yet due
    page.close()
    found = path.read_text("utf-8")
    assert "Step 20 of 100. The job has ended." in found and 'http-equiv="refresh"' not in found


def test_a_long_curve_is_thinned_and_ends_where_it_ends(monkeypatch):
    monkeypatch.setattr(live, "POINTS", 4)
    records = [{"step": step} for step in range(1, 11)]
    assert [record["step"] for record in thinned(records)] == [1, 4, 7, 10]
    assert thinned(records[:4]) == records[:4]


def test_the_account_has_the_categories_and_not_the_pace():
    assert account(SCALARS) == {"compile": 65.0}
