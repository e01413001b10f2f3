"""What tools read and write may lie at an address, and is there whole or not at all."""

import argparse
import uuid
from pathlib import Path

import fsspec
import pytest

from flashjax.cli import main
from flashjax.convert.outputs import keep_record
from flashjax.data.remote import lock, store
from flashjax.data.remote.fetch import fetched
from flashjax.data.remote.manifest import NAME, OURS
from flashjax.data.remote.store import Store
from flashjax.tools.addresses import brought, here
from flashjax.types import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(lock, "AGREE", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def bucket():
    return f"memory://{uuid.uuid4().hex}"


def there(address):
    return {name: Store.of(address).read(name) for name in Store.of(address).stamps()}


def write(options, **texts):
    """What a tool does with --out."""
    for name, text in texts.items():
        path = Path(options.out) / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        keep_record(path)


def test_addresses_are_found_wherever_flags_have_them(bucket, monkeypatch):
    for name in ("a.safetensors", "b/c.json", "clip/model"):
        Store.of(bucket).put(name, name.encode())
    one, two = brought(f"nano,{bucket}/a.safetensors").split(",")
    assert one == "nano" and open(two).read() == "a.safetensors"
    for scale in ("", ":0.5", ":-1e-3"):
        (text,) = brought([f"{bucket}/a.safetensors{scale}"])
        assert text == two + scale
    assert brought(f"clip={bucket}/clip,fid=x") == f"clip={fetched(f'{bucket}/clip')},fid=x"
    for text in ("hf://a/b", "https://a.b/c", "a b:0.5,c=d", "nano"):
        assert brought(text) == text
    with pytest.raises(InputError, match=f"{bucket}/none: nothing is there"):
        brought(f"{bucket}/none")


def test_a_folder_is_put_whole_and_again(bucket, capsys, cache):
    out = f"{bucket}/out"
    for texts in ({"a": "1", "b": "2"}, {"a": "3"}):
        options = argparse.Namespace(out=out)
        with here(options):
            write(options, **texts)
            assert set(there(out)) <= {f"{OURS}/lock.json", NAME, "a.txt", "b.txt"}
            print(f"{options.out}/a.txt")
        assert capsys.readouterr().out == f"{out}/a.txt\n"
        assert not list((cache / "outputs").iterdir())
    found = there(out)
    assert (found["a.txt"], found["b.txt"]) == (b"3", b"2") and len(found) == 3


def test_what_did_not_end_well_is_not_there_and_goes_on_here(bucket):
    options = argparse.Namespace(out=f"{bucket}/out")
    with pytest.raises(KeyboardInterrupt), here(options):
        write(options, a="1")
        raise KeyboardInterrupt
    assert not there(f"{bucket}/out")
    options = argparse.Namespace(out=f"{bucket}/out")
    with here(options):
        write(options, b="2")
    assert {"a.txt", "b.txt", NAME} == set(there(f"{bucket}/out"))


def test_what_others_have_there_stays_before_anything_is_done(bucket, tiny_teacher, capsys):
    Store.of(bucket).put("out/mine.txt", b"mine")
    Store.of(bucket).put("x.safetensors", b"mine")
    before = there(bucket)
    for out in ("out", "x.safetensors"):
        flags = ["--source", "nowhere", "--out", f"{bucket}/{out}", "--force"]
        assert main(["export", *flags]) == 2
        assert "which flashjax did not put there so" in capsys.readouterr().err
    assert there(bucket) == before


def test_a_model_goes_to_an_address_and_comes_from_it(bucket, tiny_teacher, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(f"{tiny_teacher}/", f"{bucket}/teacher/", recursive=True)
    single = f"{bucket}/out/x.safetensors"
    assert main(["export", "--source", f"{bucket}/teacher", "--out", single]) == 0
    assert (
        main(["export", "--source", str(tiny_teacher), "--out", f"{tmp_path}/x.safetensors"]) == 0
    )
    assert there(f"{bucket}/out")["x.safetensors"] == (tmp_path / "x.safetensors").read_bytes()
    assert set(there(f"{bucket}/out")) == {"x.safetensors", NAME}
    flags = ["--prompt", "a red seven", "--steps", "1", "--base", f"{bucket}/teacher"]
    assert main(["sample", "--source", single, *flags, "--out", f"{bucket}/x.png"]) == 0
    assert there(bucket)["x.png"].startswith(b"\x89PNG")
