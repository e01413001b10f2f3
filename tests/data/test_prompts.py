"""Prompt files: what is read, and what is refused."""

import codecs

import numpy as np
import pytest

from flashjax.data.cache import without_pictures
from flashjax.data.pipeline import batches
from flashjax.data.prompts import LONGEST, Prompts, read_prompts, stream_tokens
from flashjax.types import InputError, Tokens


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


LINES = ["a red seven", "très 🙂", "on white"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_marks_and_ends_of_lines_are_no_part_of_a_prompt(tmp_path, end, mark):
    file = tmp_path / "prompts.txt"
    file.write_bytes(mark + end.join([*LINES, "", " ", ""]).encode())
    assert read_prompts(file) == LINES
    assert Prompts(file).read([2, 0]) == [LINES[2], LINES[0]]
    file.write_bytes(mark + end.join(["", *LINES]).encode())
    assert read_prompts(file) == LINES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding):
    file = tmp_path / "prompts.txt"
    file.write_bytes("a red seven\n".encode(encoding))
    with pytest.raises(InputError, match=r"prompts\.txt.*(UTF-16|line 1.*zero).*save it as UTF-8"):
        read_prompts(file)


def test_a_line_of_megabytes_is_read_to_where_no_tokenizer_comes(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("é" * 5_000_000 + "\nred\n", encoding="utf-8")
    long, red = read_prompts(file)
    assert long == "é" * LONGEST and red == "red"


def test_a_line_that_is_no_text_is_named(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"a red seven\n\xff\n")
    with pytest.raises(InputError, match=r"prompts.txt: line 2 is no UTF-8"):
        read_prompts(tmp_path / "prompts.txt")


def test_a_stream_encodes_the_rows_of_a_batch_and_no_others(tmp_path):
    lines = [f"a caption of {'é' * number}" for number in range(40)]
    (tmp_path / "prompts.txt").write_text("\n\n".join(lines), encoding="utf-8")
    asked = []

    def tokenizer(prompts):
        asked.extend(prompts)
        ids = np.array([[len(prompt), number] for number, prompt in enumerate(prompts)], np.int32)
        return Tokens(ids, ids[:, :1], 2 * ids)

    stream = stream_tokens(Prompts(tmp_path / "prompts.txt"), tokenizer)
    asked.clear()  # one prompt was encoded for the lengths
    batch = next(batches(without_pictures(stream, (2, 2, 3)), batch_size=5, seed=0))
    assert not asked  # nothing is read before a device asks for its rows
    here = batch.tokens.t5[slice(0, 2), slice(None)]
    assert len(asked) == 2 and set(asked) <= set(lines)
    np.testing.assert_array_equal(here[:, 0], [2 * len(prompt) for prompt in asked])
    np.testing.assert_array_equal(
        batch.tokens.clip_l[slice(0, 2), slice(None)][:, 0] * 2, here[:, 0]
    )
    assert len(asked) == 2  # the other encoders' ids were made with the first one's
