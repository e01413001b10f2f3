"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_test_and_file_that_a_page_names_is_there(page):
    text = page.read_text()
    named = re.findall(r"`(test_\w+)`", text)
    files = re.findall(r"`((?:tests|flashjax|configs)/[\w/.]+)`", text)
    assert not [name for name in named if name not in TESTS]
    assert not [file for file in files if not (ROOT / file).exists()]
