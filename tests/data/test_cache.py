"""The cache: rows come back as packed; another model is refused; captions stand alone."""

import dataclasses
import errno
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from flashjax.data import cache as data_cache
from flashjax.data.cache import (
    CONDS,
    LATENTS,
    MANIFEST,
    TOKENS,
    Bucket,
    Cache,
    Field,
    open_buckets,
    pack,
    read_cache,
    without_pictures,
    write_shard,
)
from flashjax.data.pipeline import WINDOW, batches, to_mesh
from flashjax.parallel.mesh import make_mesh
from flashjax.types import Cond, InputError, Tokens

MADE = {"vae": "abc", "scaling_factor": 1.5, "side": 64}


def draw_tokens(number):
    return Tokens(*np.random.default_rng(0).integers(0, 9, (3, number, 2), np.int32))


def write(folder, arrays, dtype="float32", *, shard=4):
    """A cache of one bucket with these arrays."""
    fields = {
        name: Field(array.shape[1:], "int32" if array.dtype == np.int32 else dtype)
        for name, array in arrays.items()
    }
    records = pack(arrays, fields)
    names = [f"{n}.array_record" for n in range(-(-len(records) // shard))]
    for n, name in enumerate(names):
        write_shard(folder / name, records[n * shard : (n + 1) * shard])
    bucket = Bucket("64x64", (2, 2, 3), fields, names, len(records))
    cache = Cache({"name": "x", "digest": "y"}, MADE, (bucket,), {"kept": len(records)})
    cache.write(folder)
    return cache


def arrays_of(number=6, kind="tokens"):
    random = np.random.default_rng(1)
    latents = {LATENTS: random.normal(size=(number, 2, 2, 3)).astype(np.float32)}
    if kind == "tokens":
        tokens = draw_tokens(number)
        return latents | {name: getattr(tokens, name) for name in TOKENS}
    shapes = {"text": (number, 5, 4), "pooled": (number, 3)}
    return latents | {k: random.normal(size=shapes[k]).astype(np.float32) for k in CONDS}


def test_records_of_a_batch_are_read_once_and_those_of_the_last_ones_forgotten(tmp_path):
    (bucket,) = open_buckets(tmp_path, write(tmp_path, arrays_of(24, "conds")))
    records = bucket.latents._records
    source, asked = records._source, []

    class Counting:
        def __getitems__(self, chosen):
            asked.append(chosen)
            return source.__getitems__(chosen)

    records._source = Counting()
    draw, mesh = batches(bucket, batch_size=4, seed=0), make_mesh({"data": 1})
    for _ in range(5):
        to_mesh(next(draw), mesh)
    assert len(asked) == 5
    assert records.rows.cache_info().currsize <= jax.local_device_count()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["tokens", "embeddings"])
def test_rows_come_back_as_they_were_packed(tmp_path, kind, dtype):
    arrays = arrays_of(kind=kind)
    written = write(tmp_path, arrays, dtype)
    cache = read_cache(tmp_path)
    assert cache == dataclasses.replace(written, buckets=cache.buckets)
    (samples,) = open_buckets(tmp_path, cache)
    assert isinstance(samples.tokens, Tokens if kind == "tokens" else Cond) and samples.pictures
    rows = np.array([5, 0, 3])
    kept = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    np.testing.assert_array_equal(samples.latents[rows], arrays[LATENTS][rows].astype(kept))
    for name in TOKENS if kind == "tokens" else CONDS:
        want = arrays[name][rows]
        want = want if want.dtype == np.int32 else want.astype(kept)
        np.testing.assert_array_equal(getattr(samples.tokens, name)[rows], want)
    drawn = next(batches(samples, batch_size=4, seed=0))
    assert np.asarray(drawn.latents).shape == (4, 2, 2, 3)


def test_an_encoder_that_is_not_the_models_is_named(tmp_path):
    write(tmp_path, arrays_of())
    cache = read_cache(tmp_path)
    cache.check(MADE, tmp_path)
    with pytest.raises(InputError, match=r"made for another model \(vae: abc -> def\)"):
        cache.check(MADE | {"vae": "def"}, tmp_path)
    with pytest.raises(InputError, match=r"\(side: 64 -> 128\)"):
        cache.check(MADE | {"side": 128}, tmp_path)


def test_what_is_no_cache_or_lacks_a_shard_is_named(tmp_path):
    with pytest.raises(InputError, match="run the prepare stage first"):
        read_cache(tmp_path)
    write(tmp_path, arrays_of())
    cache = read_cache(tmp_path)
    fewer = dataclasses.replace(cache.buckets[0], count=5)
    with pytest.raises(InputError, match="has 6 records, its manifest says 5"):
        open_buckets(tmp_path, dataclasses.replace(cache, buckets=(fewer,)))
    (tmp_path / "1.array_record").unlink()
    with pytest.raises(InputError, match=r"1\.array_record is missing"):
        open_buckets(tmp_path, cache)
    for text in ("{", "{}", "[]", json.dumps({"buckets": [{"name": 1}]})):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(InputError, match="no manifest of a cache"):
            read_cache(tmp_path)


def test_captions_alone_are_batches_with_blank_latents_that_take_no_memory():
    samples = without_pictures(draw_tokens(1000), (128, 128, 16))
    assert samples.latents.strides == (0, 0, 0, 0) and not samples.pictures
    batch = next(batches(samples, batch_size=2, seed=0))
    latents = np.asarray(batch.latents)
    assert latents.shape == (2, 128, 128, 16) and not latents.any() and not batch.pictures
    assert np.asarray(batch.tokens.t5).shape == (2, 2)


def test_batches_of_buckets_come_by_their_numbers_and_never_mix(tmp_path):
    wide, tall = np.arange(40).reshape(40, 1), np.arange(100, 110).reshape(10, 1)
    drawn = batches(wide, tall, batch_size=5, seed=3)
    seen = [np.asarray(next(drawn)).ravel() for _ in range(WINDOW)]
    kinds = [set(batch >= 100) for batch in seen]
    assert all(len(kind) == 1 for kind in kinds)
    assert abs(sum(kind == {True} for kind in kinds) - WINDOW / 5) < 1  # as of the samples
    again = batches(wide, tall, batch_size=5, seed=3)
    for _ in range(7):
        next(again)
    state = again.get_state()
    rest = [np.asarray(next(again)).ravel() for _ in range(3)]
    np.testing.assert_array_equal(rest, seen[7:10])
    resumed = batches(wide, tall, batch_size=5, seed=3)
    resumed.set_state(state)
    np.testing.assert_array_equal(np.asarray(next(resumed)).ravel(), seen[7])
    with pytest.raises(InputError, match=r"10 samples of \(1,\), fewer than a batch of 16"):
        batches(wide, tall, batch_size=16, seed=0)


def changed(folder, change):
    """The manifest with `change` made to its first bucket."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest["buckets"][0])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["fields"]["t5"].update(dtype="float32"), "t5 is float32"),
        (lambda b: b["fields"][LATENTS].update(dtype="int32"), "latents is int32"),
        (lambda b: b["fields"][LATENTS].update(dtype="float16"), "dtype takes 'float32' or"),
        (lambda b: b["fields"][LATENTS].update(shape=[12]), "latents is float32"),
        (lambda b: b["fields"][LATENTS].update(shape=[2, 3, 2]), "latents are"),
        (lambda b: b["fields"]["t5"].update(shape=[2, 1]), "t5 is int32"),
        (lambda b: b["fields"].pop("t5"), "are neither tokens nor embeddings"),
        (lambda b: b["fields"].update(more={"shape": [], "dtype": "int32"}), "are neither tokens"),
        (lambda b: b.update(shape=[2, 2]), "shape takes tuple"),
        (lambda b: b.update(count=-6), "count=-6: give 1 or more"),
        (lambda b: b.update(count="6"), "count takes int, not '6'"),
        (lambda b: b.update(shards=["../0.array_record"]), "are not all files beside it"),
        (lambda b: b.update(shards="0.array_record"), "shards takes"),
        (lambda b: b.update(colour=1), "no key buckets.0.*colour"),
    ],
)
def test_a_manifest_of_other_kinds_shapes_or_files_is_refused(tmp_path, change, message):
    write(tmp_path, arrays_of())
    changed(tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        read_cache(tmp_path)
    assert "is no manifest of a cache" in str(caught.value) and "\n" not in str(caught.value)


def test_records_that_are_not_as_long_as_their_manifest_says_are_refused(tmp_path):
    write(tmp_path, arrays_of())
    changed(tmp_path, lambda bucket: bucket["fields"]["t5"].update(shape=[1]))
    (samples,) = open_buckets(tmp_path, read_cache(tmp_path))
    with pytest.raises(InputError, match="a record is not as long as its manifest says"):
        samples.latents[np.array([0])]


@pytest.mark.parametrize("token", [-1, 9, 2**31 - 1])
def test_tokens_beyond_an_encoders_table_are_refused(tmp_path, token):
    """JAX would take the table's last row for them."""
    known = dict.fromkeys(TOKENS, 9)
    arrays = arrays_of()
    write(tmp_path, arrays)
    (samples,) = open_buckets(tmp_path, read_cache(tmp_path), known)
    np.testing.assert_array_equal(samples.tokens.t5[np.arange(6)], arrays["t5"])
    arrays["clip_g"][3, 1] = token
    write(tmp_path, arrays)
    (samples,) = open_buckets(tmp_path, read_cache(tmp_path), known)
    with pytest.raises(InputError, match="clip_g has tokens beyond its 9"):
        samples.tokens.t5[np.array([3])]


def test_fields_of_another_models_width_are_refused(tmp_path):
    write(tmp_path, arrays_of(kind="embeddings"))
    cache = read_cache(tmp_path)
    cache.check_dims({LATENTS: 3, "text": 4, "pooled": 3}, tmp_path)
    for name in (LATENTS, "text", "pooled"):
        with pytest.raises(InputError, match=f"no cache for this model: {name} "):
            cache.check_dims({LATENTS: 3, "text": 4, "pooled": 3, name: 16}, tmp_path)


@pytest.mark.parametrize("told", ["No space left on device", "Disk quota exceeded"])
def test_what_a_disk_refuses_a_shard_is_an_error_of_the_disk(tmp_path, monkeypatch, told):
    class Full:
        def __init__(self, *_):
            raise RuntimeError(f"write() failed: {told}; writing {tmp_path}; at byte 4096")

    monkeypatch.setattr(data_cache, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=told) as raised:
        data_cache.write_shard(tmp_path / "x.array_record", [b"x"])
    assert raised.value.errno in (errno.ENOSPC, errno.EDQUOT)
    with pytest.raises(RuntimeError, match="else"), data_cache.writing_records(tmp_path):
        raise RuntimeError("something else")
