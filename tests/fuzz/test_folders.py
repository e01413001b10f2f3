"""Mutants of a pipeline's folder (JSON, index of shards, tokenizers) and of a stage's Orbax."""

import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashjax import trees
from flashjax.checkpoint import load_params, save_params
from flashjax.convert.folder import read_configs, settings
from flashjax.convert.tensors import in_memory
from flashjax.convert.weights import open_weights
from flashjax.convert.writing import write_weights
from flashjax.data.tokenizers import check_fits, load_tokenizers
from flashjax.sources import open_transformer

FILES = ["model_index.json", "scheduler/scheduler_config.json"] + [
    f"{name}/config.json"
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
]
TOKENIZERS = {
    "tokenizer": ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
    "tokenizer_3": ("tokenizer.json", "tokenizer_config.json", "spiece.model"),
}


@pytest.fixture(scope="module")
def pipeline(shallow_teacher, place):
    return shutil.copytree(shallow_teacher, place / "pipeline")


def opened(folder):
    """All that is known of a folder before its weights are read, and the shapes of a network."""
    found = read_configs(folder), settings(folder)
    return *found, open_transformer(folder).tensors.infos.keys()


@given(data=st.data())
@pytest.mark.parametrize("name", FILES)
def test_json_of_a_pipeline(data, name, mutants, pipeline, outcome):
    path = pipeline / name
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutants.json_of(json.loads(whole))))
        outcome(lambda: opened(pipeline))
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def shards(place):
    folder = place / "shards"
    folder.mkdir()
    arrays = {name: np.arange(9, dtype=np.float32) + n for n, name in enumerate("abcd")}
    write_weights(folder, "model", in_memory(arrays), max_shard_bytes=80)
    return folder, arrays


@given(data=st.data())
def test_an_index_of_shards(data, mutants, shards, outcome):
    """Whatever an index says, the tensors are those of the shards, or it is refused."""
    folder, arrays = shards
    path = folder / "model.safetensors.index.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutants.json_of(json.loads(whole))))
        found = outcome(lambda: dict(open_weights(folder, "model")))
    finally:
        path.write_bytes(whole)
    if found is not None:
        assert found.keys() <= arrays.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], arrays[name])


@given(data=st.data())
@pytest.mark.parametrize("name", TOKENIZERS)
def test_files_of_tokenizers(data, name, mutants, pipeline, outcome):
    file = data.draw(st.sampled_from(TOKENIZERS[name]))
    path = pipeline / name / file
    whole = path.read_bytes()
    rows = {name: 10_000 for name in ("clip_l", "clip_g", "t5")}

    def ids():
        tokenizer = load_tokenizers(pipeline)
        check_fits(tokenizer, rows, "here", places=tokenizer.clip_length)
        return tokenizer(["a red seven", ""])

    kind = mutants.json_of(json.loads(whole)) if file.endswith(".json") else mutants.bytes_of(whole)
    try:
        path.write_bytes(data.draw(kind))
        found = outcome(ids)
    finally:
        path.write_bytes(whole)
    if found is not None:
        for array in jax.tree.leaves(found):
            assert array.dtype == np.int32 and len(array) == 2
            assert not array.size or 0 <= array.min() <= array.max() < 10_000


@pytest.fixture(scope="module")
def orbax(place):
    folder = place / "params"
    params = {"a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}, "b": np.ones(5)}
    save_params(folder, jax.tree.map(np.float32, params))
    return folder, jax.tree.map(np.float32, params)


@given(data=st.data())
def test_a_folder_of_orbax(data, mutants, orbax, outcome):
    """Names and shapes are those that were saved, or it is refused; values have digests."""
    folder, params = orbax
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    whole = path.read_bytes()

    def load():
        found = load_params(folder)
        trees.check_same(params, found, where=str(folder))
        return found

    try:
        path.write_bytes(data.draw(mutants.bytes_of(whole)))
        outcome(load)
    finally:
        path.write_bytes(whole)
