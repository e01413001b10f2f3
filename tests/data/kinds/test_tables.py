"""Tables with pictures inside are read as their writers wrote them, a group of rows at a time.

`golden/data` holds what datasets 5.2.0 wrote: save_to_disk in two shards, a dictionary of splits
with labels, and parquet files as they lie in a snapshot of the hub.
"""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from flashjax.data.kinds import tables
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.samples import Unreadable, captions_of
from flashjax.types import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "data"


def open_source(source):
    return open_kind(str(source), Wording())


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + shade, 8), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def check(samples, captions) -> None:
    assert captions_of(samples) == captions
    for number in range(len(captions)):
        assert samples.size(number) == (8, 8 + number)
        np.testing.assert_array_equal(samples[number].image[0, 0], (number, 0, 0))


@pytest.mark.parametrize("source", ["saved", "snapshot", "snapshot/data/train-*.parquet"])
def test_a_dataset_on_disk(source, caplog):
    caplog.set_level(logging.INFO)
    check(open_source(GOLDEN / source), [f"caption {n}" for n in range(3)])
    if source == "snapshot":
        assert "data/train is learnt from; data/test is left out" in caplog.text


def test_the_split_to_learn_from_and_the_names_of_labels():
    check(open_source(GOLDEN / "splits"), ["tabby cat", "dog", "tabby cat"])
    assert len(open_source(GOLDEN / "splits" / "test")) == 1


def test_parts_of_which_none_is_the_one_to_learn_from_are_refused(tmp_path):
    for name in ("cats/train", "dogs/train"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(
            GOLDEN / "snapshot/data/test-00000-of-00001.parquet", tmp_path / f"{name}-0.parquet"
        )
    with pytest.raises(InputError, match=r"several parts \(cats/train, dogs/train\): give the one"):
        open_source(tmp_path)


def write(path, columns: dict, group: int = 2):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_bytes_are_read_by_groups_and_only_when_they_are_asked_for(tmp_path, monkeypatch):
    read = []
    whole = tables._read
    monkeypatch.setattr(
        tables,
        "_read",
        lambda group, columns: read.append((group.number, *columns)) or whole(group, columns),
    )
    pictures = [picture(n) for n in range(6)]
    path = write(tmp_path / "a.parquet", {"image": pictures, "text": [f"{n}" for n in range(6)]})
    samples = open_source(path)
    assert read == [(n, "text") for n in range(3)]
    for n in range(6):
        assert samples.size(n) == (8, 8 + n)
        assert samples[n].caption == f"{n}" and samples[n].image[0, 0, 0] == n
    assert read[3:] == [(n, "image") for n in range(3)]


def test_a_row_without_a_picture_or_with_the_name_of_one(tmp_path):
    (tmp_path / "one.png").write_bytes(picture(0))
    cells = [{"bytes": None, "path": "one.png"}, {"bytes": picture(1), "path": "x.png"}]
    cells += [{"bytes": None, "path": None}, None]
    write(tmp_path / "a.parquet", {"image": cells, "caption": ["a", "b", "c", "d"]})
    samples = open_source(tmp_path / "a.parquet")
    for number in range(2):
        assert samples.size(number) == (8, 8 + number)
    for number in (2, 3):
        with pytest.raises(Unreadable, match=rf"a\.parquet row {number + 1}: .* holds no picture"):
            samples[number]


VIEW, CATEGORY = pyarrow.string_view(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())


@pytest.mark.parametrize("kind", [VIEW, CATEGORY], ids=str)
def test_names_and_captions_are_texts_however_a_table_keeps_them(kind, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    columns = {"file_name": ["0.png", "1.png"], "text": ["red", "blue"]}
    write(tmp_path / "a.parquet", {name: pyarrow.array(v, kind) for name, v in columns.items()})
    check(open_source(tmp_path / "a.parquet"), ["red", "blue"])


def test_an_arrow_file_may_be_a_stream_or_indexed(tmp_path):
    table = pyarrow.table({"image": [picture(0), picture(1)], "text": ["red", "blue"]})
    for name, writer in (("s", pyarrow.ipc.new_stream), ("f", pyarrow.ipc.new_file)):
        with writer(str(tmp_path / f"{name}.arrow"), table.schema) as sink:
            sink.write_table(table, max_chunksize=1)
        check(open_source(tmp_path / f"{name}.arrow"), ["red", "blue"])


def test_two_columns_of_one_usual_name_are_refused(tmp_path):
    arrays = [pyarrow.array(cells) for cells in ([picture(0)], ["red"], ["blue"])]
    table = pyarrow.Table.from_arrays(arrays, names=["image", "text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("file_name,text,,text,\n0.png,red,,blue,\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(InputError, match=rf"{name} has two columns text: keep one of them"):
            open_source(tmp_path / name)


def test_what_cannot_be_learnt_from_is_said_in_one_line(tmp_path):
    pictures = [picture(0)]
    cases = {
        "a": ({"pixels": pictures, "text": ["a"]}, "has no column file_name or image"),
        "b": ({"image": pictures, "words": ["a"]}, "no column text or caption or prompt"),
        "c": ({"image": [[1.0]], "text": ["a"]}, "column image is list"),
        "d": ({"image": pictures, "text": [3]}, "d.parquet row 1: its caption is 3, no text"),
        "e": ({"image": pictures, "text": [None]}, "1 of 1 pictures have no caption (e.parquet"),
        "f": ({"file_name": [None], "text": pyarrow.array(["a"])}, "column file_name is null"),
        "g": (
            {"image": pyarrow.array([], "binary"), "text": pyarrow.array([], "string")},
            "no row",
        ),
    }
    for name, (columns, message) in cases.items():
        with pytest.raises(InputError) as caught:
            open_source(write(tmp_path / f"{name}.parquet", columns))
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"b\.parquet has other columns than .*a\.parquet"):
        open_source(tmp_path / "{a,b}.parquet")
    content = (GOLDEN / "snapshot/data/train-00000-of-00002.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:900])
    content = (GOLDEN / "saved/data-00000-of-00002.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(content[:700])
    for name in ("cut.parquet", "cut.arrow"):
        with pytest.raises(InputError, match=rf"{name} is no \w+ file, or a broken one: [^\n]+$"):
            open_source(tmp_path / name)


@pytest.mark.parametrize(("file", "text"), [("state.json", "{}"), ("dataset_dict.json", "[")])
def test_a_dataset_without_its_lists_is_named(file, text, tmp_path):
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=rf"{file} has no list \w+: save the dataset again"):
        open_source(tmp_path)


def test_a_shard_that_is_gone_is_named(tmp_path):
    shutil.copytree(GOLDEN / "saved", tmp_path / "saved")
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow does not exist: fetch it"):
        open_source(tmp_path / "saved")


def test_the_digest_follows_captions_and_files(tmp_path):
    found = {
        open_source(write(tmp_path / "a.parquet", {"image": [content], "text": [text]})).digest
        for content, text in ((picture(0), "a"), (picture(0), "b"), (picture(200), "a"))
    }
    assert len(found) == 3
