"""Prompt files: what is read, and what is refused."""

import pytest

from flashjax.data.prompts import read_prompts
from flashjax.types import InputError


def test_blank_lines_and_spaces_are_dropped(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red seven on the left\n\n  on white a pink two \n")
    assert read_prompts(file) == ["a red seven on the left", "on white a pink two"]


@pytest.mark.parametrize("content", [None, "", "\n  \n"])
def test_a_missing_or_empty_file_is_refused_by_name(tmp_path, content):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match="prompts"):
        read_prompts(file)
