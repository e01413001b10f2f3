"""A source is recognised by what it holds; what is wrong with it is said in one line."""

import csv
import io
import json
import logging
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from flashjax.data.kinds.drawn import is_undrawn
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.samples import Unreadable, captions_of
from flashjax.types import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
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


def check(samples, atol: int = 0) -> None:
    assert captions_of(samples) == ["caption 0", "caption 1", "caption 2"]
    for number in range(3):
        assert samples.size(number) == (8, 8 + number)
        np.testing.assert_allclose(samples[number].image[0, 0], (number, 0, 0), atol=atol)


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


def write_tar(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def shard(numbers) -> dict[str, bytes]:
    return {
        f"s{n}{suffix}": content
        for n in numbers
        for suffix, content in ((".png", picture(n)), (".txt", f"caption {n}".encode()))
    }


@pytest.mark.parametrize("pattern", ["{000..001}.tar", "{000,001}.tar", "00?.tar", ""])
def test_tar_shards_of_the_tool_itself_are_read_where_they_lie(pattern, tmp_path):
    """Written by webdataset 1.0.2 with ShardWriter: texts, JSON, classes; png, webp, jpeg."""
    folder = tmp_path / "shards"
    folder.symlink_to(GOLDEN)
    if not pattern:  # a folder of tars alone
        folder = tmp_path / "alone"
        folder.mkdir()
        for tar in GOLDEN.glob("*.tar"):
            (folder / tar.name).symlink_to(tar)
    check(open_source(folder / pattern if pattern else folder), atol=2)


def test_a_tar_cut_anywhere_names_its_last_whole_sample(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, shard(range(3)))
    content = path.read_bytes()
    for size in range(0, 6 * 1024 + 1, 256):  # a header and a block for each of six files
        path.write_bytes(content[:size])
        last = {0: None, 1: None, 2: "s0", 3: "s0", 4: "s1", 5: "s1", 6: "s2"}[size // 1024]
        if size < 512:
            message = r"a\.tar is no tar"
        elif last is None:
            message = r"a\.tar is cut short or broken: (it has no whole sample|.* sample is s0)"
        else:
            message = rf"a\.tar is cut short or broken: its last whole sample is ({last}|s[012]);"
        with pytest.raises(InputError, match=message):
            open_source(path)
    path.write_bytes(content[: 6 * 1024 + 512])
    check(open_source(path))


def test_linked_files_of_a_tar_are_what_they_link_to_as_the_tool_itself_packs_them(tmp_path):
    """`tar` keeps a file that is there twice as a hard link."""
    for place in ("in/a.png", "in/c/d.png"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(len(place)))
        path.with_suffix(".txt").write_text(place)
    (tmp_path / "in" / "b.png").hardlink_to(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.txt").symlink_to("a.txt")
    (tmp_path / "in" / "c" / "e.png").symlink_to("../a.png")
    (tmp_path / "in" / "c" / "e.txt").hardlink_to(tmp_path / "in" / "c" / "d.txt")
    pack = ["tar", "--sort=name", "-C", str(tmp_path / "in"), "-cf"]
    subprocess.run([*pack, str(tmp_path / "all.tar"), "."], check=True)
    found = open_source(tmp_path / "all.tar")
    assert [found[n].caption for n in range(4)] == ["in/a.png"] * 2 + ["in/c/d.png"] * 2
    for one, other in ((0, 1), (0, 3)):
        np.testing.assert_array_equal(found[one].image, found[other].image)
    subprocess.run([*pack, str(tmp_path / "part.tar"), "b.txt", "c"], check=True)
    with pytest.raises(InputError, match=r"part\.tar has b\.txt as a link to a\.txt, no file"):
        open_source(tmp_path / "part.tar")


def test_hidden_files_of_a_tar_part_no_picture_from_its_caption(tmp_path, caplog):
    """A Mac's own `tar` packs one before each file: attributes, in a format of its own."""
    files = shard(range(3))
    files = {n: c for name in files for n, c in ((f"._{name}", b"\0\5"), (name, files[name]))}
    write_tar(tmp_path / "mac.tar", {f"./{name}": content for name, content in files.items()})
    check(open_source(tmp_path / "mac.tar"))
    assert "have no picture" not in caplog.text


def test_a_tar_that_is_put_together_wrongly_is_refused(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    apart = shard(range(3))
    write_tar(tmp_path / "apart.tar", dict(sorted(apart.items(), key=lambda item: item[0][2:])))
    write_tar(tmp_path / "list.tar", {"a.png": picture(0), "a.json": b"[1]"})
    write_tar(tmp_path / "twice.tar", {"a.png": picture(0), "a.PNG": picture(1)})
    write_tar(tmp_path / "none.tar", {"a.txt": b"a", "b.seg.png": picture(0)})
    for name, message in {
        "packed": "packed.tar is no tar",
        "apart": "3 of 3 pictures have no caption (apart.tar/s0, ",
        "list": "list.tar/a.json is no object",
        "twice": "twice.tar has a.png twice",
        "none": "no shard holds a picture",
    }.items():
        with pytest.raises(InputError) as caught:
            open_source(tmp_path / f"{name}.tar")
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "2 samples have no picture (none.tar/a has .txt, none.tar/b has .seg.png)" in caplog.text


def test_a_file_of_prompts_has_no_pictures(tmp_path):
    (tmp_path / "p.TXT").write_text("\ufefftext, bold and red\r\n\r\n two 🐈 \n")
    samples = open_source(tmp_path / "p.TXT")
    assert captions_of(samples) == ["text, bold and red", "two 🐈"]
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


def test_a_caption_may_be_called_in_capitals_as_its_picture_is(folder):
    (folder / "a.png").rename(folder / "a.PNG")
    (folder / "a.txt").rename(folder / "a.TXT")
    check(open_source(folder))


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
    assert not is_undrawn(samples)


def test_a_character_that_was_cut_in_half_is_replaced(folder):
    """As by JavaScript, which counts an emoji as two."""
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat \\ud83d"}')
    samples = open_source(folder)
    assert samples[0].caption == "a cat ?" and samples.digest


def test_of_several_captions_one_is_learnt(folder, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"file_name": name, "captions": ["one", "two", " "]} for name in NAMES]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert captions_of(open_source(folder)) == ["one"] * 3
    assert "3 of 3 pictures have several captions (a.png, b c.jpg, sub/d.webp): the first" in (
        caplog.text
    )
    drawn = {
        seed: captions_of(open_kind(str(folder), Wording("refuse", "random", seed)))
        for seed in range(8)
    }
    assert {caption for captions in drawn.values() for caption in captions} == {"one", "two"}
    assert drawn[3] == captions_of(open_kind(str(folder), Wording("refuse", "random", 3)))


@pytest.mark.parametrize(
    "kind", ["folder", "csv", "jsonl", "inside", "beside", "tar", "told", "told_tar"]
)
def test_pictures_learnt_alone_need_no_captions_wherever_they_lie(kind, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pictures = [picture(number) for number in range(3)]
    source = {"folder": folder, "told": folder, "tar": tmp_path / "0.tar"}.get(kind)
    if kind == "tar":
        write_tar(source, {f"{n}.png": content for n, content in enumerate(pictures)})
    elif kind == "told":  # in no way that could be read
        (folder / NAMES[0]).with_suffix(".txt").write_bytes(b"\xff\xfe")
    elif kind == "told_tar":
        source = tmp_path / "1.0.tar"
        files = {f"{n}.png": content for n, content in enumerate(pictures)}
        write_tar(source, dict(sorted((files | {"1.json": b'{"caption": 7}'}).items())))
    elif source is None:
        source = folder / {"csv": "a.csv", "jsonl": "a.jsonl"}.get(kind, "a.parquet")
        rows = [{"path": name, "label": n} for n, name in enumerate(NAMES)]
        if kind == "csv":
            source.write_text("path,label\n" + "".join(f"{r['path']},{r['label']}\n" for r in rows))
        elif kind == "jsonl":
            source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            columns = {"image": pictures} if kind == "inside" else {"path": list(NAMES)}
            pyarrow.parquet.write_table(pyarrow.table(columns), source)
    for name in NAMES if kind == "folder" else ():
        (folder / name).with_suffix(".txt").unlink()
    samples = open_kind(str(source), Wording(several="none"))
    assert captions_of(samples) == [""] * 3 and "is learnt" not in caplog.text
    assert {samples[n].image[0, 0, 0] for n in range(3)} == {0, 1, 2}
    with pytest.raises(InputError, match=r"no caption|no column text|no UTF-8|is 7, no text"):
        open_kind(str(source), Wording())


def test_what_is_left_out_of_a_folder_is_said(folder, caplog):
    (folder / "old.gif").write_bytes(b"")
    (folder / "d.txt").write_text("a caption without its picture")
    check(open_source(folder))
    assert "2 other files are left out (d.txt, old.gif): 1 of .txt, 1 of .gif" in caplog.text


def test_a_table_may_name_files_anywhere_with_any_separator_in_texts(folder, tmp_path):
    table = tmp_path / "lists" / "t.JSONL"
    table.parent.mkdir()
    names = ["../my pictures/a.png", str(folder / "b c.jpg"), "../my pictures/sub/d.webp"]
    rows = [{"path": name, "prompt": f"caption \u2028{n}"} for n, name in enumerate(names)]
    table.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    check(open_source(table))


def test_what_cannot_be_read_is_said_in_one_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("url,words\na,b\n")
    (tmp_path / "y.csv").write_text("file_name,words\na,b\n")
    (tmp_path / "z.txt").write_text('image,"caption"\na.png,one\n')
    (tmp_path / "k.jsonl").write_text("[1]\n")
    (tmp_path / "j.jsonl").write_text("{\n")
    (tmp_path / "i.jsonl").write_text('{"a": ' + 5_000 * "1" + "}\n")
    (tmp_path / "q.parquet").write_bytes(b"no parquet")
    (tmp_path / "w.csv").write_text("file_name,text\na.png,a cat, asleep\n")
    (tmp_path / "v.csv").write_text("file_name,text\na.png\n,two\n")
    (tmp_path / "n.jsonl").write_text('{"file_name": "a.png", "text": 5}\n')
    (tmp_path / "half.jsonl").write_text(r'{"file_name": "\ud83d.png", "text": "a"}' + "\n")
    (tmp_path / "p.txt").write_text('prompt\n"a cat, asleep"\n')
    (tmp_path / "t.txt").write_text("id\tPrompt\n1\ta cat\n")
    (folder / "sub" / "metadata.csv").write_text("file_name,text\nd.webp,d\n")
    (tmp_path / "m.bin").write_bytes(b"?")
    for name, message in {
        "empty": "empty holds no picture: give files of .png",
        "x.csv": "x.csv has no column file_name or image",
        "y.csv": "y.csv has no column text or caption or prompt or captions: its columns are",
        "z.txt": "z.txt begins with the header of a table",
        "w.csv": "w.csv: the row of 'a.png' has more cells than the header",
        "v.csv": "v.csv: row 2 names no picture in file_name",
        "half.jsonl": r"half.jsonl: row 1: '\ud83d.png' in file_name is no file's name",
        "n.jsonl": "n.jsonl: row 1: its caption is 5, no text",
        "p.txt": "p.txt begins with the header of a table",
        "t.txt": "t.txt begins with the header of a table",
        "my pictures": "my pictures has manifests in its folders (sub/metadata.csv): give ",
        "k.jsonl": "k.jsonl: line 1 is no object",
        "j.jsonl": "j.jsonl: line 1 is no JSON",
        "i.jsonl": "i.jsonl: line 1 is no JSON",
        "q.parquet": "q.parquet is no parquet file",
        "m.bin": "m.bin is none of what can be read: give a folder of pictures",
        "nowhere": "nowhere does not exist: give a folder of pictures",
    }.items():
        with pytest.raises(InputError) as caught:
            open_source(tmp_path / name)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_may_name_what_no_file_is_called(tmp_path):
    """It is left out and listed, as other pictures that are not there."""
    rows = [{"file_name": "9" * 5000 + ".png", "text": "a"}, {"file_name": "b.png", "text": "b"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_source(tmp_path / "metadata.jsonl")
    for number in range(2):
        with pytest.raises(Unreadable):
            samples.size(number)
