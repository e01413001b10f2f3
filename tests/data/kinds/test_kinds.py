"""A source is recognised by what it holds; what is wrong with it is said in one line."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.patterns import expand
from flashjax.data.samples import Unreadable, captions_of
from flashjax.types import InputError

NAMES = ("a.png", "b c.jpg", "sub/d.webp")


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + shade, 8), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Three pictures with captions; all are PNG inside, whatever they are called."""
    root = tmp_path / "my pictures"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(picture(number))
        (root / name).with_suffix(".txt").write_text(f"caption\n {number}\n")
    (root / ".hidden.png").write_bytes(b"x")
    return root


def check(samples) -> None:
    assert captions_of(samples) == ["caption 0", "caption 1", "caption 2"]
    for number in range(3):
        assert samples.size(number) == (8, 8 + number)
        assert samples[number].image[0, 0, 0] == number


def open_source(source, empty: str = "refuse"):
    return open_kind(str(source), Wording(empty), others="the name of a task (one)")


def test_a_folder_with_texts_beside_its_pictures(folder):
    check(open_source(folder))


@pytest.mark.parametrize("column", ["file_name", "image", "path"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_with_a_table_and_the_table_itself(folder, kind, column):
    rows = [{column: name, "text": f"caption {n}"} for n, name in enumerate(NAMES)]
    table = folder / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n")
    elif kind == "csv":
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    check(open_source(folder))
    check(open_source(table))


def test_pictures_inside_a_parquet_file(tmp_path):
    rows = [
        {"image": {"bytes": picture(n), "path": None}, "caption": f"caption {n}"} for n in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    check(open_source(tmp_path / "train.parquet"))


def write_tar(path, numbers, *, json_captions=False):
    with tarfile.open(path, "w") as tar:
        for n in numbers:
            text = json.dumps({"caption": f"caption {n}"}) if json_captions else f"caption {n}"
            suffix = "json" if json_captions else "txt"
            for name, content in ((f"s{n}.png", picture(n)), (f"s{n}.{suffix}", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_tar_shards_are_read_where_they_lie(tmp_path):
    write_tar(tmp_path / "000.tar", [0, 1])
    write_tar(tmp_path / "001.tar", [2], json_captions=True)
    for pattern in ("{000..001}.tar", "{000,001}.tar", "*.tar"):
        check(open_source(tmp_path / pattern))
    assert len(expand(str(tmp_path / "00{0..1}.tar"))) == 2
    with pytest.raises(InputError, match=r"002\.tar does not exist"):
        open_source(tmp_path / "{000..002}.tar")


def test_a_tar_cut_short_names_its_last_sample(tmp_path):
    write_tar(tmp_path / "a.tar", range(3))
    content = (tmp_path / "a.tar").read_bytes()
    for size in (1100, 2600, 3700):
        (tmp_path / "a.tar").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"a\.tar is cut short"):
            open_source(tmp_path / "a.tar")


def test_a_file_of_prompts_has_no_pictures(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffone\r\n\r\n two 🐈 \n")
    samples = open_source(tmp_path / "p.txt")
    assert captions_of(samples) == ["one", "two 🐈"]
    assert samples[0].image is None and samples.size(0) is None


def test_the_digest_changes_where_a_sample_does(folder):
    before = open_source(folder).digest
    assert open_source(folder).digest == before
    (folder / "a.txt").write_text("another caption")
    after = open_source(folder).digest
    assert after != before
    (folder / "a.png").write_bytes(picture(77))
    assert open_source(folder).digest != after


def test_captions_that_are_missing_are_counted_or_replaced(folder):
    (folder / "a.txt").unlink()
    (folder / "b c.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"2 of 3 pictures have no caption \(a\.png, b c\.jpg\)"):
        open_source(folder)
    assert captions_of(open_source(folder, "a photo")) == ["a photo", "a photo", "caption 2"]
    assert captions_of(open_source(folder, ""))[0] == ""


def test_a_broken_picture_and_one_that_is_gone_are_unreadable(folder):
    rows = [{"file_name": name, "text": "x"} for name in ("a.png", "gone.png")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "a.png").write_bytes(picture(0)[:30])
    samples = open_source(folder)
    for index, name in enumerate(("a.png", "gone.png")):
        with pytest.raises(Unreadable, match=name):
            samples[index]
        with pytest.raises(Unreadable, match=name):
            samples.size(index)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("url,words\na,b\n")
    (tmp_path / "y.csv").write_text("file_name,words\na,b\n")
    (tmp_path / "z.txt").write_text('image,"caption"\na.png,one\n')
    (tmp_path / "k.jsonl").write_text("[1]\n")
    (tmp_path / "j.jsonl").write_text("{\n")
    (tmp_path / "q.parquet").write_bytes(b"no parquet")
    (tmp_path / "m.bin").write_bytes(b"?")
    for name, message in {
        "empty": "empty holds no picture: give files of .png",
        "x.csv": "x.csv has no column file_name or image",
        "y.csv": "y.csv has no column text or caption or prompt or captions: its columns are",
        "z.txt": "z.txt begins with the header of a table",
        "k.jsonl": "k.jsonl: line 1 is no object",
        "j.jsonl": "j.jsonl: line 1 is no JSON",
        "q.parquet": "q.parquet is no parquet file",
        "m.bin": "m.bin is none of what can be read: give a folder of pictures",
        "nowhere": "nowhere does not exist: give a folder of pictures",
    }.items():
        with pytest.raises(InputError) as caught:
            open_source(tmp_path / name)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    np.testing.assert_equal(len(open_source(folder)), 3)
