"""Where tools write: a file is a file, and what others put there stays."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flashjax.convert.outputs import MANIFEST, check_free, foreign, keep_record, places, write_as
from flashjax.convert.tensors import in_memory
from flashjax.convert.writing import replacing, write_safetensors
from flashjax.types import InputError


@pytest.mark.parametrize(
    ("out", "names", "found"),
    [
        ("x", ["a.gguf"], ["x/a.gguf"]),
        ("x", ["a.gguf", "b"], ["x/a.gguf", "x/b"]),
        ("sd3.5", ["a.gguf"], ["sd3.5/a.gguf"]),  # a version is no end of a file's name
        ("x.gguf", ["a.gguf"], ["x.gguf"]),
        ("x.GGUF", ["a.gguf"], ["x.GGUF"]),
        ("x.mlpackage", ["a.mlpackage"], ["x.mlpackage"]),
    ],
)
def test_a_name_that_ends_like_a_file_is_that_file(tmp_path, out, names, found):
    assert places(tmp_path / out, names) == [tmp_path / path for path in found]


@pytest.mark.parametrize(
    ("out", "names", "message"),
    [
        ("x.gguf", ["a.gguf", "b.gguf"], r"x\.gguf is one file, and 2 things.*name a folder"),
        ("x.gguf", ["a.safetensors"], r"this format is a file that ends in \.safetensors"),
        ("x.ckpt", ["a.safetensors"], r"this format is a file that ends in \.safetensors"),
        ("x.safetensors", ["diffusers"], r"this format is a folder \(as diffusers\)"),
        ("file", ["a.gguf"], r"file is a file: name a folder"),
    ],
)
def test_a_name_of_another_kind_is_refused(tmp_path, out, names, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        places(tmp_path / out, names)


def fill(folder):
    """A file and a folder, written as ours."""
    write_as(folder / "a.txt", lambda out: write(out / "other name", "ours"))
    write_as(folder / "d", lambda out: write(out / "x" / "deep" / "b.txt", "ours").parents[1])
    return folder / "a.txt", folder / "d"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("force", [False, True])
def test_what_was_ours_may_be_written_again(tmp_path, force):
    for _ in range(2):
        paths = fill(tmp_path)
        check_free([*paths, tmp_path / "new.txt"], force=force)
    assert sorted(p.name for p in tmp_path.iterdir()) == [MANIFEST, "a.txt", "d"]
    assert (tmp_path / "d" / "deep" / "b.txt").read_text() == "ours"


def test_what_was_ours_takes_force_where_nothing_is_to_be_written_over(tmp_path):
    paths = fill(tmp_path)
    for path in paths:
        with pytest.raises(InputError, match="is there already, as flashjax wrote it"):
            check_free([path], force=False, ours=False)
    check_free(paths, force=True, ours=False)
    (tmp_path / "hollow" / "deep").mkdir(parents=True)
    check_free([tmp_path / "new.txt", tmp_path / "hollow"], force=False, ours=False)


def test_a_file_of_others_or_one_that_they_changed_takes_force(tmp_path):
    (tmp_path / "theirs.txt").write_text("theirs")
    ours, _ = fill(tmp_path)
    ours.write_text("mine")
    (tmp_path / "link.txt").symlink_to(tmp_path / "theirs.txt")
    for path in (tmp_path / "theirs.txt", ours, tmp_path / "link.txt"):
        with pytest.raises(InputError, match=rf"{path.name} is there.* give --force"):
            check_free([path], force=False)
        check_free([path], force=True)


def test_a_folder_with_a_file_of_others_is_never_given_away(tmp_path):
    _, folder = fill(tmp_path)
    theirs = write(folder / "deep" / "notes.txt", "theirs")
    for force in (False, True):
        with pytest.raises(InputError, match=r"d holds deep/notes\.txt that flashjax did"):
            check_free([folder], force=force)
    assert foreign(folder) == [theirs]
    theirs.unlink()
    check_free([folder], force=False)
    write(folder / "deep" / "b.txt", "changed")
    with pytest.raises(InputError, match=r"d holds deep/b\.txt"):
        check_free([folder], force=False)
    check_free([folder], force=True)


def test_a_folder_where_a_file_should_be_stays(tmp_path):
    write(tmp_path / "x.safetensors" / "theirs", "theirs")
    for force in (False, True):
        with pytest.raises(InputError, match=r"x\.safetensors is a folder"):
            check_free([tmp_path / "x.safetensors"], force=force)
    with pytest.raises(InputError, match=r"x\.safetensors is a folder"):
        write_safetensors(tmp_path / "x.safetensors", in_memory({"a": np.ones(2, np.float32)}))
    assert (tmp_path / "x.safetensors" / "theirs").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_where_a_folder_should_be_stays(tmp_path):
    write(tmp_path / "x", "theirs")
    with pytest.raises(InputError, match="x is a file"), replacing(tmp_path / "x") as new:
        new.mkdir()
    assert (tmp_path / "x").read_text() == "theirs"


def test_what_is_read_is_not_written_over(tmp_path):
    paths = fill(tmp_path)
    for source in (tmp_path / "a.txt", tmp_path / "d", tmp_path / "d" / "deep"):
        with pytest.raises(InputError, match="is what is read: choose another --out"):
            check_free(paths, force=True, read=[source])


def test_a_copy_without_its_times_is_no_longer_ours_and_a_moved_folder_is(tmp_path):
    fill(tmp_path / "one")
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert not foreign(tmp_path / "two" / "d")
    os.utime(tmp_path / "two" / "a.txt")
    assert foreign(tmp_path / "two" / "a.txt")


def test_a_manifest_of_others_is_named(tmp_path):
    (tmp_path / MANIFEST).write_text('{"theirs": 1}')
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=rf"{MANIFEST} is no manifest of flashjax"):
        keep_record(tmp_path / "a")


@pytest.mark.parametrize("where", ["/proc/self/fdinfo", "/proc/none"])
def test_a_place_where_nothing_can_be_written_is_known_at_once(where, tmp_path):
    """Root may write wherever permissions forbid it: but not into a kernel's files."""
    path = Path(where) / "deep" / "x.safetensors"
    with pytest.raises(
        InputError, match=r"nothing can be written in /proc\S* \(.+\): choose another"
    ):
        check_free([path], force=True)
    check_free([tmp_path / "new" / "deep" / "x.safetensors"], force=False)
    assert not list(tmp_path.iterdir())


def test_a_place_below_a_file_is_known_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"nothing can be written in \S*file \(Not a directory\)"):
        check_free([tmp_path / "file" / "x.safetensors"], force=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others_is_known_at_once(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"nothing can be written in .*Permission denied"):
        check_free([tmp_path / "x.safetensors"], force=False)


def test_a_manifest_of_somebody_else_is_found_before_anything_is_written(tmp_path):
    (tmp_path / MANIFEST).write_text('{"name": "a user\'s"}')
    with pytest.raises(InputError, match="is no manifest of flashjax: move it away"):
        check_free([tmp_path / "new.txt"], force=True)
    assert list(tmp_path.iterdir()) == [tmp_path / MANIFEST]
