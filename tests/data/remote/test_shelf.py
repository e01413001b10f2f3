"""A folder at an address is the old one or the new one, wherever its writer is killed."""

import pytest

from flashjax.data.remote import shelf
from flashjax.data.remote.fetch import fetched
from flashjax.data.remote.manifest import OURS, read_manifest
from flashjax.data.remote.shelf import EMPTY, check_ours, pull, push
from flashjax.data.remote.store import Store
from flashjax.types import InputError

WRITES = ("put", "send", "copy", "remove")
OLD = {"a.txt": "a old", "b.txt": "b", "c/d.txt": "d"}
NEW = {"a.txt": "a new!", "b.txt": "b", "e.txt": "e"}


class Killed(BaseException):
    pass


def files(folder, texts):
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def read(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def plain(bucket):
    store = Store.of(bucket)
    names = [name for name in store.stamps() if not name.startswith(OURS)]
    return {name: store.read(name).decode() for name in names}


def test_a_folder_is_put_and_brought_back(bucket, tmp_path):
    store = Store.of(bucket)
    first = push(store, files(tmp_path / "old", OLD))
    assert plain(bucket) == OLD and read_manifest(store) == first
    same = {name: first.files[name].id for name in ("b.txt",)}
    second = push(store, files(tmp_path / "new", NEW), unchanged=same)
    assert plain(bucket) == NEW and second.files["b.txt"] == first.files["b.txt"]
    assert [name for name in store.stamps() if name.startswith(OURS)] == [f"{OURS}/manifest.json"]
    pull(store, second, tmp_path / "here", {})
    assert read(tmp_path / "here") == NEW == read(fetched(bucket))


def killed_at(monkeypatch, number):
    """Has the writer die before its object of this number."""
    left = [number]

    def dying(call):
        def write(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*arguments, **named)

        return write

    for name in WRITES:
        monkeypatch.setattr(Store, name, dying(getattr(Store, name)))


def test_wherever_a_writer_is_killed_the_folder_is_whole_and_the_next_one_goes_on(
    bucket, tmp_path, monkeypatch
):
    old, new = files(tmp_path / "old", OLD), files(tmp_path / "new", NEW)
    seen, number = [], 0
    while True:
        where, here = f"{bucket}/{number}", tmp_path / f"here{number}"
        store = Store.of(where)
        push(store, old)
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                push(store, new)
                ended = True
            except Killed:
                ended = False
        found = read(fetched(where))
        assert found in (OLD, NEW)
        manifest = read_manifest(store)
        pull(store, manifest, here, {})
        assert read(here) == found
        seen.append(found == NEW)
        push(store, new)
        assert plain(where) == NEW and read(fetched(where)) == NEW
        assert not [n for n in store.stamps() if n.startswith(OURS) and "manifest" not in n]
        if ended:
            break
        number += 1
    assert number > 8 and seen == sorted(seen) and not seen[0]


def test_what_others_have_there_is_never_replaced(bucket, tmp_path):
    store = Store.of(bucket)
    store.put("b.txt", b"a user's")
    with pytest.raises(InputError, match=r"holds b\.txt, which flashjax did not put there so"):
        push(store, files(tmp_path / "old", OLD))
    assert plain(bucket) == {"b.txt": "a user's"} and read_manifest(store) is None
    with pytest.raises(InputError, match=r"holds b\.txt"):
        check_ours(store)
    assert check_ours(store, ["a.txt"]) == EMPTY


def test_what_others_have_changed_is_theirs(bucket, tmp_path):
    store = Store.of(bucket)
    manifest = push(store, files(tmp_path / "old", OLD))
    store.put("a.txt", b"a mine")
    with pytest.raises(InputError, match=r"holds a\.txt, which flashjax did not put there so"):
        push(store, files(tmp_path / "new", NEW))
    with pytest.raises(InputError, match=r"a\.txt is not what was put there: bring that back"):
        pull(store, manifest, tmp_path / "here", {})
    with pytest.raises(InputError, match="is not what was put there"):
        fetched(bucket)
    assert plain(bucket)["a.txt"] == "a mine"


def test_an_object_that_arrives_short_is_no_part_of_it(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "send", lambda self, file, name: self.put(name, b"a"))
    with pytest.raises(InputError, match=r"arrived as 1 bytes of 5: try again"):
        push(Store.of(bucket), files(tmp_path / "old", OLD))
    assert not read_manifest(Store.of(bucket)).files


def test_a_writer_whose_lock_is_taken_commits_nothing(bucket, tmp_path):
    asked = []

    def check():
        asked.append(len(asked))
        if len(asked) == 2:
            raise InputError("taken")

    push(Store.of(bucket), files(tmp_path / "old", OLD))
    with pytest.raises(InputError, match="taken"):
        push(Store.of(bucket), files(tmp_path / "new", NEW), check=check)
    assert read(fetched(bucket)) == OLD


def test_a_broken_manifest_is_one_line(bucket):
    store = Store.of(bucket)
    for content in (b"{", b"[]", b'{"files": {"a": 1}}'):
        store.put(shelf.OURS + "/manifest.json", content)
        with pytest.raises(InputError, match=r"manifest\.json"):
            read_manifest(store)
