"""A network's folder: the oracles are what diffusers and transformers write, and what they read."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.numpy import save_file
from transformers import T5Config, T5EncoderModel

from flashjax.convert.weights import DIFFUSERS, TRANSFORMERS, open_weights
from flashjax.types import InputError

KEYS = {
    DIFFUSERS: "transformer_blocks.0.ff.net.2.weight",
    TRANSFORMERS: "encoder.block.0.layer.0.SelfAttention.q.weight",
}


def network(stem, seed):
    """A small network, each seed with other weights."""
    torch.manual_seed(seed)
    if stem == TRANSFORMERS:
        return T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2))
    return SD3Transformer2DModel(
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=4,
    )


def save(folder, stem, seed, *, shards=False, variant=None):
    size = "8KB" if shards else "1GB"
    network(stem, seed).save_pretrained(folder, max_shard_size=size, variant=variant)


def seed_of(folder, stem):
    """Whose weights are read: by us."""
    return named(open_weights(folder, stem)[KEYS[stem]], stem)


def named(array, stem):
    found = [
        seed
        for seed in range(3)
        if np.array_equal(array, network(stem, seed).state_dict()[KEYS[stem]].numpy())
    ]
    assert len(found) == 1
    return found[0]


def theirs(folder, stem, **flags):
    """Whose weights the folder's library reads."""
    model = type(network(stem, 0)).from_pretrained(folder, **flags)
    return named(model.state_dict()[KEYS[stem]].numpy(), stem)


@pytest.mark.parametrize(("stem", "read"), [(DIFFUSERS, 1), (TRANSFORMERS, 0)])
def test_of_a_file_and_later_shards_that_is_read_which_the_library_reads(
    stem, read, tmp_path, caplog
):
    caplog.set_level("INFO", "flashjax")
    save(tmp_path, stem, 0)
    save(tmp_path, stem, 1, shards=True)
    assert theirs(tmp_path, stem) == seed_of(tmp_path, stem) == read
    both = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    seed_of(tmp_path, stem)
    assert caplog.messages == [f"{tmp_path}: {both[read]} is read, not {both[1 - read]}"]


@pytest.mark.parametrize("stem", [DIFFUSERS, TRANSFORMERS])
def test_an_index_without_any_of_its_shards_gives_way_to_a_file(stem, tmp_path, caplog):
    caplog.set_level("INFO", "flashjax")
    save(tmp_path, stem, 0, shards=True)
    save(tmp_path, stem, 1)  # takes the shards away, and leaves their index
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert seed_of(tmp_path, stem) == 1
    assert caplog.messages[0].endswith(f"is read, not {stem}.safetensors.index.json")


def test_an_index_with_some_of_its_shards_is_refused_though_a_file_is_there(tmp_path):
    save(tmp_path, DIFFUSERS, 0)
    save(tmp_path, DIFFUSERS, 1, shards=True)
    sorted(tmp_path.glob("*-of-*"))[1].unlink()
    with pytest.raises(OSError, match="required according to the checkpoint index"):
        theirs(tmp_path, DIFFUSERS)
    with pytest.raises(InputError, match=r"lacks \S+-00002-of-\S+: \S+.index.json lists it, fetch"):
        open_weights(tmp_path, DIFFUSERS)


@pytest.mark.parametrize("stem", [DIFFUSERS, TRANSFORMERS])
@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema"])
@pytest.mark.parametrize("shards", [False, True])
def test_a_variant_is_read_where_it_is_all_there_is(stem, variant, shards, tmp_path, caplog):
    caplog.set_level("INFO", "flashjax")
    save(tmp_path, stem, 1, shards=shards, variant=variant)
    assert theirs(tmp_path, stem, variant=variant) == seed_of(tmp_path, stem) == 1
    name = f"{stem}.safetensors.index.{variant}.json" if shards else f"{stem}.{variant}.safetensors"
    assert caplog.messages == [f"{tmp_path}: {name} is read"]


@pytest.mark.parametrize("stem", [DIFFUSERS, TRANSFORMERS])
def test_of_several_variants_the_complete_one_is_read_and_the_plain_one_first(stem, tmp_path):
    save(tmp_path, stem, 1, shards=True, variant="fp16")
    save(tmp_path, stem, 2, variant="bf16")
    assert seed_of(tmp_path, stem) == 1
    sorted(tmp_path.glob("*-of-*"))[0].unlink()
    assert seed_of(tmp_path, stem) == 2
    save(tmp_path, stem, 0)
    assert theirs(tmp_path, stem) == seed_of(tmp_path, stem) == 0


def test_a_whole_variant_is_read_where_the_plain_shards_were_not_all_fetched(tmp_path):
    save(tmp_path, TRANSFORMERS, 0, shards=True)
    save(tmp_path, TRANSFORMERS, 1, variant="fp16")
    sorted(tmp_path.glob("model-*"))[0].unlink()
    assert seed_of(tmp_path, TRANSFORMERS) == 1


@pytest.mark.parametrize("middle", ["fp16.safetensors.index", "safetensors.fp16.index"])
def test_older_names_of_a_variants_index_are_known(middle, tmp_path):
    save(tmp_path, DIFFUSERS, 1, shards=True, variant="fp16")
    index = tmp_path / f"{DIFFUSERS}.safetensors.index.fp16.json"
    index.rename(tmp_path / f"{DIFFUSERS}.{middle}.json")
    assert seed_of(tmp_path, DIFFUSERS) == 1


def arrays():
    return {name: np.arange(3, dtype=np.float32) + place for place, name in enumerate("ab")}


def write_index(folder, places):
    for name, shard in places.items():
        if isinstance(shard, str) and re.fullmatch(r"[\w-]+.safetensors", shard):
            save_file({name: arrays()[name]}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))


def test_shards_are_read_through_their_index(tmp_path):
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    tensors = open_weights(tmp_path, "model")
    assert set(tensors) == {"a", "b"}
    np.testing.assert_array_equal(tensors["b"], arrays()["b"])


def test_everything_that_shards_lack_is_in_one_error(tmp_path):
    write_index(tmp_path, {"a": "model-1.safetensors"})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys("abc", "model-1.safetensors")}))
    with pytest.raises(InputError, match=r"lacks b of model-1.safetensors, c of model-1.safetens"):
        open_weights(tmp_path, "model")
    places = {name: f"model-{name}.safetensors" for name in "bcdefgh"}
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match=r"lacks model-b.safe.*, model-f.safe.*, and 2 more: "):
        open_weights(tmp_path, "model")


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "y/x.safetensors", "..", "x.bin", "", 3, None]
)
def test_an_index_that_leaves_its_folder_or_names_no_safetensors_is_refused(file, tmp_path):
    save_file(arrays(), tmp_path / "x.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    write_index(folder, {"a": file})
    with pytest.raises(InputError, match=r"its weight_map names .*; give names of safetensors"):
        open_weights(folder, "model")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_places_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index.json has no weight_map"):
        open_weights(tmp_path, "model")


def test_a_folder_without_weights_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"model.safetensors does not exist"):
            open_weights(folder, "model")
