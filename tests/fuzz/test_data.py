"""Mutants of what a run learns from: prompts, tars, tables, and the cache that it keeps of them."""

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flashjax.data.cache import (
    LATENTS,
    TOKENS,
    Bucket,
    Cache,
    Field,
    open_buckets,
    pack,
    read_cache,
    write_shard,
)
from flashjax.data.config import DataConfig
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.samples import Unreadable
from flashjax.stages.prepare import PLAN, make_plan, read_plan

WORDING = Wording("nothing")
WORDS = 9  # tokens that each encoder knows


def opened(source):
    """All samples of a source: captions, with shapes of pictures, or that there is none to see."""
    samples = open_kind(str(source), WORDING)
    found = []
    for number in range(min(len(samples), 20)):
        try:
            samples.size(number)
            sample = samples[number]
        except Unreadable as error:
            found.append(str(error))
            continue
        assert isinstance(sample.caption, str)
        found.append((sample.caption, None if sample.image is None else sample.image.shape))
    return found


@given(data=st.data())
def test_a_list_of_prompts(data, mutants, place, outcome):
    whole = "one red\r\ntwo blue\n\n  drei grün \n日本".encode() + b"\n" + b"long " * 4000
    path = place / "prompts.txt"
    path.write_bytes(data.draw(mutants.bytes_of(whole)))
    found = outcome(lambda: opened(path))
    assert found is None or all(0 < len(caption) <= 10_000 for caption, _ in found)


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shard():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(4):
            text = {"txt": b"a red seven"} if number % 2 else {"json": b'{"caption": "blue"}'}
            for suffix, content in {"png": png((number, 0, 0)), **text}.items():
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@given(data=st.data())
def test_a_tar(data, mutants, shard, place, outcome):
    path = place / "x.tar"
    path.write_bytes(data.draw(mutants.bytes_of(shard)))
    outcome(lambda: opened(path))


@given(data=st.data())
def test_lines_of_json(data, mutants, place, outcome):
    rows = [{"file_name": f"{n}.png", "text": "a red seven"} for n in range(3)]
    for number in range(3):
        (place / f"{number}.png").write_bytes(png((number, 0, 0)))
    drawn = data.draw(mutants.objects_of(rows))
    text = "\n".join(map(json.dumps, drawn if isinstance(drawn, list) else [drawn]))
    path = place / "metadata.jsonl"
    path.write_bytes(data.draw(st.one_of(st.just(text.encode()), mutants.bytes_of(text.encode()))))
    outcome(lambda: opened(path))


@given(data=st.data())
def test_a_table(data, mutants, place, outcome):
    path = place / "metadata.csv"
    whole = b'file_name,text\n0.png,"a red, seven"\n1.png,blue\n'
    path.write_bytes(data.draw(mutants.bytes_of(whole)))
    outcome(lambda: opened(path))


@given(data=st.data())
def test_a_picture(data, mutants, place, outcome):
    folder = place / "pictures"
    folder.mkdir(exist_ok=True)
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 0, 0)).save(file, kind)
    (folder / "x.png").write_bytes(data.draw(mutants.bytes_of(file.getvalue())))
    (folder / "x.txt").write_text("red")
    outcome(lambda: opened(folder))


@pytest.fixture(scope="module")
def cache(place):
    folder = place / "cache"
    folder.mkdir()
    random = np.random.default_rng(0)
    arrays = {LATENTS: random.normal(size=(6, 2, 2, 3)).astype(np.float32)}
    arrays |= {name: random.integers(0, WORDS, (6, 2), np.int32) for name in TOKENS}
    fields = {
        name: Field(array.shape[1:], "float32" if name == LATENTS else "int32")
        for name, array in arrays.items()
    }
    records = pack(arrays, fields)
    write_shard(folder / "0.array_record", records[:4])
    write_shard(folder / "1.array_record", records[4:])
    names = ("0.array_record", "1.array_record")
    bucket = Bucket("64x64", (2, 2, 3), fields, names, 6)
    Cache({"name": "x", "digest": "y"}, {"side": 64}, (bucket,), {"kept": 6}).write(folder)
    return folder, arrays


def rows_of(folder):
    """Every row of a cache."""
    samples = open_buckets(folder, read_cache(folder), dict.fromkeys(TOKENS, WORDS))
    rows = np.arange(6)
    columns = {name: [getattr(part.tokens, name)[rows] for part in samples] for name in TOKENS}
    return columns | {LATENTS: [np.asarray(part.latents[rows]) for part in samples]}


@given(data=st.data())
def test_the_manifest_of_a_cache(data, mutants, cache, outcome):
    """Records are of the manifest's dtypes and shapes: another one that fits them is none."""
    folder, arrays = cache
    path = folder / "manifest.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutants.json_of(json.loads(whole))))
        found = outcome(lambda: rows_of(folder))
    finally:
        path.write_bytes(whole)
    for name, columns in (found or {}).items():
        for column in columns:
            assert column.dtype == arrays[name].dtype and column.ndim == arrays[name].ndim


@given(data=st.data())
def test_records_of_a_cache(data, mutants, cache, outcome):
    folder, arrays = cache
    path = folder / "0.array_record"
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutants.bytes_of(whole)))
        found = outcome(lambda: rows_of(folder))
    finally:
        path.write_bytes(whole)
    for name, (column,) in (found or {}).items():  # records have checksums
        np.testing.assert_array_equal(column, arrays[name])


@given(data=st.data())
def test_the_plan_of_a_cache(data, mutants, place, outcome):
    (place / "p.txt").write_text("one\ntwo\nthree\n")
    samples = open_kind(str(place / "p.txt"), WORDING)
    plan = make_plan(samples, 64, DataConfig("p.txt"))
    path = place / PLAN
    path.write_bytes(data.draw(mutants.json_of(plan)))
    found = outcome(lambda: read_plan(path, samples))
    if found is not None:
        assert sorted(index for part in found["buckets"].values() for index in part) == [0, 1, 2]
