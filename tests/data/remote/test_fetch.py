"""What is read at an address is here once, whole, and anew when it changes there."""

import shutil
import subprocess
import sys

import pytest

from flashjax.data.remote import fetch, store
from flashjax.data.remote.fetch import fetched
from flashjax.data.remote.shelf import push
from flashjax.data.remote.store import Store
from flashjax.types import InputError


def fill(bucket, **files):
    for name, content in files.items():
        Store.of(bucket).put(name.replace("__", "/").replace("_", "."), content.encode())


def texts(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_folder_and_a_file_are_brought_once(bucket, monkeypatch):
    fill(bucket, model__a_json="a", model__deep__b_txt="b", other_txt="c")
    here = fetched(f"{bucket}/model/")
    assert here.name == "model" and texts(here) == {"a.json": "a", "deep/b.txt": "b"}
    file = fetched(f"{bucket}/other.txt")
    assert file.name == "other.txt" and file.read_text() == "c"
    monkeypatch.setattr(Store, "bring", None)
    assert fetched(f"{bucket}/model") == here and fetched(f"{bucket}/other.txt") == file
    assert str(fetched("some/path")) == "some/path"


def test_what_changes_there_is_brought_anew(bucket):
    fill(bucket, model__a_json="one")
    before = fetched(f"{bucket}/model")
    fill(bucket, model__a_json="two")
    after = fetched(f"{bucket}/model")
    assert texts(before) == {"a.json": "one"} and texts(after) == {"a.json": "two"}


def test_a_stage_comes_with_what_belongs_to_it(bucket):
    fill(bucket, run__merge__p="p", run__import__model_json="m", run__guide__x="x")
    here = fetched(f"{bucket}/run/merge", beside=("import",))
    assert texts(here.parent) == {"merge/p": "p", "import/model.json": "m"}


def test_a_copy_that_was_killed_goes_on(bucket, monkeypatch):
    fill(bucket, model__a="a", model__b="b", model__c="c")
    bring, brought = Store.bring, []

    def killed(self, name, file, size):
        if len(brought) == 2:
            raise KeyboardInterrupt
        brought.append(name)
        bring(self, name, file, size)

    monkeypatch.setattr(Store, "bring", killed)
    with pytest.raises(KeyboardInterrupt):
        fetched(f"{bucket}/model")
    monkeypatch.setattr(Store, "bring", lambda *a: brought.append(a[1]) or bring(*a))
    assert texts(fetched(f"{bucket}/model")) == {"a": "a", "b": "b", "c": "c"}
    assert brought == ["a", "b", "c"]


def test_what_changes_while_it_is_brought_is_refused(bucket, monkeypatch):
    fill(bucket, model__a="a", model__b="b")
    bring = Store.bring

    def changing(self, name, file, size):
        bring(self, name, file, size)
        fill(bucket, model__a="other")

    monkeypatch.setattr(Store, "bring", changing)
    with pytest.raises(InputError, match="model has changed while it was brought here: try again"):
        fetched(f"{bucket}/model")


def test_what_cannot_be_brought_is_one_line(bucket, monkeypatch):
    with pytest.raises(InputError, match="nothing: nothing is there, or it may not be read"):
        fetched(f"{bucket}/nothing")
    fill(bucket, model__a="12345")
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage._replace(free=4))
    with pytest.raises(
        InputError, match=f"model has 5e-09 GB, and 4e-09 GB are free in .* {store.CACHE}"
    ):
        fetched(f"{bucket}/model")


def test_an_object_that_comes_short_is_refused(bucket, tmp_path):
    fill(bucket, model__a="12345")
    with pytest.raises(InputError, match=r"model/a came as 5 bytes of 9: try again"):
        Store.of(f"{bucket}/model").bring("a", tmp_path / "a", 9)
    assert not list(tmp_path.glob("a*"))


def test_what_was_never_finished_is_no_source(bucket, tmp_path, monkeypatch):
    (tmp_path / "x").write_text("x")

    def killed(self, file, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "send", killed)
    with pytest.raises(KeyboardInterrupt):
        push(Store.of(f"{bucket}/out"), {"x": tmp_path / "x"})
    with pytest.raises(InputError, match="out: its upload was cut short, run again"):
        fetched(f"{bucket}/out")


def test_processes_of_a_machine_bring_it_once(tmp_path):
    fill(f"file://{tmp_path}/b", model__a="a" * 1000)
    code = (
        "import time; from flashjax.data.remote import fetch, store\nbring = store.Store.bring\n"
        "def slow(*a):\n    print('brought', flush=True); time.sleep(1); bring(*a)\n"
        "store.Store.bring = slow\n"
        f"print(fetch.fetched('file://{tmp_path}/b/model'))"
    )
    words = [sys.executable, "-c", code]
    jobs = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [job.communicate()[0].splitlines() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sorted(map(len, said)) == [1, 2] and said[0][-1] == said[1][-1]
    assert fetch.fetched(f"file://{tmp_path}/b/model") == type(tmp_path)(said[0][-1])
