"""The cache of latents: rows are read as they are asked for; captions may stand alone."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from flashjax.data.latents import load_latents, save_latents, without_pictures
from flashjax.data.pipeline import batches
from flashjax.types import Batch, InputError, Tokens


def draw_tokens(number):
    return Tokens(*np.random.default_rng(0).integers(0, 9, (3, number, 2), np.int32))


def test_a_cache_gives_the_rows_that_were_saved(tmp_path):
    latents = np.random.default_rng(1).normal(size=(6, 2, 2, 3)).astype(np.float32)
    saved = Batch(latents, draw_tokens(6))
    save_latents(tmp_path / "cache.safetensors", saved)
    found = load_latents(tmp_path / "cache.safetensors")
    rows = np.array([5, 0, 3])
    np.testing.assert_array_equal(found.latents[rows], latents[rows])
    np.testing.assert_array_equal(found.tokens.t5[rows], saved.tokens.t5[rows])
    assert found.latents.shape == latents.shape and len(found.tokens.clip_l) == 6
    drawn, want = (next(batches(s, batch_size=4, seed=0)) for s in (found, saved))
    np.testing.assert_array_equal(drawn.latents, want.latents)


def test_a_file_that_is_no_cache_is_named(tmp_path):
    save_file({"other": np.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name, why in (("none", "does not exist"), ("other", "no cache"), ("text", "no cache")):
        with pytest.raises(InputError, match=f"{name}.safetensors.*{why}"):
            load_latents(tmp_path / f"{name}.safetensors")


def test_captions_alone_are_batches_with_blank_latents_that_take_no_memory():
    samples = without_pictures(draw_tokens(1000), (128, 128, 16))
    assert samples.latents.strides == (0, 0, 0, 0)
    batch = next(batches(samples, batch_size=2, seed=0))
    latents = np.asarray(batch.latents)
    assert latents.shape == (2, 128, 128, 16) and not latents.any()
    assert np.asarray(batch.tokens.t5).shape == (2, 2)
